"""Signatures of methods, which records have as text: which parameters a caller can name, and which it can place.

Not evaluated: a default's text may be anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME: Final = re.compile(r"(\*{0,2})([^\W\d]\w*)")
_OPENING: Final = "([{<"
_CLOSING: Final = ")]}>"


@dataclass(frozen=True)
class Parameters:
    """What a method takes: parameters that go by place, by name, and whether any more may come either way."""

    placed: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()
    is_open_by_place: bool = False
    is_open_by_name: bool = False
    is_known: bool = True

    def takes(self, name: str) -> bool:
        """Say whether a keyword argument of this name is taken for sure."""
        return name in self.named or self.is_open_by_name

    @property
    def takes_a_place(self) -> bool:
        """Whether one positional argument may be taken."""
        return bool(self.placed) or self.is_open_by_place or not self.is_known


UNKNOWN: Final = Parameters(is_known=False)


@lru_cache(maxsize=1024)
def parameters_of(signature: str) -> Parameters:
    """Return the parameters of a signature such as "(x, /, y=1, *, scale: float = 1.0) -> list"; "(...)" is unknown."""
    if not signature.startswith("("):
        return UNKNOWN
    placed: list[str] = []
    named: list[str] = []
    is_open_by_place = is_open_by_name = is_placing_over = False
    for text in _parts(signature):
        if text == "/":
            named.clear()
            continue
        if text == "*":
            is_placing_over = True
            continue
        found = _NAME.match(text)
        if found is None:
            return UNKNOWN
        stars, name = found.groups()
        if stars == "*":
            is_open_by_place = is_placing_over = True
        elif stars:
            is_open_by_name = True
        else:
            named.append(name)
            if not is_placing_over:
                placed.append(name)
    return Parameters(tuple(placed), frozenset(named), is_open_by_place, is_open_by_name)


def _parts(signature: str) -> Iterator[str]:
    """Yield what stands between the commas of the outermost parentheses."""
    depth, begin, quote = 0, 1, ""
    for place, character in enumerate(signature):
        if quote:
            quote = "" if character == quote and signature[place - 1] != "\\" else quote
        elif character in "'\"":
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING and signature[place - 1 : place + 1] != "->":
            depth -= 1
        if not quote and ((depth == 1 and character == ",") or depth == 0):
            if part := signature[begin:place].strip():
                yield part
            begin = place + 1
        if depth == 0:
            return
    yield "..."  # cut off, so the rest is not known
