"""What faulthandler wrote when a worker crashed: the first lines of the stack, out of all that the worker printed.

Covers keeping the stack while output goes by, and shortening it. Where the whole of it is: in the model's log.
"""

from __future__ import annotations

from pathlib import Path

import hostd_workers
from hostd_workers.wire.light import pattern

CRASHES = ("SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL")
"""The signals on which faulthandler writes the stacks before the process ends by them."""

_BEGIN = b"Fatal Python error: "
_KEPT_BYTES = 16 << 10
"""The threads come in any order; each has up to 100 frames, of which few models have more than 30."""

_LINES = 4
_HEAD = pattern(r"Fatal Python error: (.*)")
_FRAME = pattern(r'File "(?P<file>[^"]*)", line \S+ in \S+')
_CRASHED_THREAD = pattern(r"(Current thread|Stack) .*most recent call first")
_OTHER_THREAD = pattern(r"Thread 0x|Extension modules:|Current thread's C stack")
_OURS = str(Path(hostd_workers.__file__).resolve().parent)


class CrashReport:
    """The beginning of the last report of faulthandler in a worker's output."""

    def __init__(self) -> None:
        self._tail = b""
        self._report = b""

    def add(self, data: bytes) -> None:
        """Take note of output."""
        joined = self._tail + data
        begin = joined.rfind(_BEGIN)
        if begin >= 0:
            self._report = joined[begin : begin + _KEPT_BYTES]
        elif self._report:
            self._report = (self._report + data)[:_KEPT_BYTES]
        self._tail = joined[1 - len(_BEGIN) :]  # the words may come in two pieces, and are not found twice

    def lines(self) -> str:
        """Return what happened, and the innermost calls of the thread in which it did; "" if nothing was reported."""
        return first_lines(self._report.decode(errors="replace"))


def first_lines(report: str) -> str:
    """Return the first lines of a report of faulthandler that say something about the model."""
    head = _HEAD.search(report)
    if head is None:
        return ""
    frames: list[str] = []
    is_crashed_thread = False
    for line in report[head.end() :].splitlines():
        frame = _FRAME.search(line)
        if _CRASHED_THREAD.search(line):
            is_crashed_thread = True
        elif frame is None:
            is_crashed_thread = is_crashed_thread and not _OTHER_THREAD.search(line)
        elif is_crashed_thread:
            if frame["file"].startswith(_OURS):
                break
            frames.append(f"  {frame[0]}")
    return "\n".join([head[0].strip(), *frames[:_LINES]])
