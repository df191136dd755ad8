"""Trees of processes that are stopped for a while, and go on as if nothing had been.

A process is stopped before its children are looked for, because what is stopped forks and reaps nothing: so no child
escapes, and no number that was read is somebody else's by the time at which it is used. What was stopped already, by
the model itself perhaps, is left so, and stays stopped when the others go on. SIGSTOP cannot be caught, blocked or
ignored, and SIGKILL ends a stopped process as any other (signal(7)).
"""

from __future__ import annotations

import contextlib
import os
import signal

from hostd.shell.linux.proc import children_of, descendants_of, read_file
from hostd.shell.work.closing import Closing

_STOPPED = (b"T", b"t")


class StoppedTree(Closing):
    """A process and its descendants, stopped; leave the context, or call `close`, to forget them as they are then."""

    def __init__(self, pid: int) -> None:
        """Take a child of this process. Nothing is stopped yet."""
        self._pid = pid
        self._seen: set[int] = set()
        self._opened: list[int] = []

    def __repr__(self) -> str:
        return f"<StoppedTree of {self._pid}: {len(self._opened)} of {len(self._seen)}>"

    def stop(self) -> None:
        """Stop all of them. Raises OSError if one cannot be stopped, such as that of another user; the rest is then."""
        refused: OSError | None = None
        pending = [self._pid]
        while pending:
            pid = pending.pop()
            self._seen.add(pid)
            try:
                self._stop(pid)
            except PermissionError as error:
                refused = PermissionError(error.errno, f"process {pid} of its tree cannot be stopped: {error.strerror}")
            pending += [child for child in children_of(pid) if child not in self._seen]
            if not pending:  # once more: SIGSTOP takes a moment, in which there may have been a fork
                pending = [left for left in descendants_of(self._pid) if left not in self._seen]
        if refused is not None:
            raise refused

    def go_on(self) -> None:
        """Let all that were stopped here go on, children first, and forget them."""
        for pidfd in reversed(self._opened):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        self.close()

    def close(self) -> None:
        """Forget them; those that are stopped stay so."""
        while self._opened:
            os.close(self._opened.pop())

    def _stop(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if not _is_stopped(pid):
                self._opened.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(self._opened[-1], signal.SIGSTOP)


def _is_stopped(pid: int) -> bool:
    # The name in parentheses may hold anything, parentheses included (proc(5)).
    return (read_file(pid, "stat") or b"").rpartition(b")")[2].split()[:1] in ([letter] for letter in _STOPPED)
