"""C10 and C11: loads that are tried again, and what finds and initializes a model. Loads that meet: `test_c06_loading`."""

import asyncio
import itertools
import os

import pytest
from helpers import PATIENCE_S, eventually, is_there, lines_of, of_models

import hostd

BACKOFF_S = 0.15

NOTING = """
    import os
    import time

    class Noting:
        def predict(self, x):
            return x

        def pid(self):
            return os.getpid()

    def load(path, log, fail=0, wait_for=None, how="raise"):
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {time.monotonic()}\\n")
        with open(log) as file:
            number = len(file.readlines())
        while wait_for and not os.path.exists(wait_for):
            time.sleep(0.005)
        if number <= fail and how == "exit":
            os._exit(40 + number)
        if number <= fail:
            raise ValueError(f"try {number} is spoilt")
        return Noting()
"""


class Tries:
    """What the model `NOTING` notes of each try to load it."""

    def __init__(self, log):
        self.log = log

    def __len__(self):
        return len(lines_of(self.log))

    @property
    def pids(self):
        return [int(line.split()[0]) for line in lines_of(self.log)]

    @property
    def waits_s(self):
        times_s = [float(line.split()[1]) for line in lines_of(self.log)]
        return [later_s - earlier_s for earlier_s, later_s in itertools.pairwise(times_s)]


@pytest.fixture
def tries(tmp_path):
    return Tries(tmp_path / "tries")


@pytest.fixture(scope="module")
def shared_host():
    with hostd.Host(workers={"retry_backoff_s": BACKOFF_S, "retry_max_backoff_s": 2 * BACKOFF_S}) as host:
        yield host


# C10


async def errors_of_all(endpoint, path, options, release):
    """Let many wait for one load, then let it go on; return what each gets."""
    async with hostd.AsyncClient(endpoint) as client:
        loads = [client.load_model("m", path, retries=3, options=options) for _ in range(5)]
        waiting = [asyncio.ensure_future(ask) for ask in (*loads, client.retrieve_model("m"))]
        await client.load_model(
            "m", path, wait=False, retries=3, options=options
        )  # behind the others on one connection
        await asyncio.to_thread(release.touch)
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE_S)


def test_c10_each_try_has_a_fresh_process_after_a_backoff_and_all_get_the_last_error(
    shared, shared_host, model_dir, tries, tmp_path
):
    path, release = model_dir(NOTING), tmp_path / "release"
    options = {"log": str(tries.log), "fail": 99, "wait_for": str(release)}
    errors = asyncio.run(errors_of_all(shared.endpoint, path, options, release))
    assert {type(error) for error in errors} == {hostd.ModelError}
    assert all("try 4 is spoilt" in error.message and "model.py" in error.traceback for error in errors)
    assert all(wait_s >= least_s for wait_s, least_s in zip(tries.waits_s, (0.15, 0.3, 0.3), strict=True))
    explained = shared.explain_model("m")
    assert explained["state"] == "FAILED"
    assert "try 4 is spoilt" in explained["reason"]
    said = [event["reason"] for event in explained["story"] if event["cause"] == "RETRY"]
    waits = ["the next in 0.15 s", "the next in 0.3 s", "the next in 0.3 s"]
    assert [wait for wait, reason in zip(waits, said, strict=True) if wait not in reason] == []
    with pytest.raises(hostd.ModelError, match="try 6 is spoilt"):  # another load starts afresh
        shared.load_model("m", path, retries=1, options=options)
    assert len(set(tries.pids)) == 6
    assert not [pid for pid in tries.pids if is_there(pid)]
    assert (of_models(shared_host.pid), shared.list_models()) == ([], [])
    with pytest.raises(hostd.NotFoundError):
        shared.get_model("m")


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_c10_it_is_tried_again_until_it_succeeds_although_nobody_waits(shared_host, shared, model_dir, tries, how):
    options = {"log": str(tries.log), "fail": 2, "how": how}
    with hostd.connect(shared_host.endpoint) as client:
        client.load_model("m", model_dir(NOTING), wait=False, retries=5, options=options)
    eventually(lambda: len(tries) == 3, "the third try, after the client that asked has gone")
    model = shared.retrieve_model("m")
    assert [model.pid()] == tries.pids[2:]
    assert not [pid for pid in tries.pids[:2] if is_there(pid)]
    for retries in (-1, 101, 2.5, "2", True):
        with pytest.raises(hostd.InvalidArgumentError, match="retries"):
            shared.load_model("n", model_dir(), retries=retries)


# C11

PLUGINS = """
    from hostd.finders import ModelSpec

    class ByName:
        looks_for = "a directory whose name begins with net"

        def find(self, model_id, path):
            import os
            named = path and os.path.basename(path).startswith("net")
            return ModelSpec("own_plugins:load_net", {"found_as": model_id}) if named else None

    class Net:
        def __init__(self, path, options):
            self.path, self.options, self.warmed = path, options, 0

        def tell(self):
            return [self.path, self.options, self.warmed]

    def load_net(path, **options):
        return Net(path, options)

    def warmed(spec, *, rounds=1):
        model = spec.load()
        model.warmed = f"{spec.model_id} {spec.loader} {rounds}"
        return model

    def instead(spec, **config):
        import os
        return lambda: [os.getpid(), [spec.model_id, spec.path, spec.loader, dict(spec.options)], config]
"""


@pytest.fixture
def plugged(install):
    """A client of a host with finders and initializers of its own."""
    install(own_plugins=PLUGINS)
    with hostd.Host(
        finders={
            "by_name": {"type": "own_plugins:ByName"},
            "several": {"type": "multi", "config": {"finders": ["model_yaml", "by_name", "files"]}},
        },
        initializers={"warm": {"type": "own_plugins:warmed", "config": {"rounds": 7}}},
    ) as host:
        yield host.client()


def test_c11_finder_and_initializer_are_named_per_load(plugged, tmp_path, model_dir):
    net = tmp_path / "net-1"
    net.mkdir()
    plain = plugged.load_model("plain", net, finder="by_name", options={"a": 1})
    assert plain.tell() == [str(net), {"found_as": "plain", "a": 1}, 0]
    warm = plugged.load_model("warm", net, finder="by_name", initializer="warm")
    assert warm.tell() == [str(net), {"found_as": "warm"}, "warm own_plugins:load_net 7"]
    with pytest.raises(hostd.InvalidArgumentError, match=r"looks for .*model\.py"):
        plugged.load_model("default", net)
    settings = "initializer: {type: 'own_plugins:instead', config: {deep: 1}}\noptions: {a: 2}\n"
    path = model_dir("raise ValueError('nobody asked for this')", settings=settings)
    model = plugged.load_model("m", path)
    assert model() == [model.info.workers[0].pid, ["m", path, "python", {"a": 2}], {"deep": 1}]
    assert model.info.workers[0].pid != os.getpid()


def test_c11_a_multi_finder_asks_several_in_order(plugged, tmp_path, model_dir):
    net = tmp_path / "net-1"
    net.mkdir()
    (net / "model.py").write_text("def load(path):\n    return lambda: 'from model.py'\n")
    assert plugged.load_model("a", net, finder="several").tell()[1] == {"found_as": "a"}
    (net / "model.yaml").write_text("loader: python\n")
    assert plugged.load_model("c", net, finder="several")() == "from model.py"
    with pytest.raises(hostd.NotFoundError, match="nowhere"):
        plugged.load_model("d", tmp_path / "nowhere", finder="several")
    files = {"other.py": "def load(path, word):\n    return lambda: word\n"}
    settings = "loader: python\noptions: {module: other, word: yes it is}\n"
    path = model_dir("raise ValueError('not this one')", settings=settings, files=files)
    assert plugged.load_model("m", path)() == "yes it is"
    with pytest.raises(hostd.ModelError, match="not this one"):
        plugged.load_model("n", path, finder="files")
