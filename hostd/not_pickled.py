"""What does not travel to other processes says what to do instead."""

from __future__ import annotations

from typing import ClassVar, NoReturn


class NotPickled:
    """A base of what belongs to its process; `_instead` says what to do."""

    _instead: ClassVar[str]

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} objects cannot be pickled or copied: {self._instead}")
