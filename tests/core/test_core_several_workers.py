"""Models with more than one worker: nothing spawns a second one yet, but everything here must carry it."""

from __future__ import annotations

import pytest
from driver import CONFIG, METHODS, SPEC, Driver, memory_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.lifecycle import WorkerInput
from hostd.core.loading import WorkerTimer
from hostd.core.models import Cause, Load
from hostd_workers.wire.errors import ModelError, ResourceExhaustedError

FIRST, SECOND = ev.WorkerId(1), ev.WorkerId(2)


@pytest.fixture
def host() -> Driver:
    """A host with a model that has two READY workers."""
    host = Driver()
    host.up_to("READY")
    registry = host.registry
    worker = registry.new_worker(Load(registry.models["m"], Cause.ASKED, 0))
    host._carry_out(fx.SpawnWorker(worker.id, worker.model.id, SPEC, 1, None))
    host.started()
    host.feed(ev.WorkerLoaded(worker.id, "python", METHODS, "predict"))
    host.processes[worker.id].has_loaded = host.processes[worker.id].is_sampled = True
    registry.move_worker(worker, WorkerInput.MEASURED, "as `load_succeeded` will do for replicas")
    registry.timers.cancel(WorkerTimer(worker.id))
    host.core.check_invariants()
    return host


def test_a_call_goes_to_the_worker_with_the_least_to_do(host):
    first, second, third = host.call(), host.call(), host.call()
    assert [host.sent(call).worker_id for call in (first, second, third)] == [FIRST, SECOND, FIRST]
    host.answered(host.sent(first))
    host.answered(host.sent(third))
    assert host.sent(host.call()).worker_id == FIRST


def test_the_limit_in_flight_is_reached_when_every_worker_is_full(host):
    for _ in range(2 * CONFIG.max_in_flight):
        assert host.is_waiting(host.call())
    assert isinstance(host.error(host.call()), ResourceExhaustedError)


def test_the_size_is_the_sum_of_all_workers_that_were_measured(host):
    host.measured(FIRST, memory_of(1000))
    assert host.model().size == 1000
    host.measured(SECOND, memory_of(234))
    assert host.model().size == 1234
    assert [worker.rss_bytes for worker in host.model().workers] == [1000, 234]


def test_a_model_is_degraded_by_the_loss_of_a_worker_and_failed_by_the_loss_of_the_last(host):
    lost, kept = host.call(), host.call()
    host.exited("exit code 1", FIRST)
    assert host.state() == "DEGRADED"
    assert "exit code 1" in host.error(lost).message
    assert host.is_waiting(kept)
    assert host.answer(host.retrieve()).state == host.answer(host.load()).state == "DEGRADED"
    assert host.sent(host.call()).worker_id == SECOND
    host.gone(FIRST)
    assert host.state() == "DEGRADED"
    host.exited("exit code 2", SECOND)
    assert host.state() == "FAILED"
    assert "exit code 2" in host.error(kept).message
    host.gone(SECOND)
    assert host.state() == "FAILED"


def test_an_unload_waits_for_every_worker(host):
    call = host.call()
    caller = host.unload()
    assert (host.worker_state(FIRST), host.worker_state(SECOND)) == ("DRAINING", "KILLING")
    host.gone(SECOND, freed_bytes=1)
    host.answered(host.sent(call))
    assert host.is_waiting(caller)
    host.gone(FIRST, freed_bytes=2, processes=4)
    assert (host.answer(caller).freed_bytes, host.answer(caller).processes) == (3, 5)


def test_unloading_a_degraded_model_waits_for_the_dying_worker_too(host):
    host.exited(worker=FIRST)
    caller = host.unload()
    host.gone(SECOND)
    assert host.is_waiting(caller)
    host.gone(FIRST)
    assert host.answer(caller).processes == 2


def test_a_try_of_a_successor_ends_with_the_last_of_its_workers(host):
    commit = host.deploy_up_to("LOADING", replace=True)
    registry = host.registry
    model, third = registry.successors["m"], host.worker
    fourth = registry.new_worker(model.load)
    host._carry_out(fx.SpawnWorker(fourth.id, model.id, SPEC, 1, None))
    host.spawned()
    host.not_loaded(ModelError("no weights"), third)
    registry.kill(fourth, "as `load_failed` will do for replicas")
    host.gone(third)
    assert host.is_waiting(commit)
    assert host.next_step() is None
    host.gone(fourth.id)
    assert host.next_step() is fx.UndoFiles
