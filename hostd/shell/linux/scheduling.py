"""How the kernel schedules the host's own threads.

A thread that walks page tables computes for milliseconds inside the kernel. With the usual time slice a task that wakes
on its core meanwhile (the loop, a worker) may wait for the next tick: up to 4 ms with 250 ticks a second. A task with a
longer slice than theirs has the same share of the core, and yields when one of them wakes (sched_setattr(2),
PREEMPT_SHORT of Linux 6.12 and later; older kernels take no notice).
"""

from __future__ import annotations

import ctypes
import os
import struct

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
"""The number of the system call; the C library has no function for it before glibc 2.41."""

_LONGEST_SLICE_NS = 100_000_000
"""The most that the kernel accepts."""

_SCHED_OTHER = 0


def give_way() -> bool:
    """Have a task that wakes run at once in place of the calling thread; say whether the system was able to."""
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is None:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)  # of this thread, which keeps it
    # struct sched_attr: size, policy, flags, nice, priority, runtime (of SCHED_OTHER: the slice), deadline, period.
    attributes = struct.pack("=IIQiIQQQ", 48, _SCHED_OTHER, 0, nice, 0, _LONGEST_SLICE_NS, 0, 0)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return bool(ctypes.CDLL(None, use_errno=True).syscall(number, 0, buffer, 0) == 0)
