"""Loads: from the request to the answer, shared by all callers that ask for the same."""

from __future__ import annotations

import time

import pytest
from driver import ALICE, BOB, METHODS, SPEC, Driver, memory_of, source_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.config import CoreConfig
from hostd.core.losing import DISCONNECT_GRACE_S
from hostd.core.machine import Core
from hostd.records import ModelInfo, SizeEstimate
from hostd_workers.wire.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)


def test_c06_a_load_finds_spawns_loads_measures_and_only_then_answers(host):
    source = source_of("/models/m", "special", threads=2)
    caller = host.load("m", source)
    assert host.effects_of(fx.FindSpec) == [fx.FindSpec("m", 1, source, ev.Origin.REQUESTED)]
    assert host.state() == "LOADING"

    spec = ev.LoadingSpec("sklearn", {"threads": 2}, "/usr/bin/python3", {"A": "1"}, ("predict",), "predict")
    host.found(spec)
    assert host.effects_of(fx.SpawnWorker) == [fx.SpawnWorker(1, "m", spec, 1, None)]

    host.spawned()
    assert host.worker_state() == "SPAWNING"
    host.greeted()
    assert host.effects_of(fx.SendLoad) == [fx.SendLoad(1, "m", "/models/m", spec)]
    assert host.worker_state() == "LOADING"

    host.loaded()
    assert host.effects_of(fx.MeasureWorker) == [fx.MeasureWorker(1, "m", source)]
    assert host.is_waiting(caller)
    assert host.state() == "LOADING"

    host.measured(memory=memory_of(4096))
    answer = host.answer(caller)
    assert isinstance(answer, ModelInfo)
    assert (answer.id, answer.state, answer.size, answer.size_source) == ("m", "READY", 4096, "measured")
    assert (answer.loader, answer.methods, answer.default_method) == ("python", METHODS, "predict")
    assert answer == host.model()
    assert host.worker_state() == "READY"
    assert host.core.next_deadline() is None


def test_a_worker_that_says_hello_before_its_process_is_known_loads_when_it_is(host):
    """Nobody could watch, measure or pause it before."""
    caller = host.up_to("SPAWNING")
    host.greeted()
    assert (host.worker_state(), host.effects_of(fx.SendLoad)) == ("IDLE", [])
    host.loaded()
    assert host.effects == []
    host.spawned()
    assert (host.worker_state(), len(host.effects_of(fx.SendLoad))) == ("LOADING", 1)
    assert [(event.new, event.pid) for event in host.announced[-1:]] == [("LOADING", 5001)]
    host.greeted()
    assert host.effects == []
    host.loaded()
    host.measured(memory=memory_of(1))
    assert host.answer(caller).workers[0].pid == 5001


def test_a_worker_that_has_lost_its_connection_when_its_process_is_known_is_told_nothing(host):
    host.up_to("SPAWNING")
    host.greeted()
    host.disconnected()
    host.spawned()
    assert host.effects == []
    host.pass_time(DISCONNECT_GRACE_S)
    assert host.killed() == [1]


def test_c12_a_model_is_ready_with_an_unknown_size_if_its_memory_cannot_be_read(host):
    caller = host.up_to("MEASURING")
    host.measured(memory=None)
    assert (host.answer(caller).state, host.answer(caller).size) == ("READY", None)
    assert host.answer(caller).size_source == "unknown"


def test_c12_a_model_has_the_size_of_the_estimate_if_its_memory_cannot_be_read_and_says_so(host):
    caller = host.up_to("MEASURING")
    host.measured(memory=None, estimate=SizeEstimate(5000, "remembered"))
    assert (host.answer(caller).size, host.answer(caller).size_source) == (5000, "remembered")
    assert host.effects_of(fx.RememberSize) == []
    host.measured(memory=memory_of(4096))
    host.measured(memory=None, estimate=SizeEstimate(5000, "remembered"))
    model = host.model()
    assert (model.size, model.size_source) == (4096, "measured")


def test_c13_what_was_measured_is_remembered_with_the_path_and_the_specification(host):
    host.up_to("MEASURING")
    host.pass_time(2.5)
    host.measured(memory=memory_of(4096))
    assert host.effects_of(fx.RememberSize) == [fx.RememberSize("/models/m", SPEC, memory_of(4096), 2.5)]


def test_c12_of_a_model_without_a_path_nothing_is_remembered(host):
    host.load(source=source_of(None))
    host.up()
    assert host.state() == "READY"
    assert host.files.remembered == []


NAN = float("nan")

SAME = [({"a": 1}, {"a": 1}), ({"a": NAN}, {"a": float("nan")}), ({"a": [1, {"b": (2,)}]}, {"a": [1, {"b": (2,)}]})]
OTHER = [
    ({"a": 1}, {"a": 1.0}),
    ({"a": 1}, {"a": True}),
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {"b": 1}),
    ({"a": [1]}, {"a": [1, 2]}),
    ({"a": [1]}, {"a": [True]}),
    ({"a": {"b": 0}}, {"a": {"b": False}}),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME)
def test_c07_options_are_the_same_if_a_loader_cannot_tell_them_apart(host, ours, theirs):
    host.load(source=source_of(**ours))
    assert host.is_waiting(host.load(source=source_of(**theirs)))


@pytest.mark.parametrize(("ours", "theirs"), OTHER)
def test_c07_options_are_others_if_a_loader_could_tell_them_apart(host, ours, theirs):
    host.load(source=source_of(**ours))
    error = host.error(host.load(source=source_of(**theirs)), AlreadyExistsError)
    assert f"its options are {ours!r}, not {theirs!r}" in error.message


def test_c12_a_sample_that_comes_before_the_model_is_loaded_does_not_make_it_ready(host):
    caller = host.up_to("LOADING")
    host.measured(memory=memory_of(77))
    assert host.worker_state() == "LOADING"
    assert host.is_waiting(caller)
    assert host.model().size == 77


def test_c08_a_thousand_concurrent_loads_are_one_load_and_get_the_same_answer(host):
    callers = [host.load() for _ in range(500)]
    host.found()
    callers += [host.load(client=BOB) for _ in range(500)]
    host.come_up()
    assert len(host.processes) == 1
    assert len({id(host.answer(caller)) for caller in callers}) == 1
    assert len(callers) == 1000


def test_c07_a_load_of_what_is_loaded_answers_at_once_and_starts_nothing(host):
    host.up_to("READY")
    caller = host.load()
    assert host.answer(caller).state == "READY"
    assert [type(effect) for effect in host.effects] == [fx.Answer]


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (source_of("/elsewhere"), "its path is '/models/m', not '/elsewhere'"),
        (source_of("/models/m", "other"), "its type is 'standalone-model', not 'other'"),
        (source_of("/models/m", threads=2), "its options are {}, not {'threads': 2}"),
        (source_of("/models/m")._replace(finder="mine"), "its finder is None, not 'mine'"),
        (source_of("/models/m")._replace(initializer="mine"), "its initializer is None, not 'mine'"),
        (source_of("/x", "other"), "path is '/models/m', not '/x'; type is 'standalone-model', not 'other'"),
    ],
)
@pytest.mark.parametrize("stage", ["FINDING", "LOADING", "READY"])
@pytest.mark.parametrize("wait", [True, False])
def test_c07_the_same_id_from_another_source_already_exists(host, other, difference, stage, wait):
    first = host.up_to(stage)
    error = host.error(host.load("m", other, wait=wait), AlreadyExistsError)
    assert difference in error.message
    assert error.details == {"model_id": "m"}
    assert host.is_waiting(first) == (stage != "READY")


def test_c09_a_load_that_does_not_wait_is_answered_while_it_goes_on(host):
    caller = host.load(wait=False)
    assert (host.answer(caller).state, host.answer(caller).generation) == ("LOADING", 1)
    assert host.finds
    joined, waiting = host.load(wait=False), host.load()
    assert host.answer(joined).state == "LOADING"
    assert host.is_waiting(waiting)


def test_c16_retrieving_what_is_not_loaded_names_what_is(host):
    error = host.error(host.retrieve("nobody"), NotFoundError)
    assert error.message == "there is no model 'nobody'; no model is loaded"
    assert error.details == {"model_id": "nobody"}
    for number in range(12):
        host.load(f"m{number:02}")
    error = host.error(host.retrieve("nobody"))
    assert error.message == ("there is no model 'nobody'; loaded are: m00, m01, m02, m03, m04, m05, m06, m07, m08, m09")


def test_retrieving_what_is_being_unloaded_is_refused_with_the_reason(host):
    host.up_to("READY")
    host.unload()
    error = host.error(host.retrieve(), FailedPreconditionError)
    assert error.message == "model 'm' is UNLOADING (unload requested): load it again when that is done"
    assert error.details == {"model_id": "m", "state": "UNLOADING", "reason": "unload requested"}


def test_loading_what_is_being_unloaded_is_refused(host):
    host.up_to("READY")
    host.unload()
    for wait in (True, False):
        error = host.error(host.load(wait=wait), FailedPreconditionError)
        assert "UNLOADING" in error.message


@pytest.mark.parametrize("step_s", [1e-7, -1e-7])
def test_thousands_of_deadlines_that_come_together_hold_nobody_up(step_s):
    core = Core(CoreConfig(max_waiting=20_000))
    callers = [ev.Caller(ALICE, number) for number in range(20_000)]
    core.handle(ev.LoadRequested(ev.Caller(BOB, 0), ev.ModelId("m"), source_of(), wait=False, deadline_s=None), 0.0)
    for number, caller in enumerate(callers):
        core.handle(ev.RetrieveRequested(caller, ev.ModelId("m"), 5.0 + number * step_s), 0.0)
    began_s = time.perf_counter()
    effects = core.handle(ev.TimePassed(), 6.0)
    took_s = time.perf_counter() - began_s
    assert sorted(effect.caller for effect in effects) == callers
    assert took_s < 15, "20,000 deadlines take some 0.1 s, and a minute if each searches for its caller"


def test_a_bad_request_changes_nothing(host):
    assert isinstance(host.error(host.load("a//b")), InvalidArgumentError)
    assert host.queries.story("a//b") == []


def test_a_worker_that_repeats_itself_is_heard_once(host):
    caller = host.up_to("LOADING")
    host.greeted()
    assert host.effects == []
    host.loaded()
    host.loaded(default_method="generate")
    assert host.effects == []
    host.measured(memory=memory_of(1))
    assert host.answer(caller).default_method == "predict"
    host.measured(memory=memory_of(2))
    host.loaded()
    assert host.effects == []


@pytest.mark.parametrize("stage", ["SPAWNING", "READY"])
def test_a_worker_is_not_heard_when_it_was_told_nothing(host, stage):
    host.up_to(stage)
    host.loaded()
    assert host.effects == []
    host.not_loaded(NotFoundError("a lie"))
    assert host.effects == []
    assert host.worker_state() == stage


def test_what_comes_for_a_worker_that_never_was_changes_nothing():
    host = Driver()
    host.up_to("READY")
    stranger = ev.WorkerId(99)
    for event in (
        ev.WorkerSpawned(stranger, 1),
        ev.WorkerSpawnFailed(stranger, NotFoundError("x")),
        ev.WorkerSaidHello(stranger),
        ev.WorkerLoaded(stranger, "python", METHODS, None),
        ev.WorkerRefusedLoad(stranger, NotFoundError("x")),
        ev.WorkerMeasured(stranger, memory_of(1), 0.0),
        ev.WorkerSpokeLastWords(stranger, NotFoundError("x")),
        ev.WorkerExited(stranger, "exit code 0"),
        ev.WorkerGone(stranger, 1, 1),
        ev.WorkerUnreachable(stranger, ev.CallId(99), is_full=True),
    ):
        before = host.queries.list_models()
        assert host.feed(event) == []
        assert host.queries.list_models() == before


def test_what_a_finder_says_of_an_earlier_generation_is_ignored(host):
    host.load()
    stale = host.finds.pop()
    host.unload()
    host.load()
    for event in (
        ev.SpecFound(stale.model_id, stale.generation, SPEC, "/models/m"),
        ev.SpecRefused(stale.model_id, stale.generation, NotFoundError("x")),
        ev.SpecFound(ev.ModelId("never"), 1, SPEC, "/x"),
        ev.SpecRefused(ev.ModelId("never"), 1, NotFoundError("x")),
    ):
        assert host.feed(event) == []
    assert host.state() == "LOADING"


def test_what_a_finder_says_of_a_load_that_is_over_is_ignored(host):
    host.up_to("READY")
    assert host.feed(ev.SpecFound(ev.ModelId("m"), 1, SPEC, "/x")) == []
    assert host.feed(ev.SpecRefused(ev.ModelId("m"), 1, NotFoundError("x"))) == []
    assert host.state() == "READY"
