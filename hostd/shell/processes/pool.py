"""The worker processes of a host: their start, their end, and which of them are to be watched.

Carries out the core's SpawnWorker, PauseWorker, ResumeWorker and KillWorker in threads, and tells it what became of it.
How a process comes into being and how its end is proven is in `spawner`, how a tree is stopped in `pausing`, what the
system does about its memory in `limits`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections import Counter
from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.shell.linux.scheduling import give_way
from hostd.shell.linux.stacks import read_stacks
from hostd.shell.memory.process import brief_of
from hostd.shell.memory.schedule import Watched
from hostd.shell.memory.shared import system_bytes
from hostd.shell.memory.tree import sample_tree
from hostd.shell.own_log import about
from hostd.shell.processes.ending import PATIENCE_S, StillThereError
from hostd.shell.processes.pausing import StoppedTree
from hostd.shell.processes.spawner import (
    Processes,
    WorkerProcess,
    describe_exit,
    is_crash,
    is_sigkill,
)
from hostd.shell.processes.starts import Starts
from hostd.shell.processes.templates import SHARERS
from hostd.shell.work.component import Component
from hostd.shell.work.raised import as_host_error
from hostd.shell.work.threads import Threads, in_thread, result_of
from hostd_workers.wire.errors import FailedPreconditionError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from hostd.config.settings import HostConfig
    from hostd.core.bookkeeping.templates import TemplateId
    from hostd.records import Event
    from hostd.shell.memory.gpu import GpuReader
    from hostd.shell.processes.limits import MemoryLimits
    from hostd.shell.processes.logs import LogDrain, Output
    from hostd.shell.processes.spawning import TemplateProcess
    from hostd.shell.supervisor import Supervisor
    from hostd.shell.transport.workers import Backend
    from hostd.shell.work.component import Handlers

_log = logging.getLogger(__name__)

KILL_THREADS = 16
"""Trees that are killed at the same time; each takes a thread until its proof."""

_KILL_RETRY_S = 1.0
_LOOK_S = 0.05
"""How long to wait for what was killed before. What hangs must not keep the threads from the kills of others."""

_LAST_OUTPUT_S = 1.0
"""What a dead tree printed is read in milliseconds, unless a disk hangs or somebody else holds the pipe open."""


_CRASH_REPORT_S = 0.25
"""Callers wait for it: it is read in a millisecond, and only helpers of the model that live on keep the pipe open."""


class _Employed(NamedTuple):
    """A worker with a process."""

    model_id: ev.ModelId
    process: WorkerProcess
    output: Output
    limit_bytes: int | None
    template_id: TemplateId | None
    around_bytes: int | None = None
    """The shared memory in the whole system when it began to load."""


class Workforce(Component):
    """All workers that have a process, or are about to have one."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        supervisor: Supervisor,
        backend: Backend,
        logs: LogDrain,
        guard: MemoryLimits,
        gpu: GpuReader | None,
        config: HostConfig,
        begun: TemplateProcess | None,
    ) -> None:
        self._loop = loop
        self._supervisor = supervisor
        self._backend = backend
        self._logs = logs
        self._guard = guard
        self._gpu = gpu
        self._sample_period_s = config.memory.sample_period_s
        self._processes = Processes(begun)
        self._employed: dict[ev.WorkerId, _Employed] = {}
        self._unwanted: dict[ev.WorkerId, asyncio.Future[None]] = {}
        """Of each worker with a process that is being made: done when it is to be killed as soon as it is there."""
        self._causes: dict[int, str] = {}
        """Why each worker was started or, once that is known, why it ends; for the notes in its model's log."""
        self._killers = Threads(KILL_THREADS, "hostd-kill", give_way)
        self._starts = Starts(supervisor, self._processes, guard, config, self._killers, begun)
        self._readers = Threads(2, "hostd-measure", give_way)
        # One thread, so that what is stopped and what goes on follow each other in the order of the core's decisions.
        self._pauser = Threads(1, "hostd-pause")
        self._pauses: dict[ev.WorkerId, Future[None]] = {}
        """The last pause or resumption that was begun of each worker."""
        self._stopped: dict[ev.WorkerId, StoppedTree] = {}

    def __repr__(self) -> str:
        return f"<Workforce of {len(self._employed)}>"

    def handlers(self) -> Handlers:
        """Return what carries out which effect."""
        return {
            fx.SpawnWorker: self._spawn,
            fx.SendLoad: self._load,
            fx.KillWorker: self._kill,
            fx.PauseWorker: self._pause,
            fx.ResumeWorker: self._resume,
            **self._starts.templates.handlers(),
        }

    def close(self) -> None:
        """End the threads; nothing may be running in them any more."""
        self._starts.close()
        for executor in (self._killers, self._readers, self._pauser):
            executor.shutdown()

    def watched(self) -> list[Watched]:
        """Return the workers as the sampler needs to know them."""
        activity = self._supervisor.core.queries.activity
        since_s = self._loop.time() - self._sample_period_s
        families = Counter(employed.template_id for employed in self._employed.values())
        found = []
        for worker_id, (_, process, _, limit_bytes, template_id, _) in self._employed.items():
            is_busy, is_loading, reserved_bytes = activity(worker_id, since_s)
            is_watched = is_loading or limit_bytes is not None
            # What is reserved for a load is watched as a limit is: others may have to yield for what is beyond it.
            least_bytes = min((size for size in (limit_bytes, reserved_bytes) if size is not None), default=None)
            sharers = 0 if template_id is None else families[template_id] - 1 + SHARERS
            found.append(Watched(worker_id, process.pid, is_busy, is_watched, least_bytes, is_loading, sharers))
        return found

    def has(self, worker_id: ev.WorkerId) -> bool:
        """Say whether a worker has a process."""
        return worker_id in self._employed

    async def measure(self, worker_id: ev.WorkerId) -> ev.Memory | None:
        """Return a sample of the memory of a worker's tree, or None. Raises `KeyError` if it has no process."""
        employed, gpu = self._employed[worker_id], self._gpu
        pid, sharers = employed.process.pid, self._sharers_of(employed)

        def work() -> ev.Memory | None:
            devices = None if gpu is None else gpu.bytes_by_pid()
            sample = sample_tree(pid, None, devices, sharers, employed.around_bytes)
            return None if sample is None else self.with_group(worker_id, sample.memory)

        memory: ev.Memory | None = await in_thread(self._readers, work)
        return memory

    def _sharers_of(self, employed: _Employed) -> int:
        """Return how many other processes have pages of a worker's template; 0 for a fresh one."""
        if employed.template_id is None:
            return 0
        others = sum(other.template_id == employed.template_id for other in self._employed.values()) - 1
        return others + SHARERS

    def with_group(self, worker_id: ev.WorkerId, memory: ev.Memory) -> ev.Memory:
        """Return a sample with what the kernel counts for the worker itself, where it does; takes microseconds."""
        group_bytes = self._guard.held_bytes(worker_id)
        return memory if group_bytes is None else memory._replace(group_bytes=group_bytes)

    def on_event(self, event: Event) -> None:
        """Keep why a worker was started, or why it ends."""
        # What ends a worker that drains or closes is the reason for which it does, unless it dies of something else.
        is_end = event.new in ("CLOSING", "KILLING") and event.cause not in ("DRAINED", "CLOSED")
        is_cause = event.new in ("SPAWNING", "DRAINING") or (is_end and event.old != "DRAINING")
        if event.worker_id is not None and is_cause:
            self._causes[event.worker_id] = event.reason

    def stacks(self, client: ev.ClientId, worker_ids: Sequence[ev.WorkerId]) -> Coroutine[Any, Any, dict[int, str]]:
        """Read the stacks of workers that are not being killed, for a client: texts by pid.

        Raises `FailedPreconditionError` at once if none of them can be asked.
        """
        asked = [
            # A descriptor of our own, because a kill closes the other one; none has begun, so that is open.
            (employed.process.pid, os.dup(employed.process.pidfd), offer)
            for worker_id in worker_ids
            if (employed := self._employed.get(worker_id)) and (offer := self._backend.stacks_of(worker_id))
        ]
        if not asked:
            raise FailedPreconditionError("no process of this model can be asked: it has none, or has not said hello")

        def work() -> dict[int, str]:
            try:
                return {pid: read_stacks(pid, pidfd, offer) for pid, pidfd, offer in asked}
            finally:
                for _, pidfd, _ in asked:
                    os.close(pidfd)

        return self._supervisor.read(client, work)

    async def _spawn(self, effect: fx.SpawnWorker) -> ev.Event:
        worker_id = effect.worker_id
        self._unwanted[worker_id] = self._loop.create_future()
        if effect.origination.template_id is not None and effect.origination.is_learning:
            self._starts.templates.expect(effect.origination.template_id)
        try:
            return await self._started(effect)
        finally:
            self._unwanted.pop(worker_id, None)

    async def _started(self, effect: fx.SpawnWorker) -> ev.Event:
        worker_id = effect.worker_id
        try:
            page_fd, token = self._backend.lanes.new(worker_id), self._backend.admit(worker_id)
            started = await self._starts.process_of(effect, token, page_fd, self._unwanted[worker_id])
        except Exception as error:  # noqa: BLE001 - whatever it is, the load has failed
            return self._not_spawned(effect, error)
        process, template_id, why_fresh = started
        output = self._logs.add(effect.model_id, process.log_fd)
        # First of all: whatever fails from here on, its end can be ordered.
        self._employed[worker_id] = _Employed(effect.model_id, process, output, effect.limit_bytes, template_id)
        self._loop.add_reader(process.pidfd, self._on_exit, process)
        note = f"worker {worker_id}, pid {process.pid}, started: {self._causes.get(worker_id, '')}"
        self._logs.note(effect.model_id, f"{note} (afresh: {why_fresh})" if why_fresh else note)
        if self._unwanted.pop(worker_id).done():
            self._supervisor.carry_out(fx.KillWorker(worker_id))
        return ev.WorkerSpawned(worker_id, process.pid, template_id, why_fresh)

    def _not_spawned(self, effect: fx.SpawnWorker, error: Exception) -> ev.Event:
        worker_id = effect.worker_id
        self._backend.forget(worker_id)
        own = "workers.python" if self._starts.python else "the host's own"
        origin = effect.spec.origins.get("python", "the model's finder") if effect.spec.python else own
        python = effect.spec.python or self._starts.python or sys.executable
        told = as_host_error(error, f"cannot start the interpreter {python} (python: {origin})")
        self._logs.note(effect.model_id, f"worker {worker_id} did not start: {told.message}")
        self._causes.pop(worker_id, None)
        return ev.WorkerSpawnFailed(worker_id, told)

    async def _load(self, effect: fx.SendLoad) -> None:
        """Tell a worker what to load, after a brief look at what it holds until then: one small read."""
        employed = self._employed.get(effect.worker_id)
        if employed is None:
            return  # it was ended meanwhile
        brief = brief_of(employed.process.pid)
        if brief is not None:
            self._supervisor.emit(ev.BaselineMeasured(effect.worker_id, brief.anon_bytes + brief.swap_bytes))
        self._employed[effect.worker_id] = employed._replace(around_bytes=system_bytes())
        self._backend.load(effect)

    def _on_exit(self, process: WorkerProcess) -> None:
        self._loop.remove_reader(process.pidfd)
        how = describe_exit(process.pidfd) or "it ended"
        self._backend.read_dry(process.worker_id)
        if is_crash(how) or is_sigkill(how):
            self._supervisor.start(self._explained(process, how))
        else:
            self._supervisor.emit_later(ev.WorkerExited(process.worker_id, how))

    async def _explained(self, process: WorkerProcess, how: str) -> ev.Event:
        """Return the exit of a worker with what else can be found out about it."""
        worker_id, employed = process.worker_id, self._employed.get(process.worker_id)
        with contextlib.suppress(Exception):
            if is_sigkill(how):
                explain = partial(self._guard.explain, worker_id, process.pid)
                death, words = await in_thread(self._readers, explain)
                return ev.WorkerExited(worker_id, f"{how} ({words})", death)
            if employed is not None:
                stack = await in_thread(self._readers, partial(employed.output.crash, _CRASH_REPORT_S))
                return ev.WorkerExited(worker_id, how, stack=stack)
        return ev.WorkerExited(worker_id, how)

    async def _pause(self, effect: fx.PauseWorker) -> ev.Event | None:
        worker_id = effect.worker_id
        tree = self._stopped[worker_id] = StoppedTree(self._employed[worker_id].process.pid)
        stopping = self._pauses[worker_id] = self._pauser.submit(tree.stop)
        try:
            await result_of(stopping)
        except OSError as error:
            return ev.WorkerPauseFailed(worker_id, str(error))
        return None

    async def _resume(self, effect: fx.ResumeWorker) -> None:
        self._pauses[effect.worker_id] = self._pauser.submit(self._stopped.pop(effect.worker_id).go_on)

    async def _kill(self, effect: fx.KillWorker) -> ev.Event | None:
        worker_id = effect.worker_id
        employed = self._employed.get(worker_id)
        if employed is None:
            unwanted = self._unwanted.get(worker_id)  # its process is being made; `_spawn` goes on from here
            if unwanted is not None and not unwanted.done():
                unwanted.set_result(None)
            return None
        process = employed.process
        # The thread closes the descriptor, and a number that is watched must not be reused.
        self._loop.remove_reader(process.pidfd)
        pause, stopped, sharers = self._pauses.get(worker_id), self._stopped.get(worker_id), self._sharers_of(employed)
        work, told = partial(self._end, employed, pause, stopped, sharers), ""
        output = employed.output if self._backend.is_silent(worker_id) else None
        measured, patience_s = effect.measured, PATIENCE_S
        while True:  # there is no answer without the proof
            try:
                ended = await in_thread(self._killers, partial(work, output, measured, patience_s))
                break
            except Exception as error:  # noqa: BLE001 - what cannot be ended now is ended later
                told = self._still_there(employed, error, told)
            measured, patience_s = None, _LOOK_S
            await asyncio.sleep(_KILL_RETRY_S)
        del self._employed[worker_id]
        self._pauses.pop(worker_id, None)
        self._stopped.pop(worker_id, None)
        self._backend.forget(worker_id)
        note = f"worker {worker_id}, pid {process.pid}, ended: {self._causes.pop(worker_id, '')}"
        self._logs.note(employed.model_id, note, employed.output)
        return ev.WorkerGone(worker_id, *ended)

    def _end(
        self,
        employed: _Employed,
        pause: Future[None] | None,
        stopped: StoppedTree | None,
        sharers: int,
        output: Output | None,
        measured: ev.Memory | None,
        patience_s: float,
    ) -> tuple[int, int, str]:
        """End a worker's tree; runs in a thread."""
        worker_id, process = employed.process.worker_id, employed.process
        wait([] if pause is None else [pause])
        if stopped is not None:
            stopped.close()
        group = self._guard.group_of(worker_id)
        freed_bytes, processes = self._processes.end(process, measured, patience_s, group, sharers)
        self._guard.ended(worker_id, process.pid)
        return freed_bytes, processes, "" if output is None else output.last(_LAST_OUTPUT_S)

    def _still_there(self, employed: _Employed, error: Exception, told: str) -> str:
        """Tell the core, and the log if it is news, why a worker that was killed has not ended; return the reason."""
        is_known = isinstance(error, StillThereError)
        reason = str(error) if is_known else f"its processes cannot be ended at present: {error}"
        worker_id, pid = employed.process.worker_id, employed.process.pid
        if reason != told:
            subject = about(model=employed.model_id, worker=worker_id, pid=pid)
            _log.warning("%s; trying again", reason, exc_info=None if is_known else error, extra=subject)
        is_refused = isinstance(error, StillThereError) and bool(error.refused)
        self._supervisor.emit_later(ev.WorkerNotEnded(worker_id, reason, is_refused))
        return reason
