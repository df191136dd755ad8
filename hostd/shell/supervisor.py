"""The supervisor: one asyncio loop around the core.

    socket, pidfd, timer, thread ── event ──▶ core ── effects ──▶ socket, process, thread

Rules
1. `_emit` is the only way into the core and `_carry_out` the only way out. An event that comes while one is handled
   waits its turn, so the core never sees itself half done.
2. Nothing here blocks. What is slow runs in a thread and comes back as an event. What has to do with processes or files
   is carried out by others (`workforce`, `finding`, `files`, `repository`, `sizes`) in this way.
3. An effect that fails takes no other with it, and is not lost: it is tried again, or the core hears that it failed
   (`failing`).
4. A timer is armed for exactly the deadline that the core names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.machine import Core
from hostd.shell.failing import FAILURES, RETRIED, RETRY_S
from hostd.shell.own_log import about
from hostd.shell.raised import summary_of, tamed
from hostd.shell.turns import Turns
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import HostError, InternalError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from hostd.core.config import CoreConfig
    from hostd.shell.transport.clients import Frontend
    from hostd.shell.transport.poller import Poller
    from hostd.shell.transport.workers import Backend

T = TypeVar("T")

_log = logging.getLogger(__name__)

_SELF = ev.ClientId(b"")
"""Who asks when the host itself does; no connection has an empty identity."""

READ_THREADS = 2
"""Logs and stacks that are read at the same time, of two clients at least."""


class Executes(Protocol):
    """What runs work in threads."""

    def submit(self, work: Callable[[], Any], /) -> Future[Any]:
        """Run it, now or when there is a thread for it."""


class NotInTimeError(Exception):
    """A piece of work did not end in its time; its thread is left alone with it."""


class _Outcome(NamedTuple):
    """What a piece of work returned, or what it raised.

    Not a future of the loop: one cannot hold a StopIteration, and what is raised may be false.
    """

    value: Any
    error: BaseException | None


def _outcome_of(submitted: Future[Any]) -> _Outcome:
    """Return what has become of work; called in its thread, where an exception may run the code of its class."""
    error = submitted.exception()
    return _Outcome(submitted.result(), None) if error is None else _Outcome(None, tamed(error))


class Supervisor:
    """Carries the core's effects out and brings it events."""

    def __init__(self, config: CoreConfig, poller: Poller) -> None:
        self._loop = asyncio.get_running_loop()
        self.core = Core(config, wall_offset_s=time.time() - self._loop.time())
        poller.on_quiet = self.arm
        self._events: deque[ev.Event] = deque()
        self._encoded: tuple[Any, Any, Any] | None = None
        """The value that was answered last, while its event is carried out, and its encoded form."""
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s: float | None = None
        self._readers = Turns(READ_THREADS, "hostd-read")
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
        self._effects = {
            fx.ForwardCall: backend.call,
            fx.RelayAnswer: lambda e: frontend.relay(e.client, e.request_id, e.payload),
            fx.ForwardCancel: backend.cancel,
            fx.ForwardCredit: backend.credit,
            fx.Answer: self._answer,
            fx.AnswerError: self._refuse,
            fx.Announce: self._announce,
            fx.Stop: lambda _: self.stopped.set(),
            **others,
        }

    def close(self) -> None:
        """End the threads; nothing may be running in them any more."""
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

    def _answer(self, effect: fx.Answer) -> None:
        own = self._own_requests.pop(effect.caller, None)
        if own is None:
            self._answer_client(effect.caller, effect.value)
        elif not own.done():
            own.set_result(effect.value)

    def _answer_client(self, caller: ev.Caller, value: Any) -> None:
        # Thousands may wait for one load, and to encode its record is nearly all that an answer costs.
        if self._encoded is None or self._encoded[0] is not value:
            try:
                self._encoded = (value, *encode(_plain(value)))
            except HostError as error:
                self.frontend.refuse(caller, InternalError(f"the answer cannot be sent: {error}"))
                return
        _, body, buffers = self._encoded
        self.frontend.send(caller.client, wire.pack(msg.RESULT, caller.request_id, body=body, buffers=buffers))

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
        subject = about(model=getattr(effect, "model_id", None), worker=getattr(effect, "worker_id", None))
        is_ours = isinstance(error, InternalError)
        level, words = (logging.CRITICAL, "; please report it") if is_ours else (logging.ERROR, "")
        _log.log(level, "%s could not be carried out%s", kind.__name__, words, exc_info=error, extra=subject)
        if kind in RETRIED:
            self._loop.call_later(RETRY_S, self.carry_out, effect)
        elif kind in FAILURES:
            self.emit(FAILURES[kind](effect, as_host_error(error, "the host could not do it"), self.now()))

    def carry_out(self, effect: fx.Effect) -> None:
        """Carry out an effect again that has failed before."""
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

    # Effects that take time

    def in_thread(
        self,
        executor: Executes,
        work: Callable[[], Any],
        then: Callable[[Any], ev.Event | None],
        *,
        within_s: float | None = None,
    ) -> Future[Any]:
        """Run `work` in a thread, and give the core the event that `then` makes of its result or its exception.

        What has not ended `within_s` seconds is given up, whether or not it has begun: `then` gets a `NotInTimeError`.
        Whatever `work` raises, `then` gets an exception that can be read and kept (`tamed`). Returns the thread's own
        future, for those who are not on the loop; only its end counts.
        """
        submitted = executor.submit(work)
        is_over = False

        def finish(outcome: _Outcome | None) -> None:
            nonlocal is_over
            if is_over:
                return
            is_over = True
            if timer is not None:
                timer.cancel()
            if outcome is None:
                return  # the pool has been closed: the host ends
            event = then(outcome.value if outcome.error is None else outcome.error)
            if event is not None:
                self.emit_later(event)

        def give_up() -> None:
            finish(_Outcome(None, NotInTimeError()))
            submitted.cancel()

        def ended(submitted: Future[Any]) -> None:
            outcome = None if submitted.cancelled() else _outcome_of(submitted)
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(finish, outcome)

        timer = None if within_s is None else self._loop.call_later(within_s, give_up)
        submitted.add_done_callback(ended)
        return submitted

    def when(self, future: Future[Any], then: Callable[[], object], *, within_s: float) -> None:
        """Call `then` on the loop when something is done in its thread, or when so much time has passed."""
        is_due = True

        def once() -> None:
            nonlocal is_due
            if is_due:
                is_due = False
                timer.cancel()
                then()

        timer = self._loop.call_later(within_s, once)
        future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(once))

    def read(self, owner: str | bytes, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run `work` for an owner (a client) in a thread and `then` on the loop, with its result or its exception."""
        self.in_thread(self._readers.of(owner), work, then)

    async def aside(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run `work` in a thread and return its result. The loop's own pool would need threads to begin and to end."""
        return await asyncio.wrap_future(self._readers.of("host").submit(work, *arguments))

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
        for listener in self.listeners:
            listener(event)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.to_dict() if hasattr(value, "to_dict") else value


def as_host_error(error: BaseException, what: str) -> HostError:
    """Return the error of a piece of work that failed, for whoever asked for it."""
    error = tamed(error)
    if isinstance(error, HostError):
        return error
    # What the system and Python say is a sentence; others may say no more than a name.
    said = str(error) if isinstance(error, (OSError, RuntimeError)) else ""
    return UnavailableError(f"{what}: {said or summary_of(error)}")
