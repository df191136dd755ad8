"""The supervisor's side of clients: real sockets and peers around it, and notes in the place of the core."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from helpers import PATIENCE_S, POLL_S

import hostd
from hostd.core import events as ev
from hostd.shell.frontend import Frontend
from hostd.shell.sockets import Pump, RouterSocket
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode

if TYPE_CHECKING:
    from pathlib import Path

BUFFER_MESSAGES = 50
NOW_S = 1000.0
CALL_HEADER = msg.pack_target(msg.Target("m", "predict"))


class Front:
    """A frontend, what it emitted, and its socket; `turn` lets it hear what peers have sent."""

    def __init__(self, context: zmq.Context[Any], directory: Path) -> None:
        self.events: list[Any] = []
        self.verbs: list[tuple[ev.Caller, str, float | None]] = []
        self.withdrawn: list[tuple[bytes, int | None]] = []
        self.backlogs = 0
        self.frontend = Frontend(
            self.events.append,
            self._verb,
            lambda: NOW_S,
            on_backlog=self._on_backlog,
            on_withdrawn=lambda client, request_id: self.withdrawn.append((client, request_id)),
            welcome={"epoch": "e"},
            buffer_messages=BUFFER_MESSAGES,
            max_message_bytes=1 << 20,
        )
        self.socket = self.frontend.socket = RouterSocket(
            context,
            f"ipc://{directory}/client.ipc",
            self.frontend.on_message,
            self.frontend.on_unsent,
            max_frame_bytes=1 << 20,
        )

    def _verb(self, caller: ev.Caller, name: str, envelope: wire.Envelope, deadline_s: float | None) -> None:
        self.verbs.append((caller, name, deadline_s))
        if name == "refused":
            raise hostd.NotFoundError("no such thing")

    def _on_backlog(self) -> None:
        self.backlogs += 1

    def turn_until(self, is_true: Callable[[], Any]) -> None:
        async def turn() -> None:
            pump, quiet = Pump(asyncio.get_running_loop()), asyncio.Event()
            pump.on_quiet = quiet.set
            pump.add(self.socket)
            try:
                while not is_true():
                    quiet.clear()
                    # Not for ever: what is_true looks at may be on its way to a peer, of which no socket here will tell.
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(quiet.wait(), POLL_S)
            finally:
                pump.stop()

        asyncio.run(asyncio.wait_for(turn(), PATIENCE_S))


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as made:
        yield made


@pytest.fixture
def front(context: zmq.Context[Any], tmp_path: Path) -> Iterator[Front]:
    made = Front(context, tmp_path)
    with made.socket:
        yield made


class Peer:
    def __init__(self, front: Front, socket: zmq.Socket[bytes], identity: bytes) -> None:
        self.front, self.socket, self.identity = front, socket, identity

    def say(self, frames: list[Any]) -> None:
        self.socket.send_multipart(frames)

    def hear(self) -> wire.Envelope:
        assert self.socket.poll(PATIENCE_S * 1000), "no answer"
        return wire.unpack(self.socket.recv_multipart())

    def hello(self, **more: Any) -> wire.Envelope:
        known = len(self.front.frontend)
        self.say(msg.pack_map(msg.HELLO, 1, {"versions": [wire.VERSION], "pid": 1, **more}))
        self.front.turn_until(lambda: len(self.front.frontend) > known)
        return self.hear()


@pytest.fixture
def connect(context: zmq.Context[Any], front: Front) -> Iterator[Callable[..., Peer]]:
    sockets: list[zmq.Socket[bytes]] = []

    def make(identity: bytes = b"peer", *, hello: bool = True, **options: int) -> Peer:
        socket = context.socket(zmq.DEALER)
        sockets.append(socket)
        socket.linger = 0
        socket.setsockopt(zmq.IDENTITY, identity)
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name), value)
        socket.connect(front.socket.endpoint)
        peer = Peer(front, socket, identity)
        if hello:
            assert peer.hello().kind == msg.WELCOME
        return peer

    yield make
    for socket in sockets:
        socket.close()


Connect = Callable[..., Peer]


def test_hello_is_answered_with_the_epoch(front: Front, connect: Connect) -> None:
    welcome = connect(hello=False).hello()
    assert (welcome.kind, welcome.id, decode(welcome.body)) == (msg.WELCOME, 1, {"epoch": "e"})
    assert len(front.frontend) == 1


def test_a_call_becomes_an_event_with_its_deadline_and_size(front: Front, connect: Connect) -> None:
    peer = connect()
    peer.say(wire.pack(msg.CALL, 7, CALL_HEADER, b"body", [b"x" * 50_000], deadline_ms=2500))
    front.turn_until(lambda: front.events)
    (event,) = front.events
    assert (event.client, event.request_id, event.model_id, event.method) == (b"peer", 7, "m", "predict")
    assert event.deadline_s == NOW_S + 2.5
    assert event.size_bytes == 16 + len(CALL_HEADER) + 4 + 50_000


def test_a_call_without_deadline_has_none(front: Front, connect: Connect) -> None:
    connect().say(wire.pack(msg.STREAM, 7, CALL_HEADER, b"body"))
    front.turn_until(lambda: front.events)
    assert front.events[0].deadline_s is None


def test_a_call_of_too_many_bytes_in_all_its_frames_is_refused(front: Front, connect: Connect) -> None:
    peer = connect()
    peer.say(wire.pack(msg.CALL, 7, CALL_HEADER, b"body", [b"x" * (1 << 19)] * 3))
    front.turn_until(lambda: peer.socket.poll(0))
    error = msg.unpack_error(peer.hear())
    assert isinstance(error, hostd.MessageTooLargeError)
    assert front.events == []


def test_before_its_hello_a_client_is_refused(front: Front, connect: Connect) -> None:
    peer = connect(hello=False)
    peer.say(wire.pack(msg.CALL, 7, CALL_HEADER, b"body"))
    front.turn_until(lambda: peer.socket.poll(0))
    assert isinstance(msg.unpack_error(peer.hear()), hostd.UnavailableError)
    assert (front.events, len(front.frontend)) == ([], 0)


def test_a_verb_that_refuses_is_answered_with_its_error(front: Front, connect: Connect) -> None:
    peer = connect()
    peer.say(msg.pack_map(msg.VERB, 8, {}, header=msg.pack_verb("refused")))
    front.turn_until(lambda: front.verbs)
    envelope = peer.hear()
    assert envelope.id == 8
    assert isinstance(msg.unpack_error(envelope), hostd.NotFoundError)


def test_a_cancel_withdraws_and_a_credit_grants(front: Front, connect: Connect) -> None:
    peer = connect()
    peer.say(wire.pack(msg.CANCEL, 7))
    peer.say(msg.pack_credit(8, 32))
    front.turn_until(lambda: len(front.events) == 2)
    assert front.withdrawn == [(b"peer", 7)]
    assert front.events == [
        ev.CallCancelled(ev.Caller(ev.ClientId(b"peer"), 7)),
        ev.CreditGranted(ev.Caller(ev.ClientId(b"peer"), 8), 32),
    ]


def test_a_goodbye_ends_everything_of_the_client(front: Front, connect: Connect) -> None:
    peer = connect()
    peer.say(wire.pack(msg.BYE, 0))
    front.turn_until(lambda: front.events)
    assert front.events == [ev.ClientVanished(ev.ClientId(b"peer"))]
    assert front.withdrawn == [(b"peer", None)]
    assert len(front.frontend) == 0


@pytest.mark.parametrize("kind", [0, msg.WELCOME, msg.RESULT, msg.WORKER_HELLO, msg.LOADED, 200])
def test_what_a_client_may_not_say_is_refused_and_counted(front: Front, connect: Connect, kind: int) -> None:
    peer = connect()
    peer.say(wire.pack(kind, 9, b"", b"\x80"))
    front.turn_until(lambda: front.frontend.dropped)
    assert isinstance(msg.unpack_error(peer.hear()), hostd.ProtocolError)
    assert front.events == []


def test_a_result_is_relayed_under_the_clients_own_id(front: Front, connect: Connect) -> None:
    peer = connect()
    front.frontend.relay(ev.ClientId(b"peer"), 77, wire.pack(msg.RESULT, 5, body=b"b" * 20_000, buffers=[b"x" * 9]))
    envelope = peer.hear()
    assert (envelope.kind, envelope.id, bytes(envelope.body), len(envelope.buffers)) == (18, 77, b"b" * 20_000, 1)


def test_an_answer_that_cannot_travel_is_an_internal_error(front: Front, connect: Connect) -> None:
    peer = connect()
    front.frontend.answer(ev.Caller(ev.ClientId(b"peer"), 3), object())
    assert isinstance(msg.unpack_error(peer.hear()), hostd.InternalError)


# Clients that are slow, or gone


def fill(front: Front, peer: Peer) -> int:
    """Send answers until one has to wait; return how many."""
    count = 0
    while not front.backlogs:
        front.frontend.answer(ev.Caller(ev.ClientId(peer.identity), count), "x" * 8000)
        count += 1
    return count


def test_answers_for_a_slow_client_wait_and_come_in_order(front: Front, connect: Connect) -> None:
    peer = connect(RCVHWM=1)
    sent = fill(front, peer)
    for _ in range(BUFFER_MESSAGES // 2):
        front.frontend.answer(ev.Caller(ev.ClientId(b"peer"), sent), "later")
        sent += 1
    assert front.frontend.flush(), "nothing can go out while the client does not read"
    received = []
    while len(received) < sent:
        received.append(peer.hear().id)
        front.frontend.flush()
    assert received == list(range(sent))
    assert not front.frontend.flush()
    assert front.frontend.dropped_clients == 0


def test_a_client_that_does_not_read_is_dropped_loudly(
    front: Front, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    peer = connect(RCVHWM=1)
    fill(front, peer)
    for number in range(BUFFER_MESSAGES * 3):
        front.frontend.answer(ev.Caller(ev.ClientId(b"peer"), number), "more")
    assert front.frontend.dropped_clients == 1
    assert front.events == [ev.ClientVanished(ev.ClientId(b"peer"))]
    assert "client_buffer_messages" in caplog.text
    assert not front.frontend.flush()


def test_a_full_client_costs_one_attempt_a_time(
    front: Front, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = connect(RCVHWM=1)
    fill(front, peer)
    for number in range(BUFFER_MESSAGES - 5):
        front.frontend.answer(ev.Caller(ev.ClientId(b"peer"), number), "more")
    attempts = 0
    real = front.socket.try_send

    def count(identity: bytes, frames: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return real(identity, frames)

    monkeypatch.setattr(front.socket, "try_send", count)
    front.frontend.flush()
    assert attempts == 1


def test_a_client_that_went_without_a_word_is_found_by_a_probe(front: Front, connect: Connect) -> None:
    peer, other = connect(b"gone"), connect(b"other")
    peer.socket.close()

    def probe() -> bool:
        front.frontend.probe()
        return bool(front.events)

    front.turn_until(probe)
    assert front.events == [ev.ClientVanished(ev.ClientId(b"gone"))]
    assert len(front.frontend) == 1
    assert other.hear().kind == msg.PING


def test_headers_are_remembered_but_not_without_end(front: Front) -> None:
    frontend = front.frontend
    frontend._clients[b"x"] = None
    for number in range(5000):
        header = msg.pack_target(msg.Target("m", f"method{number}"))
        frontend.on_message(b"x", wire.pack(msg.CALL, 1 + number, header, b""))
    for number in range(100):
        header = msg.pack_target(msg.Target("m" * 10_000, f"method{number}"))
        frontend.on_message(b"x", wire.pack(msg.CALL, 1 + number, header, b""))
    held = sum(map(len, frontend._targets))
    assert 0 < held < 1 << 20
    assert len(frontend._targets) <= 4096
