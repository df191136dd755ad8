"""The conversation before the first message, heartbeats, and what a frame looks like, with peers of ZeroMQ and raw ones."""

import itertools

import pytest
import zmq
from transport_rig import COMMAND, GREETING, LIMIT_BYTES, MORE, Heard, connection_of, frame, message, ready

from hostd.shell.transport import zmtp
from hostd_workers.wire.errors import ProtocolError

PING = b"\x04PING\x00\x64"


def greeting(version=3, minor=0, mechanism=b"NULL", signature=GREETING[:10]):
    return signature + bytes([version, minor]) + mechanism.ljust(20, b"\0") + bytes(32)


GREETINGS = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "1.0": b"\x01\x00",  # it has no greeting
    "signature": greeting(signature=b"\xff" + bytes(8) + b"\x7e"),
    "2.0": greeting(version=1)[:12],  # it waits for an answer after this
    "2.x": greeting(version=2),
    **{mechanism: greeting(mechanism=mechanism.encode()) for mechanism in ("PLAIN", "CURVE", "NULLA")},
}


@pytest.mark.parametrize("said", GREETINGS.values(), ids=GREETINGS)
def test_a_peer_that_greets_in_another_way_is_turned_away_at_once(transport, said):
    peer = transport.raw(transport.hear(Heard()), said)
    transport.until(peer.has_ended)
    assert bytes(peer.received) == zmtp.GREETING


@pytest.mark.parametrize(("version", "minor"), [(3, 1), (4, 2)])
def test_later_versions_fall_back_to_ours_and_a_greeting_may_come_byte_by_byte(transport, version, minor):
    heard = Heard()
    peer = transport.raw(transport.hear(heard), b"")
    rest = iter(greeting(version, minor) + ready() + message(b"a", b"b" * 300))
    transport.until(lambda: heard.messages or [peer.say(bytes([byte])) for byte in itertools.islice(rest, 1)] == [])
    transport.until(lambda: heard.messages)
    assert heard.messages == [(b"1", [b"a", b"b" * 300])]
    assert peer.frames()[0][1].startswith(b"\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER")


@pytest.mark.parametrize("kind", [b"DEALER", b"REQ", b"ROUTER"])
def test_what_can_talk_to_a_router_may(transport, kind):
    heard = Heard()
    transport.raw(transport.hear(heard), GREETING + ready(kind) + message(b"hello"))
    transport.until(lambda: heard.messages)


NO_READY = {
    **{f"a socket {kind!r}": ready(kind) for kind in (b"PUB", b"SUB", b"PUSH", b"PAIR", b"STREAM", b"", b"dealer")},
    "message": message(b"too early"),
    "ERROR": frame(b"\x05ERROR\x00", COMMAND),
    "PING": frame(PING, COMMAND),
    "no name": frame(b"\x05READY\xff", COMMAND),
    "long value": frame(b"\x05READY\x0bSocket-Type\xff\xff\xff\xffDEALER", COMMAND),
    "short length": frame(b"\x05READY\x0bSocket-Type\x00\x00", COMMAND),
    "no type": frame(b"\x05READY", COMMAND),
    "longest": frame(b"\x05READY" + bytes(1019), COMMAND),
    "2^63": b"\x06" + (2**63).to_bytes(8, "big"),
}


@pytest.mark.parametrize("said", NO_READY.values(), ids=NO_READY)
def test_a_peer_that_says_something_else_than_a_good_ready_is_turned_away(transport, said):
    heard = Heard()
    transport.until(transport.raw(transport.hear(heard), GREETING + said).has_ended)
    assert heard.messages == heard.claims == heard.gone == []


def test_names_of_properties_have_no_case_and_unknown_ones_are_ignored():
    body = b"\x05READY\x0bsocket-TYPE\x00\x00\x00\x06DEALER\x01X\x00\x00\x00\x00\x08IDENTITY\x00\x00\x00\x02me"
    assert zmtp.unpack_ready(body) == b"me"
    with pytest.raises(ProtocolError):
        zmtp.unpack_ready(b"")


def test_a_peer_of_zeromq_with_heartbeats_lives(transport):
    """Its library ends a connection on which no PONG comes."""
    heard = Heard()
    listener = transport.hear(heard)
    peer = transport.dealer(listener, HEARTBEAT_IVL=20, HEARTBEAT_TIMEOUT=200, RECONNECT_IVL=-1)
    monitor = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    peer.send(b"hello")
    transport.until(lambda: heard.messages)
    before, looks = transport.loop.time(), []
    transport.until(lambda: looks.append(monitor.poll(0)) or transport.loop.time() - before > 1.0)
    assert not any(looks)
    peer.send(b"still here")
    transport.until(lambda: len(heard.messages) == 2)
    peer.disable_monitor()
    monitor.close(0)


def test_a_ping_brings_its_context_back_and_commands_that_need_no_answer_get_none(transport):
    heard = Heard()
    peer = transport.raw(transport.hear(heard))
    for body in (b"", b"\x04PONGx", b"\x09SUBSCRIBEx", b"\x05READY", b"\x05ERROR\x03why", PING + b"context", PING):
        peer.say(frame(body, COMMAND))
    peer.say(message(b"last"))
    transport.until(lambda: heard.messages and len(peer.frames()) == 3)
    assert heard.messages == [(b"1", [b"last"])]
    assert peer.frames()[1:] == [(COMMAND, b"\x04PONGcontext"), (COMMAND, b"\x04PONG")]


@pytest.mark.parametrize("is_trusted", [False, True], ids=["client", "worker"])
def test_a_peer_that_pings_and_never_reads_fills_no_memory(transport, is_trusted):
    heard = Heard(is_trusted=is_trusted)
    listener = transport.hear(heard, peer_buffer_bytes=64 * 1024)
    peer = transport.raw(listener)
    peer.say(message(b"hello"))
    transport.until(lambda: heard.messages)
    pings, sent = frame(PING, COMMAND) * 1000, 0

    def flood():
        nonlocal sent
        try:
            sent += peer.socket.send(pings)
        except BlockingIOError:
            pass
        except BrokenPipeError:
            return True
        return sent > 200 * len(pings)

    transport.until(flood)
    if is_trusted:  # its pings are read, and no longer answered
        assert connection_of(listener).queued_bytes < 256 * 1024
    else:
        transport.until(lambda: heard.gone == [b"1"])


def test_what_is_packed_is_what_zeromq_reads(transport):
    heard = Heard()
    listener = transport.hear(heard)
    peer = transport.dealer(listener)
    peer.send(b"hello")
    transport.until(lambda: heard.messages)
    sizes = [0, 1, 255, 256, 16 * 1024 - 1, 16 * 1024, 70_000, LIMIT_BYTES]
    for frames in [[bytes(size)] for size in sizes] + [[bytes(size) for size in sizes], [b"x"] * 300, [b"", b""]]:
        listener.send(b"1", frames)
        transport.until(lambda: peer.poll(0))
        assert peer.recv_multipart() == frames


def test_a_big_frame_is_not_copied_on_its_way_out():
    big = bytes(100_000)
    pieces = zmtp.pack_message([b"first", big, b"last"])
    assert pieces[1] is big
    assert b"".join(pieces) == frame(b"first", MORE) + frame(big, MORE) + frame(b"last")
