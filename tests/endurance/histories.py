"""The core against made-up histories: those that `tests/core/test_core_random.py` plays, with any seeds.

What must hold is asserted by the world that the histories happen in (`tests/core/outside.py` and those that build on it). Of
each kind of fault the first is made as short as it can be, so that a test can be written from it.
"""

from __future__ import annotations

import random
import traceback
from typing import TYPE_CHECKING, NamedTuple

from endings import settle
from moves import MOVES, MOVES_OF_CONNECTIONS, MOVES_OF_OBSTACLES
from play import WEIGHTS, draw, kind_of, play
from world import World
from world_of_memory import MOVES_OF_SETTINGS

if TYPE_CHECKING:
    from play import Move

GAMES = {
    "plain": MOVES,
    "settings": {**MOVES, **MOVES_OF_SETTINGS},
    "obstacles": {**MOVES, **MOVES_OF_OBSTACLES},
    "connections": {**MOVES, **MOVES_OF_CONNECTIONS},
}
"""As in the tests: settings that change, processes that are still there after a kill, connections that are lost."""

STEPS = 800


class History(NamedTuple):
    """Moves in a world of some kind, and how the host is stopped after them."""

    kind: dict[str, bool]
    moves: list[Move]
    at_once: bool


def run(seeds, games, steps=STEPS):
    """Play these seeds of each of the games; return what was played, and what was wrong."""
    wrong = []
    faults = set()
    for game in games:
        for seed in seeds:
            history = history_of(game, seed, steps)
            error = end_of(history)
            if error is None:
                continue
            wrong.append(f"{game} {seed}: {error}")
            if place_of(error) not in faults:
                faults.add(place_of(error))
                wrong += _told(shortened(history))
    report = {"seeds": f"{seeds.start}:{seeds.stop}", "games": games, "steps": steps, "faults": len(faults)}
    return report, wrong


def history_of(game, seed, steps):
    """Return the history that a seed stands for."""
    dice = random.Random(seed)
    moves = draw(dice, steps, WEIGHTS, GAMES[game])
    return History(kind_of(seed), moves, dice.random() < 0.5)


def end_of(history):
    """Play a history to its end, and return what broke."""
    world = World(**history.kind)
    try:
        play(world, history.moves)
        settle(world)
        world.end(at_once=history.at_once)
    except Exception as error:  # noqa: BLE001 - whatever breaks is what this looks for
        return error
    return None


def place_of(error):
    """Return what tells one kind of fault from another: where it was found."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.filename}:{last.lineno}"


def shortened(history):
    """Leave out moves as long as the fault stays the same: halves first, single ones at last (Zeller's ddmin)."""
    first = end_of(history)
    place = None if first is None else place_of(first)
    width = len(history.moves) // 2
    while width:
        at, before = 0, len(history.moves)
        while at < len(history.moves):
            shorter = history._replace(moves=history.moves[:at] + history.moves[at + width :])
            error = end_of(shorter)
            if error is not None and place_of(error) == place:
                history = shorter
            else:
                at += width
        if width > 1 or len(history.moves) == before:
            width //= 2
    return history


def _told(history):
    said = ", ".join(f"{name}={value}" for name, value in history.kind.items())
    moves = [
        f"    world.{name}({', '.join(f'{k}={v!r}' for k, v in values.items())})" for name, values in history.moves
    ]
    return [f"  shortest: World({said})", *moves, f"    settle(world); world.end(at_once={history.at_once})"]
