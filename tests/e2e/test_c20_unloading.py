"""Unloading: what is freed, what is overtaken, what drains, and all at once (C20 to C23).

What is shown elsewhere: the figures of a report in `test_c12_sizes`, loads that hang in every way in `test_faults`. Here
are the moments between: backoff, finders, files that are being written, calls and streams in flight.
"""

import os
import signal
import time

import pytest
from faults import STALLS
from helpers import FAULTY, PATIENCE_S, SOON_S, eventually, is_there, never, of_models
from models_rig import FAILS, GATED, HANGS, Work, causes, states

import hostd

pytestmark = pytest.mark.usefixtures("way")

LONG_S = 3600.0
"""What no test waits for: only an unload that overtakes it ends such a wait within the test."""

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


@pytest.fixture(scope="module")
def patient_host():
    """A host that waits long wherever it may: before a retry, and for calls in flight."""
    workers = {"drain_timeout_s": LONG_S, "retry_backoff_s": LONG_S, "retry_max_backoff_s": LONG_S}
    with hostd.Host(workers=workers) as host:
        yield host


@pytest.fixture
def patient(patient_host):
    with hostd.connect(patient_host.endpoint) as client:
        yield client
        client.unload_all_models(now=True)


# C20


def test_c20_unloading_what_is_not_loaded_frees_nothing_and_is_no_error(shared, rig):
    for model_id in ("never-loaded", "team/never", "", "../x", "a\nb", "x" * 5000):
        report = shared.unload_model(model_id)
        assert (report.model_id, report.size_bytes, report.freed_bytes, report.processes) == (model_id, 0, 0, 0)
    path = rig.make()
    model = shared.load_model("m", path)
    assert [shared.unload_model("m").processes for _ in range(2)] == [1, 0]
    for ask in (shared.get_model, shared.get_model_size, shared.retrieve_model):
        with pytest.raises(hostd.NotFoundError, match="'m'"):
            ask("m")
    shared.load_model("m", path)
    os.kill(model.pid(), signal.SIGKILL)
    eventually(lambda: states(shared) == {"m": "FAILED"}, "the death is noticed")
    assert shared.unload_model("m").model_id == "m"
    assert states(shared) == {}


def test_c20_unloads_of_one_model_meet_and_go_on_without_those_that_waited(patient, patient_host, rig, tmp_path, pool):
    work = Work(patient.load_model("m", rig.make()), tmp_path)
    with pytest.raises(hostd.DeadlineExceededError):
        patient.unload_model("m", timeout_s=0.1)
    assert states(patient) == {"m": "UNLOADING"}
    unloads = [pool.submit(patient.unload_model, "m") for _ in range(8)]
    work.finish()
    assert {unload.result(PATIENCE_S).processes for unload in unloads} <= {0, 1}
    assert states(patient) == {}
    assert not of_models(patient_host.pid)


# C21


def test_c21_an_unload_ends_the_wait_before_a_retry(patient, rig, pool, way):
    waiting = [pool.submit(patient.load_model, way, path, retries=5) for path in [rig.make(FAILS)] * 3]
    eventually(lambda: "RETRY" in causes(patient, way), "the next try is waited for")
    assert patient.unload_model(way, timeout_s=PATIENCE_S).processes == 0
    for load in waiting:
        assert isinstance(load.exception(PATIENCE_S), hostd.AbortedError)
    assert states(patient) == {}
    assert patient.load_model("m", rig.make()).predict(1) == 1


def test_c21_an_unload_ends_a_load_whose_finder_hangs_and_its_late_answer_counts_for_nothing(
    rig, install, tmp_path, pool
):
    install(slow_finders=FINDERS)
    with hostd.Host(finders={"hung": {"type": "slow_finders:Hung", "config": {"base": str(tmp_path)}}}) as host:
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
        assert len(of_models(host.pid)) == 2


def test_c21_an_unload_right_after_a_load_was_asked_for_wins_whatever_the_moment(shared, shared_host, rig):
    path = rig.make()
    for step in range(12):
        shared.load_model("echo", path, wait=False)
        deadline_s = time.monotonic() + step * 0.008
        while time.monotonic() < deadline_s:
            shared.host_info()
        shared.unload_model("echo")
        assert of_models(shared_host.pid) == [], f"after {step * 8} ms"
    assert shared.load_model("echo", path).predict(1) == 1


# C22


def test_c22_calls_in_flight_finish_and_from_the_moment_of_the_unload_nothing_new_is_taken(
    patient, rig, tmp_path, pool
):
    path = rig.make()
    model = patient.load_model("m", path)
    work, queued = Work(model, tmp_path), model.submit.predict(5)
    unload = pool.submit(patient.unload_model, "m")
    eventually(lambda: states(patient) == {"m": "UNLOADING"}, "the unload has begun")
    asks = [
        lambda: model.predict(1),
        lambda: patient.load_model("m", path),
        lambda: patient.retrieve_model("m"),
        lambda: list(patient.stream("m", "predict", (1,), {}, None)),
    ]
    for ask in asks:
        with pytest.raises(hostd.FailedPreconditionError, match="UNLOADING"):
            ask()
    assert not unload.done()
    work.finish()
    assert (queued.result(PATIENCE_S), unload.result(PATIENCE_S).processes) == (5, 1)
    model = patient.load_model("m", path)
    stream = model.stream.generate(200)
    assert next(stream) == 0
    unload = pool.submit(patient.unload_model, "m")
    eventually(lambda: states(patient) == {"m": "UNLOADING"}, "the unload has begun")
    assert list(stream) == list(range(1, 200))
    assert unload.result(PATIENCE_S).processes == 1


def test_c22_calls_that_do_not_finish_in_time_are_aborted(shared, rig, tmp_path):
    model = shared.load_model("m", rig.make())
    pid, work, queued = model.pid(), Work(model, tmp_path), model.submit.predict(5)
    report = shared.unload_model("m")
    assert not is_there(pid)
    assert 0.4 <= report.duration_s < SOON_S
    for call in (work.call, queued):
        with pytest.raises(hostd.AbortedError, match="drain_timeout_s"):
            call.result(PATIENCE_S)


# C23


def test_c23_all_are_unloaded_in_parallel_and_what_is_loaded_meanwhile_is_not(patient, rig, tmp_path, pool):
    path, names = rig.make(), ("first", "second", "third")
    works = {name: Work(patient.load_model(name, path), tmp_path) for name in names}
    patient.load_model("idle", path)
    unloads = [pool.submit(patient.unload_all_models) for _ in range(3)]
    eventually(lambda: states(patient) == dict.fromkeys(names, "UNLOADING"), "the idle one waits for no other")
    patient.load_model("new", rig.make(GATED), wait=False)
    never(lambda: any(unload.done() for unload in unloads), "an unload ended before its model", for_s=0.05)
    # In an order of our choice: whichever is done goes, whatever the others do.
    for name in ("second", "third", "first"):
        assert name in states(patient)
        works[name].finish()
        eventually(lambda name=name: name not in states(patient), f"{name} is gone")
    reports = [{report.model_id: report.processes for report in unload.result(PATIENCE_S)} for unload in unloads]
    assert max(reports, key=len) == dict.fromkeys((*names, "idle"), 1)
    assert states(patient) == {"new": "LOADING"}


def test_c23_what_hangs_does_not_stop_the_others_and_is_ended(shared, shared_host, rig, tmp_path, pool):
    hung = {}
    for stage in ("load", "infer"):
        for death in STALLS:
            options = {"stage": stage, "death": death, "evidence": str(tmp_path / f"{stage}-{death}")}
            load = pool.submit(shared.load_model, f"{stage}-{death}", FAULTY, options=options)
            hung[f"{stage}-{death}"] = load if stage == "load" else load.result(PATIENCE_S).submit.predict(1)
    eventually(lambda: all((tmp_path / name).exists() for name in hung), "all of them hang")
    os.kill(shared.load_model("dead", rig.make()).info.workers[0].pid, signal.SIGKILL)
    eventually(lambda: states(shared)["dead"] == "FAILED", "the death is noticed")
    shared.load_model("loading", rig.make(HANGS), wait=False)
    shared.load_model("good", rig.make())
    reports = shared.unload_all_models(timeout_s=PATIENCE_S)
    assert {report.model_id for report in reports} == {*hung, "dead", "loading", "good"}
    assert not of_models(shared_host.pid)
    for waiting in hung.values():
        assert isinstance(waiting.exception(PATIENCE_S), hostd.AbortedError)
    assert shared.unload_all_models() == []
