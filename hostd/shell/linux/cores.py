"""How many cores the host and its workers may use together."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from hostd.shell.linux.groups import SELF, groups_of

if TYPE_CHECKING:
    from pathlib import Path

    from hostd.shell.linux.groups import Group


def usable_cores(process: Path = SELF, *, allowed: int | None = None) -> int:
    """Return the least of the cores that this process may run on and those that its control groups have time for.

    A group's quota is rounded up: with time for one and a half cores, two threads waste less than one. `process` is the
    host's directory in /proc, `allowed` what it may run on if not what the system says.
    """
    cores = len(os.sched_getaffinity(0)) if allowed is None else allowed
    for group in groups_of("cpu", process):
        for directory in group.lineage:
            quota = _cores_by_quota(group, directory)
            if quota is not None:
                cores = min(cores, max(1, math.ceil(quota)))
    return cores


def _cores_by_quota(group: Group, directory: Path) -> float | None:
    """Return for how many cores a group has time in each period; None for no limit."""
    if group.version == 2:
        fields = (group.read("cpu.max", directory) or "").split()
    else:
        fields = [(group.read(name, directory) or "").strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    if len(fields) != 2 or not all(field.isascii() and field.isdigit() for field in fields):
        return None  # "max", and the -1 that v1 has instead
    quota_us, period_us = map(int, fields)
    return quota_us / period_us if quota_us and period_us else None
