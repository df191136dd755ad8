"""Which files are whole: whether a model is still being written, judged by looks at its files.

Rules
1. What says that it is whole (a completion marker, a manifest with hashes that match) is believed at once.
2. What says that it is not (no marker where one is wanted, a missing file) is believed too, quiet or not.
3. Anything else is whole when two looks that lie the quiet period apart saw the same, or when the first look sees that
   nothing has changed for the quiet period and a margin.
4. Without a quiet period, what nothing says to be incomplete is whole.

Rule 3's second half goes by the clock that stamped the files, so the margin is far above what clocks differ by,
and a change in the future proves nothing. Does not cover how a look is taken (`shell/repository/completeness`).
"""

from __future__ import annotations

import enum
from collections import OrderedDict

from hostd_workers.wire.light import NamedTuple

CLOCK_MARGIN_S = 60.0
"""How much a file server's clock may be behind ours without files in the making looking old."""

LOOK_AGAIN_S = 1.0
"""The least time between two looks at what is known to be incomplete: each is a walk over its files."""

_KEPT_PERIODS = 10
_KEPT_S = 60.0
"""What nobody asked about for so many quiet periods, and this, is forgotten. What waits asks again after one."""

_ROUNDING_S = 1e-6
"""What sums of seconds may be off by: nobody should look again after a nanosecond."""

_MAX_PATHS = 16384
"""Paths under observation at a time, at about 300 bytes each; beyond it the one not asked about for longest is
forgotten, which makes it wait for another quiet period."""


class Completeness(enum.Enum):
    """What a model's own files say of themselves. UNKNOWN: nothing, so the quiet period decides."""

    COMPLETE = "COMPLETE"
    INCOMPLETE = "INCOMPLETE"
    UNKNOWN = "UNKNOWN"


class Look(NamedTuple):
    """What a look at a model's files saw.

    `digest` stands for every file's relative name, size and modification time; `changed_s` is the newest change of any
    file or directory, in seconds since the epoch; `reason` says in words why it is incomplete.
    """

    digest: bytes
    changed_s: float
    completeness: Completeness = Completeness.UNKNOWN
    reason: str = ""


class Wait(NamedTuple):
    """The files may not be whole: look again after so many seconds; `reason` says in words why."""

    retry_after_s: float
    reason: str


class _Seen(NamedTuple):
    digest: bytes
    since_s: float
    asked_s: float


class Stability:
    """Remembers what was seen of each path until it is whole. Not thread safe."""

    def __init__(self, quiet_period_s: float) -> None:
        """Judge by a quiet period; 0: there is none."""
        self._quiet_period_s = max(quiet_period_s, 0.0)
        self._kept_s = _KEPT_PERIODS * self._quiet_period_s + _KEPT_S
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Stability {len(self._seen)} paths, quiet for {self._quiet_period_s:g} s>"

    def __len__(self) -> int:
        return len(self._seen)

    def observe(self, path: str, look: Look, now_s: float, wall_s: float) -> Wait | None:
        """Judge by a look taken just now; None: the files are whole.

        `now_s` is by a clock that only goes forward, `wall_s` since the epoch.
        """
        self._forget_old(now_s)
        if look.completeness is Completeness.INCOMPLETE:
            self.forget(path)
            return Wait(max(self._quiet_period_s, LOOK_AGAIN_S), look.reason)
        if look.completeness is Completeness.COMPLETE:
            self.forget(path)
            return None
        seen = self._seen.get(path)
        if seen is not None:
            since_s = seen.since_s if seen.digest == look.digest else now_s
        else:
            # Only at the first look: what changed before our eyes and has old times got them from a copy.
            is_old = look.changed_s + self._quiet_period_s + CLOCK_MARGIN_S < wall_s
            since_s = now_s - self._quiet_period_s if is_old else now_s
        self._seen[path] = _Seen(look.digest, since_s, now_s)
        self._seen.move_to_end(path)
        left_s = since_s + self._quiet_period_s - now_s
        if left_s <= _ROUNDING_S:
            return None
        return Wait(left_s, f"its files have not been seen unchanged for {self._quiet_period_s:g} s yet")

    def forget(self, path: str) -> None:
        """Forget what was seen of a path."""
        self._seen.pop(path, None)

    def _forget_old(self, now_s: float) -> None:
        while self._seen:
            path, seen = next(iter(self._seen.items()))
            if len(self._seen) <= _MAX_PATHS and now_s - seen.asked_s <= self._kept_s:
                return
            del self._seen[path]
