"""C17 to C19: nested ids, unloads between load and use, and handles that outlive their workers."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from helpers import PATIENCE_S, descendants, eventually, is_there

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ModelDir: TypeAlias = "Callable[..., str]"

ROUNDS = 25
USERS = 4

MODEL = """
import os
import time

class Model:
    def __init__(self, factor):
        self.factor = factor

    def predict(self, x):
        return x * self.factor

    def pid(self):
        return os.getpid()

    def generate(self, n):
        yield from range(n)

    def die(self):
        os.kill(os.getpid(), 9)

    def work(self, begun, release):
        open(begun, "w").close()
        while not os.path.exists(release):
            time.sleep(0.005)
        return "finished"

def load(path, factor=1, wait_for=None):
    while wait_for and not os.path.exists(wait_for):
        time.sleep(0.005)
    return Model(factor)
"""


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    return directory


@pytest.fixture
def lazy_host(models_dir: Path) -> Iterator[hostd.Host]:
    models = {"lazy_load": True, "load_on_start": False, "poll_period_s": 0, "write_quiet_period_s": 0}
    with hostd.Host(models_dir=models_dir, models=models) as host:
        yield host


@pytest.fixture
def lazy(lazy_host: hostd.Host) -> hostd.Client:
    return lazy_host.client()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    threads = ThreadPoolExecutor(8)
    yield threads
    # After a failure somebody may still wait for a load; the end of the host, which comes next, ends that.
    threads.shutdown(wait=False, cancel_futures=True)


def put(directory: Path, name: str) -> Path:
    place = directory / name
    place.mkdir(parents=True)
    (place / "model.py").write_text(MODEL)
    return place


# C17


def test_c17_nested_ids_are_loaded_lazily_and_explicitly(lazy: hostd.Client, models_dir: Path, tmp_path: Path) -> None:
    inside = put(models_dir, "team/a/model")
    elsewhere = put(tmp_path / "elsewhere", "b")
    assert lazy.retrieve_model("team/a/model").path == str(inside)
    assert lazy.load_model("team/b", elsewhere).predict(2) == 2
    assert [model.id for model in lazy.list_models()] == ["team/a/model", "team/b"]
    assert lazy.get_model_size("team/b") > 0
    assert lazy.unload_model("team/a/model").processes == 1


def test_c17_a_sync_neither_finds_nor_unloads_a_nested_model_while_it_exists(
    lazy: hostd.Client, models_dir: Path
) -> None:
    put(models_dir, "flat")
    place = put(models_dir, "team/model")
    put(models_dir, "team/another")
    report = lazy.sync_local_models(wait=True)
    assert (report.loaded, report.unloaded, report.failed) == (("flat",), (), {})
    pid = lazy.retrieve_model("team/model").pid()
    for _ in range(3):
        assert lazy.sync_local_models(wait=True).unloaded == ()
    assert lazy.retrieve_model("team/model").pid() == pid
    shutil.rmtree(place)
    assert lazy.sync_local_models(wait=True).unloaded == ("team/model",)
    assert not is_there(pid)


def test_c17_a_model_and_one_below_it_are_two_models(lazy: hostd.Client, models_dir: Path) -> None:
    put(models_dir, "team")
    put(models_dir, "team/model")
    outer, inner = lazy.retrieve_model("team"), lazy.retrieve_model("team/model")
    assert outer.pid() != inner.pid()
    lazy.unload_model("team")
    assert inner.predict(3) == 3


def test_c17_a_folder_of_nested_models_is_no_model(lazy: hostd.Client, models_dir: Path) -> None:
    put(models_dir, "team/model")
    with pytest.raises((hostd.InvalidArgumentError, hostd.NotFoundError), match="team"):
        lazy.retrieve_model("team")
    assert lazy.list_models() == []


# C18


def test_c18_retrieving_while_loading_waits(
    shared: hostd.Client, model_dir: ModelDir, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    release = tmp_path / "release"
    model = shared.load_model("slow", model_dir(MODEL), wait=False, options={"wait_for": str(release)})
    assert model.loading
    waiting = [pool.submit(shared.retrieve_model, "slow") for _ in range(5)]
    with pytest.raises(hostd.DeadlineExceededError):
        shared.retrieve_model("slow", timeout_s=0.1)
    with pytest.raises(hostd.FailedPreconditionError, match="LOADING"):
        model.call("predict", 1)
    assert not any(one.done() for one in waiting)
    release.touch()
    assert len({one.result(PATIENCE_S).pid() for one in waiting}) == 1


def test_c18_an_unload_while_somebody_waits_for_the_load_is_aborted(
    shared: hostd.Client, model_dir: ModelDir, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    path, never = model_dir(MODEL), str(tmp_path / "never")
    shared.load_model("slow", path, wait=False, options={"wait_for": never})
    waiting = [pool.submit(shared.retrieve_model, "slow", timeout_s=PATIENCE_S) for _ in range(5)]
    with pytest.raises(hostd.DeadlineExceededError):
        shared.retrieve_model("slow", timeout_s=0.1)  # the others have asked before
    shared.unload_model("slow")
    assert {type(one.exception(PATIENCE_S)) for one in waiting} <= {hostd.AbortedError, hostd.NotFoundError}


class Storm:
    """Threads that use a model while another unloads it, and what each of them got."""

    def __init__(self) -> None:
        self.got: Counter[str] = Counter()
        self.strange: list[BaseException] = []
        self.over = threading.Event()

    def use(self, ask: Callable[[int], int]) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            try:
                self.got["right" if ask(number) == number else "wrong"] += 1
            except hostd.HostError as error:
                # LOADING and UNLOADING refuse with FAILED_PRECONDITION (DESIGN's table), and then there is nothing (C19).
                usual = (hostd.AbortedError, hostd.FailedPreconditionError, hostd.NotFoundError)
                self.got[error.status.name] += 1
                if not isinstance(error, usual) or (isinstance(error, usual[1]) and "LOADING" not in error.message):
                    self.strange.append(error)
            except Exception as error:  # noqa: BLE001 - a strange one is what is looked for
                self.strange.append(error)

    def rage(self, uses: list[Callable[[int], int]], unload: Callable[[], Any]) -> None:
        users = [threading.Thread(target=self.use, args=(use,)) for use in uses]
        for user in users:
            user.start()
        try:
            for _ in range(ROUNDS):
                before = self.got["right"]
                eventually(lambda before=before: self.got["right"] > before or self.strange, "somebody is answered")
                unload()
        finally:
            self.over.set()
            for user in users:
                user.join(PATIENCE_S)


def test_c18_unloads_between_load_and_first_use_raise_no_strange_error(
    shared: hostd.Client, shared_host: hostd.Host, model_dir: ModelDir
) -> None:
    path, storm = model_dir(MODEL), Storm()
    uses = [
        lambda number: shared.load_model("m", path).predict(number),
        lambda number: shared.load_model("m", path, wait=False).wait().predict(number),
        lambda number: list(shared.load_model("m", path).stream.generate(number + 1))[-1],
        lambda number: shared.retrieve_model("m").submit.predict(number).result(),
    ]
    storm.rage(uses, lambda: shared.unload_model("m"))
    assert storm.strange == []
    assert storm.got["wrong"] == 0
    shared.unload_model("m")
    assert descendants(shared_host.pid) == []


def test_c18_c19_with_lazy_loading_whoever_uses_an_old_handle_gets_an_answer_or_hears_of_the_unload(
    lazy: hostd.Client, lazy_host: hostd.Host, models_dir: Path
) -> None:
    put(models_dir, "m")
    model, storm = lazy.retrieve_model("m"), Storm()
    uses = [model.predict, lambda number: list(model.stream.generate(number + 1))[-1]]
    storm.rage(uses * (USERS // 2), lambda: lazy.unload_model("m"))
    assert storm.strange == []
    assert storm.got["wrong"] == storm.got["NOT_FOUND"] == 0, storm.got
    lazy.unload_model("m")
    assert descendants(lazy_host.pid) == []


def test_c18_with_lazy_loading_who_asks_during_an_unload_gets_an_answer_or_aborted(
    lazy: hostd.Client, models_dir: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    put(models_dir, "m")
    model, begun, release = lazy.retrieve_model("m"), tmp_path / "begun", tmp_path / "release"
    call = model.submit.work(str(begun), str(release))
    eventually(begun.exists, "the model is at work")
    unload = pool.submit(lazy.unload_model, "m")
    try:
        eventually(lambda: lazy.get_model("m").state == "UNLOADING", "the unload has begun")
        waiting = [pool.submit(model.predict, 3), pool.submit(lambda: lazy.retrieve_model("m").predict(3))]
        with pytest.raises(hostd.DeadlineExceededError):
            model.options(timeout_s=0.2).predict(1)  # the others have asked before
    finally:
        release.touch()
        unload.result(PATIENCE_S)
    assert call.result(PATIENCE_S) == "finished"
    for one in waiting:
        assert isinstance(one.exception(PATIENCE_S), hostd.AbortedError) or one.result() == 3


# C19


def test_c19_after_a_reload_the_same_handle_reaches_the_new_worker(shared: hostd.Client, model_dir: ModelDir) -> None:
    path = model_dir(MODEL)
    model = shared.load_model("echo", path)
    first = model.pid()
    shared.unload_model("echo")
    reloaded = shared.load_model("echo", path, options={"factor": 5})
    assert model.pid() == reloaded.pid() != first
    assert model.predict(2) == model.submit.predict(2).result(PATIENCE_S) == next(model.map.predict([2])) == 10
    assert list(model.stream.generate(3)) == [0, 1, 2]
    assert reloaded.info.generation > 1


def test_c19_after_a_crash_and_a_reload_the_same_handle_reaches_the_new_worker(
    shared: hostd.Client, model_dir: ModelDir
) -> None:
    path = model_dir(MODEL)
    model = shared.load_model("m", path)
    with pytest.raises(hostd.UnavailableError, match="SIGKILL"):
        model.die()
    with pytest.raises(hostd.FailedPreconditionError, match=r"FAILED.*load it again"):
        model.predict(1)
    shared.load_model("m", path)
    assert model.predict(1) == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.predict(1),
        lambda model: model.call("predict", 1),
        lambda model: model.submit.predict(1).result(PATIENCE_S),
        lambda model: list(model.map.predict([1])),
        lambda model: list(model.stream.generate(1)),
        lambda model: model.size,
        lambda model: model.info,
        lambda model: model.wait(PATIENCE_S),
    ],
    ids=["call", "by-name", "submit", "map", "stream", "size", "info", "wait"],
)
def test_c19_after_an_unload_it_says_not_found(shared: hostd.Client, model_dir: ModelDir, use: Any) -> None:
    model = shared.load_model("m", model_dir(MODEL))
    shared.unload_model("m")
    with pytest.raises(hostd.NotFoundError, match="'m'"):
        use(model)


def test_c19_after_an_unload_an_asynchronous_handle_says_not_found(
    shared_host: hostd.Host, model_dir: ModelDir
) -> None:
    async def use() -> None:
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            model = await client.load_model("m", model_dir(MODEL))
            await client.unload_model("m")
            with pytest.raises(hostd.NotFoundError):
                await model.predict(1)
            with pytest.raises(hostd.NotFoundError):
                [item async for item in model.stream.generate(1)]

    asyncio.run(use())


def test_c19_after_an_unload_a_handle_says_that_it_is_not_loaded(shared: hostd.Client, model_dir: ModelDir) -> None:
    model = shared.load_model("m", model_dir(MODEL))
    shared.unload_model("m")
    assert (model.loaded, model.loading) == (False, False)


def test_c19_with_lazy_loading_a_model_that_crashed_is_loaded_again(lazy: hostd.Client, models_dir: Path) -> None:
    put(models_dir, "m")
    model = lazy.retrieve_model("m")
    first = model.pid()
    for _ in range(2):
        with pytest.raises(hostd.UnavailableError):
            model.die()
        assert model.predict(4) == 4
    assert model.pid() != first


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_c19_with_lazy_loading_a_crashed_model_comes_back_as_it_was(
    lazy: hostd.Client, models_dir: Path, tmp_path: Path, place: str
) -> None:
    path = put(models_dir if place == "inside" else tmp_path / "elsewhere", "m")
    model = lazy.load_model("m", path, "a-type", options={"factor": 10})
    with pytest.raises(hostd.UnavailableError):
        model.die()
    assert model.predict(4) == 40
    assert (model.info.type, model.info.path) == ("a-type", os.fspath(path))
