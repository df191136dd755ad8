"""The tables of the lives of workers and models: every row, and everything that has none."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from driver import SPEC, source_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core import lifecycle
from hostd.core.config import CoreConfig
from hostd.core.lifecycle import (
    MODEL_TRANSITIONS,
    WORKER_TRANSITIONS,
    ModelInput,
    ModelState,
    WorkerAction,
    WorkerInput,
    WorkerState,
)
from hostd.core.models import Cause
from hostd.core.registry import Registry
from hostd_workers.wire.errors import InternalError

CORE = Path(lifecycle.__file__).parent

EFFECTS = {
    WorkerAction.SEND_LOAD: fx.SendLoad,
    WorkerAction.MEASURE: fx.MeasureWorker,
    WorkerAction.PAUSE: fx.PauseWorker,
    WorkerAction.RESUME: fx.ResumeWorker,
    WorkerAction.CLOSE: fx.CloseModel,
    WorkerAction.KILL: fx.KillWorker,
}

# Written a second time, by hand: the table may not change by accident.
WORKER_ROWS = {
    "SPAWNING": {"HELLO": "IDLE", "KILL": "KILLING", "EXITED": "KILLING", "SPAWN_FAILED": "DEAD"},
    "IDLE": {"ASSIGN": "LOADING", "KILL": "KILLING", "EXITED": "KILLING", "SPAWN_FAILED": "DEAD"},
    "LOADING": {
        "LOADED": "LOADING",
        "MEASURED": "READY",
        "PAUSE": "PAUSED",
        "CLOSE": "CLOSING",
        "LOAD_FAILED": "KILLING",
        "KILL": "KILLING",
        "EXITED": "KILLING",
    },
    "PAUSED": {
        "RESUME": "LOADING",
        "LOADED": "PAUSED",
        "LOAD_FAILED": "KILLING",
        "KILL": "KILLING",
        "EXITED": "KILLING",
    },
    "READY": {"DRAIN": "DRAINING", "CLOSE": "CLOSING", "KILL": "KILLING", "EXITED": "KILLING"},
    "DRAINING": {"DRAINED": "KILLING", "CLOSE": "CLOSING", "KILL": "KILLING", "EXITED": "KILLING"},
    "CLOSING": {"CLOSED": "KILLING", "KILL": "KILLING", "EXITED": "KILLING"},
    "KILLING": {"EXITED": "KILLING", "GONE": "DEAD", "SPAWN_FAILED": "DEAD"},
    "DEAD": {},
}
MODEL_ROWS = {
    "LOADING": {"LOAD_SUCCEEDED": "READY", "LOAD_FAILED": "FAILED", "UNLOAD": "UNLOADING"},
    "READY": {
        "WORKER_LOST": "DEGRADED",
        "LAST_WORKER_LOST": "FAILED",
        "UNLOAD": "UNLOADING",
        "EVICT": "UNLOADING",
    },
    "DEGRADED": {
        "LOAD_SUCCEEDED": "READY",
        "WORKER_LOST": "DEGRADED",
        "LAST_WORKER_LOST": "FAILED",
        "UNLOAD": "UNLOADING",
        "EVICT": "UNLOADING",
    },
    "UNLOADING": {"ALL_GONE": "UNLOADED"},
    "UNLOADED": {},
    "FAILED": {"UNLOAD": "UNLOADING"},
    "QUARANTINED": {"UNLOAD": "UNLOADING"},
}


@pytest.fixture
def registry() -> Registry:
    registry = Registry(CoreConfig())
    load = registry.new_model(ev.ModelId("m"), source_of(), ev.Origin.REQUESTED, 0, Cause.ASKED)
    load.model.spec = SPEC
    registry.new_worker(load)
    registry.effects.clear()
    return registry


def model_and_worker(registry):
    return registry.models["m"], next(iter(registry.workers.values()))


def put(worker, state):
    """Set a state that no row leads to from here, with what belongs to it."""
    worker.state = state
    if state is WorkerState.READY:
        worker.model.ready.append(worker)


@pytest.mark.parametrize(("state", "why"), WORKER_TRANSITIONS)
def test_a_worker_takes_every_row_of_its_table(registry, state, why):
    model, worker = model_and_worker(registry)
    put(worker, state)
    new, actions = WORKER_TRANSITIONS[state, why]

    registry.move_worker(worker, why, "because")

    assert worker.state is new
    announced = [effect.event for effect in registry.effects if isinstance(effect, fx.Announce)]
    changes = [] if new is state else [("worker", state.value, new.value, why.value, "because")]
    assert [(e.subject, e.old, e.new, e.cause, e.reason) for e in announced] == changes
    asked = [type(effect) for effect in registry.effects if not isinstance(effect, fx.Announce)]
    assert asked == [EFFECTS[action] for action in actions]
    assert model.ready == ([worker] if new is WorkerState.READY else [])
    assert (worker.id in registry.workers) == (worker.id in model.workers) == (new is not WorkerState.DEAD)


@pytest.mark.parametrize(
    ("state", "why"), [pair for pair in itertools.product(WorkerState, WorkerInput) if pair not in WORKER_TRANSITIONS]
)
def test_a_worker_refuses_what_has_no_row_and_nothing_changes(registry, state, why):
    model, worker = model_and_worker(registry)
    put(worker, state)
    before = (dict(registry.workers), list(model.ready), len(registry.stories["m"]))

    assert not registry.accepts(worker, why)
    with pytest.raises(InternalError, match=f"a worker that is {state.value} cannot take {why.value}: <Worker 1 of m"):
        registry.move_worker(worker, why, "because")

    assert worker.state is state
    assert (dict(registry.workers), list(model.ready), len(registry.stories["m"])) == before
    assert registry.effects == []


@pytest.mark.parametrize(("state", "why"), MODEL_TRANSITIONS)
def test_a_model_takes_every_row_of_its_table(registry, state, why):
    model, _ = model_and_worker(registry)
    model.state = state

    registry.move_model(model, why, "because")

    new = MODEL_TRANSITIONS[state, why]
    assert (model.state, model.reason) == (new, "because")
    announced = [effect.event for effect in registry.effects]
    changes = [] if new is state else [("model", state.value, new.value, why.value, "because")]
    assert [(e.subject, e.old, e.new, e.cause, e.reason) for e in announced] == changes


@pytest.mark.parametrize(
    ("state", "why"), [pair for pair in itertools.product(ModelState, ModelInput) if pair not in MODEL_TRANSITIONS]
)
def test_a_model_refuses_what_has_no_row_and_nothing_changes(registry, state, why):
    model, _ = model_and_worker(registry)
    model.state, model.reason = state, "as before"
    told = len(registry.stories["m"])

    with pytest.raises(InternalError, match=f"a model that is {state.value} cannot take {why.value}: <Model m#1"):
        registry.move_model(model, why, "because")

    assert (model.state, model.reason, len(registry.stories["m"]), registry.effects) == (state, "as before", told, [])


def test_the_tables_are_the_ones_that_were_decided():
    worker_rows = {state.value: {} for state in WorkerState}
    for (state, why), (new, _) in WORKER_TRANSITIONS.items():
        worker_rows[state.value][why.value] = new.value
    model_rows = {state.value: {} for state in ModelState}
    for (state, why), new in MODEL_TRANSITIONS.items():
        model_rows[state.value][why.value] = new.value
    assert worker_rows == WORKER_ROWS
    assert model_rows == MODEL_ROWS


def test_a_worker_is_killed_exactly_when_it_enters_killing():
    for (old, _), (new, actions) in WORKER_TRANSITIONS.items():
        enters = new is WorkerState.KILLING and old is not WorkerState.KILLING
        assert (WorkerAction.KILL in actions) == enters


def test_a_worker_is_not_told_to_load_before_there_is_a_specification_and_nothing_changes(registry):
    model, worker = model_and_worker(registry)
    model.spec = None
    registry.move_worker(worker, WorkerInput.HELLO, "hello")
    registry.effects.clear()

    with pytest.raises(InternalError, match="told to load before there was a specification: <Worker 1 of m IDLE"):
        registry.move_worker(worker, WorkerInput.ASSIGN, "too early")

    assert (worker.state, registry.effects) == (WorkerState.IDLE, [])


def test_a_state_is_assigned_on_one_line_of_the_core():
    assignments = [
        f"{path.name}: {line.strip()}"
        for path in sorted(CORE.glob("*.py"))
        for line in path.read_text().splitlines()
        if ".state = " in line
    ]
    assert len(assignments) == 1, assignments
    assert assignments[0].startswith("registry.py: subject.state = new")


def test_the_diagram_has_one_arrow_for_each_row():
    diagram = lifecycle.diagram()
    assert diagram.count("```mermaid\nstateDiagram-v2\n") == 2
    assert diagram.count("```") == 4
    arrows = [line.strip() for line in diagram.splitlines() if "-->" in line]
    workers = [f"{old.value} --> {new.value}: {why.value}" for (old, why), (new, _) in WORKER_TRANSITIONS.items()]
    models = [f"{old.value} --> {new.value}: {why.value}" for (old, why), new in MODEL_TRANSITIONS.items()]
    assert arrows == workers + models
