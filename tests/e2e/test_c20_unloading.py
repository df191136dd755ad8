"""Unloads against a real host: what is freed, what is overtaken, what drains, and all at once (C20 to C23).

What is shown elsewhere: the figures of a report in `test_lifecycle`, calls and streams in flight in `test_calls`, loads
that hang in every way in `test_faults`. Here are the moments between: backoff, finders, files that are being written.
"""

from __future__ import annotations

import os
import signal
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from faults import STALLS
from helpers import FAULTY, PATIENCE_S, descendants, eventually, is_there, never
from models_rig import AT_ONCE, FAILS, GATED, HANGS, Rig, states

import hostd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG_S = 3600.0
"""What nobody waits for: only an unload that overtakes it ends such a wait within the test."""

FINDERS = """
    import pathlib, time
    from hostd.finders import ModelSpec

    class Hung:
        looks_for = "a file that never comes"

        def __init__(self, base):
            self._base = pathlib.Path(base)

        def find(self, model_id, path):
            (self._base / "finding").touch()
            while not (self._base / "found").exists():
                time.sleep(0.002)
            return ModelSpec("python")
"""


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    executor = ThreadPoolExecutor(8)
    yield executor
    executor.shutdown(wait=False)  # a test that failed may have left what only the end of its host answers


@pytest.fixture
def patient() -> Iterator[hostd.Host]:
    """A host that waits long wherever it may: before a retry, and for calls in flight."""
    workers = {"drain_timeout_s": LONG_S, "retry_backoff_s": LONG_S, "retry_max_backoff_s": LONG_S}
    with hostd.Host(workers=workers) as host:
        yield host
        for worker in descendants(host.pid):
            os.kill(worker, signal.SIGKILL)


def causes(client: hostd.Client, model_id: str) -> list[str]:
    return [event["cause"] for event in client.explain_model(model_id)["story"]]


# C20


def test_c20_a_model_that_is_unloaded_leaves_no_process_and_no_record(shared: hostd.Client, rig: Rig) -> None:
    model = shared.load_model("m", rig.make())
    size_bytes = model.size
    (worker,) = model.info.workers
    report = shared.unload_model("m")
    assert not is_there(worker.pid)
    assert (report.model_id, report.processes) == ("m", 1)
    assert report.size_bytes == pytest.approx(size_bytes, abs=1 << 20)  # a sample may have come between
    assert 0 < report.freed_bytes <= report.size_bytes
    assert report.duration_s > 0
    assert states(shared) == {}
    for ask in (shared.get_model, shared.get_model_size, shared.retrieve_model):
        with pytest.raises(hostd.NotFoundError, match="'m'"):
            ask("m")


@pytest.mark.parametrize("model_id", ["never-loaded", "team/never", "", "../x", "a\nb", "x" * 5000], ids=ascii)
def test_c20_unloading_what_was_never_there_frees_nothing_and_is_no_error(shared: hostd.Client, model_id: str) -> None:
    shared.unload_model(model_id)
    report = shared.unload_model(model_id)
    assert (report.model_id, report.size_bytes, report.freed_bytes, report.processes) == (model_id, 0, 0, 0)


def test_c20_a_second_unload_frees_nothing_more(shared: hostd.Client, rig: Rig) -> None:
    shared.load_model("m", rig.make())
    assert shared.unload_model("m").processes == 1
    assert shared.unload_model("m").processes == 0


def test_c20_a_model_that_died_by_itself_can_be_unloaded(shared: hostd.Client, rig: Rig) -> None:
    model = shared.load_model("m", rig.make())
    os.kill(model.info.workers[0].pid, signal.SIGKILL)
    eventually(lambda: states(shared) == {"m": "FAILED"}, "the death is noticed")
    assert shared.unload_model("m").model_id == "m"
    assert states(shared) == {}
    assert shared.load_model("m", rig.make()).predict(1) == 1


def test_c20_who_stops_waiting_for_an_unload_does_not_stop_it(patient: hostd.Host, rig: Rig, tmp_path: Path) -> None:
    client = patient.client()
    model = client.load_model("m", rig.make())
    call = model.submit.work(str(tmp_path / "begun"), str(tmp_path / "release"))
    eventually((tmp_path / "begun").exists, "the call has begun")
    with pytest.raises(hostd.DeadlineExceededError):
        client.unload_model("m", timeout_s=0.1)
    assert states(client) == {"m": "UNLOADING"}
    (tmp_path / "release").touch()
    assert call.result(PATIENCE_S) == "finished"
    eventually(lambda: states(client) == {}, "the unload goes on")
    assert not descendants(patient.pid)


# C21


def test_c21_an_unload_ends_the_wait_before_a_retry(patient: hostd.Host, rig: Rig, pool: ThreadPoolExecutor) -> None:
    client = patient.client()
    waiting = [pool.submit(client.load_model, "m", path, retries=5) for path in [rig.make(FAILS)] * 3]
    eventually(lambda: rig.loads("../workshop/0"), "the first try was made")
    eventually(lambda: "RETRY" in causes(client, "m"), "the next try is waited for")
    report = client.unload_model("m", timeout_s=PATIENCE_S)
    assert report.processes == 0
    for load in waiting:
        assert isinstance(load.exception(PATIENCE_S), hostd.AbortedError)
    assert states(client) == {}
    assert client.load_model("m", rig.make()).predict(1) == 1


@pytest.fixture
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A finder that says nothing until a file is there."""
    (tmp_path / "slow_finders.py").write_text(textwrap.dedent(FINDERS))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return {"type": "slow_finders:Hung", "config": {"base": str(tmp_path)}}


def test_c21_an_unload_ends_a_load_whose_finder_hangs_and_its_late_answer_counts_for_nothing(
    rig: Rig, finder: dict[str, Any], tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with hostd.Host(finders={"hung": finder}) as host:
        client = host.client()
        path = rig.make()
        load = pool.submit(client.load_model, "m", path, finder="hung")
        eventually((tmp_path / "finding").exists, "the finder is asked")
        client.unload_model("m", timeout_s=PATIENCE_S)
        assert isinstance(load.exception(PATIENCE_S), hostd.AbortedError)
        assert states(client) == {}
        other = client.load_model("m", rig.make())
        (tmp_path / "found").touch()
        client.load_model("late", path, finder="hung")  # asked after the first, so that one was answered, too
        assert other.info.generation == client.get_model("m").generation
        assert other.predict(1) == 1
        assert len(descendants(host.pid)) == 2


def test_c21_an_unload_ends_a_lazy_load_that_waits_for_files(rig: Rig, pool: ThreadPoolExecutor) -> None:
    models = {**AT_ONCE, "dir": rig.path, "lazy_load": True, "poll_period_s": None, "completion_marker": "DONE"}
    with hostd.Host(models=models) as host:
        client = host.client()
        rig.add("m")
        waiting = pool.submit(client.retrieve_model, "m")
        call = pool.submit(client.call, "m", "predict", (1,), {}, None)
        eventually(lambda: states(client) == {"m": "LOADING"}, "the lazy load has begun")

        def have_ended() -> bool:
            # One of them may come after an unload: then it waits again, for a load of its own.
            client.unload_model("m", timeout_s=PATIENCE_S)
            return waiting.done() and call.done()

        eventually(have_ended, "both hear of the unload")
        assert {type(waiting.exception()), type(call.exception())} == {hostd.AbortedError}
        assert rig.loads("m") == []


def test_c21_unloading_all_ends_loads_of_every_kind(
    shared: hostd.Client, shared_host: hostd.Host, rig: Rig, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    hung = {death: tmp_path / f"evidence-{death}" for death in STALLS}
    loads = [
        pool.submit(
            shared.load_model, death, FAULTY, options={"stage": "load", "death": death, "evidence": str(evidence)}
        )
        for death, evidence in hung.items()
    ]
    eventually(lambda: all(evidence.exists() for evidence in hung.values()), "all of them hang")
    loads.append(pool.submit(shared.load_model, "just-begun", rig.make(HANGS)))
    eventually(lambda: len(states(shared)) == len(loads), "the last one has begun")
    reports = shared.unload_all_models(timeout_s=PATIENCE_S)
    assert {report.model_id for report in reports} == {*hung, "just-begun"}
    assert not descendants(shared_host.pid)
    for load in loads:
        assert isinstance(load.exception(PATIENCE_S), hostd.AbortedError)


def test_c21_after_an_overtaken_load_the_id_is_free_at_once(shared: hostd.Client, rig: Rig) -> None:
    hangs, good = rig.make(HANGS), rig.make()
    for _ in range(5):
        shared.load_model("m", hangs, wait=False)
        shared.unload_model("m")
        assert shared.load_model("m", good).predict(1) == 1
        shared.unload_model("m")


# C22


def test_c22_from_the_moment_of_the_call_nothing_new_is_taken(
    patient: hostd.Host, rig: Rig, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    client = patient.client()
    path = rig.make()
    model = client.load_model("m", path)
    work = model.submit.work(str(tmp_path / "begun"), str(tmp_path / "release"))
    eventually((tmp_path / "begun").exists, "the call has begun")
    # One connection keeps its order, so what is sent after the unload comes after it, without any waiting.
    unload = client._channel.begin(lambda tracker: tracker.verb("unload_model", {"model_id": "m"}, None))
    refused = [model.submit.predict(i) for i in range(50)]
    for call in refused:
        with pytest.raises(hostd.FailedPreconditionError, match="UNLOADING"):
            call.result(PATIENCE_S)
    for ask in (
        lambda: client.load_model("m", path),
        lambda: client.retrieve_model("m"),
        lambda: client.stream("m", "predict", (1,), {}, None),
    ):
        with pytest.raises(hostd.FailedPreconditionError, match="UNLOADING"):
            list(ask())
    (tmp_path / "release").touch()
    assert work.result(PATIENCE_S) == "finished"
    assert client._channel.wait(unload, PATIENCE_S)["processes"] == 1


def test_c22_with_lazy_loading_who_asks_during_an_unload_gets_the_next_load_and_not_the_old_worker(
    rig: Rig, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    models = {**AT_ONCE, "dir": rig.path, "lazy_load": True, "poll_period_s": None}
    rig.add("m")
    with hostd.Host(models=models, workers={"drain_timeout_s": LONG_S}) as host:
        client = host.client()
        model = client.retrieve_model("m")
        (old,) = model.info.workers
        work = model.submit.work(str(tmp_path / "begun"), str(tmp_path / "release"))
        eventually((tmp_path / "begun").exists, "the call has begun")
        unload = pool.submit(client.unload_model, "m")
        eventually(lambda: states(client) == {"m": "UNLOADING"}, "the unload has begun")
        calls = [model.submit.predict(number) for number in range(5)]
        retrieved = pool.submit(client.retrieve_model, "m")
        never(lambda: calls[0].done() or retrieved.done() or unload.done(), "somebody did not wait", for_s=0.1)
        (tmp_path / "release").touch()
        assert work.result(PATIENCE_S) == "finished"
        assert unload.result(PATIENCE_S).processes == 1
        assert not is_there(old.pid)
        assert [call.result(PATIENCE_S) for call in calls] == list(range(5))
        assert retrieved.result(PATIENCE_S).info.workers[0].pid != old.pid
        assert len(rig.loads("m")) == 2


# C23


def test_c23_all_are_unloaded_in_parallel(
    patient: hostd.Host, rig: Rig, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    client = patient.client()
    path = rig.make()
    calls = []
    for name in ("first", "second", "third"):
        model = client.load_model(name, path)
        calls.append(model.submit.work(str(tmp_path / f"{name}-begun"), str(tmp_path / f"{name}-release")))
        eventually((tmp_path / f"{name}-begun").exists, "the call has begun")
    client.load_model("idle", path)
    unload = pool.submit(client.unload_all_models)
    eventually(lambda: set(states(client).values()) == {"UNLOADING"}, "all of them are being unloaded")
    eventually(lambda: "idle" not in states(client), "nobody waits for another")
    # In an order of our choice: whichever is done goes, whatever the others do.
    for left, name in ((2, "second"), (1, "third")):
        (tmp_path / f"{name}-release").touch()
        eventually(lambda left=left: len(states(client)) == left, f"{name} is gone before the first")
    assert not unload.done()
    (tmp_path / "first-release").touch()
    reports = unload.result(PATIENCE_S)
    assert {report.model_id: report.processes for report in reports} == dict.fromkeys(
        ("first", "second", "third", "idle"), 1
    )
    assert [call.result(PATIENCE_S) for call in calls] == ["finished"] * 3


@pytest.mark.parametrize("death", STALLS)
def test_c23_one_that_hangs_does_not_stop_the_others(
    shared: hostd.Client, shared_host: hostd.Host, rig: Rig, tmp_path: Path, death: str
) -> None:
    evidence = tmp_path / "evidence"
    hung = shared.load_model("hung", FAULTY, options={"stage": "infer", "death": death, "evidence": str(evidence)})
    for number in range(3):
        shared.load_model(f"good{number}", rig.make())
    shared.load_model("loading", rig.make(HANGS), wait=False)
    os.kill(shared.load_model("dead", rig.make()).info.workers[0].pid, signal.SIGKILL)
    eventually(lambda: states(shared)["dead"] == "FAILED", "the death is noticed")
    call = hung.submit.predict(1)
    eventually(evidence.exists, "it hangs")
    reports = shared.unload_all_models(timeout_s=PATIENCE_S)
    assert {report.model_id for report in reports} == {"hung", "good0", "good1", "good2", "loading", "dead"}
    assert not descendants(shared_host.pid)
    with pytest.raises(hostd.AbortedError):
        call.result(PATIENCE_S)


def test_c23_what_is_loaded_during_an_unload_of_all_is_not_unloaded(
    patient: hostd.Host, rig: Rig, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    client = patient.client()
    model = client.load_model("old", rig.make())
    work = model.submit.work(str(tmp_path / "begun"), str(tmp_path / "release"))
    eventually((tmp_path / "begun").exists, "the call has begun")
    unloads = [pool.submit(client.unload_all_models) for _ in range(3)]
    eventually(lambda: states(client) == {"old": "UNLOADING"}, "the unload has begun")
    client.load_model("new", rig.make(GATED), wait=False)
    never(lambda: any(unload.done() for unload in unloads), "an unload ended before its model", for_s=0.05)
    (tmp_path / "release").touch()
    work.result(PATIENCE_S)
    reports = [report for unload in unloads for report in unload.result(PATIENCE_S)]
    assert {report.model_id for report in reports} == {"old"}
    assert states(client) == {"new": "LOADING"}
    client.unload_model("new")
