"""Where the processes that share a host come in, and which of them are there.

Rules
1. Each process that uses it has a seat: a connection to the reaper and the pidfd of the process that made it. The seat
   ends with that process, whatever its children inherited, or when it says "leave" or hangs up.
2. The starter's seat is a socket pair that is there before the reaper is, so a host is never without one.
3. When the last seat is lost the door closes in the same step, after everybody in its queue was let in. A process that
   was told nothing was not let in, and tries again.
4. If the last one leaves in words the supervisor is asked to end (SIGTERM), and its process is told when nothing is
   left; if it dies, now or meanwhile, or asks for it, the supervisor is killed.
5. The lock of the runtime directory is held from before the reaper starts until the directory is removed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys

from .names import DOOR, LOCK


class Seats:
    """The seats, as the rules have it: only bookkeeping. Methods return a signal for the supervisor, or 0."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.last: int | None = None  # the seat that was left last, and waits for the end

    def leave(self, seat: int) -> int:
        """Note that a member leaves in words."""
        self.taken.discard(seat)
        if self.taken:
            return 0
        self.last = seat
        return signal.SIGTERM

    def lose(self, seat: int) -> int:
        """Note that a member is gone without a word, or does not want to wait for the end any longer."""
        self.taken.discard(seat)
        return 0 if self.taken else signal.SIGKILL


class Door:
    """Where the processes that share the host come in: a socket beside those of the host, and their connections."""

    def __init__(self, first_seat_fd: int, lock_fd: int, directory: str) -> None:
        self._lock_fd = lock_fd
        self._path = os.path.join(directory, DOOR)  # noqa: PTH118 - pathlib would double the start time
        self._seats = Seats()
        self._connections: dict[int, socket.socket] = {}
        self._pidfds: dict[int, int] = {}
        self._said = b""
        self._ready_read, self._ready_write = os.pipe2(os.O_CLOEXEC)
        self.environment = {"HOSTD_SUPERVISOR_READY_FD": str(self._ready_write)}
        self._first = socket.socket(fileno=first_seat_fd)
        self._first.set_inheritable(False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # noqa: PTH108 - as above; the holder of the lock may, because it is stale
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(self._path)
        self._listener.listen(128)

    def leave_to_keeper(self) -> None:
        """Close, in the supervisor's process, all but its end of the pipe; what is closed twice may be another's."""
        self._first.close()
        self._listener.close()
        os.close(self._ready_read)

    def open(self, poller: select.poll) -> None:
        """Let members in, when the supervisor is there; what happens to them wakes the poller."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Each process takes two. Here, because the supervisor must not inherit that.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        os.close(self._ready_write)
        self._poller = poller
        self._sit(self._first)
        for fd in (self._listener.fileno(), self._ready_read):
            poller.register(fd, select.POLLIN)

    def attend(self, ready: set[int]) -> int:
        """Take note of what has happened; return a signal for the supervisor, or 0."""
        # First, because what is closed below gives its number to the next that comes in, and `ready` means another.
        self._let_in()
        number = 0
        for seat in [*self._connections]:
            if seat in ready or self._pidfds.get(seat) in ready:
                number = self._hear(seat, is_dead=self._pidfds.get(seat) in ready) or number
        if self._ready_read in ready:
            self._hear_of_the_start()
        if not self._seats.taken:
            self.close()
        return number

    def close(self) -> None:
        """Let nothing in any more; what is in the queue finds it closed."""
        if self._listener.fileno() >= 0:
            self._poller.unregister(self._listener.fileno())
            self._listener.close()
            with contextlib.suppress(FileNotFoundError):
                if self.is_locked(os.path.dirname(self._path)):  # noqa: PTH120 - as above; else it is another host's
                    os.unlink(self._path)  # noqa: PTH108 - as above

    def is_locked(self, directory: str) -> bool:
        """Say whether this host still has the directory's lock: somebody may have removed that, and started another."""
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(os.path.join(directory, LOCK))  # noqa: PTH116, PTH118 - as above
            return os.path.samestat(there, os.fstat(self._lock_fd))
        return False

    def say_farewell(self) -> None:
        """Tell the seat that waits for it that nothing is left; to the others the closed connection says so."""
        if self._ready_read >= 0:
            self._hear_of_the_start()  # the error of a start that failed, perhaps
        if (last := self._seats.last) is not None:
            self._tell(last, b"ended")

    def _let_in(self) -> None:
        with contextlib.suppress(OSError):  # there are no more, or the door is closed
            while True:
                self._sit(self._listener.accept()[0])

    def _sit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        seat = connection.fileno()
        self._connections[seat] = connection
        self._seats.taken.add(seat)
        self._poller.register(seat, select.POLLIN)
        # struct ucred: pid, uid, gid (unix(7))
        pid = int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
        with contextlib.suppress(OSError):  # gone already; then the connection tells
            self._pidfds[seat] = os.pidfd_open(pid)
            self._poller.register(self._pidfds[seat], select.POLLIN)
        if self._said:
            self._tell(seat, self._said)

    def _hear(self, seat: int, *, is_dead: bool) -> int:
        words = b""
        with contextlib.suppress(OSError):  # it was reset
            words = b"" if is_dead else self._connections[seat].recv(64)
        if words == b"leave" and seat in self._seats.taken:
            if number := self._seats.leave(seat):
                return number
            self._tell(seat, b"stays")
            self._forget(seat)
            return 0
        if not words:
            self._forget(seat)
        return self._seats.lose(seat)

    def _forget(self, seat: int) -> None:
        for fd in (seat, self._pidfds.get(seat)):
            if fd is not None:
                self._poller.unregister(fd)
        self._connections.pop(seat).close()
        if seat in self._pidfds:
            os.close(self._pidfds.pop(seat))

    def _tell(self, seat: int, words: bytes) -> None:
        with contextlib.suppress(KeyError, OSError):  # it is gone, or does not listen
            self._connections[seat].send(words)

    def _hear_of_the_start(self) -> None:
        """Pass on what the supervisor says of its start: one line, in one write."""
        self._said = os.read(self._ready_read, 1 << 20)
        self._poller.unregister(self._ready_read)
        os.close(self._ready_read)
        self._ready_read = -1
        for seat in self._connections if self._said else ():
            self._tell(seat, self._said)
