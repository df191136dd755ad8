"""C06 to C09: loads, and loads that meet. What fails and is tried again, and who finds a model: `test_c10_retries`."""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from helpers import PATIENCE_S, descendants, eventually, lines_of

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ModelDir: TypeAlias = "Callable[..., str]"

CROWD = 1000

NOTING = """
    import os
    import time

    class Noting:
        def predict(self, x):
            return x

        def pid(self):
            return os.getpid()

    def load(path, log, fail=0, wait_for=None):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\\n")
        with open(log) as file:
            number = len(file.readlines())
        while wait_for and not os.path.exists(wait_for):
            time.sleep(0.005)
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


@pytest.fixture
def tries(tmp_path: Path) -> Tries:
    return Tries(tmp_path / "tries")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    threads = ThreadPoolExecutor(16)
    yield threads
    # After a failure somebody may still wait for a load; the end of the host, which comes next, ends that.
    threads.shutdown(wait=False, cancel_futures=True)


# C06


def test_c06_a_load_returns_a_handle_with_everything_there_is_to_know(
    shared: hostd.Client, model_dir: ModelDir
) -> None:
    path = model_dir()
    model = shared.load_model("team/echo", path)
    assert (model.id, model.path, model.type) == ("team/echo", path, "standalone-model")
    assert (model.loading, model.loaded) == (False, True)
    eventually(lambda: model.size == shared.get_model_size("team/echo") > 0, "the size is that of the record")
    assert model.wait() is model
    assert model.predict(1) == 1
    assert shared.load_model("typed", path, "a-type").type == "a-type"


def test_c06_every_option_of_a_load_is_taken_together(shared: hostd.Client, model_dir: ModelDir, tries: Tries) -> None:
    model = shared.load_model(
        "m",
        model_dir(NOTING),
        "a-type",
        wait=True,
        retries=1,
        finder="files",
        initializer="default",
        options={"log": str(tries.log), "fail": 1},
    )
    assert (model.type, model.loaded, len(tries)) == ("a-type", True, 2)


def test_c06_an_asynchronous_load_returns_such_a_handle_too(shared_host: hostd.Host, model_dir: ModelDir) -> None:
    async def use() -> None:
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            model = await client.load_model("echo", model_dir(), wait=False)
            assert (model.id, model.type) == ("echo", "standalone-model")
            await model.wait()
            assert (await model.loading(), await model.loaded()) == (False, True)
            assert await model.size() > 0
            await client.unload_model("echo")

    asyncio.run(use())


# C07


def test_c07_loading_what_is_loaded_starts_no_process(
    shared: hostd.Client, shared_host: hostd.Host, model_dir: ModelDir
) -> None:
    path = model_dir()
    first = shared.load_model("echo", path).info
    processes = descendants(shared_host.pid)
    for _ in range(20):
        again = shared.load_model("echo", path, retries=3).info
        assert (again.workers[0].pid, again.generation) == (first.workers[0].pid, first.generation)
    assert descendants(shared_host.pid) == processes


@pytest.mark.parametrize(
    "other",
    [{"path": None}, {"model_type": "another"}, {"options": {"x": 1}}, {"finder": "files"}, {"initializer": "default"}],
    ids=["path", "type", "options", "finder", "initializer"],
)
@pytest.mark.parametrize("wait", [True, False])
def test_c07_another_source_under_the_same_id_is_refused_and_changes_nothing(
    shared: hostd.Client, model_dir: ModelDir, other: dict[str, Any], wait: bool
) -> None:
    path = model_dir()
    model = shared.load_model("echo", path)
    pid = model.info.workers[0].pid
    source = {"path": path, **other}
    with pytest.raises(hostd.AlreadyExistsError, match="unload it first, or use another id"):
        shared.load_model("echo", source.pop("path") or model_dir(), wait=wait, **source)
    assert model.predict(1) == 1
    assert [info.workers[0].pid for info in shared.list_models()] == [pid]


def test_c07_another_path_for_an_id_that_is_loading_is_refused(
    shared: hostd.Client, model_dir: ModelDir, tries: Tries, tmp_path: Path
) -> None:
    options = {"log": str(tries.log), "wait_for": str(tmp_path / "never")}
    shared.load_model("slow", model_dir(NOTING), wait=False, options=options)
    with pytest.raises(hostd.AlreadyExistsError, match="path"):
        shared.load_model("slow", model_dir(NOTING), options=options)


@pytest.mark.parametrize(
    "value",
    [
        {"deep": [1, (2, b"3")]},
        math.nan,
    ],
    ids=repr,
)
def test_c07_the_same_options_are_the_same(shared: hostd.Client, model_dir: ModelDir, value: object) -> None:
    path = model_dir()
    pid = shared.load_model("echo", path, options={"a": value}).info.workers[0].pid
    assert shared.load_model("echo", path, options={"a": value}).info.workers[0].pid == pid


def test_c07_options_of_other_types_are_other_options(shared: hostd.Client, model_dir: ModelDir) -> None:
    path = model_dir("def load(path, a):\n    return lambda: repr(a)\n")
    assert shared.load_model("m", path, options={"a": 1})() == "1"
    with pytest.raises(hostd.AlreadyExistsError, match="options"):
        shared.load_model("m", path, options={"a": True})


# C08


async def load_by_many(endpoint: str, path: str, options: dict[str, Any], release: Path) -> list[Any]:
    """Begin a load of one id a thousand times, from two connections; let the model go on when all have asked."""
    async with hostd.AsyncClient(endpoint) as one, hostd.AsyncClient(endpoint) as other:
        loads = [
            asyncio.ensure_future((one, other)[i % 2].load_model("m", path, options=options)) for i in range(CROWD)
        ]
        await one.load_model("m", path, wait=False, options=options)  # behind its own thousand on one connection
        await other.load_model("m", path, wait=False, options=options)
        assert not any(load.done() for load in loads)
        await asyncio.to_thread(release.touch)
        return await asyncio.wait_for(asyncio.gather(*loads, return_exceptions=True), 6 * PATIENCE_S)


def test_c08_a_thousand_concurrent_loads_start_one_process_and_get_the_same_handle(
    shared: hostd.Client, shared_host: hostd.Host, model_dir: ModelDir, tries: Tries, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    options = {"log": str(tries.log), "wait_for": str(release)}
    loaded = asyncio.run(load_by_many(shared_host.endpoint, model_dir(NOTING), options, release))
    assert {(type(model).__name__, model.id) for model in loaded} == {("AsyncModel", "m")}
    assert len({(model._info.generation, model._info.workers[0].pid) for model in loaded}) == 1
    assert len(tries) == 1
    assert len(descendants(shared_host.pid)) == 1


def test_c08_a_thousand_concurrent_loads_that_fail_start_one_process_and_get_the_same_error(
    shared: hostd.Client, shared_host: hostd.Host, model_dir: ModelDir, tries: Tries, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    options = {"log": str(tries.log), "wait_for": str(release), "fail": 99}
    errors = asyncio.run(load_by_many(shared_host.endpoint, model_dir(NOTING), options, release))
    assert {type(error) for error in errors} == {hostd.ModelError}
    assert len({(error.message, error.traceback) for error in errors}) == 1
    assert len(tries) == 1
    assert descendants(shared_host.pid) == []


def test_c08_threads_that_load_through_one_client_start_one_process(
    shared: hostd.Client, shared_host: hostd.Host, model_dir: ModelDir, tries: Tries, tmp_path: Path
) -> None:
    release, path = tmp_path / "release", model_dir(NOTING)
    options = {"log": str(tries.log), "wait_for": str(release)}
    outcomes: list[object] = []
    barrier = threading.Barrier(100)

    def load() -> None:
        barrier.wait(PATIENCE_S)
        try:
            outcomes.append(shared.load_model("slow", path, options=options).info.workers[0].pid)
        except hostd.HostError as error:
            outcomes.append(error)

    loaders = [threading.Thread(target=load) for _ in range(100)]
    for loader in loaders:
        loader.start()
    eventually(lambda: len(tries), "the load has begun")
    assert len(descendants(shared_host.pid)) == 1
    assert not outcomes
    release.touch()
    for loader in loaders:
        loader.join(PATIENCE_S)
    assert len(outcomes) == 100
    assert len(set(outcomes)) == 1
    assert len(tries) == 1


# C09


def test_c09_without_waiting_it_returns_while_it_loads_and_all_wait_for_the_same_load(
    shared: hostd.Client, model_dir: ModelDir, tries: Tries, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    release, path = tmp_path / "release", model_dir(NOTING)
    options = {"log": str(tries.log), "wait_for": str(release)}
    model = shared.load_model("slow", path, wait=False, options=options)
    assert (model.loading, model.loaded) == (True, False)
    waiting = [
        pool.submit(model.wait),
        pool.submit(shared.retrieve_model, "slow"),
        pool.submit(shared.load_model, "slow", path, options=options),
    ]
    for verb in (model.wait, lambda timeout_s: shared.retrieve_model("slow", timeout_s=timeout_s)):
        with pytest.raises(hostd.DeadlineExceededError):
            verb(timeout_s=0.1)
    assert not any(one.done() for one in waiting)
    release.touch()
    assert len({one.result(PATIENCE_S).pid() for one in waiting}) == 1
    assert (model.loading, model.loaded, len(tries)) == (False, True, 1)


def test_c09_a_call_while_it_loads_says_that_it_is_loading(
    shared: hostd.Client, model_dir: ModelDir, tries: Tries, tmp_path: Path
) -> None:
    options = {"log": str(tries.log), "wait_for": str(tmp_path / "never")}
    model = shared.load_model("slow", model_dir(NOTING), wait=False, options=options)
    with pytest.raises(hostd.FailedPreconditionError, match=r"LOADING.*retrieve_model"):
        model.call("predict", 1)


def test_c09_a_method_of_what_is_loading_is_not_called_unknown(
    shared: hostd.Client, model_dir: ModelDir, tries: Tries, tmp_path: Path
) -> None:
    options = {"log": str(tries.log), "wait_for": str(tmp_path / "never")}
    model = shared.load_model("slow", model_dir(NOTING), wait=False, options=options)
    with pytest.raises(hostd.FailedPreconditionError, match="LOADING"):
        model.predict(1)
