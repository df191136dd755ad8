"""Histories that nobody thought of: hypothesis looks for short ones that break a rule, dice for long ones."""

from __future__ import annotations

import random
import typing
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from outside import NOTES
from world import MOVES, World

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.lifecycle import MODEL_TRANSITIONS, WORKER_TRANSITIONS

STEPS = 800

WEIGHTS = {
    "load": 8,
    "find": 12,
    "go_on": 20,
    "call": 20,
    "reply": 12,
    "prove": 5,
    "unload": 0.5,
    "unload_all": 0.1,
    "shut_down": 0.01,
    "fail_to_spawn": 0.3,
    "refuse_load": 0.3,
    "exit": 0.4,
    "vanish": 0.3,
    "pass_time": 1.5,
    "oversleep": 0.1,
    "ask_again": 0.3,
    "deploy": 4,
    "commit": 4,
    "abort": 0.3,
    "undeploy": 0.7,
    "use_disk": 14,
    "sync": 1,
    "scan": 2,
    "delay": 1,
}
"""What leads on is likelier than what ends things, or no history would get far."""

MOODS = (0.3, 1, 1, 2)
"""Each history makes some moves rarer and others more frequent than usual, so that not all are alike."""


NOT_YET_FOR_WORKERS = {("IDLE", "KILL"), ("IDLE", "EXITED")}
"""A worker that says hello is told at once what to load; standby workers will rest in IDLE."""

NOT_YET_FOR_MODELS = {
    (old.value, why.value) for old, why in MODEL_TRANSITIONS if old.value in ("DEGRADED", "QUARANTINED")
}
NOT_YET_FOR_MODELS |= {("READY", "WORKER_LOST")}
"""A model has one worker, and nothing is put into quarantine; see `test_core_several_workers` for the former."""


class Histories(RuleBasedStateMachine):
    """One rule for each of the world's moves; the rules of what may never happen are asserted by the world."""

    is_lazy = False

    def __init__(self) -> None:
        super().__init__()
        self.world = World(is_lazy=self.is_lazy)

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


TestNoHistoryBreaksARule = Histories.TestCase
TestNoHistoryBreaksARule.settings = SETTINGS
TestNoLazyHistoryBreaksARule = LazyHistories.TestCase
TestNoLazyHistoryBreaksARule.settings = SETTINGS


def history_of(seed: int) -> tuple[World, random.Random]:
    """Return a world after a random history, and the dice."""
    dice, world = random.Random(seed), World(is_lazy=seed % 2 == 1)
    weights = [WEIGHTS.get(name, 1) * dice.choice(MOODS) for name in MOVES]
    for name in dice.choices(list(MOVES), weights, k=STEPS):
        getattr(world, name)(**{argument: dice.choice(domain) for argument, domain in MOVES[name].items()})
    return world, dice


@pytest.mark.parametrize("seed", range(60))
def test_no_random_history_breaks_a_rule(seed):
    world, dice = history_of(seed)
    world.end(at_once=dice.random() < 0.5)


def test_the_same_seed_makes_the_same_history():
    (first, _), (second, _) = history_of(7), history_of(7)
    assert list(map(repr, first.history)) == list(map(repr, second.history))
    assert [event.reason for event in first.announced] == [event.reason for event in second.announced]


def test_random_histories_get_everywhere():
    """A simulation that never reaches a state proves nothing about it."""
    announced, events, effects, ends = [], set(), set(), set()
    for seed in range(40):
        world, _ = history_of(seed)
        world.end(at_once=True)
        announced += world.announced
        events |= {type(event) for event in world.history}
        effects |= world.kinds
        for operation in world.files.operations.values():
            ends.add((operation.requested is not None, *(kind.__name__ for kind in operation.ordered)))
    workers = {(event.old, event.cause) for event in announced if event.subject == "worker"}
    stays = {("LOADING", "LOADED"), ("KILLING", "EXITED")}  # rows that change nothing are not announced
    assert {(old.value, why.value) for old, why in WORKER_TRANSITIONS} - workers - stays <= NOT_YET_FOR_WORKERS
    models = {(event.old, event.cause) for event in announced if event.subject == "model" and event.cause not in NOTES}
    assert {(old.value, why.value) for old, why in MODEL_TRANSITIONS} - models == NOT_YET_FOR_MODELS
    assert set(NOTES) <= {event.cause for event in announced}
    assert set(typing.get_args(ev.Event)) - events == set()
    assert set(typing.get_args(fx.Effect)) - effects == set()
    stages, undone = ("StageFiles", "InstallFiles", "ConfirmFiles"), "UndoFiles"
    assert {(True, *stages[:steps], undone) for steps in (1, 2, 3)} | {(True, *stages)} <= ends
    assert {(False, "CheckFiles"), (False, "CheckFiles", "RemoveFiles")} <= ends
    reasons = {event.reason.rstrip("0123456789") for event in announced if event.cause == "UNLOAD"}
    assert {
        "replaced by generation ",
        "undeploy requested",
        "its files are gone from the models directory",
    } <= reasons
