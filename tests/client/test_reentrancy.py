"""What interrupts a call in its own thread, a signal handler or a finalizer, and uses the same client there."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from calls import Waiting, outcome_of
from fake_host import FakeHost, Frames, echo, polite
from helpers import PATIENCE_S, eventually

import hostd
from hostd.client import connection as connection_module
from hostd.client import lanes as lanes_module
from hostd.client._sync import channel as channel_module
from hostd.client._sync import followers as followers_module
from hostd.client._sync import pump as pump_module
from hostd.client._sync import waker as waker_module
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

if TYPE_CHECKING:
    from types import FrameType

Fake = Callable[..., FakeHost]

WAITS: dict[str, Callable[[hostd.Client], Any]] = {
    "call": lambda client: client.call("m", "echo", ("x",), {}, None),
    "verb": lambda client: client.list_models(),
    "load": lambda client: client.load_model("m", "/m"),
    "result": lambda client: client.submit("m", "echo", ("x",), {}, None).result(),
    "exception": lambda client: client.submit("m", "echo", ("x",), {}, None).exception(5),
    "futures.wait": lambda client: futures.wait([client.submit("m", "echo", ("x",), {}, None)]),
    "map": lambda client: list(client.map("m", "echo", ([1],), {}, None)),
    "stream": lambda client: list(client.stream("m", "count", (3,), {}, None)),
    "events": lambda client: client.events(),
    "deploy": lambda client: client.deploy_model("m", {"a": b"a"}),
}


@contextmanager
def in_a_handler(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run something in a handler of a signal that comes while the block waits; yields what came of it."""
    outcomes: list[Any] = []

    def handle(number: int, frame: FrameType | None) -> None:
        outcomes.append(outcome_of(work))

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield outcomes
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupt_once(host: FakeHost, calls: int = 1) -> threading.Thread:
    """Send this thread the signal once the host has got its call."""

    def run() -> None:
        host.await_kind(msg.CALL, calls)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_closing_in_a_signal_handler_ends_the_call_that_it_interrupts(endpoint: str, fake: Fake) -> None:
    host = fake(polite)
    client = hostd.connect(endpoint)
    with in_a_handler(client.close) as closed:
        thread = interrupt_once(host)
        with pytest.raises(hostd.CancelledError, match="the client was closed"):
            client.call("m", "echo", ("x",), {}, None)
        thread.join()
    assert closed == [None]
    host.await_kind(msg.BYE)


@pytest.mark.parametrize("name", WAITS)
def test_what_would_wait_for_the_call_below_it_is_refused_before_it_does_anything(
    endpoint: str, fake: Fake, name: str
) -> None:
    host = fake(polite)
    with hostd.connect(endpoint) as client:

        def handle() -> None:
            try:
                WAITS[name](client)
            finally:
                host.answer = echo
                for frames in echo(host, host.of_kind(msg.CALL)[0]):
                    host.say(frames)

        with in_a_handler(handle) as outcomes:
            thread = interrupt_once(host)
            assert client.call("m", "echo", ("the outer",), {}, PATIENCE_S) == "the outer"
            thread.join()
        assert outcomes == [hostd.FailedPreconditionError]
        assert host.of_kind(msg.VERB) == []
        assert client.call("m", "echo", ("after",), {}, PATIENCE_S) == "after"
        if name in ("call", "map"):
            assert len(host.of_kind(msg.CALL)) == 2


def test_what_does_not_wait_works_in_a_signal_handler(endpoint: str, fake: Fake) -> None:
    host = fake(polite)
    with hostd.connect(endpoint) as client:
        given_up = client.submit("m", "echo", ("given up",), {}, None)
        begun: list[hostd.PendingCall] = []

        def handle() -> bool:
            begun.append(client.submit("m", "echo", ("begun",), {}, PATIENCE_S))
            host.answer = echo
            assert not begun[0].done()
            assert given_up.cancel()
            assert given_up.done()
            for frames in echo(host, host.of_kind(msg.CALL)[1]):
                host.say(frames)
            with hostd.connect(endpoint) as own:
                return bool(own.call("m", "echo", ("own",), {}, PATIENCE_S) == "own")

        with in_a_handler(handle) as outcomes:
            thread = interrupt_once(host, 2)
            assert client.call("m", "echo", ("outer",), {}, PATIENCE_S) == "outer"
            thread.join()
        assert outcomes == [True]
        assert begun[0].result() == "begun"


MODULES = (channel_module, pump_module, lanes_module, connection_module, followers_module, waker_module)
INTERRUPTED = {module.__file__ for module in MODULES}
ENDS_OF_CLOSED = (hostd.CancelledError, hostd.FailedPreconditionError)


class Interruption:
    """A thread that uses a client, and that does something else at one line of the channel, chosen by its number.

    A trace function runs where a signal handler or a finalizer would.
    """

    def __init__(self, use: Callable[[], Any], step: int, work: Callable[[], Any]) -> None:
        self.did: list[Any] = []
        self._use = use
        self._left = step
        self._work = work

    def run(self) -> Any:
        """Return what came of the use."""
        return Waiting(self._traced).join()

    def _traced(self) -> Any:
        sys.settrace(self._trace)
        try:
            return outcome_of(self._use)
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in INTERRUPTED:
            return None
        if event == "line" and self._left:
            self._left -= 1
            if not self._left:
                self.did.append(outcome_of(self._work))
        return self._trace


@pytest.mark.parametrize("what", ["close", "call", "submit", "cancel", "drop a stream"])
@pytest.mark.parametrize("role", ["leads", "follows", "connects", "submits"])
def test_nothing_waits_for_itself_wherever_a_client_is_interrupted(
    endpoint: str, fake: Fake, what: str, role: str
) -> None:
    host = fake(never)
    for step in range(1, 1000):
        client = hostd.connect(endpoint)
        submit = partial(client.submit, "m", "echo", ("value",), {}, PATIENCE_S)
        call = partial(client.call, "m", "echo", ("value",), {}, PATIENCE_S)
        dropped: list[Any] = []
        if role != "connects":
            dropped.append(client.stream("m", "never", (1,), {}, None))
        if role == "follows":
            leader = Waiting(partial(client.call, "m", "never", (1,), {}, None))
            eventually(client._channel._lead.locked, "another thread leads")
        elif role == "connects":
            lost = client.submit("m", "never", (1,), {}, None)
            host.stop()
            assert isinstance(lost.exception(), hostd.UnavailableError)
            host = fake(never)
        work = {"close": client.close, "call": call, "submit": submit, "drop a stream": dropped.clear}
        work["cancel"] = lambda submit=submit: submit().cancel()
        interruption = Interruption(submit if role == "submits" else call, step, work[what])
        outcome = interruption.run()
        if what == "close" and interruption.did:
            if role != "connects":
                host.await_kind(msg.BYE, step)
            if isinstance(outcome, hostd.PendingCall):
                outcome = type(outcome.exception())
            assert outcome in ("value", hostd.CancelledError, hostd.FailedPreconditionError)
        else:
            assert (outcome.result() if role == "submits" else outcome) == "value"
        for did in interruption.did:
            nested = did.result() if isinstance(did, hostd.PendingCall) else did
            assert nested in (None, True, False, "value", hostd.FailedPreconditionError)  # False: answered before
        client.close()
        if role == "follows":
            assert isinstance(leader.join(), hostd.CancelledError)
        if not interruption.did:
            assert step > 10
            return
    raise AssertionError("it has fewer lines")


def never(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
    """Echo, but leave calls and streams of the method `never` without an answer."""
    is_never = request.kind in (msg.CALL, msg.STREAM) and msg.unpack_target(request.header).method == "never"
    return () if is_never else echo(host, request)
