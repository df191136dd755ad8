"""The worker processes of a host: their start, their end, and who of them is to be watched.

Carries out the core's SpawnWorker, PauseWorker, ResumeWorker and KillWorker in threads, and tells it what became of it.
How a process comes into being and how its end is proven is in `processes`, how a tree is stopped in `pausing`, what the
system does about its memory in `guard`.
"""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, NamedTuple

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.shell.linux.marks import mark_of_host
from hostd.shell.linux.scheduling import give_way
from hostd.shell.linux.stacks import read_stacks
from hostd.shell.memory.process import brief_of
from hostd.shell.memory.schedule import Watched
from hostd.shell.memory.tree import sample_tree
from hostd.shell.own_log import about
from hostd.shell.processes.ending import PATIENCE_S, StillThereError
from hostd.shell.processes.environment import worker_environment
from hostd.shell.processes.pausing import StoppedTree
from hostd.shell.processes.spawner import Processes, WorkerProcess, describe_exit, is_crash, is_sigkill
from hostd.shell.supervisor import as_host_error
from hostd.shell.threads import Threads
from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from hostd.records import Event
    from hostd.shell.memory.gpu import GpuReader
    from hostd.shell.processes.limits import MemoryLimits
    from hostd.shell.processes.logs import LogDrain, Output
    from hostd.shell.supervisor import Supervisor

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


class Workforce:
    """All workers that have a process, or are about to have one."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        supervisor: Supervisor,
        logs: LogDrain,
        guard: MemoryLimits,
        gpu: GpuReader | None,
        *,
        endpoint: str,
        python: str | None,
        sample_period_s: float,
    ) -> None:
        """Take where workers connect to, the interpreter of those whose model names none, and the sampler's period."""
        self._loop = loop
        self._supervisor = supervisor
        self._logs = logs
        self._guard = guard
        self._gpu = gpu
        self._endpoint = endpoint
        self._python = python
        self._mark = mark_of_host()
        self._sample_period_s = sample_period_s
        self._processes = Processes()
        self._employed: dict[ev.WorkerId, _Employed] = {}
        self._pending_kills: set[ev.WorkerId] = set()
        self._causes: dict[int, str] = {}
        """Why each worker was started or, once that is known, why it ends; for the notes in its model's log."""
        supervisor.listeners.append(self._keep_cause)
        # One thread that lives as long as the supervisor: see rule 1 of `processes`.
        self._spawner = Threads(1, "hostd-spawn")
        self._killers = Threads(KILL_THREADS, "hostd-kill", give_way)
        self._readers = Threads(2, "hostd-measure", give_way)
        # One thread, so that what is stopped and what goes on follow each other in the order of the core's decisions.
        self._pauser = Threads(1, "hostd-pause")
        self._pauses: dict[ev.WorkerId, Future[None]] = {}
        """The last pause or resumption that was begun of each worker."""
        self._stopped: dict[ev.WorkerId, StoppedTree] = {}
        self._resisted: dict[ev.WorkerId, str] = {}
        """Why each worker that was killed is still there, as it was told last."""

    def __repr__(self) -> str:
        return f"<Workforce of {len(self._employed)}>"

    def handlers(self) -> dict[type, Callable[[Any], object]]:
        """Return who carries out which effect."""
        return {
            fx.SpawnWorker: self._spawn,
            fx.SendLoad: self._load,
            fx.KillWorker: self._kill,
            fx.PauseWorker: self._pause,
            fx.ResumeWorker: self._resume,
        }

    def close(self) -> None:
        """End the threads; nothing may be running in them any more."""
        for executor in (self._spawner, self._killers, self._readers, self._pauser):
            executor.shutdown()

    def watched(self) -> list[Watched]:
        """Return the workers as the sampler needs to know them."""
        activity = self._supervisor.core.queries.activity
        since_s = self._loop.time() - self._sample_period_s
        found = []
        for worker_id, (_, process, _, limit_bytes) in self._employed.items():
            is_busy, is_loading, reserved_bytes = activity(worker_id, since_s)
            is_watched = is_loading or limit_bytes is not None
            # What is reserved for a load is watched as a limit is: others may have to yield for what is beyond it.
            least_bytes = min((size for size in (limit_bytes, reserved_bytes) if size is not None), default=None)
            found.append(Watched(worker_id, process.pid, is_busy, is_watched, least_bytes, is_loading))
        return found

    def measure(self, worker_id: ev.WorkerId, then: Callable[[ev.Memory | None], ev.Event | None]) -> None:
        """Sample the memory of a worker's tree, and give the core the event that `then` makes of it."""
        employed = self._employed.get(worker_id)
        if employed is not None:
            pid, gpu = employed.process.pid, self._gpu

            def work() -> ev.Memory | None:
                sample = sample_tree(pid, None, None if gpu is None else gpu.bytes_by_pid())
                return None if sample is None else self.with_group(worker_id, sample.memory)

            self._supervisor.in_thread(
                self._readers, work, lambda memory: then(memory if isinstance(memory, ev.Memory) else None)
            )

    def with_group(self, worker_id: ev.WorkerId, memory: ev.Memory) -> ev.Memory:
        """Return a sample with what the kernel counts for the worker itself, where it does; takes microseconds."""
        group_bytes = self._guard.held_bytes(worker_id)
        return memory if group_bytes is None else memory._replace(group_bytes=group_bytes)

    def _keep_cause(self, event: Event) -> None:
        # What ends a worker that drains is the reason for which it drains, unless it dies of something else meanwhile.
        is_cause = event.new in ("SPAWNING", "DRAINING") or (event.new == "KILLING" and event.cause != "DRAINED")
        if event.worker_id is not None and is_cause:
            self._causes[event.worker_id] = event.reason

    def stacks(self, client: ev.ClientId, worker_ids: Sequence[ev.WorkerId], then: Callable[[Any], None]) -> None:
        """Read the stacks of workers that are not being killed, for a client; `then` gets texts by pid, or what fails.

        Raises `FailedPreconditionError` if none of them can be asked.
        """
        asked = [
            # A descriptor of our own, because a kill closes the other one; none has begun, so that is open.
            (employed.process.pid, os.dup(employed.process.pidfd), offer)
            for worker_id in worker_ids
            if (employed := self._employed.get(worker_id)) and (offer := self._supervisor.backend.stacks_of(worker_id))
        ]
        if not asked:
            raise FailedPreconditionError("no process of this model can be asked: it has none, or has not said hello")

        def work() -> dict[int, str]:
            try:
                return {pid: read_stacks(pid, pidfd, offer) for pid, pidfd, offer in asked}
            finally:
                for _, pidfd, _ in asked:
                    os.close(pidfd)

        self._supervisor.read(client, work, then)

    def _spawn(self, effect: fx.SpawnWorker) -> None:
        worker_id, limit_bytes, backend = effect.worker_id, effect.limit_bytes, self._supervisor.backend
        environment = worker_environment(
            os.environ,
            model_id=effect.model_id,
            spec_env=effect.spec.env,
            token=backend.admit(worker_id),
            endpoint=self._endpoint,
            supervisor_pid=os.getpid(),
            cpu_threads=effect.cpu_threads,
            limit_bytes=limit_bytes,
            oom_score_adj=self._guard.oom_score_adj,
            host=self._mark,
        )
        python = effect.spec.python or self._python

        def work() -> WorkerProcess:
            process = self._processes.spawn(worker_id, python, environment)
            try:
                self._guard.began(worker_id, process.pid, limit_bytes)
            except BaseException:  # nobody else knows of it yet
                os.close(process.log_fd)
                self._processes.end(process)
                raise
            return process

        def then(spawned: Any) -> ev.Event:
            if isinstance(spawned, BaseException):
                backend.forget(worker_id)
                self._pending_kills.discard(worker_id)
                interpreter, origins = python or sys.executable, effect.spec.origins
                own = "workers.python" if self._python else "the host's own"
                origin = origins.get("python", "the model's finder") if effect.spec.python else own
                error = as_host_error(spawned, f"cannot start the interpreter {interpreter} (python: {origin})")
                self._logs.note(effect.model_id, f"worker {worker_id} did not start: {error.message}")
                self._causes.pop(worker_id, None)
                return ev.WorkerSpawnFailed(worker_id, error)
            output = self._logs.add(effect.model_id, spawned.log_fd)
            # First of all: whatever fails from here on, its end can be ordered.
            self._employed[worker_id] = _Employed(effect.model_id, spawned, output, limit_bytes)
            self._loop.add_reader(spawned.pidfd, self._on_exit, spawned)
            started = f"worker {worker_id}, pid {spawned.pid}, started: {self._causes.get(worker_id, '')}"
            self._logs.note(effect.model_id, started)
            if worker_id in self._pending_kills:
                self._pending_kills.discard(worker_id)
                self._kill(fx.KillWorker(worker_id))
            return ev.WorkerSpawned(worker_id, spawned.pid)

        self._supervisor.in_thread(self._spawner, work, then)

    def _load(self, effect: fx.SendLoad) -> None:
        """Tell a worker what to load, after a brief look at what it holds until then: one small read."""
        brief = brief_of(self._employed[effect.worker_id].process.pid)
        if brief is not None:
            self._supervisor.emit(ev.BaselineMeasured(effect.worker_id, brief.anon_bytes + brief.swap_bytes))
        self._supervisor.backend.load(effect)

    def _on_exit(self, process: WorkerProcess) -> None:
        self._loop.remove_reader(process.pidfd)
        worker_id, how = process.worker_id, describe_exit(process.pidfd) or "it ended"
        self._supervisor.backend.read_dry(worker_id)
        employed = self._employed.get(worker_id)
        if is_crash(how) and employed is not None:
            output = employed.output
            self._supervisor.in_thread(
                self._readers,
                lambda: output.crash(_CRASH_REPORT_S),
                lambda stack: ev.WorkerExited(worker_id, how, stack=stack if isinstance(stack, str) else ""),
            )
            return
        if not is_sigkill(how):
            self._supervisor.emit_later(ev.WorkerExited(worker_id, how))
            return

        def then(explained: Any) -> ev.Event:
            if isinstance(explained, BaseException):
                return ev.WorkerExited(worker_id, how)
            death, words = explained
            return ev.WorkerExited(worker_id, f"{how} ({words})", death)

        self._supervisor.in_thread(self._readers, lambda: self._guard.explain(worker_id, process.pid), then)

    def _pause(self, effect: fx.PauseWorker) -> None:
        worker_id = effect.worker_id
        tree = self._stopped[worker_id] = StoppedTree(self._employed[worker_id].process.pid)

        def work() -> None:
            try:
                tree.stop()
            except OSError as error:
                failed = ev.WorkerPauseFailed(worker_id, str(error))
                self._loop.call_soon_threadsafe(self._supervisor.emit_later, failed)

        self._pauses[worker_id] = self._pauser.submit(work)

    def _resume(self, effect: fx.ResumeWorker) -> None:
        self._pauses[effect.worker_id] = self._pauser.submit(self._stopped.pop(effect.worker_id).go_on)

    def _kill(self, effect: fx.KillWorker) -> None:
        employed = self._employed.get(effect.worker_id)
        if employed is None:
            self._pending_kills.add(effect.worker_id)  # its process is being made; `_spawn` goes on from here
            return
        process, backend = employed.process, self._supervisor.backend
        # The thread closes the descriptor, and a number that is watched must not be reused.
        self._loop.remove_reader(process.pidfd)
        output = employed.output if backend.is_silent(process.worker_id) else None
        pause, stopped = self._pauses.get(process.worker_id), self._stopped.get(process.worker_id)

        patience_s = _LOOK_S if process.worker_id in self._resisted else PATIENCE_S

        def work() -> tuple[int, int, str]:
            wait([] if pause is None else [pause])
            if stopped is not None:
                stopped.close()
            group = self._guard.group_of(process.worker_id)
            freed_bytes, processes = self._processes.end(process, effect.measured, patience_s, group)
            self._guard.ended(process.worker_id, process.pid)
            return freed_bytes, processes, "" if output is None else output.last(_LAST_OUTPUT_S)

        def then(ended: Any) -> ev.Event | None:
            if isinstance(ended, BaseException):
                return self._try_again(employed, ended)
            del self._employed[process.worker_id]
            self._resisted.pop(process.worker_id, None)
            self._pauses.pop(process.worker_id, None)
            self._stopped.pop(process.worker_id, None)
            backend.forget(process.worker_id)
            note = f"worker {process.worker_id}, pid {process.pid}, ended: {self._causes.pop(process.worker_id, '')}"
            self._logs.note(employed.model_id, note, employed.output)
            return ev.WorkerGone(process.worker_id, *ended)

        self._supervisor.in_thread(self._killers, work, then)

    def _try_again(self, employed: _Employed, error: BaseException) -> ev.Event:
        """Order the end of a worker again that has not ended: there is no answer without the proof."""
        worker_id, pid = employed.process.worker_id, employed.process.pid
        # Through the supervisor, which does not lose it if it fails.
        self._loop.call_later(_KILL_RETRY_S, self._supervisor.carry_out, fx.KillWorker(worker_id))
        is_known = isinstance(error, StillThereError)
        reason = str(error) if is_known else f"its processes cannot be ended at present: {error}"
        if self._resisted.get(worker_id) != reason:
            self._resisted[worker_id] = reason
            subject = about(model=employed.model_id, worker=worker_id, pid=pid)
            _log.warning("%s; trying again", reason, exc_info=None if is_known else error, extra=subject)
        return ev.WorkerNotEnded(worker_id, reason, isinstance(error, StillThereError) and bool(error.refused))
