"""What was put in place last, and no more of it than may be kept."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(OrderedDict[K, V]):
    """A map that forgets what was set the longest time ago; `use` makes it forget what was used the longest time ago.

    Threads may share it: each step leaves a whole map, and what another thread has just forgotten is not missed.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        while len(self) > self.most:
            self.popitem(last=False)

    def use(self, key: K) -> V | None:
        """Return what there is, if anything, and keep it as if it were set now."""
        value = self.get(key)
        if value is not None:
            self[key] = value
        return value
