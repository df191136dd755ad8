"""The parent of the supervisor: it collects whatever a supervisor that was killed leaves behind.

Run with `-S`, so that it is up in milliseconds and stays small: little but the standard library's core. The supervisor
is its fork, which goes on where `run` returns: an interpreter of its own would start for 20 ms more. The argument is
"served", shared:SEAT_FD:LOCK_FD:DIRECTORY for a host that several processes share, or embedded:PID:TOLD_FD:ORDER_FD for
that of the process PID. That one finds out meanwhile what it wants: it writes DIRECTORY, a NUL and the configuration to
the memfd ORDER_FD, and then counts the eventfd TOLD_FD up. DIRECTORY is the runtime directory, removed in the end.

Why it exists: a worker dies with its supervisor (PR_SET_PDEATHSIG), but a process that a model started does not. The
reaper is a subreaper, so such orphans become its children when the supervisor dies, and it kills them, with the control
group that the supervisor has named (`end_all`). It also watches the process that embeds the host, by pidfd, because
PR_SET_PDEATHSIG would fire when the embedding *thread* ends. And it puts right what it and the supervisor inherit: the
starter may have blocked or ignored any signal, and closed its standard descriptors. What says how to treat the host
stays: a hang-up or an interrupt that is ignored (nohup(1), the shell's `&`), umask, niceness, limits.

Rules of a shared host
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
import ctypes
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AT_ONCE = signal.SIGQUIT
GROUPS_FD_VARIABLE = "HOSTD_REAPER_GROUPS_FD"
CONFIG_VARIABLE = "HOSTD_SUPERVISOR_CONFIG"
MAY_BE_IGNORED, ASK_TO_END = (signal.SIGINT, signal.SIGHUP), (signal.SIGTERM, signal.SIGINT)
IGNORED_BY_PYTHON = signal.SIGPIPE, signal.SIGXFSZ
SHARED, EMBEDDED = "shared", "embedded"
NO_PROCESS = (
    b'{"kind": [9, "FailedPreconditionError"], "error": "the system gives it no process: REASON. Raise the limits on '
    b'processes and threads (ulimit -u, TasksMax=, --pids-limit)"}'
)
"""What a supervisor would say (`hostd.shell.main`), where there is none."""
DOOR, LOCK = "members.ipc", "hostd.lock"
AT_LAST_S = 10.0
"""What a supervisor may take that was asked twice, before it is killed; it kills 100 GiB of workers meanwhile."""
REFUSED_S = 2.0
"""How long to try to kill what may not be killed, a program of another user: it may be about to end by itself."""
_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.05
"""How long to wait for the end of what was killed; twice as long each time that nothing has ended meanwhile."""


def keep(remove_dir: str, embedder_fd: int = -1, door: Door | None = None) -> int | None:
    """Fork the supervisor, in which this returns None, and clean up after it; return its status as a shell would.

    `embedder_fd` is the pidfd of a process with which it ends, -1 for none.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ignored = heed_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())  # each waits for the one that it is for
    groups_fd = os.memfd_create("groups", 0)  # the supervisor writes the path of its workers' control group
    keeper = os.getpid()
    supervisor = os.fork()
    # Their command lines are the same, and `top` shows this.
    libc.prctl(PR_SET_NAME, b"hostd:reaper" if supervisor else b"hostd", 0, 0, 0)
    if not supervisor:
        if embedder_fd >= 0:
            os.close(embedder_fd)
        become_supervisor(keeper, groups_fd, door)
        return None
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    for number in {*FORWARDED, AT_ONCE} - ignored:
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    supervisor_fd = os.pidfd_open(supervisor)
    poller = select.poll()
    for fd in (supervisor_fd, wake_read, *([embedder_fd] if embedder_fd >= 0 else [])):
        poller.register(fd, select.POLLIN)
    if door is not None:
        door.open(poller)
    watch(poller, supervisor_fd, wake_read, door)
    _, status = os.waitpid(supervisor, 0)
    tell_of(end_all(os.fsdecode(os.pread(groups_fd, 4096, 0))))  # PATH_MAX
    if door is not None:
        door.close()
    if remove_dir and (door is None or door.is_locked(remove_dir)):
        remove(remove_dir)
    if door is not None:
        door.say_farewell()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def heed_signals() -> set[signal.Signals]:
    """Let this process begin as one does whose starter ignored no signal; return those that it may ignore, and does."""
    ignored = {number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN}
    # SIGCHLD among them: ignored, it would leave no child to wait for (waitpid(2)).
    for number in ignored - {*MAY_BE_IGNORED, *IGNORED_BY_PYTHON}:
        signal.signal(number, signal.SIG_DFL)
    return ignored & {*MAY_BE_IGNORED}


def become_supervisor(keeper: int, groups_fd: int, door: Door | None) -> None:
    """Be what a program is that the keeper has executed, with a group of its own: a terminal's Ctrl-C comes once."""
    os.setpgid(0, 0)
    os.environ |= {"HOSTD_REAPER_PID": str(keeper), GROUPS_FD_VARIABLE: str(groups_fd)}
    if door is not None:
        os.environ |= door.environment
        door.leave_to_keeper()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def tell_of(left: list[int]) -> None:
    """Say what could not be ended: nobody else will."""
    for pid in left:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", "rb") as file:  # noqa: PTH123 - as above
            name = file.read().strip().decode("utf-8", "backslashreplace")
            words = f"hostd: process {pid} ({name}), which a model started, runs as another user and goes on"
            os.write(2, f"{words}: this host may not end it. End it with: sudo kill -9 {pid}\n".encode())


def open_standard_descriptors() -> None:
    """Have 0, 1 and 2 lead to nowhere if they are closed, or the next file or socket would be one of them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(fd, "w" if fd else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
            setattr(sys, name, stream)


def watch(poller: select.poll, supervisor_fd: int, wake_fd: int, door: Door | None) -> None:
    """Pass on what the supervisor is to hear of, until it has ended; kill it if it does not end when asked again."""
    asked, at_last_s = 0, None
    while supervisor_fd not in (ready := {fd for fd, _ in poller.poll(_left_ms(at_last_s))}):
        numbers = [*os.read(wake_fd, 64)] if wake_fd in ready else []
        if door is not None:
            numbers.append(door.attend(ready))
        elif ready and not numbers:  # the embedding process is gone, and nothing else would be told
            numbers.append(signal.SIGKILL)
        if at_last_s is not None and not _left_ms(at_last_s):
            numbers.append(signal.SIGKILL)
        for number in numbers:
            if number in (*FORWARDED, AT_ONCE, signal.SIGKILL):
                signal.pidfd_send_signal(supervisor_fd, signal.SIGKILL if number == AT_ONCE else number)
            asked += number in ASK_TO_END
        if asked > 1 and at_last_s is None:  # it may be stopped, and not even have heard of the first
            signal.pidfd_send_signal(supervisor_fd, signal.SIGCONT)
            at_last_s = time.monotonic() + AT_LAST_S


def _left_ms(at_last_s: float | None) -> float | None:
    return None if at_last_s is None else max(0.0, at_last_s - time.monotonic()) * 1000


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
        import socket  # noqa: PLC0415 - most reapers have no door, and are the smaller for it

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
        import resource  # noqa: PLC0415 - as above

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
        import socket  # noqa: PLC0415 - as above

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


def end_all(groups: str) -> list[int]:
    """Kill what is in the control group of all workers ("" for none) and all children; return as `kill_children`."""
    with contextlib.suppress(OSError):  # there is none, or the kernel is too old
        os.write(os.open(f"{groups}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC), b"1")  # this process ends soon
    left = kill_children()
    for path, _, _ in os.walk(groups, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)  # noqa: PTH106 - as above
    return left


def kill_children() -> list[int]:
    """Kill and reap every child, and what becomes one because its parent was killed, until there is none.

    Return those that this process may not kill: programs of other users.
    """
    awaited, waited_s, pause_s = 0, 0.0, _FIRST_LOOK_S
    with contextlib.suppress(ChildProcessError):  # there is none left
        while True:
            ended = 0
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
                ended += 1
            if ended:
                awaited, waited_s, pause_s = awaited - ended, 0.0, _FIRST_LOOK_S
            if not ended or awaited <= 0:  # not after each end: a look costs as much as there are children
                children = children_of(os.getpid())
                refused = _kill_all(children)
                awaited = len(children) - len(refused)
                if children and not awaited and waited_s > REFUSED_S:
                    return refused
            if not ended or awaited > 1:
                time.sleep(pause_s)
                waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, _LAST_LOOK_S)
    return []


def _kill_all(children: list[int]) -> list[int]:
    """Kill children of this process, which keep their numbers until they are reaped; return those that it may not kill.

    A signal to a group reaches all of it, also what is being forked just then: so families that flee by forking end.
    """
    refused, groups, session = [], {os.getpgrp()}, os.getsid(0)
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:
            refused.append(pid)
        except ProcessLookupError:
            continue
        with contextlib.suppress(PermissionError, ProcessLookupError):
            group = os.getpgid(pid)
            # Those of this session may be in a group with the program that started us.
            if group not in groups and os.getsid(pid) != session:
                os.killpg(group, signal.SIGKILL)
                groups.add(group)
    return refused


def children_of(parent: int) -> list[int]:
    """Return the children of a process; some may be missing if it is not this one, or while others end."""
    children: list[int] = []
    # Not every kernel has it (CONFIG_PROC_CHILDREN), and a look at the process table takes milliseconds.
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{parent}/task"):  # noqa: PTH208 - pathlib would double the start time
            with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:  # noqa: PTH123 - as above
                children.extend(map(int, file.read().split()))
    return children or _children_by_table(parent)


def _children_by_table(parent: int) -> list[int]:
    """Return the children of a process, from the process table (proc(5))."""
    children = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - as above
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
            # The command's name may hold anything, but the last parenthesis is its end.
            if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                children.append(int(name))
    return children


def remove(directory: str) -> None:
    """Remove a private runtime directory and the sockets and files in it."""
    with contextlib.suppress(FileNotFoundError):
        for root, directories, names in os.walk(directory, topdown=False):
            # The lock last: from then on the place may be another host's.
            names.sort(key=LOCK.__eq__)
            for path in (os.path.join(root, name) for name in (*directories, *names)):  # noqa: PTH118 - as above
                is_directory = os.path.isdir(path) and not os.path.islink(path)  # noqa: PTH112, PTH114 - as above
                (os.rmdir if is_directory else os.unlink)(path)
        with contextlib.suppress(OSError):  # it is another host's already
            os.rmdir(directory)  # noqa: PTH106 - as above


def hear(embedder_fd: int, told_fd: int, order_fd: int) -> list[str]:
    """Return what the embedding process wants, as soon as it has said so; nothing if it ends before."""
    poller = select.poll()
    for fd in (embedder_fd, told_fd):
        poller.register(fd, select.POLLIN)
    if told_fd not in [fd for fd, _ in poller.poll()]:
        return []
    order = os.pread(order_fd, os.fstat(order_fd).st_size, 0)
    os.close(told_fd)
    os.close(order_fd)
    return os.fsdecode(order).split("\0")


def keep_embedded(pid: int, told_fd: int, order_fd: int) -> int | None:
    """Keep the host of an embedding process; see `keep`."""
    try:
        embedder_fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return 1
    if os.getppid() != pid or not (said := hear(embedder_fd, told_fd, order_fd)):
        return 1
    directory, os.environ[CONFIG_VARIABLE] = said
    return keep(directory, embedder_fd)


def keep_shared(seat_fd: int, lock_fd: int, directory: str) -> int | None:
    """Keep a host that several processes share; see `keep`."""
    try:
        if os.fork():  # the starter may end before the others do: it must not have a child to reap
            return 0
    except OSError as error:
        os.write(seat_fd, NO_PROCESS.replace(b"REASON", os.fsencode(os.strerror(error.errno or 0))))
        return 1
    return keep(directory, door=Door(seat_fd, lock_fd, directory))


def main(whose: str) -> int | None:
    """Keep the host of one embedding process, or of those that share it, or of none; see `keep`."""
    kind, _, about = whose.partition(":")
    if kind == SHARED:
        seat_fd, lock_fd, directory = about.split(":", 2)
        return keep_shared(int(seat_fd), int(lock_fd), directory)
    return keep_embedded(*map(int, about.split(":"))) if kind == EMBEDDED else keep("")


def run() -> None:
    """Be the reaper that the command line describes (`hostd.hosts.launch`); return in its supervisor only."""
    open_standard_descriptors()
    status = main(*sys.argv[1:])
    if status is not None:
        sys.exit(status)
    del sys.argv[1:]
