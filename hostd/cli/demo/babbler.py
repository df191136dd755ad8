"""The demo's own model: a table of memory, and a generator that writes words one after another.

The demo copies this file as `model.py`, as an author would write one: the standard library alone, and a `load`.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIB = 2**20


class Babbler:
    """Writes text in which every word follows the one before as somewhere in the text that it learnt."""

    def __init__(self, text: str, *, table_mib: int, pause_s: float) -> None:
        # Written page by page: memory that is only asked for is not resident and would not be measured.
        self._table = bytearray(os.urandom(_MIB)) * table_mib
        self._pause_s = pause_s
        self._followers: dict[str, list[str]] = defaultdict(list)
        words = text.split()
        for word, follower in itertools.pairwise(words):
            self._followers[word].append(follower)

    def generate(self, start: str, words: int = 24, seed: int = 0) -> Iterator[str]:
        """Yield so many words, the first one `start`, each when it is made."""
        chance = random.Random(seed)  # noqa: S311 - no secret
        word = start
        for _ in range(words):
            yield word
            time.sleep(self._pause_s)  # a language model takes about this long for a token
            word = chance.choice(self._followers.get(word) or sorted(self._followers))

    def table_bytes(self) -> int:
        """Return how many bytes the model holds on purpose."""
        return len(self._table)


def load(path: str, *, table_mib: int = 320, pause_s: float = 0.02) -> Babbler:
    """Return the model that learnt `corpus.txt` in its directory."""
    return Babbler(Path(path, "corpus.txt").read_text("utf-8"), table_mib=table_mib, pause_s=pause_s)
