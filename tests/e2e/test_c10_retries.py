"""C10 and C11: loads that are tried again, and who finds and initializes a model. Loads that meet: `test_c06_loading`."""

from __future__ import annotations

import itertools
import os
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from helpers import PATIENCE_S, descendants, eventually, is_there, lines_of

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ModelDir: TypeAlias = "Callable[..., str]"

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

    def __init__(self, log: Path) -> None:
        self.log = log

    def __len__(self) -> int:
        return len(lines_of(self.log))

    @property
    def pids(self) -> list[int]:
        return [int(line.split()[0]) for line in lines_of(self.log)]

    @property
    def waits_s(self) -> list[float]:
        times_s = [float(line.split()[1]) for line in lines_of(self.log)]
        return [later_s - earlier_s for earlier_s, later_s in itertools.pairwise(times_s)]


@pytest.fixture
def tries(tmp_path: Path) -> Tries:
    return Tries(tmp_path / "tries")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    threads = ThreadPoolExecutor(16)
    yield threads
    # After a failure somebody may still wait for a load; the end of the host, which comes next, ends that.
    threads.shutdown(wait=False, cancel_futures=True)


@pytest.fixture(scope="module")
def shared_host() -> Iterator[hostd.Host]:
    with hostd.Host(workers={"retry_backoff_s": BACKOFF_S, "retry_max_backoff_s": 2 * BACKOFF_S}) as host:
        yield host


# C10


def test_c10_each_try_has_a_fresh_process_and_the_last_error_counts(
    shared: hostd.Client, shared_host: hostd.Host, model_dir: ModelDir, tries: Tries
) -> None:
    path, options = model_dir(NOTING), {"log": str(tries.log), "fail": 99}
    for begun in (0, 3):  # the second load starts afresh
        with pytest.raises(hostd.ModelError, match=f"try {begun + 3} is spoilt") as caught:
            shared.load_model("m", path, retries=2, options=options)
        assert "model.py" in caught.value.traceback
        assert f"try {begun + 3} is spoilt" in caught.value.traceback
        assert len(set(tries.pids)) == begun + 3
        assert not [pid for pid in tries.pids if is_there(pid)]
        assert descendants(shared_host.pid) == []
        assert shared.list_models() == []
        with pytest.raises(hostd.NotFoundError):
            shared.get_model("m")


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_c10_a_load_that_succeeds_at_last_is_no_error(
    shared: hostd.Client, model_dir: ModelDir, tries: Tries, how: str
) -> None:
    options = {"log": str(tries.log), "fail": 2, "how": how}
    model = shared.load_model("m", model_dir(NOTING), retries=5, options=options)
    assert [model.pid()] == tries.pids[2:]
    assert not [pid for pid in tries.pids[:2] if is_there(pid)]


def test_c10_between_two_tries_is_at_least_the_backoff_which_doubles_up_to_its_limit(
    shared: hostd.Client, model_dir: ModelDir, tries: Tries
) -> None:
    with pytest.raises(hostd.ModelError):
        shared.load_model("backing-off", model_dir(NOTING), retries=3, options={"log": str(tries.log), "fail": 99})
    first_s, second_s, third_s = tries.waits_s
    assert first_s >= BACKOFF_S
    assert second_s >= 2 * BACKOFF_S
    assert third_s >= 2 * BACKOFF_S
    said = [event["reason"] for event in shared.explain_model("backing-off")["story"] if event["cause"] == "RETRY"]
    waits = ["the next in 0.15 s", "the next in 0.3 s", "the next in 0.3 s"]
    assert [wait for wait, reason in zip(waits, said, strict=True) if wait not in reason] == []


def test_c10_it_is_tried_again_although_nobody_waits(
    shared_host: hostd.Host, model_dir: ModelDir, tries: Tries
) -> None:
    with hostd.connect(shared_host.endpoint) as client:
        options = {"log": str(tries.log), "fail": 2}
        client.load_model("m", model_dir(NOTING), wait=False, retries=2, options=options)
    eventually(lambda: len(tries) == 3, "the third try, after whoever asked has gone")
    with hostd.connect(shared_host.endpoint) as client:
        assert client.retrieve_model("m").predict(1) == 1
        client.unload_model("m")


def test_c10_whoever_waits_no_longer_does_not_end_the_tries(
    shared: hostd.Client, model_dir: ModelDir, tries: Tries
) -> None:
    options = {"log": str(tries.log), "fail": 3}
    with pytest.raises(hostd.DeadlineExceededError):
        shared.load_model("m", model_dir(NOTING), retries=3, options=options, timeout_s=BACKOFF_S)
    assert shared.retrieve_model("m").predict(1) == 1
    assert len(tries) == 4


def test_c10_every_waiter_gets_the_error_of_the_last_try(
    shared: hostd.Client, model_dir: ModelDir, tries: Tries, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    release, path = tmp_path / "release", model_dir(NOTING)
    options = {"log": str(tries.log), "fail": 99, "wait_for": str(release)}
    model = shared.load_model("m", path, wait=False, retries=1, options=options)
    waiting = [pool.submit(model.wait), pool.submit(shared.retrieve_model, "m")]
    waiting += [pool.submit(shared.load_model, "m", path, options=options) for _ in range(5)]
    release.touch()
    errors = [one.exception(PATIENCE_S) for one in waiting]
    assert {type(error) for error in errors if "try 2 is spoilt" in str(error)} == {hostd.ModelError}
    late = [error for error in errors if "try 2 is spoilt" not in str(error)]  # their requests came after the end
    assert all(isinstance(error, (hostd.NotFoundError, hostd.ModelError)) for error in late)


def test_c10_a_failed_load_that_nobody_waited_for_is_explained_and_in_nobodys_way(
    shared: hostd.Client, model_dir: ModelDir
) -> None:
    path = model_dir("def load(path):\n    raise ValueError('no such weights')\n")
    shared.load_model("broken", path, wait=False)
    explained = eventually(
        lambda: (found := shared.explain_model("broken"))["state"] == "FAILED" and found, "the failure is known"
    )
    assert "no such weights" in explained["reason"]
    assert shared.load_model("broken", model_dir()).predict(1) == 1


def test_c10_waiting_for_a_load_that_has_failed_already_tells_why(shared: hostd.Client, model_dir: ModelDir) -> None:
    path = model_dir("def load(path):\n    raise ValueError('no such weights')\n")
    model = shared.load_model("broken", path, wait=False)
    eventually(lambda: shared.explain_model("broken")["state"] == "FAILED", "the load has failed")
    with pytest.raises(hostd.HostError, match="no such weights"):
        model.wait(PATIENCE_S)


@pytest.mark.parametrize("retries", [-1, 101, 2.5, "2", True])
def test_c10_a_number_of_retries_that_is_none_is_refused(
    shared: hostd.Client, model_dir: ModelDir, retries: Any
) -> None:
    with pytest.raises(hostd.InvalidArgumentError, match="retries"):
        shared.load_model("m", model_dir(), retries=retries)
    assert shared.list_models() == []


def test_c10_without_retries_the_hosts_setting_counts(model_dir: ModelDir, tries: Tries) -> None:
    with hostd.Host(workers={"load_retries": 1, "retry_backoff_s": 0.01}) as host:
        for retries, begun in ((None, 2), (0, 3)):
            with pytest.raises(hostd.ModelError):
                options = {"log": str(tries.log), "fail": 99}
                host.client().load_model("m", model_dir(NOTING), retries=retries, options=options)
            assert len(tries) == begun


# C11


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hostd.Client]:
    """A client of a host with finders and initializers of its own."""
    source = """
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
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "own_plugins.py").write_text(textwrap.dedent(source))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    with hostd.Host(
        finders={
            "by_name": {"type": "own_plugins:ByName"},
            "several": {"type": "multi", "config": {"finders": ["model_yaml", "by_name", "files"]}},
        },
        initializers={"warm": {"type": "own_plugins:warmed", "config": {"rounds": 7}}},
    ) as host:
        yield host.client()


def test_c11_finder_and_initializer_are_named_per_load(plugged: hostd.Client, tmp_path: Path) -> None:
    net = tmp_path / "net-1"
    net.mkdir()
    plain = plugged.load_model("plain", net, finder="by_name", options={"a": 1})
    assert plain.tell() == [str(net), {"found_as": "plain", "a": 1}, 0]
    warm = plugged.load_model("warm", net, finder="by_name", initializer="warm")
    assert warm.tell() == [str(net), {"found_as": "warm"}, "warm own_plugins:load_net 7"]
    with pytest.raises(hostd.InvalidArgumentError, match=r"looks for .*model\.py"):
        plugged.load_model("default", net)


def test_c11_a_multi_finder_asks_several_in_order(plugged: hostd.Client, tmp_path: Path) -> None:
    net, other = tmp_path / "net-1", tmp_path / "other"
    for directory in (net, other):
        directory.mkdir()
        (directory / "model.py").write_text("def load(path):\n    return lambda: 'from model.py'\n")
    assert plugged.load_model("a", net, finder="several").tell()[1] == {"found_as": "a"}
    assert plugged.load_model("b", other, finder="several")() == "from model.py"
    (net / "model.yaml").write_text("loader: python\n")
    assert plugged.load_model("c", net, finder="several")() == "from model.py"
    with pytest.raises(hostd.NotFoundError, match="nowhere"):
        plugged.load_model("d", tmp_path / "nowhere", finder="several")


def test_c11_the_built_in_finders_read_model_yaml_before_they_recognise_files(
    shared: hostd.Client, model_dir: ModelDir
) -> None:
    files = {"other.py": "def load(path, word):\n    return lambda: word\n"}
    settings = "loader: python\noptions: {module: other, word: yes it is}\n"
    path = model_dir("raise ValueError('not this one')", settings=settings, files=files)
    assert shared.load_model("m", path)() == "yes it is"
    with pytest.raises(hostd.ModelError, match="not this one"):
        shared.load_model("n", path, finder="files")


def test_c11_the_initializer_makes_the_object_in_the_worker(plugged: hostd.Client, model_dir: ModelDir) -> None:
    settings = "initializer: {type: 'own_plugins:instead', config: {deep: 1}}\noptions: {a: 2}\n"
    path = model_dir("raise ValueError('nobody asked for this')", settings=settings)
    model = plugged.load_model("m", path)
    assert model() == [model.info.workers[0].pid, ["m", path, "python", {"a": 2}], {"deep": 1}]
    assert model.info.workers[0].pid != os.getpid()
