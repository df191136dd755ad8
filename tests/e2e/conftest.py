"""What end-to-end tests share: threads that ask, models directories, hosts that load lazily from one, plugins."""

import os
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
import ways
from deploy_rig import PLACES, emptied
from helpers import PATIENCE_S
from models_rig import AT_ONCE, Rig
from template_rig import USES, Interpreter

import hostd


@pytest.fixture
def pool():
    """Threads for what waits."""
    executor = ThreadPoolExecutor(16)
    yield executor
    # After a failure something may still wait; the end of the host, which comes next, ends that.
    executor.shutdown(wait=False, cancel_futures=True)


@pytest.fixture(params=[ways.directly, ways.only_by_the_host], ids=["directly", "by-host"])
def way(request, monkeypatch):
    """Tell a story once with each way that its calls can go; the value is its name, for hosts that remember."""
    request.param(monkeypatch)
    return request.param.__name__


@pytest.fixture
def rig(tmp_path):
    """A models directory for one test."""
    return Rig(tmp_path)


@pytest.fixture(scope="module")
def lazy_rig(tmp_path_factory):
    """The models directory of `lazy`."""
    return Rig(tmp_path_factory.mktemp("lazy"))


@pytest.fixture(scope="module")
def lazy_host(lazy_rig):
    """A host for all tests of a file that loads lazily, and looks at the directory only when it is asked to."""
    models = {**AT_ONCE, "dir": lazy_rig.path, "lazy_load": True, "load_on_start": False, "poll_period_s": None}
    workers = {"drain_timeout_s": PATIENCE_S, "retry_backoff_s": 0.01}
    with hostd.Host(models=models, workers=workers) as host:
        yield host


@pytest.fixture
def lazy(lazy_host, lazy_rig):
    """A client of the file's lazy host; what the test loaded, and its files, go afterwards."""
    with hostd.connect(lazy_host.endpoint) as client:
        yield client
        client.unload_all_models()
        lazy_rig.clear()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The models directory that `deploying` deploys into."""
    return tmp_path_factory.mktemp("around") / "models"


@pytest.fixture(scope="module")
def deploying(models, request):
    """A host for all tests of a file that deploy; the file's `WORKERS` are settings of its workers."""
    models.mkdir()
    with hostd.Host(models={**PLACES, "dir": models}, workers=getattr(request.module, "WORKERS", {})) as host:
        yield host


@pytest.fixture
def deployer(deploying, models):
    """A client of the file's deploying host; what the test deployed and loaded goes afterwards."""
    with emptied(deploying, models) as client:
        yield client


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Write modules, given by name, for the hosts and workers that start from now on; return where they are."""
    site = tmp_path / "site"

    def write(**modules):
        site.mkdir(exist_ok=True)
        for name, source in modules.items():
            (site / f"{name}.py").write_text(textwrap.dedent(source))
        return site

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))))
    return write


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    return Interpreter(tmp_path_factory.mktemp("interpreter") / "venv")


@pytest.fixture(scope="module")
def lib(interpreter):
    interpreter.write("lib")
    return interpreter


@pytest.fixture
def known(client, lib, tmp_path):
    """The path of a model that the host of `client` has loaded once, as `m`; the next one is forked from a template of its library."""
    path = lib.model(tmp_path / "m", USES)
    client.load_model("m", path)
    first = client.get_model("m").workers[0]
    assert first.template is not None, "nothing is known of it, so it comes from the bare template"
    assert client.templates_info().templates[0].libraries == ()
    return path
