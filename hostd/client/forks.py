"""Telling channels that they are in a child of the process that made them.

A ZeroMQ socket does not survive a fork, and a lock that another thread held stays locked in the child. Asking for the
process id in every call would cost more than the call's own lock.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Orphan(Protocol):
    """What can be told."""

    is_orphaned: bool


_WATCHED: weakref.WeakSet[Orphan] = weakref.WeakSet()


def watch(channel: Orphan) -> None:
    """Set `is_orphaned` in a forked child's copy."""
    _WATCHED.add(channel)


def _orphan_all() -> None:
    for channel in _WATCHED:
        channel.is_orphaned = True


os.register_at_fork(after_in_child=_orphan_all)
