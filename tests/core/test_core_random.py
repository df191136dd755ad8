"""Histories that nobody thought of: hypothesis looks for short ones that break a rule, dice for long ones."""

from __future__ import annotations

import typing
from collections import Counter
from typing import Any

import pytest
from endings import settle
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from moves import MOVES, MOVES_OF_CONNECTIONS, MOVES_OF_OBSTACLES
from outside import NOTES
from play import history_of, long_game
from world import World
from world_of_memory import MOVES_OF_SETTINGS
from world_of_templates import MOVES_OF_TEMPLATES, WorldOfTemplates

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.lifecycle import MODEL_TRANSITIONS, WORKER_TRANSITIONS, WorkerState

STEPS = 800

REACHED = (
    *("loads", "evictions LOAD", "evictions GROWTH", "evictions IDLE", "waits", "refusals", "yields", "releases"),
    *("held calls", "served held calls", "reloads", "limits broken", "plans", "looks at all"),
    *("pauses", "resumed", "put back", "late words", "ends at the budget"),
    *("direct calls", "given back", "closed lanes", "drained lanes", "closed models", "interrupted", "fates"),
)

NOT_ANNOUNCED = {("LOADING", "LOADED"), ("PAUSED", "LOADED"), ("KILLING", "EXITED")}
"""Rows that change nothing."""

OF_TEMPLATES = {
    *(ev.TemplateReady, ev.TemplateEnded, ev.WorkerImported, ev.ImportsRecalled),
    *(fx.StartTemplate, fx.EndTemplate, fx.RememberImports),
}
"""In games of their own: the others have none."""

OF_PAUSES = {"PAUSED", "RESUMED", "PUT_BACK"}
"""Loads that outgrow their reservations are rare in short histories, and counted in long ones."""

OF_CONNECTIONS = {("IDLE", "KILL"), ("IDLE", "SPAWN_FAILED")}
"""Of workers that are heard before their process is known, in games of their own."""

NOT_YET_FOR_WORKERS = OF_CONNECTIONS | {("IDLE", "EXITED")}
"""A worker with a process that says hello is told at once what to load; standby workers will rest in IDLE."""

NOT_YET_FOR_MODELS = {
    (old.value, why.value) for old, why in MODEL_TRANSITIONS if old.value in ("DEGRADED", "QUARANTINED")
}
NOT_YET_FOR_MODELS |= {("READY", "WORKER_LOST")}
"""A model has one worker, and nothing is put into quarantine; see `test_core_several_workers` for the former."""


class Histories(RuleBasedStateMachine):
    """One rule for each of the world's moves; the rules of what may never happen are asserted by the world."""

    is_lazy = False
    is_tight = False
    may_grow = False

    def __init__(self) -> None:
        super().__init__()
        self.world = World(is_lazy=self.is_lazy, is_tight=self.is_tight, may_grow=self.may_grow)

    def teardown(self) -> None:
        self.world.end(at_once=len(self.world.history) % 2 == 0)


def _rule_of(name: str, domains: dict[str, tuple[Any, ...]]) -> Any:
    def move(self: Histories, **values: Any) -> None:
        getattr(self.world, name)(**values)

    move.__name__ = name
    return rule(**{argument: st.sampled_from(domain) for argument, domain in domains.items()})(move)


for _name, _domains in MOVES.items():
    setattr(Histories, _name, _rule_of(_name, _domains))

# The same histories in every run: a failure that comes and goes helps nobody who only changed a page of text.
SETTINGS = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, database=None)


class LazyHistories(Histories):
    """The same with lazy loading."""

    is_lazy = True


class TightHistories(Histories):
    """With a memory budget, and models that take what was predicted at most."""

    is_tight = True


class GrowingHistories(LazyHistories):
    """With a memory budget, lazy loading, and models that grow."""

    is_tight = True
    may_grow = True


TestNoHistoryBreaksARule = Histories.TestCase
TestNoHistoryBreaksARule.settings = SETTINGS
TestNoLazyHistoryBreaksARule = LazyHistories.TestCase
TestNoLazyHistoryBreaksARule.settings = SETTINGS
TestNoTightHistoryBreaksARule = TightHistories.TestCase
TestNoTightHistoryBreaksARule.settings = SETTINGS
TestNoGrowingHistoryBreaksARule = GrowingHistories.TestCase
TestNoGrowingHistoryBreaksARule.settings = SETTINGS


@pytest.mark.parametrize("seed", range(60))
def test_no_random_history_breaks_a_rule(seed):
    world, dice = history_of(seed, STEPS)
    settle(world)
    world.end(at_once=dice.random() < 0.5)


def test_no_rule_breaks_when_the_settings_change_in_the_middle():
    changes = 0
    for seed in range(16):
        world, dice = history_of(seed, STEPS, {**MOVES, **MOVES_OF_SETTINGS})
        changes += sum(isinstance(event, ev.SettingsChanged) for event in world.history)
        settle(world)
        world.end(at_once=dice.random() < 0.5)
    assert changes > 50


def test_no_rule_breaks_when_workers_are_forked_from_templates():
    forks, fresh, events = 0, 0, set()
    for seed in range(40):
        world, dice = history_of(seed, STEPS, {**MOVES, **MOVES_OF_TEMPLATES}, WorldOfTemplates)
        forks += sum(isinstance(event, ev.WorkerSpawned) and event.template_id is not None for event in world.history)
        fresh += sum(event.cause == "FRESH" for event in world.announced)
        events |= {type(event) for event in world.history} | world.kinds
        settle(world)
        world.end(at_once=dice.random() < 0.5)
    assert forks > 80
    assert fresh > 10
    assert events >= OF_TEMPLATES


def test_no_rule_breaks_when_processes_are_still_there_after_a_kill():
    obstacles = 0
    for seed in range(16):
        world, dice = history_of(seed, STEPS, {**MOVES, **MOVES_OF_OBSTACLES})
        obstacles += sum(isinstance(event, ev.WorkerNotEnded) and event.is_beyond_reach for event in world.history)
        settle(world)
        world.end(at_once=dice.random() < 0.5)
    assert obstacles > 10


def test_no_rule_breaks_when_workers_lose_their_connections_at_any_time():
    lost, reached, rows = Counter[str](), Counter[str](), set()
    states = ("SPAWNING", "IDLE", "LOADING", "READY", "KILLING", "DEAD")
    rare = {f"disconnected {state}" for state in states}
    for seed in range(120):  # 24 at least, and on until what is rare has come
        if seed >= 24 and rows >= OF_CONNECTIONS and rare <= set(reached):
            break
        world, dice = history_of(seed, STEPS, {**MOVES, **MOVES_OF_CONNECTIONS})
        settle(world)
        lost += Counter(event.old for event in world.announced if "lost its connection" in event.reason)
        rows |= {(event.old, event.cause) for event in world.announced}
        reached += world.reached
        world.end(at_once=dice.random() < 0.5)
    assert {"SPAWNING", "LOADING", "READY"} <= set(lost), "in these states there was no exit in time"
    assert rows >= OF_CONNECTIONS
    assert rare <= set(reached)


def test_the_same_seed_makes_the_same_history():
    (first, _), (second, _) = history_of(7, STEPS), history_of(7, STEPS)
    assert list(map(repr, first.history)) == list(map(repr, second.history))
    assert [event.reason for event in first.announced] == [event.reason for event in second.announced]


def test_random_histories_get_everywhere():
    """A simulation that never reaches a state proves nothing about it."""
    announced, events, effects, ends = [], set(), set(), set()
    for seed in range(60):
        world, _ = history_of(seed, STEPS)
        world.end(at_once=True)
        announced += world.announced
        events |= {type(event) for event in world.history}
        effects |= world.kinds
        for operation in world.files.operations.values():
            ends.add((operation.requested is not None, *(kind.__name__ for kind in operation.ordered)))
    workers = {(event.old, event.cause) for event in announced if event.subject == "worker"}
    rows = {(old.value, why.value) for old, why in WORKER_TRANSITIONS if old is not WorkerState.PAUSED}
    assert rows - workers - NOT_ANNOUNCED <= NOT_YET_FOR_WORKERS
    models = {(event.old, event.cause) for event in announced if event.subject == "model" and event.cause not in NOTES}
    assert {(old.value, why.value) for old, why in MODEL_TRANSITIONS} - models == NOT_YET_FOR_MODELS
    assert set(NOTES) - {event.cause for event in announced} <= OF_PAUSES | {"NOT_ENDED", "FRESH"}
    # Pauses have games of their own, obstacles, changed settings and lost connections are in others.
    others = {ev.WorkerPauseFailed, ev.SettingsChanged, ev.WorkerNotEnded, ev.WorkerDisconnected}
    assert set(typing.get_args(ev.Event)) - events <= others | OF_TEMPLATES
    assert set(typing.get_args(fx.Effect)) - effects <= {fx.PauseWorker, fx.ResumeWorker, fx.OpenLanes} | OF_TEMPLATES
    stages, undone = ("StageFiles", "InstallFiles", "ConfirmFiles"), "UndoFiles"
    assert {(True, *stages[:steps], undone) for steps in (1, 2, 3)} | {(True, *stages)} <= ends
    assert {(False, "CheckFiles"), (False, "CheckFiles", "RemoveFiles")} <= ends
    reasons = {event.reason.rstrip("0123456789") for event in announced if event.cause == "UNLOAD"}
    assert {
        "replaced by generation ",
        "undeploy requested",
        "its files are gone from the models directory",
    } <= reasons


def test_long_games_with_a_budget_reach_all_that_a_budget_brings():
    """Each of the games, with and without growth; see `benchmarks/simulation.py` for longer ones and more of them."""
    reached: Counter[str] = Counter()
    told, events = set(), set()
    for seed in range(20):
        world = long_game(seed, 3 * STEPS)
        reached += world.reached
        told |= {(event.old, event.cause) for event in world.announced}
        events |= {type(event) for event in world.history}
        assert world.reached["answers"] > 40
    rows = {(old.value, why.value) for old, why in WORKER_TRANSITIONS if old is WorkerState.PAUSED}
    assert rows - told <= NOT_ANNOUNCED
    assert {ev.WorkerPauseFailed} <= events
    assert reached["opened lanes"]
    few = {name: reached[name] for name in REACHED if reached[name] < 10}
    assert not few, f"{few} of {reached}"
