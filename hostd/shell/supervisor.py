"""The supervisor: one asyncio loop around the core.

    socket, pidfd, timer, thread ── event ──▶ core ── effects ──▶ socket, process, thread

Rules
1. `emit` is the only way into the core and the table of handlers the only way out. An event that comes while one is
   handled waits its turn, so the core never sees itself half done.
2. Nothing here blocks. The handler of a slow effect is a coroutine that waits for threads (`in_thread`) and returns the
   event that says how it ended; `start` runs it, as it runs all coroutines of the host's components.
3. An effect that fails takes no other with it, and is not lost: it is tried again, or the core hears that it failed
   (`failing`).
4. A timer is armed for exactly the deadline that the core names.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.machine import Core
from hostd.shell.own_log import about
from hostd.shell.work.closing import Closing
from hostd.shell.work.component import composed
from hostd.shell.work.failing import FAILURES, RETRIED, RETRY_S
from hostd.shell.work.raised import as_host_error
from hostd.shell.work.threads import in_thread
from hostd.shell.work.turns import Turns
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import HostError, InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from hostd.core.config import CoreConfig
    from hostd.records import Event
    from hostd.shell.transport.clients import Frontend
    from hostd.shell.work.component import Component, Handlers

T = TypeVar("T")
Slow: TypeAlias = "Coroutine[Any, Any, T]"

_log = logging.getLogger(__name__)

_SELF = ev.ClientId(b"")
"""The caller of what the host itself asks; no connection has an empty identity."""

READ_THREADS = 2
"""Logs and stacks that are read at the same time, of two clients at least."""


class Supervisor(Closing):
    """Carries the core's effects out and brings it events."""

    def __init__(self, config: CoreConfig) -> None:
        self._loop = asyncio.get_running_loop()
        self.core = Core(config, wall_offset_s=time.time() - self._loop.time())
        self._events: deque[ev.Event] = deque()
        self._encoded: tuple[Any, Any, Any] | None = None
        """The value that was answered last, while its event is carried out, and its encoded form."""
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s: float | None = None
        self._readers = Turns(READ_THREADS, "hostd-read")
        self._slow: set[asyncio.Task[None]] = set()
        self.stopped = asyncio.Event()
        self._hearers: list[Callable[[Event], None]] = []
        self._effects: dict[type, Callable[[Any], object]] = {}
        self._own_requests: dict[ev.Caller, asyncio.Future[Any]] = {}
        self._own_count = 0

    def attach(self, clients: Frontend, *components: Component) -> None:
        """Take what answers clients, and the components that carry out all other effects; all emit into this.

        Raises `InternalError` if an effect has no handler, or two.
        """
        own: Handlers = {
            fx.Answer: partial(self._answer, clients),
            fx.AnswerError: partial(self._refuse, clients),
            fx.Announce: self._announce,
            fx.Stop: lambda _: self.stopped.set(),
        }
        handlers = composed(own, clients.handlers(), *(each.handlers() for each in components))
        self._effects = {
            kind: partial(self._begin, handle) if inspect.iscoroutinefunction(handle) else handle
            for kind, handle in handlers.items()
        }

    def tell(self, *hearers: Callable[[Event], None]) -> None:
        """Call these with every transition from now on, in this order, after those that are called already."""
        self._hearers += hearers

    def close(self) -> None:
        """End the threads, in which nothing may be running any more, and what waits for others."""
        for task in self._slow:
            task.cancel()
        self._readers.shutdown(wait=True)
        if self._timer is not None:
            self._timer.cancel()

    def now(self) -> float:
        """Return the core's time."""
        return self._loop.time()

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

    def answer(self, caller: ev.Caller, value: object) -> None:
        """Answer a request of a client with plain values or records, from outside of the core."""
        self.carry_out(fx.Answer(caller, value))
        self._encoded = None

    def reply(self, caller: ev.Caller, slow: Slow[object]) -> None:
        """Answer a request of a client with what a coroutine returns, or refuse it with what it raises."""
        self._start(
            slow,
            partial(self.answer, caller),
            lambda error: self.carry_out(fx.AnswerError(caller, as_host_error(error, "the host could not do it"))),
        )

    def _answer(self, clients: Frontend, effect: fx.Answer) -> None:
        own = self._own_requests.pop(effect.caller, None)
        if own is None:
            self._answer_client(clients, *effect)
        elif not own.done():
            own.set_result(effect.value)

    def _answer_client(self, clients: Frontend, caller: ev.Caller, value: Any, is_last: bool) -> None:  # noqa: FBT001
        # Thousands may wait for one load, and to encode its record is nearly all that an answer costs.
        if self._encoded is None or self._encoded[0] is not value:
            try:
                self._encoded = (value, *encode(_plain(value)))
            except HostError as error:
                clients.refuse(caller, InternalError(f"the answer cannot be sent: {error}"))
                return
        _, body, buffers = self._encoded
        kind = msg.RESULT if is_last else msg.ITEM
        clients.send(caller.client, wire.pack(kind, caller.request_id, body=body, buffers=buffers))

    def _refuse(self, clients: Frontend, effect: fx.AnswerError) -> None:
        own = self._own_requests.pop(effect.caller, None)
        if own is None:
            clients.refuse(effect.caller, effect.error)
        elif not own.done():
            own.set_exception(effect.error)

    def _work_off(self) -> None:
        events, handle, carry_out, now = self._events, self.core.handle, self._effects, self._loop.time
        self._is_busy = True
        try:
            while events:
                for effect in handle(events.popleft(), now()):
                    try:
                        carry_out[type(effect)](effect)
                    except Exception as error:  # noqa: BLE001, PERF203 - see rule 3
                        self._on_failed(effect, error)
        except InternalError:
            # One request is lost, and the invariants say which part of the state may be wrong; the others go on.
            _log.critical("a broken invariant; please report it", exc_info=True)
        finally:
            self._is_busy = False
            self._encoded = None
            if events:
                self._loop.call_soon(self._work_off)

    def _on_failed(self, effect: fx.Effect, error: Exception) -> None:
        """Have an effect that could not be carried out tried again, or the core told; see `failing`."""
        kind = type(effect)
        is_ours = isinstance(error, InternalError)
        if is_ours or kind not in FAILURES or not isinstance(error, HostError):  # else it is an answer
            subject = about(model=getattr(effect, "model_id", None), worker=getattr(effect, "worker_id", None))
            level, words = (logging.CRITICAL, "; please report it") if is_ours else (logging.ERROR, "")
            _log.log(level, "%s could not be carried out%s", kind.__name__, words, exc_info=error, extra=subject)
        if kind in RETRIED:
            self._loop.call_later(RETRY_S, self.carry_out, effect)
        elif kind in FAILURES:
            self.emit_later(FAILURES[kind](effect, as_host_error(error, "the host could not do it"), self.now()))

    def carry_out(self, effect: fx.Effect) -> None:
        """Carry out an effect: one that has failed before, or one of a component's own."""
        try:
            self._effects[type(effect)](effect)
        except Exception as error:  # noqa: BLE001 - as above
            self._on_failed(effect, error)

    def emit_later(self, event: ev.Event) -> None:
        """Give the core an event from outside of the sockets' turns, and look at its next deadline after it."""
        self.emit(event)
        self.arm()

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

    # What takes time

    def _begin(self, handle: Callable[[Any], Slow[ev.Event | None]], effect: fx.Effect) -> None:
        self.start(handle(effect), lambda error: self._on_failed(effect, error))

    def start(self, slow: Slow[ev.Event | None], failed: Callable[[Exception], object] | None = None) -> None:
        """Run a coroutine beside all others and give the core the event that it returns; `failed` gets what it raises.

        Those that are started one after the other take their first steps in this order.
        """

        def done(event: ev.Event | None) -> None:
            if event is not None:
                self.emit_later(event)

        self._start(slow, done, failed or _log_failure)

    def _start(self, slow: Slow[T], done: Callable[[T], object], failed: Callable[[Exception], object]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            self._slow.discard(task)
            slow.close()  # for one that was cancelled before its first step

        task = self._loop.create_task(_run(slow, done, failed))
        self._slow.add(task)
        task.add_done_callback(ended)

    async def read(self, owner: str | bytes, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, which looks at a disk for an owner (a client), as `in_thread` does."""
        return await in_thread(self._readers.of(owner), work)

    def _announce(self, effect: fx.Announce) -> None:
        event = effect.event
        is_news = event.subject == "model" or event.new in ("SPAWNING", "READY", "DEAD")
        _log.log(
            logging.INFO if is_news else logging.DEBUG,
            "%s: %s -> %s (%s)",
            event.subject,
            event.old,
            event.new,
            event.reason.partition("\n")[0],
            extra=about(model=event.model_id, worker=event.worker_id, pid=event.pid),
        )
        for hear in self._hearers:
            hear(event)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.to_dict() if hasattr(value, "to_dict") else value


async def _run(slow: Slow[T], done: Callable[[T], object], failed: Callable[[Exception], object]) -> None:
    try:
        result = await slow
    except Exception as error:  # noqa: BLE001 - see rule 3
        failed(error)
    else:
        done(result)


def _log_failure(error: Exception) -> None:
    _log.error("what the host began beside its effects has failed", exc_info=error)
