"""The supervisor's side of clients: real sockets and peers around it, and notes in the place of the core."""

import os

import pytest
from transport_rig import LIMIT_BYTES, Transport

import hostd
from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.shell.transport.clients import Frontend, Programs
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode
from hostd_workers.wire.feeds import FEED_BYTES

NOW_S = 1000.0
CALL_HEADER = msg.pack_target(msg.Target("m", "predict"))


class Front:
    """A frontend, what it emitted, and its socket; `turn` lets it hear what peers have sent."""

    def __init__(self, transport):
        self.transport = transport
        self.events = []
        self.verbs = []
        self.withdrawn = []
        self.programs = Programs()
        self.frontend = Frontend(
            transport.listen,
            self.events.append,
            self._verb,
            lambda: NOW_S,
            on_withdrawn=lambda client, request_id: self.withdrawn.append((client, request_id)),
            programs=self.programs,
            welcome={"epoch": "e"},
            max_message_bytes=LIMIT_BYTES,
        )
        self.socket = self.frontend.socket

    def _verb(self, caller, name, envelope, deadline_s):
        self.verbs.append((caller, name, deadline_s))
        if name == "refused":
            raise hostd.NotFoundError("no such thing")

    def turn_until(self, is_true):
        self.transport.until(is_true)


@pytest.fixture
def front(tmp_path):
    with Transport(tmp_path) as transport:
        yield Front(transport)


def client(number):
    """Return what the host calls the first, second … client of this process."""
    return ev.ClientId(b"%d.%d" % (os.getpid(), number))


class Peer:
    def __init__(self, front, socket):
        self.front, self.socket = front, socket

    def say(self, frames):
        self.socket.send_multipart(frames)

    def hear(self):
        self.front.turn_until(lambda: self.socket.poll(0))
        return wire.unpack(self.socket.recv_multipart())

    def hello(self, **more):
        self.say(msg.pack_map(msg.HELLO, 1, {"versions": [wire.VERSION], "pid": 1, **more}))
        return self.hear()


@pytest.fixture
def connect(front):
    def make(*, hello=True):
        peer = Peer(front, front.transport.dealer(front.socket))
        if hello:
            assert peer.hello().kind == msg.WELCOME
        return peer

    return make


def test_before_its_hello_which_is_answered_with_the_epoch_a_client_is_refused(front, connect):
    peer = connect(hello=False)
    peer.say(wire.pack(msg.CALL, 7, CALL_HEADER, b"body"))
    assert isinstance(msg.unpack_error(peer.hear()), hostd.UnavailableError)
    assert (front.events, len(front.frontend)) == ([], 0)
    welcome = peer.hello()
    assert (welcome.kind, welcome.id, decode(welcome.body)) == (msg.WELCOME, 1, {"epoch": "e"})
    assert len(front.frontend) == 1
    assert front.programs.of(client(1))["pid"] == os.getpid(), "whatever it says"


def test_a_call_becomes_an_event_with_its_deadline_and_size(front, connect):
    peer = connect()
    peer.say(wire.pack(msg.CALL, 7, CALL_HEADER, b"body", [b"x" * 50_000], deadline_ms=2500))
    peer.say(wire.pack(msg.STREAM, 8, CALL_HEADER, b"body"))
    front.turn_until(lambda: len(front.events) == 2)
    event, endless = front.events
    assert (event.client, event.request_id, event.model_id, event.method) == (client(1), 7, "m", "predict")
    assert (event.deadline_s, endless.deadline_s) == (NOW_S + 2.5, None)
    assert event.size_bytes == 16 + len(CALL_HEADER) + 4 + 50_000


def test_a_call_of_too_many_bytes_in_all_its_frames_is_refused(front, connect):
    peer = connect()
    peer.say(wire.pack(msg.CALL, 7, CALL_HEADER, b"body", [b"x" * (1 << 19)] * 5))

    error = msg.unpack_error(peer.hear())
    assert isinstance(error, hostd.MessageTooLargeError)
    assert front.events == []


def test_a_verb_that_refuses_is_answered_with_its_error(front, connect):
    peer = connect()
    peer.say(msg.pack_map(msg.VERB, 8, {}, header=msg.pack_verb("refused")))
    envelope = peer.hear()
    assert envelope.id == 8
    assert isinstance(msg.unpack_error(envelope), hostd.NotFoundError)


def test_a_cancel_withdraws_and_a_credit_grants(front, connect):
    peer = connect()
    peer.say(wire.pack(msg.CANCEL, 7))
    peer.say(msg.pack_credit(8, 32))
    front.turn_until(lambda: len(front.events) == 2)
    assert front.withdrawn == [(client(1), 7)]
    assert front.events == [
        ev.CallCancelled(ev.Caller((client(1)), 7)),
        ev.CreditGranted(ev.Caller((client(1)), 8), 32),
    ]


def test_what_feeds_a_call_is_passed_on_as_it_came(front, connect):
    peer = connect()
    for message in (wire.pack(msg.ITEM, 8, body=b"\xc1"), wire.pack(msg.END, 8), wire.pack(msg.ERROR, 8)):
        peer.say(message)
    front.turn_until(lambda: len(front.events) == 3)
    caller = ev.Caller(client(1), 8)
    assert [event.caller for event in front.events] == [caller] * 3
    assert [event.payload[0][0] for event in front.events] == [msg.ITEM, msg.END, msg.ERROR]


def test_an_item_that_is_too_long_ends_its_call(front, connect):
    connect().say(wire.pack(msg.ITEM, 8, b"", b"body", [b"x" * (1 << 19)] * 5))
    front.turn_until(lambda: front.events)
    assert front.events == [ev.CallCancelled(ev.Caller(client(1), 8))]


def test_a_call_with_a_feed_counts_as_longer(front, connect):
    header = msg.pack_target(msg.Target("m", "f", feed=0, feed_window=4))
    connect().say(wire.pack(msg.CALL, 7, header, b"body"))
    front.turn_until(lambda: front.events)
    assert front.events[0].size_bytes == len(wire.pack(msg.CALL, 7, header, b"body")[0]) + FEED_BYTES


FORBIDDEN = {
    **{
        f"kind {kind}": wire.pack(kind, 9, b"", b"\x80")
        for kind in (0, msg.WELCOME, msg.RESULT, msg.WORKER_HELLO, msg.LOADED, 200)
    },
    "a body that must be a frame of its own": [
        wire.pack(msg.CALL, 9, CALL_HEADER)[0] + bytes(wire.INLINE_BODY_BYTES + 1)
    ],
    "a header that ends before": [wire.pack(msg.CALL, 9, b"h" * 99)[0][:50]],
}


@pytest.mark.parametrize("frames", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_a_client_may_not_say_is_refused_under_its_id(front, connect, frames):
    peer = connect()
    peer.say(frames)
    envelope = peer.hear()
    assert envelope.id == 9
    assert isinstance(msg.unpack_error(envelope), hostd.ProtocolError)
    assert front.events == []


def test_a_result_is_relayed_under_the_clients_own_id(front, connect):
    peer = connect()
    frames = wire.pack(msg.RESULT, 5, body=b"b" * 20_000, buffers=[b"x" * 9])
    front.frontend.relay(fx.RelayAnswer(client(1), 77, frames))
    envelope = peer.hear()
    assert (envelope.kind, envelope.id, bytes(envelope.body), len(envelope.buffers)) == (18, 77, b"b" * 20_000, 1)


@pytest.mark.parametrize("says", [[], wire.pack(msg.BYE, 0)], ids=["without a word", "with a goodbye"])
def test_a_client_that_went_has_vanished_with_everything_of_it(front, connect, says):
    peer, other = connect(), connect()
    peer.say(says) if says else peer.socket.close()
    front.turn_until(lambda: front.events)
    assert front.events == [ev.ClientVanished(client(1))]
    assert front.withdrawn == [(client(1), None)]
    assert len(front.frontend) == 1
    front.frontend.refuse(ev.Caller((client(1)), 3), hostd.NotFoundError("to nobody"))
    front.frontend.refuse(ev.Caller((client(2)), 4), hostd.NotFoundError("to the other"))
    assert other.hear().id == 4


def test_headers_are_remembered_but_not_without_end(front):
    frontend = front.frontend
    frontend._clients.add(b"x")
    for number in range(5000):
        header = msg.pack_target(msg.Target("m", f"method{number}"))
        frontend.on_message(b"x", wire.pack(msg.CALL, 1 + number, header, b""))
    for number in range(100):
        header = msg.pack_target(msg.Target("m" * 10_000, f"method{number}"))
        frontend.on_message(b"x", wire.pack(msg.CALL, 1 + number, header, b""))
    held = sum(map(len, frontend._targets))
    assert 0 < held < 1 << 20
    assert len(frontend._targets) <= 4096
