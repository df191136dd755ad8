"""Sizers that hang, in real hosts: what they hold up, and what they do not; and what is written at the end."""

import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import PATIENCE_S, SOON_S, at_most, eventually, never

import hostd
from hostd.config.loading import load_config
from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.plugins.registry import Plugins
from hostd.shell.repository.specifying import Specifying
from hostd.shell.sizes import predictor as module
from hostd.shell.sizes.predictor import SIZER_THREADS, Sizes
from hostd.shell.sizes.store import SizeKey, SizeStore

BYTES = 1234
LATE_S = 0.2
"""For what hangs for certain; nothing has to be quick enough for it."""

PLUGINS = """
    import pathlib
    import time

    class Hanging:
        looks_for = "nothing"

        def __init__(self, base):
            self.base = pathlib.Path(base)

        def hang(self, model_id):
            (self.base / f"called-{model_id}").touch()
            while True:
                time.sleep(3600)

    class Sizer(Hanging):
        def estimate(self, model_id, path, model_type):
            if model_id.startswith("hung"):
                self.hang(model_id)
            if model_id == "raises":
                raise TimeoutError("its database did not answer")
            return 1234

    class Finder(Hanging):
        def find(self, model_id, path):
            self.hang(model_id)
"""

UNMEASURABLE = """
    import os
    import re

    own = os.open
    def refuse(path, *arguments, **options):
        found = re.fullmatch(r"/proc/(\\d+)/(statm|smaps_rollup)", str(path))
        if found and int(found[1]) != os.getpid():
            raise PermissionError(13, "not for you", path)
        return own(path, *arguments, **options)
    os.open = refuse
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory from which hosts import that are started now."""
    directory = tmp_path / "site"
    directory.mkdir()
    (directory / "plugins_that_hang.py").write_text(textwrap.dedent(PLUGINS))
    monkeypatch.setenv("PYTHONPATH", str(directory))
    return directory


@pytest.fixture
def pool():
    executor = ThreadPoolExecutor(SIZER_THREADS + 1)
    yield executor
    executor.shutdown(wait=False)  # a test that failed may have left what only the end of its host answers


def hung(site, kind):
    return {"default": {"type": f"plugins_that_hang:{kind}", "config": {"base": str(site)}}}


def test_c13_a_sizer_that_hangs_holds_up_no_other_estimate_and_no_remembering(site, model_dir, pool):
    path = model_dir()
    with hostd.Host(sizers=hung(site, "Sizer"), memory={"estimate_timeout_s": 3600}) as host:
        client = host.client()
        stuck = pool.submit(client.estimate_model_size, "hung", path)
        eventually((site / "called-hung").exists, "it hangs")
        assert client.estimate_model_size("m", path) == hostd.SizeEstimate(BYTES, "estimated")
        size = client.load_model("m", path)._info.size
        assert client.estimate_model_size("m", path) == hostd.SizeEstimate(size, "remembered")
        assert not stuck.done()
        with at_most(SOON_S, "the end of a host whose sizer hangs"):
            host.stop()


def test_c13_an_estimate_that_hangs_ends_in_time_and_says_which_sizer_it_is(site, model_dir):
    with hostd.Host(sizers=hung(site, "Sizer"), memory={"estimate_timeout_s": LATE_S}) as host:
        with pytest.raises(hostd.DeadlineExceededError) as caught:
            host.client().estimate_model_size("hung", path := model_dir())
    for words in ("'plugins_that_hang:Sizer'", "0.2 s (memory.estimate_timeout_s)", "'hung'", path, "sizers.default"):
        assert words in caught.value.message
    assert caught.value.details["sizer"] == "plugins_that_hang:Sizer"


def test_c13_a_time_out_of_the_sizers_own_is_its_error(site, model_dir):
    with hostd.Host(sizers=hung(site, "Sizer")) as host:
        with pytest.raises(hostd.UnavailableError, match="the sizer failed: its database did not answer"):
            host.client().estimate_model_size("raises", model_dir())


def test_c13_sizes_are_remembered_even_if_all_sizers_hang(serve, site, model_dir, pool):
    path = model_dir()
    service = serve(sizers=hung(site, "Sizer"), memory={"estimate_timeout_s": LATE_S})
    with hostd.connect(service.endpoint) as client:
        ids = [f"hung{number}" for number in range(SIZER_THREADS + 1)]
        estimates = [pool.submit(client.estimate_model_size, model_id, path) for model_id in ids]
        for estimate in estimates:  # the last one never begins
            assert isinstance(estimate.exception(PATIENCE_S), hostd.DeadlineExceededError)
        size = client.load_model("m", path)._info.size
        client.shutdown()
    assert service.ended() == 0
    with hostd.connect(serve().endpoint) as client:
        assert client.estimate_model_size("m", path) == hostd.SizeEstimate(size, "remembered")


def test_c13_a_finder_that_hangs_leaves_the_estimate_as_it_is(site, model_dir):
    finders, sizers = hung(site, "Finder"), hung(site, "Sizer")
    with hostd.Host(finders=finders, sizers=sizers, memory={"estimate_timeout_s": 5}) as host:
        estimate = host.client().estimate_model_size("m", model_dir())
    assert estimate == hostd.SizeEstimate(BYTES, "estimated")
    assert (site / "called-m").exists()


def test_c12_a_load_that_needs_an_estimate_goes_on_without_one(site, model_dir):
    (site / "sitecustomize.py").write_text(textwrap.dedent(UNMEASURABLE))
    with hostd.Host(sizers=hung(site, "Sizer"), memory={"estimate_timeout_s": LATE_S}) as host:
        model = host.client().load_model("hung", model_dir())
        assert (site / "called-hung").exists()
        assert (model.info.state, model.info.size, model.info.size_source) == ("READY", None, "unknown")
        assert model.predict(3) == 3


# The end


class Threads:
    """A supervisor that only runs what is given to it."""

    def in_thread(self, executor, work, then):
        return executor.submit(work)


def test_c13_what_is_still_being_hashed_at_the_end_is_remembered(tmp_path, monkeypatch):
    key, hashing, release = SizeKey(*"abcde"), threading.Event(), threading.Event()

    def slow_key(*_):
        hashing.set()
        assert release.wait(PATIENCE_S)
        yield
        return key

    monkeypatch.setattr(module, "finding_key", slow_key)
    monkeypatch.setattr(module, "CLOSE_S", PATIENCE_S)
    config = load_config({"state_dir": tmp_path, "memory": {"estimate_timeout_s": PATIENCE_S, "remember": "host"}})
    plugins = Plugins(config)
    sizes = Sizes(Threads(), None, plugins, config, Specifying(plugins, None))  # type: ignore[arg-type]
    sizes.open()
    spec = ev.LoadingSpec("python", {}, None, {}, None, None)
    sizes._remember(fx.RememberSize("/m", spec, ev.Memory(1, BYTES, 1, None, 1), 0.5))
    end = threading.Thread(target=sizes.close)
    try:
        assert hashing.wait(PATIENCE_S)
        end.start()
        never(lambda: "closed" in repr(sizes._store), "it was closed before everything was remembered", for_s=0.1)
    finally:
        release.set()
        end.join(PATIENCE_S)
    with SizeStore(tmp_path / "sizes.sqlite") as store:
        figures = store.recall(key)
    assert figures is not None
    assert figures.rss_bytes == BYTES
