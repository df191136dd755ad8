"""The cumulative counts of a model: what became of all its calls, and how long they waited and were computed.

They are of an id, and not of a load, until it is unloaded: whoever counts by differences (Prometheus, Triton's
clients) would take a reload or an eviction for a fault. Calls by the host are counted here, calls by lanes in their
worker's page; how long a worker let a call wait and computed it is in its page for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostd_workers.wire.lane.figures import Figures

_MOST: Final = (1 << 63) - 1
"""What a record can say of a sum, whatever a worker has written into its page."""


class Counts(NamedTuple):
    """The counts of one moment, as the record of a model has them."""

    calls: int = 0
    errors: int = 0
    cancelled: int = 0
    succeeded: int = 0
    success_ns: int = 0
    fail_ns: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_ns: int = 0


class Totals:
    """The counts so far, without those of lanes whose workers live; all generations of an id share one."""

    __slots__ = Counts._fields

    def __init__(self) -> None:
        self.calls = self.errors = self.cancelled = self.succeeded = 0
        self.success_ns = self.fail_ns = self.executions = self.queue_ns = self.compute_ns = 0

    def ended(self, duration_s: float, *, failed: bool) -> None:
        """Count a call by the host that its worker has ended, or that nobody can answer any more."""
        if failed:
            self.errors += 1
            self.fail_ns += int(duration_s * 1e9)
        else:
            self.succeeded += 1
            self.success_ns += int(duration_s * 1e9)

    def settle(self, figures: Figures) -> None:
        """Take over what a worker has counted that has ended; what it had in hand has failed."""
        for name, count in zip(self.__slots__, _counts_of(figures), strict=True):
            setattr(self, name, getattr(self, name) + count)
        self.errors += figures.in_flight

    def now(self, lanes: Iterable[Figures]) -> Counts:
        """Return the counts with those of the workers that live."""
        rows = [[getattr(self, name) for name in self.__slots__], *map(_counts_of, lanes)]
        return Counts(*[min(sum(column), _MOST) for column in zip(*rows, strict=True)])


def _counts_of(figures: Figures) -> Counts:
    return Counts(
        figures.begun,
        figures.failed,
        figures.cancelled,
        figures.succeeded,
        figures.success_ns,
        figures.fail_ns,
        figures.executions,
        figures.queue_ns,
        figures.compute_ns,
    )
