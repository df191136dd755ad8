"""When which worker's memory is read, and what of it follows from what is known.

Rules
1. Every worker has a time of its own at which it is due. One in use, or that has changed, is sampled every
   `sample_period_s`; one that idles unchanged half as often each time, down to every `max_sample_period_s`.
2. A worker that loads or has a limit is also watched: every `watch_period_s` the most that its tree may hold is read,
   which takes microseconds: what it has to itself, and all shared memory of the system, because that is quicker than to
   find out which tree has it. A full sample, which may walk the page tables, follows when what that has grown by would
   bring it over its limit, and while it loads when it has grown by more than a mebibyte since the last one. A
   worker with a limit that idles unchanged is looked at ever less often, down to every `IDLE_WATCH` of these periods.
3. One that grows towards its limit is looked at sooner, in half of the time in which it would get there, down to every
   `LEAST_WATCH_S`.
4. Growth alone may cost 1/20 of a core for each worker: a walk takes milliseconds per GiB, and a model that is being
   loaded grows at every look. A limit is checked at every look all the same.
5. Figures are walked anew after `max_sample_period_s` at the latest. Until then those of an unchanged tree are
   believed; those of a changed one may be estimated from a walk since which no other worker has come, gone or been
   loading, as these map files that this one may have had to itself.
6. Nobody is found over a limit by figures that were estimated, unless anonymous and shared memory alone are over it.

Everything here only decides; `sampling` reads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hostd.shell.memory.tree import SIGNIFICANT_BYTES, Sample
from hostd_workers.wire.light import NamedTuple
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hostd.core.values import Memory, WorkerId

GROWTH_BYTES = 1 << 20
"""What a watched worker may grow by before it is walked again: a figure for people need not be finer."""

GROWTH_SHARE = 0.05
"""How much of its time a growing worker's walks may take."""

LEAST_WATCH_S = 0.01
"""Between two looks at a worker that is about to reach its limit; a look and what follows take a millisecond."""

IDLE_WATCH = 10
"""How many periods there are at most between two looks at a worker with a limit that nobody uses."""


class Watched(NamedTuple):
    """A worker as the schedule needs to know it.

    `is_busy`: it is in use, or was since the last pass (which is at most `sample_period_s` ago); `is_watched`: it is
    loading (`is_loading`) or has a limit; `limit_bytes`: what it may be charged, None for no limit. `sharers`: how many
    others have pages of its template.
    """

    worker_id: WorkerId
    pid: int
    is_busy: bool
    is_watched: bool
    limit_bytes: int | None
    is_loading: bool = False
    sharers: int = 0


class Look(NamedTuple):
    """One worker that is to be looked at: fully if `is_due`, else the most that it may hold first.

    `last` is the last sample, `believed` what of it may be estimated with (None: all is to be read anew). `may_walk`
    says whether growth alone is worth a full sample now. `least_bytes` is the least that it may have held at most since
    that sample: a drop may be of shared pages, and does not make room for growth.
    """

    worker: Watched
    is_due: bool
    last: Memory | None
    believed: Memory | None
    may_walk: bool
    least_bytes: int | None = None

    def wants_sample(self, most_bytes: int) -> bool:
        """Say whether a watched worker that may hold so much at most is to be sampled fully."""
        limit_bytes = self.worker.limit_bytes
        if self.last is None:
            return most_bytes > GROWTH_BYTES
        grown_bytes = most_bytes - _least(self.last, self.least_bytes)
        # Once it is known to be over its limit, others decide; it need not be found out ten times a second.
        if limit_bytes is not None and self.last.charge_bytes + grown_bytes > limit_bytes >= self.last.charge_bytes:
            return True
        is_growth_news = limit_bytes is None or self.worker.is_loading
        return is_growth_news and self.may_walk and grown_bytes > GROWTH_BYTES

    def is_beyond_doubt(self, sample: Sample) -> bool:
        """Say whether a sample is good enough for what follows from it, or another has to confirm it."""
        memory, limit_bytes = sample.memory, self.worker.limit_bytes
        if limit_bytes is None or memory.charge_bytes <= limit_bytes:
            return True
        if sample.is_walked:  # a child that is about to run another program has its parent's pages until then
            return memory.processes == 1
        own_bytes = (memory.anon_bytes or 0) + memory.table_bytes + (memory.swap_bytes or 0)
        return own_bytes + (memory.shared_bytes or 0) > limit_bytes


class Seen(NamedTuple):
    """What a look found; `sample` is None if there was no full sample.

    `cpu_s` is the processor time that it took: what others had of the core meanwhile does not count (rule 4).
    `most_bytes` is the most that the tree may hold, None if that was not looked at; of that `around_bytes` may as well
    be others', which does not keep an idle worker from being looked at less often.
    """

    look: Look
    sample: Sample | None
    cpu_s: float
    most_bytes: int | None = None
    around_bytes: int = 0


@dataclass
class _Due:
    """When a worker is due: `walked_s` is when its page tables were last read, `sampled_s` when it was last sampled."""

    due_s: float
    look_s: float
    watch_s: float
    interval_s: float
    sampled_s: float
    last: Memory | None = None
    walked_s: float | None = None
    cpu_s: float = 0.0
    looked: tuple[float, int, int] | None = None
    """When it was last looked at, the most that it may have held, and what of that was surely its own."""
    least_bytes: int | None = None
    """The least that this was since the last sample; None if it was not looked at."""


class _Changes:
    """When workers have come, gone or loaded last: the last to do so, and the last but that one."""

    def __init__(self) -> None:
        self._is_loading: dict[WorkerId, bool] = {}
        self._last: tuple[WorkerId | None, float] = (None, -math.inf)
        self._before_s = -math.inf

    def note(self, workers: Sequence[Watched], now: float) -> None:
        """Compare all workers there are with those of before."""
        before, self._is_loading = self._is_loading, {worker.worker_id: worker.is_loading for worker in workers}
        if before == self._is_loading and True not in before.values():
            return
        for worker_id in before.keys() | self._is_loading.keys():
            is_loading = self._is_loading.get(worker_id)
            if is_loading or is_loading != before.get(worker_id):
                if worker_id != self._last[0]:
                    self._before_s = self._last[1]
                self._last = (worker_id, now)

    def last_of_others_s(self, worker_id: WorkerId) -> float:
        """Return when any other worker did so last."""
        return self._before_s if worker_id == self._last[0] else self._last[1]


class Schedule:
    """Which worker is due when; `now` is any clock in seconds that does not go back."""

    def __init__(self, period_s: float, max_period_s: float, watch_period_s: float) -> None:
        self._period_s = period_s
        self._max_period_s = max(period_s, max_period_s)
        self._watch_period_s = watch_period_s
        self._known: dict[WorkerId, _Due] = {}
        self._next_s: float | None = None
        self._changes = _Changes()

    def __repr__(self) -> str:
        return f"<Schedule of {len(self._known)} workers, next at {self._next_s}>"

    def looks(self, workers: Sequence[Watched], now: float) -> list[Look]:
        """Return what is to be done now. `workers` are all there are; those that are not among them are forgotten."""
        known, self._known = self._known, {}
        self._changes.note(workers, now)
        looks: list[Look] = []
        for worker in workers:
            due = known.get(worker.worker_id) or self._first_due(worker, now)
            self._known[worker.worker_id] = due
            if worker.is_busy:
                self._hurry(due, now)
            is_due = due.due_s <= now
            if is_due or (worker.is_watched and due.look_s <= now):
                looks.append(self._look(worker, due, now, is_due=is_due))
            if worker.is_watched and due.look_s <= now:
                due.look_s = now + due.watch_s
        self._next_s = self._earliest(workers, now)
        return looks

    def taken(self, seen: Seen, now: float) -> None:
        """Take note of what a look found."""
        worker, sample = seen.look.worker, seen.sample
        due = self._known[worker.worker_id]
        if seen.most_bytes is not None:
            self._look_again(worker, due, seen.most_bytes, seen.most_bytes - seen.around_bytes, now)
        if sample is None and not seen.look.is_due:
            return
        is_same = sample is None or not _differ(due.last, sample.memory)
        due.interval_s = self._period_s if worker.is_busy or not is_same else due.interval_s * 2
        due.interval_s = min(due.interval_s, self._max_period_s)
        due.sampled_s = now
        if sample is not None:
            if sample.is_walked:
                due.walked_s, due.cpu_s = now, seen.cpu_s
            due.last, due.least_bytes = sample.memory, seen.most_bytes
        due.due_s = now + due.interval_s
        if due.walked_s is not None:  # no later than its figures are too old
            due.due_s = max(now + self._period_s, min(due.due_s, due.walked_s + self._max_period_s))

    def next_s(self) -> float | None:
        """Return when to call `looks` again at the latest; None if there are no workers."""
        return self._next_s

    def _first_due(self, worker: Watched, now: float) -> _Due:
        # What a forked one has at first is its template's, and to look is half of what its load costs the host.
        look_s = now + self._watch_period_s if worker.sharers else now
        return _Due(now + self._period_s, look_s, self._watch_period_s, self._period_s, now)

    def _hurry(self, due: _Due, now: float) -> None:
        """Have a worker that is in use looked at as often as any other that is."""
        if due.interval_s > self._period_s:
            due.interval_s = self._period_s
            due.due_s = min(due.due_s, due.sampled_s + self._period_s)
        if due.watch_s > self._watch_period_s:
            due.watch_s = self._watch_period_s
            due.look_s = now

    def _look_again(self, worker: Watched, due: _Due, most_bytes: int, own_bytes: int, now: float) -> None:
        before, due.looked = due.looked, (now, most_bytes, own_bytes)
        due.least_bytes = min(most_bytes, due.least_bytes or most_bytes)
        is_same = before is not None and abs(own_bytes - before[2]) < SIGNIFICANT_BYTES
        is_idle = is_same and not worker.is_busy and not worker.is_loading
        due.watch_s = min(2 * due.watch_s, IDLE_WATCH * self._watch_period_s) if is_idle else self._watch_period_s
        due.look_s = now + due.watch_s
        if worker.limit_bytes is None or due.last is None or before is None or now <= before[0]:
            return
        rate = (most_bytes - before[1]) / (now - before[0])
        grown_bytes = most_bytes - _least(due.last, due.least_bytes)
        left_bytes = worker.limit_bytes - due.last.charge_bytes - grown_bytes
        if rate > 0 and left_bytes > 0:
            due.look_s = min(due.look_s, now + max(LEAST_WATCH_S, left_bytes / rate / 2))
            self._next_s = due.look_s if self._next_s is None else min(self._next_s, due.look_s)

    def _look(self, worker: Watched, due: _Due, now: float, *, is_due: bool) -> Look:
        believed = None
        # Shared pages may become private ones with no change of resident memory, by a write after a fork: those of a
        # template do in a worker that is used.
        is_unsharing = worker.sharers > 0 and worker.is_busy
        if (
            not is_unsharing
            and due.last is not None
            and due.walked_s is not None
            and now - due.walked_s < self._max_period_s
        ):
            is_undisturbed = due.walked_s > self._changes.last_of_others_s(worker.worker_id)
            may_reckon = is_undisturbed and due.last.anon_bytes is not None
            believed = due.last if may_reckon else due.last._replace(anon_bytes=None) if is_due else None
        may_walk = due.walked_s is None or now - due.walked_s >= due.cpu_s / GROWTH_SHARE
        return Look(worker, is_due, due.last, believed, may_walk, due.least_bytes)

    def _earliest(self, workers: Sequence[Watched], now: float) -> float | None:
        if not self._known:
            return None
        # In a period from now at the latest, to see which have been called meanwhile; sooner if that would be too late.
        earliest = now + self._period_s
        for worker in workers:
            due = self._known[worker.worker_id]
            earliest = min(earliest, due.due_s if due.due_s > now else earliest)
            if worker.is_watched:
                earliest = min(earliest, due.look_s, now + self._watch_period_s)
        return earliest


def _least(last: Memory, least_bytes: int | None) -> int:
    return last.rss_bytes if least_bytes is None else min(last.rss_bytes, least_bytes)


def _differ(before: Memory | None, after: Memory) -> bool:
    if before is None:
        return True
    return (
        before.processes != after.processes
        or before.gpu_bytes != after.gpu_bytes
        or abs(before.rss_bytes - after.rss_bytes) >= SIGNIFICANT_BYTES
        or abs(before.charge_bytes - after.charge_bytes) >= SIGNIFICANT_BYTES
    )
