"""What the keys of `top` have chosen: how it is sorted, filtered and scrolled. Pure: a key makes a new state of one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any


class Sort(Enum):
    """What the models are sorted by; the value is its name for people."""

    MEMORY = "memory"
    CALLS = "calls"
    P99 = "p99"
    NAME = "name"
    USED = "used"

    def next(self) -> Sort:
        """Return the one that comes after this."""
        every = list(Sort)
        return every[(every.index(self) + 1) % len(every)]


@dataclass(frozen=True)
class State:
    """What was chosen. `scroll` is the first row that is shown; while `is_typing` keys go to the filter."""

    sort: Sort = Sort.MEMORY
    is_reversed: bool = False
    filter: str = ""
    is_typing: bool = False
    scroll: int = 0
    is_over: bool = False


_NAMES = {
    "\r": "enter",
    "\n": "enter",
    "\x1b": "esc",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x03": "quit",
    "\x04": "quit",
    "\x15": "clear",
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[4~": "end",
}
"""What terminals send (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html) in words."""

_KEY = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|\x1b[^\x1b]|.", re.DOTALL)


def keys(text: str) -> list[str]:
    """Return the keys of what a terminal sent: characters as they are, others by name; unknown ones are left out."""
    named = (_NAMES.get(key, key) for key in _KEY.findall(text))
    return [key for key in named if key in _NAMES.values() or (len(key) == 1 and key.isprintable())]


def press(state: State, key: str, *, page: int = 1, most_scroll: int = 0) -> State:
    """Return the state after a key; `page` rows fit on the screen, and it can be scrolled by `most_scroll`."""
    if key == "quit":
        return replace(state, is_over=True)
    if state.is_typing:
        return _type(state, key)
    now = min(state.scroll, most_scroll)
    targets = {
        "home": 0,
        "up": now - 1,
        "k": now - 1,
        "down": now + 1,
        "j": now + 1,
        "page up": now - page,
        "page down": now + page,
        "end": most_scroll,
    }
    if key in targets:
        return replace(state, scroll=max(0, min(targets[key], most_scroll)))
    changes: dict[str, dict[str, Any]] = {
        "q": {"is_over": True},
        "s": {"sort": state.sort.next(), "is_reversed": False, "scroll": 0},
        "r": {"is_reversed": not state.is_reversed, "scroll": 0},
        "/": {"is_typing": True},
        "esc": {"filter": "", "scroll": 0},
    }
    return replace(state, **changes.get(key, {}))


def _type(state: State, key: str) -> State:
    match key:
        case "enter":
            return replace(state, is_typing=False)
        case "esc":
            return replace(state, is_typing=False, filter="", scroll=0)
        case "backspace":
            return replace(state, filter=state.filter[:-1], scroll=0)
        case "clear":
            return replace(state, filter="", scroll=0)
    return replace(state, filter=state.filter + key, scroll=0) if len(key) == 1 else state
