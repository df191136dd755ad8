"""How many bytes all models together may take: what the configuration says, of what there is.

What there is, is the machine's memory or the least limit of the control groups that the host is in, whichever is less.
Does not cover what is done when it is used up (`hostd.core.memory.admission`).
"""

from __future__ import annotations

from pathlib import Path

from hostd.config.values import AUTO, NONE, share_of
from hostd.shell.linux.groups import SELF, groups_of
from hostd.units import format_size
from hostd_workers.wire.errors import FailedPreconditionError
from hostd_workers.wire.light import NamedTuple

_MEMINFO = Path("/proc/meminfo")
"""Its lines are `MemTotal:       16384000 kB` (proc(5)); in a container some systems have one for that."""


class Whole(NamedTuple):
    """The memory that there is, and in words what says so."""

    size_bytes: int
    source: str


def budget_of(
    budget: int | str, reserve: int | str, *, process: Path = SELF, total_bytes: int | None = None
) -> tuple[int | None, str]:
    """Return the budget in bytes, None for no budget, and in words where it comes from.

    `process` is the host's directory in /proc, `total_bytes` the machine's memory if not what the system says. Raises
    FailedPreconditionError if nothing is left of an automatic budget.
    """
    if budget == NONE:
        return None, "none is set (memory.budget)"
    if isinstance(budget, int):
        return budget, "set (memory.budget)"
    whole = whole_memory(process, total_bytes)
    if budget != AUTO:
        return share_of(budget, whole.size_bytes), f"{budget} of {whole.source}"
    reserve_bytes = share_of(reserve, whole.size_bytes)
    if reserve_bytes >= whole.size_bytes:
        raise FailedPreconditionError(
            f"memory.reserve ({format_size(reserve_bytes)}) leaves nothing of {whole.source} for models: "
            "lower it, or set memory.budget"
        )
    kept = reserve if isinstance(reserve, str) else format_size(reserve)
    return whole.size_bytes - reserve_bytes, f"{whole.source} less {kept} (memory.reserve)"


def whole_memory(process: Path = SELF, total_bytes: int | None = None) -> Whole:
    """Return the least of the machine's memory and the limits of all groups that a process is in."""
    total_bytes = _machine_bytes() if total_bytes is None else total_bytes
    least = Whole(total_bytes, f"the machine's memory ({format_size(total_bytes)})")
    for group in groups_of("memory", process):
        name = "memory.max" if group.version == 2 else "memory.limit_in_bytes"
        for directory in group.lineage:
            text = (group.read(name, directory) or "").strip()
            # "max" is no limit, and neither is the 2^63 less a page that v1 has instead.
            if text.isdigit() and 0 < int(text) < least.size_bytes:
                least = Whole(int(text), f"the limit of the control group {directory} ({format_size(int(text))})")
    return least


def _machine_bytes() -> int:
    lines = _MEMINFO.read_bytes().split(b"\n")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"MemTotal:"))
