"""The stacks of all threads of this process, to be read from outside.

A signal makes faulthandler write them into a file in memory, which the supervisor reads. Its handler is written in C
and needs no lock of the interpreter, so it works while the model hangs in a library. It runs nothing of the model, and
system calls that it interrupts are restarted (SA_RESTART). What a model does with descriptors and signals is its own
business: the supervisor looks whether both are still ours before it sends anything.
"""

from __future__ import annotations

import faulthandler
import os
import signal

FILE_NAME = "hostd-stacks"
"""Of the file in memory; `readlink /proc/PID/fd/N` says /memfd:hostd-stacks (deleted)."""

SIGNAL = signal.SIGRTMAX - 2
"""A real-time signal that neither the C library nor a common tool uses; programs choose the first ones."""


def offer() -> tuple[int, int] | None:
    """Have the stacks written on a signal; return descriptor and signal, None where the system has no such file."""
    try:
        memory = os.memfd_create(FILE_NAME, os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        return None
    # Opened again to append: the reader may empty it, and the next stacks begin at its start.
    fd = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.close(memory)
    faulthandler.register(SIGNAL, file=fd, all_threads=True)
    return fd, int(SIGNAL)
