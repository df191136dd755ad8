"""The supervisor: one asyncio loop around the core.

    socket, pidfd, timer, thread ── event ──▶ core ── effects ──▶ socket, process, thread

Rules
1. `_emit` is the only way into the core and `_carry_out` the only way out. An event that comes while one is handled
   waits its turn, so the core never sees itself half done.
2. Nothing here blocks. What is slow (spawning, sampling, killing) runs in a thread and comes back as an event. What has
   to do with files is carried out by others (`finding`, `files`, `repository`, `sizes`) in the same way.
3. A timer is armed for exactly the deadline that the core names.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.machine import Core
from hostd.shell.memory import sample_tree
from hostd.shell.processes import Processes, WorkerProcess, describe_exit
from workers.wire.errors import HostError, InternalError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hostd.core.registry import CoreConfig
    from hostd.shell.backend import Backend
    from hostd.shell.frontend import Frontend
    from hostd.shell.logs import LogDrain
    from hostd.shell.sockets import Pump

_log = logging.getLogger(__name__)

KILL_THREADS = 16
"""Trees that are killed at the same time; each takes a thread until its proof."""

_KILL_RETRY_S = 1.0

_SELF = ev.ClientId(b"")
"""Who asks when the host itself does; no connection has an empty identity."""

_FLUSH_PERIOD_S = 0.01
"""How often to try again a client that did not read; only while there is one."""


class Supervisor:
    """Carries the core's effects out and brings it events."""

    def __init__(
        self,
        config: CoreConfig,
        logs: LogDrain,
        pump: Pump,
        *,
        worker_endpoint: str,
        worker_python: str | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.core = Core(config, wall_offset_s=time.time() - self._loop.time())
        self._logs = logs
        self._pump = pump
        self._worker_endpoint = worker_endpoint
        self._worker_python = worker_python
        self._processes = Processes()
        self._by_worker: dict[ev.WorkerId, WorkerProcess] = {}
        self._pending_kills: set[ev.WorkerId] = set()
        self._events: deque[ev.Event] = deque()
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s: float | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        # One thread that lives as long as the supervisor: see rule 1 of `processes`.
        self._spawner = ThreadPoolExecutor(1, "hostd-spawn")
        self._killers = ThreadPoolExecutor(KILL_THREADS, "hostd-kill")
        self._readers = ThreadPoolExecutor(2, "hostd-read")
        self.stopped = asyncio.Event()
        self.listeners: list[Callable[[Any], None]] = []
        """Called with every transition (`hostd.records.Event`)."""
        self.frontend: Frontend
        self.backend: Backend
        self._effects: dict[type, Callable[[Any], object]] = {}
        self._own_requests: dict[ev.Caller, asyncio.Future[Any]] = {}
        self._own_count = 0

    def attach(self, frontend: Frontend, backend: Backend, others: Mapping[type, Callable[[Any], object]]) -> None:
        """Take the two sides that the core's effects go to, and who carries out the `others`; all emit into this."""
        self.frontend, self.backend = frontend, backend
        self._pump.on_quiet = self.arm
        self._effects = {
            fx.ForwardCall: backend.call,
            fx.RelayAnswer: lambda e: frontend.relay(e.client, e.request_id, e.payload),
            fx.ForwardCancel: backend.cancel,
            fx.ForwardCredit: backend.credit,
            fx.Answer: self._answer,
            fx.AnswerError: self._refuse,
            fx.Announce: self._announce,
            fx.SpawnWorker: self._spawn,
            fx.SendLoad: backend.load,
            fx.KillWorker: self._kill,
            fx.Stop: lambda _: self.stopped.set(),
            **others,
        }

    def close(self) -> None:
        """End the threads; nothing may be running in them any more."""
        for executor in (self._spawner, self._killers, self._readers):
            executor.shutdown()
        for timer in (self._timer, self._flush_timer):
            if timer is not None:
                timer.cancel()

    def emit(self, event: ev.Event) -> None:
        """Give the core an event, and do what it wants done."""
        self._events.append(event)
        if not self._is_busy:
            self._work_off()

    def ask(self, request: Callable[[ev.Caller], ev.Event]) -> asyncio.Future[Any]:
        """Ask the core for something in the host's own name; return the future of its answer."""
        self._own_count += 1
        caller = ev.Caller(_SELF, self._own_count)
        future = self._own_requests[caller] = self._loop.create_future()
        self.emit_later(request(caller))
        return future

    def _answer(self, effect: fx.Answer) -> None:
        own = self._own_requests.pop(effect.caller, None)
        if own is None:
            self.frontend.answer(effect.caller, _plain(effect.value))
        elif not own.done():
            own.set_result(effect.value)

    def _refuse(self, effect: fx.AnswerError) -> None:
        own = self._own_requests.pop(effect.caller, None)
        if own is None:
            self.frontend.refuse(effect.caller, effect.error)
        elif not own.done():
            own.set_exception(effect.error)

    def _work_off(self) -> None:
        events, handle, carry_out, now = self._events, self.core.handle, self._effects, self._loop.time
        self._is_busy = True
        try:
            while events:
                for effect in handle(events.popleft(), now()):
                    carry_out[type(effect)](effect)
        except InternalError:
            # One request is lost, and the invariants say which part of the state may be wrong; the others go on.
            _log.critical("a broken invariant; please report it", exc_info=True)
        finally:
            self._is_busy = False
            if events:
                self._loop.call_soon(self._work_off)

    def wake(self) -> None:
        """Look at the sockets after something was sent from outside of their reader."""
        self._pump.soon()

    def emit_later(self, event: ev.Event) -> None:
        """Give the core an event from outside of the sockets' reader, and look at the sockets after it."""
        self.emit(event)
        self._pump.soon()

    def flush_soon(self) -> None:
        """Try again, in a moment, to send what waits for clients that read slowly."""
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(_FLUSH_PERIOD_S, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        if self.frontend.flush():
            self.flush_soon()
        self._pump.soon()

    def arm(self) -> None:
        """Set the timer to the core's next deadline; called when a burst of events is done."""
        deadline_s = self.core.next_deadline()
        # A timer that is due too early only looks again; moving it for every call would cost more than that.
        if deadline_s is None or (self._armed_s is not None and self._armed_s <= deadline_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_s = deadline_s
        self._timer = self._loop.call_at(deadline_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = self._armed_s = None
        self.emit_later(ev.TimePassed())

    # Effects that take time

    def in_thread(
        self, executor: ThreadPoolExecutor, work: Callable[[], Any], then: Callable[[Any], ev.Event | None]
    ) -> None:
        """Run `work` in a thread, and give the core the event that `then` makes of its result or its exception."""

        def finished(future: asyncio.Future[Any]) -> None:
            event = then(future.exception() or future.result())
            if event is None:
                self._pump.soon()
            else:
                self.emit_later(event)

        self._loop.run_in_executor(executor, work).add_done_callback(finished)

    def read(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run `work` in a thread and `then` on the loop, with its result or its exception."""
        self.in_thread(self._readers, work, then)

    def _spawn(self, effect: fx.SpawnWorker) -> None:
        worker_id = effect.worker_id
        environment = {
            **os.environ,
            **effect.spec.env,
            "PYTHONUNBUFFERED": "1",
            "HOSTD_MODEL_ID": effect.model_id,
            "HOSTD_SUPERVISOR_PID": str(os.getpid()),
            "HOSTD_WORKER_ENDPOINT": self._worker_endpoint,
            "HOSTD_WORKER_TOKEN": self.backend.admit(worker_id),
        }
        python = effect.spec.python or self._worker_python

        def then(spawned: Any) -> ev.Event:
            if isinstance(spawned, BaseException):
                self.backend.forget(worker_id)
                self._pending_kills.discard(worker_id)
                return ev.WorkerSpawnFailed(worker_id, as_host_error(spawned, f"cannot start {python or 'python'}"))
            self._by_worker[worker_id] = spawned
            self._logs.add(effect.model_id, spawned.log_fd)
            self._loop.add_reader(spawned.pidfd, self._on_exit, spawned)
            if worker_id in self._pending_kills:
                self._pending_kills.discard(worker_id)
                self._kill(fx.KillWorker(worker_id))
            return ev.WorkerSpawned(worker_id, spawned.pid)

        self.in_thread(self._spawner, lambda: self._processes.spawn(worker_id, python, environment), then)

    def _on_exit(self, process: WorkerProcess) -> None:
        self._loop.remove_reader(process.pidfd)
        self.emit_later(ev.WorkerExited(process.worker_id, describe_exit(process.pidfd) or "it ended"))

    def _kill(self, effect: fx.KillWorker) -> None:
        process = self._by_worker.get(effect.worker_id)
        if process is None:
            self._pending_kills.add(effect.worker_id)  # its process is being made; `_spawn` goes on from here
            return
        # The thread closes the descriptor, and a number that is watched must not be reused.
        self._loop.remove_reader(process.pidfd)

        def then(ended: Any) -> ev.Event | None:
            if isinstance(ended, BaseException):
                # No descriptor left, perhaps. There is no answer without the proof, so there is another try.
                _log.error("could not end worker %s; trying again", process.worker_id, exc_info=ended)
                self._loop.call_later(_KILL_RETRY_S, self._kill, effect)
                return None
            del self._by_worker[process.worker_id]
            self.backend.forget(process.worker_id)
            freed_bytes, processes = ended
            return ev.WorkerGone(process.worker_id, freed_bytes, processes)

        self.in_thread(self._killers, lambda: self._processes.end(process), then)

    def measure(self, worker_id: ev.WorkerId, then: Callable[[ev.Memory | None], ev.Event | None]) -> None:
        """Sample the memory of a worker's tree, and give the core the event that `then` makes of it."""
        process = self._by_worker.get(worker_id)
        if process is not None:
            self.in_thread(
                self._readers,
                lambda: sample_tree(process.pid),
                lambda memory: then(memory if isinstance(memory, ev.Memory) else None),
            )

    async def sample_all(self, last: dict[ev.WorkerId, ev.Memory]) -> dict[ev.WorkerId, ev.Memory]:
        """Sample every worker once, in a thread, and return the samples for the next time."""
        roots = {worker_id: process.pid for worker_id, process in self._by_worker.items()}

        def work() -> dict[ev.WorkerId, ev.Memory]:
            sampled = {worker_id: sample_tree(pid, last.get(worker_id)) for worker_id, pid in roots.items()}
            return {worker_id: memory for worker_id, memory in sampled.items() if memory is not None}

        samples = await self._loop.run_in_executor(self._readers, work)
        for worker_id, memory in samples.items():
            if memory is not last.get(worker_id):
                self.emit_later(ev.WorkerMeasured(worker_id, memory))
        return samples

    def _announce(self, effect: fx.Announce) -> None:
        event = effect.event
        is_news = event.subject == "model" or event.new in ("SPAWNING", "READY", "DEAD")
        _log.log(
            logging.INFO if is_news else logging.DEBUG,
            "model=%s worker=%s pid=%s %s: %s -> %s (%s)",
            event.model_id,
            event.worker_id,
            event.pid,
            event.subject,
            event.old,
            event.new,
            event.reason.partition("\n")[0],
        )
        for listener in self.listeners:
            listener(event)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.to_dict() if hasattr(value, "to_dict") else value


def as_host_error(error: BaseException, what: str) -> HostError:
    """Return the error of a piece of work that failed, for whoever asked for it."""
    return error if isinstance(error, HostError) else UnavailableError(f"{what}: {error}")
