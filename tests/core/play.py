"""Long games with the world: dice that choose its moves, and a count of what the games have reached.

Used by the random tests here, by `tests/endurance histories` for more of them, and by `benchmarks/simulation.py` for games
that are longer than a test may be.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from endings import forget_what_is_over, settle
from moves import MOVES
from world import World
from world_of_files import MODELS, NESTED

from hostd.core import events as ev

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Move: TypeAlias = "tuple[str, dict[str, Any]]"
"""The name of a world's method, and its arguments."""

WEIGHTS: Final[dict[str, float]] = {
    "load": 8,
    "find": 12,
    "go_on": 20,
    "call": 20,
    "reply": 12,
    "prove": 5,
    "unload": 0.5,
    "unload_all": 0.1,
    "shut_down": 0.01,
    "fail_to_spawn": 0.5,
    "refuse_load": 0.3,
    "exit": 0.4,
    "disconnect": 1,
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
    "predict": 12,
    "pin": 0.7,
    "grow": 2,
    "swell": 4,
    "speak_late": 1,
    "fail_to_pause": 0.2,
    "keep_pin": 2,
    "open_lane": 3,
    "come_in": 4,
    "call_directly": 6,
    "end_directly": 3,
    "leave_lane": 0.5,
    "close_lanes": 2,
    "ask_fate": 0.5,
    "import_all": 15,
    "obey": 6,
    "learn": 4,
    "recall": 0.2,
    "kill_template": 0.3,
}
"""What leads on is likelier than what ends things, or no history would get far."""

LIVELY: Final[dict[str, float]] = {
    **WEIGHTS,
    "shut_down": 0,
    "unload_all": 0.05,
    "unload": 2,
    "undeploy": 0.3,
    "deploy": 1.5,
    "commit": 1.5,
    "use_disk": 8,
    "vanish": 0.1,
    "load": 18,
    "call": 24,
    "open_lane": 25,
    "come_in": 10,
    "call_directly": 16,
    "end_directly": 8,
    "close_lanes": 12,
    "ask_fate": 1,
    "go_on": 60,
    "find": 20,
    "predict": 20,
    "prove": 25,
    "pass_time": 16,
    "reply": 40,
    "grow": 5,
    "swell": 70,
    "speak_late": 4,
    "fail_to_pause": 0.2,
    "sample": 4,
    "retrieve": 4,
    "refuse_load": 0.2,
    "exit": 0.2,
    "say_last_words": 0.2,
    "babble": 0.3,
    "lie": 0.3,
}
"""For games that are to stay lively for thousands of moves: nothing ends them, and loads get through."""

MOODS: Final = (0.3, 1, 1, 2)
"""Each history makes some moves rarer and others more frequent than usual, so that not all are alike."""

LIVELY_MOODS: Final = (0.7, 1, 1, 1.4)
"""Nothing that leads on may be rare for long."""

MANY: Final = tuple(map(ev.ModelId, ("e", "f", "g", "h")))
"""More models than the short games have, so that there is more to choose from when some have to go."""


def lively_moves() -> dict[str, dict[str, tuple[Any, ...]]]:
    """Return the world's moves with more models, and with fewer of what makes a long game stale."""
    moves = {
        move: {name: (*domain, *MANY) if domain in (MODELS, NESTED) else domain for name, domain in domains.items()}
        for move, domains in MOVES.items()
    }
    moves["pass_time"]["seconds"] = (0.1, 0.1, 0.5, 0.5, 1.0, 1.0, 2.0, 11.0, 31.0)
    moves["find"]["how"] = (*["found"] * 12, "ephemeral", "nothing", "wrong")
    moves["find"]["n"] = (*[*range(5)] * 3, 5)
    moves["predict"]["need_bytes"] = (1000, *[2000, 3000, 3000, 4000, 6000] * 3, 9000, 20_000)
    moves["pin"]["is_pinned"] = (True, False, False, False, False)
    moves["grow"]["to_bytes"] = (2000, 4000, 5000, 5000, 8000)
    moves["swell"] = {"by_bytes": (1000, 3000, 6000), "how_many": (3,)}
    moves["call"]["method"] = ("predict",) * 9 + ("predikt",)
    moves["call"]["timeout_s"] = (None, None, None, 0.0, 2.0, 20.0)
    moves["call"]["size_bytes"] = (1,)
    return moves


def draw(
    dice: random.Random,
    steps: int,
    weights: Mapping[str, float] = WEIGHTS,
    moves: Mapping[str, Mapping[str, tuple[Any, ...]]] = MOVES,
    moods: tuple[float, ...] = MOODS,
) -> list[Move]:
    """Return so many moves."""
    chances = [weights.get(name, 1) * dice.choice(moods) for name in moves]
    names = dice.choices(list(moves), chances, k=steps)
    return [(name, {argument: dice.choice(domain) for argument, domain in moves[name].items()}) for name in names]


def play(world: World, moves: Iterable[Move]) -> World:
    """Make these moves, and return the world."""
    for name, values in moves:
        getattr(world, name)(**values)
    return world


def kind_of(seed: int) -> dict[str, bool]:
    """Return the kind of world that a seed stands for."""
    return {"is_lazy": seed % 2 == 1, "is_tight": seed % 3 > 0, "may_grow": seed % 6 in (1, 2, 4)}


def history_of(
    seed: int,
    steps: int,
    moves: Mapping[str, Mapping[str, tuple[Any, ...]]] = MOVES,
    world: type[World] = World,
) -> tuple[World, random.Random]:
    """Return a world after a random history, and the dice."""
    dice = random.Random(seed)
    return play(world(**kind_of(seed)), draw(dice, steps, WEIGHTS, moves)), dice


def long_game(seed: int, steps: int) -> World:
    """Play a game with a budget to its end, and return the world: half of them are lazy, two thirds may grow."""
    dice = random.Random(seed)
    world = World(is_lazy=seed % 2 == 1, is_tight=True, may_grow=seed % 3 < 2)
    for number, move in enumerate(draw(dice, steps, LIVELY, lively_moves(), LIVELY_MOODS), 1):
        play(world, [move])
        if number % 200 == 0:
            forget_what_is_over(world)
    settle(world)
    world.end(at_once=dice.random() < 0.5)
    return world
