"""The templates of a host: processes that have imported libraries, and fork workers (`forking`).

Carries out StartTemplate and EndTemplate, and forks for `Workforce`. What is said on their sockets is in
`hostd_workers.wire.template`; which templates there are, the core decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.bookkeeping.templates import Base
from hostd.shell.memory.process import brief_of
from hostd.shell.memory.tree import private_bytes_of
from hostd.shell.own_log import about
from hostd.shell.processes.environment import template_environment
from hostd.shell.processes.forking import NotForkedError, forked
from hostd.shell.processes.spawner import describe_exit, is_sigkill
from hostd.shell.work.component import Component
from hostd.shell.work.threads import in_thread
from hostd_workers.wire import template as wire
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.core.bookkeeping.templates import TemplateId
    from hostd.shell.processes.forking import Wanted
    from hostd.shell.processes.limits import MemoryLimits
    from hostd.shell.processes.spawner import Processes, WorkerProcess
    from hostd.shell.processes.spawning import TemplateProcess
    from hostd.shell.supervisor import Supervisor
    from hostd.shell.work.component import Handlers
    from hostd.shell.work.threads import Threads

_log = logging.getLogger(__name__)

SHARERS: Final = 2
"""The processes that share their libraries with a worker besides other workers: its template and a spare."""

_RETRY_S: Final = 1.0
_TOLD_BYTES: Final = 2000


@dataclass(eq=False)
class _Template:
    """A template: `ready` is whether workers may be forked, once that is known.

    `ending` is why it is to end while it `is_starting`, and what is to be blamed; `is_ended`: its end is under way.
    `printed` is the end of what it printed. `keeps_one_thread` says why its workers may have no more, if they may not.
    """

    id: TemplateId
    ready: asyncio.Future[bool]
    process: TemplateProcess | None = None
    forking: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_starting: bool = False
    ending: tuple[str, str] | None = None
    is_ended: bool = False
    has_exited: bool = False
    printed: bytes = b""
    keeps_one_thread: str = ""
    spare: int | None = None


class Templates(Component):
    """All templates that have a process, or are waited for."""

    def __init__(
        self,
        supervisor: Supervisor,
        processes: Processes,
        spawner: Threads,
        killers: Threads,
        python: str | None,
        guard: MemoryLimits,
        host: str,
        begun: TemplateProcess | None,
    ) -> None:
        """Take the books of processes, the threads that make and end them, and what bounds their memory."""
        self._loop = asyncio.get_running_loop()
        self._supervisor = supervisor
        self._processes = processes
        self._spawner = spawner
        self._killers = killers
        self._guard = guard
        self._begun = None if begun is None else (begun, self._loop.create_task(self._first_word(begun)))
        self._python = python
        self._environment: Callable[..., dict[str, str]] = partial(
            template_environment, os.environ, supervisor_pid=os.getpid(), oom_score_adj=guard.oom_score_adj, host=host
        )
        self._known: dict[TemplateId, _Template] = {}

    def __repr__(self) -> str:
        return f"<Templates {sorted(self._known)}>"

    def handlers(self) -> Handlers:
        """Return what carries out which effect."""
        return {fx.StartTemplate: self._start, fx.EndTemplate: self._end}

    async def fork(
        self, template_id: TemplateId, wanted: Wanted, wait_s: float, unwanted: asyncio.Future[None]
    ) -> WorkerProcess:
        """Have a template fork a worker, and return its process.

        Waits for the template as long as it may take, or until the worker is unwanted. Raises `NotForkedError`.
        """
        template = self._known.get(template_id)
        if template is None:
            raise NotForkedError("its template has ended")
        either: list[asyncio.Future[Any]] = [template.ready, unwanted]
        await asyncio.wait(either, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if not template.ready.done():
            raise NotForkedError(f"its template was not ready within {wait_s:.3g} s")
        async with template.forking:
            if template.is_ended or template.process is None or not template.ready.result():
                raise NotForkedError("its template has ended")
            if template.keeps_one_thread and wanted.environment["HOSTD_CPU_THREADS"] != "1":
                raise NotForkedError(template.keeps_one_thread)
            try:
                return await forked(self._processes, self._spawner, template.process, wanted)
            except NotForkedError as error:
                if error.is_over:
                    self._supervisor.start(self._ended(template, str(error), is_stale=error.is_stale))
                raise

    # Lives

    def expect(self, template_id: TemplateId) -> None:
        """Take note of a template that is started when it is known what it imports; a worker is to wait for it."""
        self._of(template_id)

    async def _start(self, effect: fx.StartTemplate) -> ev.Event | None:
        template, base = self._of(effect.template_id), effect.base
        template.is_starting = True
        work = partial(
            self._processes.spawn_template,
            base.python or self._python,
            self._environment(spec_env=dict(base.env)),
            effect.modules,
        )
        said: dict[str, Any] = {}
        held_bytes = 0
        try:
            begun, word = self._taken_over(effect) or (None, None)
            process = template.process = begun or await in_thread(self._spawner, work)
            self._loop.add_reader(process.pidfd, self._on_exit, template)
            self._loop.add_reader(process.output_fd, _read_output, template)
            if template.ending is None:
                said = await (word or self._first_word(process))
                template.spare = _spare_of(said)
                held_bytes = await in_thread(self._killers, partial(_held_bytes, process.pid, template.spare))
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no template
            template.ending = template.ending or (f"it cannot be started: {error}", "")
        template.is_starting = False
        match said:
            case {"ready": int(), "import_s": float(import_s)} if template.ending is None and not template.has_exited:
                template.keeps_one_thread = str(said.get("keeps_one_thread") or "")
                self._loop.add_reader(process.control, self._on_word, template, process)
                template.ready.set_result(True)
                return ev.TemplateReady(template.id, process.pid, import_s, held_bytes)
            case {"unsafe": [str(module), str(reason)]}:
                return await self._ended(template, reason, module)
            case _:
                return await self._ended(template, *_told_of_death(template))

    def _taken_over(self, effect: fx.StartTemplate) -> tuple[TemplateProcess, asyncio.Task[dict[str, Any]]] | None:
        """Return the process of a template that was started before all else, with its first word, once."""
        if effect.modules or effect.base != Base():
            return None
        begun, self._begun = self._begun, None
        return begun

    async def _first_word(self, process: TemplateProcess) -> dict[str, Any]:
        """Return what has become of a template; when it has a spare already, that is given a place."""
        said = wire.unpacked(await self._loop.sock_recv(process.control, wire.MAX_PACKET))
        self._give_place(process, said)
        return said

    def _on_word(self, template: _Template, process: TemplateProcess) -> None:
        try:
            packet = process.control.recv(wire.MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._loop.remove_reader(process.control)
        said = wire.unpacked(packet)
        if not template.is_ended:
            template.spare = _spare_of(said)
            self._give_place(process, said)

    def _give_place(self, process: TemplateProcess, said: dict[str, Any]) -> None:
        """Have a place made for what may become a worker: that takes longer than to become one."""
        if (spare := _spare_of(said)) is not None:
            self._supervisor.start(in_thread(self._spawner, partial(self._make_place, process, spare)))

    def _make_place(self, process: TemplateProcess, spare: int) -> None:
        for lost in self._processes.reap_spares(process):
            self._guard.release(lost)
        if self._processes.is_spare(process, spare):
            self._guard.reserve(spare)

    async def _end(self, effect: fx.EndTemplate) -> ev.Event | None:
        template = self._of(effect.template_id)
        module = _noted(template.process) if effect.is_hanging and template.process is not None else ""
        if not template.is_starting:
            return await self._ended(template, effect.reason, module)
        template.ending = (effect.reason, module)  # `_start` goes on from here
        if template.process is not None:
            _wake(template.process)
        return None

    def _on_exit(self, template: _Template) -> None:
        template.has_exited = True
        if template.process is not None:
            self._loop.remove_reader(template.process.pidfd)
            if template.is_starting:
                _wake(template.process)
        if not template.is_starting:
            self._supervisor.start(self._ended(template, "its process has ended"))

    async def _ended(
        self, template: _Template, reason: str, module: str = "", *, is_stale: bool = False
    ) -> ev.Event | None:
        """End a template with the proof, and return what tells the core; None if that is under way already."""
        if template.is_ended:
            return None
        template.is_ended = True
        reason, module = template.ending or (reason, module)
        if not template.ready.done():
            template.ready.set_result(False)
        async with template.forking:  # a child is handed over, or is not; a template that hangs is given up in time
            process, template.process = template.process, None
        if process is not None:
            self._loop.remove_reader(process.pidfd)
            self._loop.remove_reader(process.output_fd)
            self._loop.remove_reader(process.control)
            while True:
                try:
                    await in_thread(self._killers, partial(self._processes.end_template, process))
                    break
                except Exception as error:  # noqa: BLE001 - what cannot be ended now is ended later
                    _log.warning("a template cannot be ended yet: %s", error, extra=about(pid=process.pid))
                await asyncio.sleep(_RETRY_S)
            process.close()
            if template.spare is not None:  # in the thread that has made its place, and nobody waits for that
                self._supervisor.start(in_thread(self._spawner, partial(self._guard.release, template.spare)))
        del self._known[template.id]
        _log.info("template %s ended: %s", template.id, reason)
        return ev.TemplateEnded(template.id, reason, module, is_stale)

    def _of(self, template_id: TemplateId) -> _Template:
        template = self._known.get(template_id)
        if template is None:
            template = self._known[template_id] = _Template(template_id, self._loop.create_future())
        return template


def _read_output(template: _Template) -> None:
    """Keep the end of what a template prints."""
    if template.process is not None:
        with contextlib.suppress(OSError):
            template.printed = (template.printed + os.read(template.process.output_fd, 1 << 16))[-_TOLD_BYTES:]


def _spare_of(said: dict[str, Any]) -> int | None:
    """Return the number of the spare that a template tells of."""
    spare = said.get("spare")
    return spare if isinstance(spare, int) else None


def _held_bytes(pid: int, spare: int | None) -> int:
    """Return what the end of a template and its spare gives back: what it has imported is its own, though shared."""
    brief = brief_of(pid)
    held_bytes = 0 if brief is None else brief.anon_bytes + brief.swap_bytes + brief.table_bytes
    return held_bytes + (0 if spare is None else private_bytes_of([spare], sharers=1))


def _told_of_death(template: _Template) -> tuple[str, str]:
    """Return why a template has ended by itself, and the module that is to be blamed, if nobody has killed it."""
    if template.process is None:
        return "it was not started", ""
    how = describe_exit(template.process.pidfd)
    module = "" if is_sigkill(how) else _noted(template.process)
    printed = template.printed.decode("utf-8", "replace").strip()
    words = f"it ended ({how or 'of its own will'}) while it imported {_noted(template.process) or 'nothing yet'}"
    return f"{words}; it printed: {printed}" if printed else words, module


def _noted(process: TemplateProcess) -> str:
    """Return the module that a template is importing."""
    note = os.pread(process.note_fd, wire.NOTE_BYTES, 0)
    return "" if note.startswith(b"[") else note.rstrip(b"\0").decode("utf-8", "replace")


def _wake(process: TemplateProcess) -> None:
    """Kill a template that imports, and have what waits for its word go on: its children may have the socket, too."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
    with contextlib.suppress(OSError):
        process.control.shutdown(socket.SHUT_RDWR)
