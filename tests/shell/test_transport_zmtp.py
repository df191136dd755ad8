"""ZMTP: bytes in, messages out, however they come; the conversation before the first message; heartbeats; messages out."""

import itertools
import random

import psutil
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from transport_rig import (
    COMMAND,
    GREETING,
    LIMIT_BYTES,
    LONG,
    MORE,
    Heard,
    announced,
    connection_of,
    frame,
    message,
    ready,
)

from hostd.shell.transport import zmtp
from hostd.shell.transport.decoder import BUFFER_BYTES, MORE_TO_DO, Decoder, TooLongError
from hostd_workers.wire.errors import ProtocolError
from hostd_workers.wire.frames import MAX_FRAMES, PREFIX_BYTES

MOST_BYTES = 100_000


class Fed:
    """A decoder, the buffer that it shares with others, and what came out of it."""

    def __init__(self, limit_bytes=MOST_BYTES):
        self.buffer = bytearray(BUFFER_BYTES)
        self.decoder = Decoder(memoryview(self.buffer), limit_bytes)
        self.found = []
        self.asked = 0

    def feed(self, data):
        """Let bytes come, as many at a time as there is space for."""
        while data:
            space = self.decoder.space()
            count = min(len(space), len(data))
            assert count, "no space for what comes"
            space[:count] = data[:count]
            data = data[count:]
            self.decoder.filled(count)
            self._take()
            self.decoder.keep()
            self.buffer[:] = b"\xaa" * len(self.buffer)  # it is somebody else's now

    def _take(self):
        while True:
            self.asked += 1
            try:
                if (found := self.decoder.next()) is None:
                    return
            except TooLongError as error:
                self.found.append(("too long", bytes(error.first)))
                continue
            if found != MORE_TO_DO:
                self.found.append(bytes(found) if isinstance(found, bytes) else [bytes(each) for each in found])


def fed(*pieces, limit_bytes=MOST_BYTES):
    made = Fed(limit_bytes)
    for piece in (GREETING, *pieces):
        made.feed(piece)
    return made


bodies = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([255, 256, 4096, 32 * 1024, 32 * 1024 + 1, 65_000, 99_999, 100_001]).map(
        lambda length: random.Random(length).randbytes(length)
    ),
)
messages = st.lists(bodies, min_size=1, max_size=4)
commands = st.binary(min_size=1, max_size=300)


def expected(item):
    if isinstance(item, bytes) or sum(map(len, item)) <= MOST_BYTES:
        return item
    return ("too long", item[0])


@settings(max_examples=80)
@given(st.lists(st.one_of(messages, commands), max_size=6), st.lists(st.integers(1, 70_000), max_size=12), st.data())
def test_the_same_messages_come_out_however_the_bytes_are_cut(items, cuts, data):
    stream = GREETING + b"".join(frame(item, COMMAND) if isinstance(item, bytes) else message(*item) for item in items)
    made, at = Fed(), 0
    for cut in cuts:
        made.feed(stream[at : at + cut])
        at += cut
    for byte in range(at, min(at + data.draw(st.integers(0, 100)), len(stream))):
        made.feed(stream[byte : byte + 1])
        at = byte + 1
    made.feed(stream[at:])
    assert len(made.found) == len(items)
    for found, item in zip(made.found, items, strict=True):
        wanted = expected(item)
        if isinstance(wanted, tuple):  # of a first frame that is too long, what its sender's id is in
            assert found[0] == "too long"
            assert found[1] in (wanted[1], wanted[1][:PREFIX_BYTES])
        else:
            assert found == wanted
    assert made.decoder.held_bytes == 0
    assert not made.decoder.has_rest


@settings(max_examples=120)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.sampled_from([GREETING, b"\x00\x01x", b"\x02", b"\x07"]),
            st.integers(0, 2**64 - 1).map(announced),
        ),
        max_size=20,
    ),
    st.booleans(),
)
def test_garbage_is_refused_or_skipped_and_never_kept_beyond_the_limit(pieces, is_greeted):
    made = Fed(limit_bytes=1000)
    try:
        for piece in (GREETING if is_greeted else b"", *pieces):
            made.feed(piece)
            assert made.decoder.held_bytes <= 1000
    except ProtocolError:
        pass


PINGS, LONG_ID = b"\x04PING\0\0", b"0123456789abcdef"
IN_AND_OUT = {
    "a command between two frames": (
        frame(b"a", MORE) + frame(PINGS, COMMAND) + frame(b"b"),
        [PINGS, [b"a", b"b"]],
    ),
    "a command in what is skipped": (
        frame(LONG_ID + bytes(MOST_BYTES), MORE) + frame(PINGS, COMMAND) + frame(b"b") + message(b"good"),
        [("too long", LONG_ID), PINGS, [b"good"]],
    ),
    "a frame of many bytes": (
        message(b"id of the sender", bytes(300_000), b"rest") + message(b"good"),
        [("too long", b"id of the sender"), [b"good"]],
    ),
    "too many frames": (
        message(*[b"x"] * (MAX_FRAMES + 100)) + message(*[b"x"] * MAX_FRAMES),
        [("too long", b"x"), [b"x"] * MAX_FRAMES],
    ),
    **{
        f"{length} bytes announced": (announced(length) + bytes(300_000), [("too long", bytes(16))])
        for length in (2**31, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1)
    },
    "a short frame with a long header": (bytes([LONG]) + (3).to_bytes(8, "big") + b"abc", [[b"abc"]]),
}


@pytest.mark.parametrize(("sent", "found"), IN_AND_OUT.values(), ids=IN_AND_OUT)
def test_what_comes_out_of(sent, found):
    made = fed(sent)
    assert made.found == found
    assert made.decoder.held_bytes == 0


def test_a_frame_for_which_there_is_no_memory_is_too_long():
    made = fed(announced(1 << 62) + bytes(1000), message(b"is part of it"), limit_bytes=1 << 62)
    assert made.found == [("too long", bytes(16))]


@pytest.mark.parametrize("cut", range(1, 9 + PREFIX_BYTES + 1))
def test_of_a_first_frame_that_is_too_long_the_beginning_is_waited_for(cut):
    """Its sender waits for an answer under the id in it, wherever the system has cut what it sent."""
    data = message(LONG_ID + bytes(MOST_BYTES))
    made = fed(data[:cut], data[cut:], message(b"good"))
    assert made.found == [("too long", LONG_ID), [b"good"]]


def test_many_small_frames_are_looked_at_a_few_at_a_time():
    """A million of them in one message would keep everybody else waiting for a second."""
    for kind in ("kept", "skipped"):
        made = fed(limit_bytes=1000)
        before = made.asked
        made.feed(frame(bytes(1001), MORE) if kind == "skipped" else b"")
        made.feed(frame(b"", MORE) * 4000)
        assert made.asked - before >= 50, kind


def test_the_limit_may_grow_between_two_messages():
    made = fed(message(bytes(2000)), limit_bytes=1000)
    made.decoder.max_message_bytes = 3000
    made.feed(message(bytes(2000)))
    assert made.found == [("too long", bytes(16)), [bytes(2000)]]


def test_what_is_announced_and_never_sent_takes_no_memory():
    length = 64 << 20  # more than malloc ever takes from memory that it has
    before = psutil.Process().memory_info().rss
    several = [fed(announced(length) + bytes(1000), limit_bytes=length) for _ in range(50)]
    assert psutil.Process().memory_info().rss - before < length
    assert all(each.decoder.is_amid_big_frame for each in several)
    assert {each.decoder.held_bytes for each in several} == {2 << 20}, (
        "the system may give that much for the first byte"
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [(announced(1025, COMMAND), "command"), *((bytes([flags, 0]), "flags") for flags in (8, 0x80, 0xFF))],
)
def test_long_commands_and_flags_that_do_not_exist_are_refused(said, why):
    with pytest.raises(ProtocolError, match=why):
        fed(said)


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
