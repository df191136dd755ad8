"""The stacks of a worker's threads, read from outside while it does whatever it does.

A worker says in its hello which signal makes it write its stacks, and into which descriptor
(`workers/process/stacks.py`). The rest is asked of the kernel, so that a model that hangs in Python or in C answers
too, and that none is disturbed.

Rules
1. Nothing is sent before the kernel has said that the descriptor is still the file of the hello, and the signal still
   caught: a model may have closed the one and reset the other, and the signal would end it.
2. The stacks are whole when something was written and no thread is in the signal's handler any more (proc(5), SigBlk:
   it is blocked while its handler runs). Threads that had blocked it before do not count.
3. What is read is bounded, and the file is emptied.

Does not cover the model's helpers: they are other processes. Blocks; call it in a thread.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from hostd_workers.wire.errors import FailedPreconditionError
from hostd_workers.wire.light import NamedTuple

WITHIN_S = 5.0
"""A dump takes milliseconds; a process that is stopped, or waits for a dead disk, takes the signal when it goes on."""

MAX_BYTES = 256 << 10
"""About 3,000 frames. faulthandler itself stops at 100 frames of a thread."""

_FILE_NAME = "/memfd:hostd-stacks (deleted)"
_POLL_S = 0.005


class StacksOffer(NamedTuple):
    """The descriptor into which a worker writes its stacks, and the signal on which it does."""

    fd: int
    signal: int


def read_stacks(pid: int, pidfd: int, offer: StacksOffer, within_s: float = WITHIN_S) -> str:
    """Return the stacks of a process as text, at most `MAX_BYTES` of it. Raises `FailedPreconditionError`, with why."""
    file = Path(f"/proc/{pid}/fd/{offer.fd}")
    if not signal.SIGRTMIN <= offer.signal <= signal.SIGRTMAX:
        raise _refusal(pid, f"it has named signal {offer.signal}, which is no real-time signal")
    bit = 1 << (offer.signal - 1)
    try:
        if offer.fd not in _open_files(pid) or str(file.readlink()) != _FILE_NAME:
            raise _refusal(pid, "it has closed the file for its stacks")
        if not _mask(Path(f"/proc/{pid}/status"), "SigCgt") & bit:
            raise _refusal(pid, "it does not handle the signal for its stacks any more")
        written = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.ftruncate(written, 0)
            deaf = _blocking(pid, bit)
            signal.pidfd_send_signal(pidfd, offer.signal)
            is_whole = _wait(written, pid, bit, deaf, within_s)
            text = os.pread(written, MAX_BYTES, 0).decode(errors="replace")
            os.ftruncate(written, 0)
        finally:
            os.close(written)
    except (FileNotFoundError, ProcessLookupError):
        raise FailedPreconditionError(f"process {pid} has just ended") from None
    except OSError as error:
        raise _refusal(pid, f"the system does not permit it: {error.strerror}") from error
    if not text:
        raise _refusal(pid, f"it took no signal within {within_s:g} s: it is {_state(pid)}")
    if len(text) >= MAX_BYTES or not is_whole:
        text += "\n… (cut short)\n"
    return text


def _wait(fd: int, pid: int, bit: int, deaf: set[str], within_s: float) -> bool:
    """Wait until the handler of the signal has begun to write and has ended; say whether that was in time."""
    deadline_s = time.monotonic() + within_s
    while not os.fstat(fd).st_size or _blocking(pid, bit) - deaf:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def _blocking(pid: int, bit: int) -> set[str]:
    """Return the threads that block the signal."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end at any time
            if _mask(thread / "status", "SigBlk") & bit:
                found.add(thread.name)
    return found


def _open_files(pid: int) -> set[int]:
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def _mask(status: Path, name: str) -> int:
    return int(_field(status, name) or "0", 16)


def _field(status: Path, name: str) -> str:
    for line in status.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def _state(pid: int) -> str:
    with suppress(OSError):
        return _field(Path(f"/proc/{pid}/status"), "State") or "gone"
    return "gone"


def _refusal(pid: int, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the stacks of process {pid} cannot be read: {why}. From outside, py-spy dump --pid {pid} may show them"
    )
