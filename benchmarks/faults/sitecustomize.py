"""Makes a chosen system call of a supervisor on its models directory its last one, or one that fails.

An interpreter imports this by itself if this folder is on its PYTHONPATH; it acts in supervisors only. The variable
HOSTD_FAULT_PLAN names a file, and while that is there the calls of `hostd.shell.linux.syscalls` are counted from 1. Its
text is `NUMBER FAULT`:

    KILL    SIGKILL of the supervisor before the call
    HALF    the same, half way through what the call writes
    ENOSPC, EIO, ...  the call fails so, once

Each counted call is noted in the file `<plan>.calls` before it is made: its name, and what it writes or its first name.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

PLAN_VARIABLE = "HOSTD_FAULT_PLAN"
MARK_BYTES = 24


def install(plan: str) -> None:
    """Wrap all system calls of the supervisor's files."""
    from hostd.shell.linux.syscalls import SystemCalls  # noqa: PLC0415 - every interpreter of a user imports this module

    faults = Faults(plan)
    for name, call in vars(SystemCalls).copy().items():
        if not name.startswith("_"):
            setattr(SystemCalls, name, faults.wrapped(name, call))


class Faults:
    """Counts calls while the plan is there, and carries it out."""

    def __init__(self, plan: str) -> None:
        self._plan = Path(plan)
        self._calls = f"{plan}.calls"
        self._text = ""
        self._count = 0
        self._lock = threading.Lock()

    def wrapped(self, name: str, call: Any) -> Any:
        """Return a method that counts before it does what `call` does."""

        def counted(calls: Any, *arguments: Any, **options: Any) -> Any:
            self._before(name, arguments)
            return call(calls, *arguments, **options)

        return counted

    def _before(self, name: str, arguments: tuple[Any, ...]) -> None:
        with self._lock:
            try:
                text = self._plan.read_text()
            except FileNotFoundError:
                self._text = ""
                return
            if text != self._text:
                self._text, self._count = text, 0
            self._count += 1
            self._note(name, arguments)
            number, fault = text.split()
            if self._count == int(number):
                _carry_out(fault, name, arguments)

    def _note(self, name: str, arguments: tuple[Any, ...]) -> None:
        told = next((a for a in arguments if isinstance(a, (str, bytes))), "")
        line = f"{name} {told[:MARK_BYTES]!r}\n".encode()
        fd = os.open(self._calls, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)


def _carry_out(fault: str, name: str, arguments: tuple[Any, ...]) -> None:
    if fault not in {"KILL", "HALF"}:
        code = getattr(errno, fault)
        raise OSError(code, os.strerror(code))
    if fault == "HALF" and name == "pwrite":
        fd, data, offset = arguments
        os.pwrite(fd, data[: len(data) // 2], offset)
    os.kill(os.getpid(), signal.SIGKILL)


if PLAN_VARIABLE in os.environ and "hostd.shell.main" in " ".join(sys.orig_argv):
    install(os.environ[PLAN_VARIABLE])
