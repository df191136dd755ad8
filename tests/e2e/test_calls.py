"""Calls while things happen: deadlines, cancelling, streams that are left, unloads, and loads that meet each other.

Each of them has exactly one answer, and none of them waits for another model.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from helpers import PATIENCE_S, SOON_S, at_most, descendants, eventually, is_there, lines_of, never

import hostd
from hostd.client.tracker import STREAM_WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SLOW = """
    import pathlib
    import time

    class Slow:
        def predict(self, x):
            return x

        def work(self, marker, release):
            pathlib.Path(marker).touch()
            while not pathlib.Path(release).exists():
                time.sleep(0.002)
            return "finished"

        def generate(self, n, noted):
            try:
                for i in range(n):
                    with open(noted, "a") as file:
                        file.write(f"{i}\\n")
                    yield i
            finally:
                with open(noted, "a") as file:
                    file.write("closed\\n")

        def stall(self, noted):
            yield 1
            time.sleep(3600)

    def load(path, wait_for=None, started=None):
        if started:
            with open(started, "a") as file:
                file.write("x")
        while wait_for and not pathlib.Path(wait_for).exists():
            time.sleep(0.002)
        return Slow()
"""


class Work:
    """A call that has begun, and lasts until it is released."""

    def __init__(self, model: hostd.Model, directory: Path, **options: float) -> None:
        Work.count = getattr(Work, "count", 0) + 1
        self._marker, self._release = directory / f"begun-{Work.count}", directory / f"released-{Work.count}"
        target = model.options(**options) if options else model
        self.call = target.submit.work(str(self._marker), str(self._release))
        eventually(self._marker.exists, "the call has begun")

    def release(self) -> None:
        self._release.touch()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


@pytest.fixture
def slow(shared: hostd.Client, model_dir: Callable[..., str]) -> hostd.Model:
    return shared.load_model("slow", model_dir(SLOW))


@pytest.fixture(scope="module")
def patient_host() -> Iterator[hostd.Host]:
    """A host that does not give up a drain while a test looks at it, however long the machine stands still."""
    with hostd.Host(workers={"drain_timeout_s": 2 * PATIENCE_S}) as running:
        yield running


@pytest.fixture
def patient(patient_host: hostd.Host) -> Iterator[hostd.Client]:
    with hostd.connect(patient_host.endpoint) as client:
        yield client
        client.unload_all_models()


@pytest.fixture
def drained(patient: hostd.Client, model_dir: Callable[..., str]) -> hostd.Model:
    return patient.load_model("slow", model_dir(SLOW))


# Deadlines and cancelling


def test_a_deadline_that_passes_while_the_model_runs_is_answered_in_time(slow: hostd.Model, tmp_path: Path) -> None:
    with at_most(SOON_S, "a call with a deadline of 0.2 s"), pytest.raises(hostd.DeadlineExceededError):
        slow.options(timeout_s=0.2).work(str(tmp_path / "a"), str(tmp_path / "b"))
    (tmp_path / "b").touch()
    assert slow.predict(1) == 1


def test_a_call_whose_deadline_passes_in_the_queue_is_never_begun(slow: hostd.Model, tmp_path: Path) -> None:
    first = Work(slow, tmp_path)
    with pytest.raises(hostd.DeadlineExceededError):
        slow.options(timeout_s=0.1).work(str(tmp_path / "late"), str(tmp_path / "b"))
    first.release()
    assert first.call.result(PATIENCE_S) == "finished"
    assert slow.predict(1) == 1
    assert not (tmp_path / "late").exists()


def test_a_cancelled_call_in_the_queue_is_never_begun(slow: hostd.Model, tmp_path: Path) -> None:
    first = Work(slow, tmp_path)
    second = slow.submit.work(str(tmp_path / "late"), str(tmp_path / "b"))
    second.cancel()
    with pytest.raises(hostd.CancelledError):
        second.result(PATIENCE_S)
    assert slow.loaded  # the host has heard of it, and told the worker
    first.release()
    assert first.call.result(PATIENCE_S) == "finished"
    assert slow.predict(1) == 1
    assert not (tmp_path / "late").exists()


def test_a_task_that_is_cancelled_withdraws_its_call(
    shared_host: hostd.Host, slow: hostd.Model, tmp_path: Path
) -> None:
    async def use() -> None:
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            model = await client.retrieve_model("slow")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(model.work(str(tmp_path / "late"), str(tmp_path / "b")), 0.1)

    first = Work(slow, tmp_path)
    asyncio.run(use())
    eventually(lambda: slow.info.workers[0].in_flight == 1, "the host never heard that the call was cancelled")
    first.release()
    assert first.call.result(PATIENCE_S) == "finished"
    assert slow.predict(1) == 1
    assert not (tmp_path / "late").exists()


def test_a_call_without_deadline_waits_for_a_slow_answer(slow: hostd.Model, tmp_path: Path) -> None:
    work = Work(slow, tmp_path, timeout_s=None)
    never(work.call.done, "the call was answered before its model was", for_s=0.1)
    work.release()
    assert work.call.result(PATIENCE_S) == "finished"


def test_a_stream_that_is_left_early_is_closed_in_the_worker(slow: hostd.Model, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    for item in slow.stream.generate(1_000_000, str(noted)):
        if item == 10:
            break
    del item
    eventually(lambda: noted.read_text().endswith("closed\n"), "the generator is closed")
    assert len(noted.read_text().splitlines()) < 1000, "the worker ran far ahead of its consumer"


def test_a_stream_waits_for_its_consumer(slow: hostd.Model, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    stream = slow.stream.generate(100_000, str(noted))
    assert next(stream) == 0
    eventually(lambda: len(lines_of(noted)) >= STREAM_WINDOW, "the worker fills the window")
    never(lambda: len(lines_of(noted)) > STREAM_WINDOW, "items were made that nobody has room for", for_s=0.1)
    stream.close()


def test_a_stream_misses_its_deadline_between_two_items(slow: hostd.Model) -> None:
    stream = slow.options(timeout_s=1).stream.stall("")
    assert next(stream) == 1
    with at_most(SOON_S, "a stream with a deadline of 1 s"), pytest.raises(hostd.DeadlineExceededError):
        next(stream)


def test_an_asynchronous_stream_that_is_closed_ends_in_the_worker(
    shared_host: hostd.Host, slow: hostd.Model, tmp_path: Path
) -> None:
    noted = tmp_path / "noted"

    async def use() -> None:
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            model = await client.retrieve_model("slow")
            items = model.stream.generate(1_000_000, str(noted))
            assert await items.__anext__() == 0
            await items.aclose()
            assert await model.predict(1) == 1

    asyncio.run(use())
    eventually(lambda: noted.read_text().endswith("closed\n"), "the generator is closed")


# Unloading while there are calls


def test_c22_calls_in_flight_finish_before_an_unload_is_answered(
    patient: hostd.Client, drained: hostd.Model, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    work = Work(drained, tmp_path)
    queued = drained.submit.predict(5)
    unload = pool.submit(patient.unload_model, "slow")
    eventually(lambda: patient.get_model("slow").state == "UNLOADING", "the unload has begun")
    with pytest.raises(hostd.FailedPreconditionError, match="UNLOADING"):
        drained.predict(1)
    assert not unload.done()
    work.release()
    assert work.call.result(PATIENCE_S) == "finished"
    assert queued.result(PATIENCE_S) == 5
    assert unload.result(PATIENCE_S).processes == 1


def test_c22_a_stream_in_flight_finishes_before_an_unload_is_answered(
    patient: hostd.Client, drained: hostd.Model, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    stream = drained.stream.generate(200, str(tmp_path / "noted"))
    assert next(stream) == 0
    unload = pool.submit(patient.unload_model, "slow")
    eventually(lambda: patient.get_model("slow").state == "UNLOADING", "the unload has begun")
    assert list(stream) == list(range(1, 200))
    assert unload.result(PATIENCE_S).processes == 1


def test_c22_calls_that_do_not_finish_in_time_are_aborted(
    shared: hostd.Client, slow: hostd.Model, tmp_path: Path
) -> None:
    work = Work(slow, tmp_path)
    queued = slow.submit.predict(5)
    pid = slow.info.workers[0].pid
    report = shared.unload_model("slow")
    assert not is_there(pid)
    assert 0.4 <= report.duration_s < SOON_S
    for call in (work.call, queued):
        with pytest.raises(hostd.AbortedError, match="drain_timeout_s"):
            call.result(PATIENCE_S)


def test_the_drain_of_one_model_does_not_delay_another(
    model_dir: Callable[..., str], tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with hostd.Host(workers={"drain_timeout_s": 2 * PATIENCE_S}) as host:
        client = host.client()
        other = client.load_model("other", model_dir())
        work = Work(client.load_model("slow", model_dir(SLOW)), tmp_path)
        unload = pool.submit(client.unload_model, "slow")
        eventually(lambda: client.get_model("slow").state == "UNLOADING", "the unload has begun")
        assert other.predict(1) == 1
        client.load_model("third", model_dir())
        client.unload_model("third")
        assert not unload.done()
        work.release()
        unload.result(PATIENCE_S)


def test_c20_unloads_of_one_model_meet(shared: hostd.Client, slow: hostd.Model, pool: ThreadPoolExecutor) -> None:
    pid = slow.info.workers[0].pid
    reports = [unload.result(PATIENCE_S) for unload in [pool.submit(shared.unload_model, "slow") for _ in range(8)]]
    assert not is_there(pid)
    assert {report.processes for report in reports} <= {0, 1}
    assert max(report.processes for report in reports) == 1


# Loads that meet


def test_c21_an_unload_overtakes_a_load_at_once(
    shared: hostd.Client, model_dir: Callable[..., str], tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    started = tmp_path / "started"
    options = {"wait_for": str(tmp_path / "never"), "started": str(started)}
    loads = [pool.submit(shared.load_model, "slow", path, options=options) for path in [model_dir(SLOW)] * 3]
    eventually(started.exists, "the load has begun")
    with at_most(SOON_S, "the unload of a load that hangs"):
        shared.unload_model("slow")
    for load in loads:
        assert isinstance(load.exception(PATIENCE_S), hostd.AbortedError)
    assert shared.list_models() == []


def test_c21_an_unload_right_after_a_load_was_asked_for_wins_whatever_the_moment(
    shared: hostd.Client, shared_host: hostd.Host, model_dir: Callable[..., str]
) -> None:
    path = model_dir()
    for step in range(20):
        shared.load_model("echo", path, wait=False)
        deadline_s = time.monotonic() + step * 0.004
        while time.monotonic() < deadline_s:
            shared.host_info()
        shared.unload_model("echo")
        assert descendants(shared_host.pid) == [], f"after {step * 4} ms"
    assert shared.list_models() == []


def test_c22_a_load_during_an_unload_is_refused_with_the_reason(
    patient: hostd.Client, drained: hostd.Model, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    work = Work(drained, tmp_path)
    unload = pool.submit(patient.unload_model, "slow")
    eventually(lambda: patient.get_model("slow").state == "UNLOADING", "the unload has begun")
    with pytest.raises(hostd.FailedPreconditionError, match="UNLOADING"):
        patient.load_model("slow", drained.path)
    work.release()
    unload.result(PATIENCE_S)
    assert patient.load_model("slow", drained.path).predict(1) == 1


def test_twenty_models_load_at_the_same_time(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    path = model_dir()
    models = [shared.load_model(f"m{i}", path, wait=False) for i in range(20)]
    for i, model in enumerate(models):
        assert model.wait(PATIENCE_S).predict(i) == i
    assert len({worker.pid for info in shared.list_models() for worker in info.workers}) == 20


# Limits


def test_more_calls_than_the_limit_are_refused_and_the_rest_is_answered(
    model_dir: Callable[..., str], tmp_path: Path
) -> None:
    with hostd.Host(workers={"max_in_flight": 4, "drain_timeout_s": 1}) as host:
        model = host.client().load_model("slow", model_dir(SLOW))
        work = Work(model, tmp_path)
        calls = [model.submit.predict(i) for i in range(3)]
        with pytest.raises(hostd.ResourceExhaustedError, match="max_in_flight"):
            model.predict(9)
        work.release()
        assert [call.result(PATIENCE_S) for call in calls] == [0, 1, 2]
        assert model.predict(9) == 9


@pytest.mark.parametrize(
    ("section", "source", "words"),
    [
        ({"load_timeout_s": 0.5}, "import time\ndef load(path):\n    time.sleep(3600)\n", "load_timeout_s"),
        ({"spawn_timeout_s": 0.5}, "", "spawn_timeout_s"),
    ],
    ids=["load", "spawn"],
)
def test_a_load_that_hangs_ends_with_the_timeout_that_ended_it(
    model_dir: Callable[..., str], tmp_path: Path, section: dict, source: str, words: str
) -> None:
    settings = None
    if not source:
        (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 3600\n")
        (tmp_path / "python").chmod(0o755)
        settings = f"python: {tmp_path / 'python'}"
    with hostd.Host(workers=section) as host:
        client = host.client()
        with at_most(SOON_S, "a load with a timeout of 0.5 s"), pytest.raises(hostd.DeadlineExceededError, match=words):
            client.load_model("slow", model_dir(source, settings=settings))
        assert descendants(host.pid) == []
        assert words in client.explain_model("slow")["reason"]
