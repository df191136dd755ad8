"""One fork: a template makes a worker's process, step by step, so that at no moment it is nobody's.

1. A spare waits for an order: a grandchild of the template, and by now a child of the supervisor, which has reserved
   a control group for it. It takes the order, and says its number.
2. It is registered, and its limit is set. Until then it is in the template's session, which only the end of the
   template looks at.
3. It is told to, leads a session of its own, says so, and goes on as every worker does. From then on no end of the
   template, or of a sibling, reaches it by their group.

What fails before it is registered ends with the template; what fails after that is ended here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hostd.shell.work.threads import in_thread
from hostd_workers.wire import template as wire
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from hostd.core.values import WorkerId
    from hostd.shell.processes.spawner import Processes, WorkerProcess
    from hostd.shell.processes.spawning import TemplateProcess
    from hostd.shell.work.threads import Threads

ANSWER_S: Final = 5.0
"""How long a template may take to fork: milliseconds, or a second on a machine that swaps. One that is stopped, or
hangs in a handler of a library, never does; it is ended, and its worker is started afresh."""


class NotForkedError(Exception):
    """A template has made no worker, and why; `is_over`: it will make none any more, `is_stale`: it is out of date."""

    def __init__(self, reason: str, *, is_over: bool = False, is_stale: bool = False) -> None:
        super().__init__(reason)
        self.is_over, self.is_stale = is_over, is_stale


class Wanted(NamedTuple):
    """A worker that is to be forked.

    `log` are the two ends of its log, the host's and the worker's; `page_fd` is the page of its figures. `begin` is
    called in a thread when the process is registered, and before it takes its first steps; `undo` if it takes none.
    """

    worker_id: WorkerId
    environment: Mapping[str, str]
    log: tuple[int, int]
    page_fd: int | None
    begin: Callable[[WorkerProcess], None]
    undo: Callable[[WorkerProcess], None]


async def forked(processes: Processes, thread: Threads, template: TemplateProcess, wanted: Wanted) -> WorkerProcess:
    """Have a template fork a worker. Raises `NotForkedError`; whatever is raised, no process of it is left."""
    loop = asyncio.get_running_loop()
    answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with answers:
        answers.setblocking(False)
        with theirs, _in_memory(wire.packed_changes(wanted.environment, template.environment)) as order:
            fds = [order, wanted.log[1], theirs.fileno(), *([] if wanted.page_fd is None else [wanted.page_fd])]
            try:
                socket.send_fds(template.control, [wire.ORDER], fds)
            except OSError as error:
                raise NotForkedError(f"its template does not take orders: {error}", is_over=True) from None
        said = await _answer(loop, answers)
        if "pid" not in said:
            raise _reason_of(said)
        worker: WorkerProcess = await in_thread(thread, partial(_adopted, processes, wanted, said["pid"]))
        try:
            await _has_led(loop, answers)
        except BaseException:  # cancelled, too: nobody else knows of it yet
            await asyncio.shield(in_thread(thread, partial(_discard, processes, wanted, worker)))
            raise
    return worker


def _adopted(processes: Processes, wanted: Wanted, pid: int) -> WorkerProcess:
    """Register a process as a worker, and bound its memory; runs in the thread."""
    try:
        worker = processes.adopt(wanted.worker_id, pid, wanted.log[0])
    except (OSError, ValueError, TypeError) as error:
        raise NotForkedError(f"its process is gone: {error}", is_over=True) from None
    try:
        wanted.begin(worker)
    except BaseException:  # as above
        _discard(processes, wanted, worker)
        raise
    return worker


def _discard(processes: Processes, wanted: Wanted, worker: WorkerProcess) -> None:
    processes.discard(worker)
    wanted.undo(worker)


def _reason_of(said: dict[str, Any]) -> NotForkedError:
    if "refused" in said:
        return NotForkedError(f"its template could not fork: {said['refused']}")
    if "stale" in said:
        return NotForkedError(str(said["stale"]), is_over=True, is_stale=True)
    return NotForkedError("its template has ended", is_over=True)


async def _has_led(loop: asyncio.AbstractEventLoop, answers: socket.socket) -> None:
    with contextlib.suppress(OSError):  # its end is told
        answers.send(wire.GO)
    if "leads" not in await _answer(loop, answers):
        raise NotForkedError("its process has ended at once")


async def _answer(loop: asyncio.AbstractEventLoop, answers: socket.socket) -> dict[str, Any]:
    try:
        packet = await asyncio.wait_for(loop.sock_recv(answers, wire.MAX_PACKET), ANSWER_S)
    except (asyncio.TimeoutError, TimeoutError):
        raise NotForkedError(f"its template did not fork within {ANSWER_S:g} s", is_over=True) from None
    except OSError:
        return {}
    return wire.unpacked(packet)


@contextlib.contextmanager
def _in_memory(packed: bytes) -> Iterator[int]:
    fd = os.memfd_create("hostd-order", os.MFD_CLOEXEC)
    try:
        os.write(fd, packed)
        yield fd
    finally:
        os.close(fd)
