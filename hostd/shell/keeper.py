"""The parent of the supervisor: it collects whatever a supervisor that was killed leaves behind.

Run by path with `-S -I`, so that it is up in milliseconds and stays small: nothing but the standard library, and little
of that. Usage: keeper.py EMBEDDER_PID REMOVE_DIR COMMAND...   (0 and "" where there is none)

Why it exists: a worker dies with its supervisor (PR_SET_PDEATHSIG), but a process that a model started does not. The
keeper is a subreaper, so such orphans become its children when the supervisor dies, and it kills them. It also watches
the process that embeds the host, by pidfd, because PR_SET_PDEATHSIG would fire when the embedding *thread* ends.

It is also where what a process inherits is put right, for itself and the supervisor: whoever starts a host may have
blocked or ignored any signal, and closed its standard descriptors. What says how to treat the host stays: a hang-up or
an interrupt that is ignored (nohup(1), the shell's `&`), umask, niceness, limits.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys

PR_SET_CHILD_SUBREAPER = 36
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AT_ONCE = signal.SIGQUIT
MAY_BE_IGNORED = (signal.SIGINT, signal.SIGHUP)


def keep(embedder_pid: int, remove_dir: str, command: list[str]) -> int:
    """Run the supervisor and clean up after it; return its exit status as a shell would."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    ignored = {number for number in MAY_BE_IGNORED if signal.getsignal(number) == signal.SIG_IGN}
    for number in {*FORWARDED, AT_ONCE} - ignored:
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would leave no child to wait for (waitpid(2))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # A group of its own, so that the terminal's Ctrl-C comes once, through here.
    supervisor = os.posix_spawn(
        command[0],
        command,
        {**os.environ, "HOSTD_KEEPER_PID": str(os.getpid())},
        setpgroup=0,
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP} - ignored,
    )
    supervisor_fd = os.pidfd_open(supervisor)
    poller = select.poll()
    poller.register(supervisor_fd, select.POLLIN)
    poller.register(wake_read, select.POLLIN)
    if embedder_pid:
        with contextlib.suppress(ProcessLookupError):
            poller.register(os.pidfd_open(embedder_pid), select.POLLIN)
        if os.getppid() != embedder_pid:
            signal.pidfd_send_signal(supervisor_fd, signal.SIGKILL)
    while True:
        ready = [fd for fd, _ in poller.poll()]
        if supervisor_fd in ready:
            break
        if wake_read in ready:
            for byte in os.read(wake_read, 64):
                if byte in FORWARDED:
                    signal.pidfd_send_signal(supervisor_fd, byte)
                elif byte == AT_ONCE:
                    signal.pidfd_send_signal(supervisor_fd, signal.SIGKILL)
        else:  # the embedding process is gone, and so is whoever would have been told
            signal.pidfd_send_signal(supervisor_fd, signal.SIGKILL)
    _, status = os.waitpid(supervisor, 0)
    kill_children()
    if remove_dir:
        remove(remove_dir)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def open_standard_descriptors() -> None:
    """Have 0, 1 and 2 lead to nowhere if they are closed, or the next file or socket would be one of them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def kill_children() -> None:
    """Kill and reap every child, and what becomes one because its parent was killed, until there is none."""
    with contextlib.suppress(ChildProcessError):  # there is none left
        while True:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            children = children_of(os.getpid())
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # a child that is not reaped keeps its number
            if children:
                os.waitid(os.P_ALL, 0, os.WEXITED)


def children_of(parent: int) -> list[int]:
    """Return the children of a process, from the process table (proc(5)): this happens once, and on any kernel."""
    children = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - pathlib would double the start time
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
            # The command's name may hold anything, but the last parenthesis is its end.
            if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                children.append(int(name))
    return children


def remove(directory: str) -> None:
    """Remove a private runtime directory and the sockets and files in it."""
    with contextlib.suppress(FileNotFoundError):
        for root, directories, names in os.walk(directory, topdown=False):
            for path in (os.path.join(root, name) for name in (*names, *directories)):  # noqa: PTH118 - as above
                is_directory = os.path.isdir(path) and not os.path.islink(path)  # noqa: PTH112, PTH114 - as above
                (os.rmdir if is_directory else os.unlink)(path)
        os.rmdir(directory)  # noqa: PTH106 - as above


if __name__ == "__main__":
    open_standard_descriptors()
    sys.exit(keep(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
