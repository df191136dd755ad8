"""HTTP/2 without I/O: against the package h2, which takes nothing that breaks the rules, and against who breaks them."""

import pytest

pytest.importorskip("hpack", reason="the extra `grpc`")
pytest.importorskip("h2", reason="the other side")

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from hostd.fronts.http2 import connection as http2
from hostd.fronts.http2 import frames
from hostd.fronts.http2.connection import Connection
from hostd.fronts.http2.events import Began, Ended, Received
from hostd.fronts.http2.frames import block_of, frame

ASKED = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b":authority", b"x"),
    (b"te", b"trailers"),
)
HEAD = b"\x88" + block_of([(b"content-type", b"application/grpc")])
TRAILERS = block_of([(b"grpc-status", b"0")])
PLAIN = block_of(ASKED)


class Peer:
    """The package's client, joined to a connection of ours."""

    def __init__(self):
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.theirs = h2.connection.H2Connection(config)
        self.ours = Connection(tuple)
        self.events = []
        self.told = []
        self.drained = []
        self.theirs.initiate_connection()
        self.settle()

    def settle(self):
        """Carry bytes to and fro until there are none."""
        while True:
            sent = self.theirs.data_to_send()
            self.drained += self.ours.go_on()
            taken = self.ours.take()
            if not sent and not taken:
                return
            self.events += self.ours.receive(sent)
            self.told += self.theirs.receive_data(taken)

    def ask(self, body=b"", headers=ASKED):
        stream_id = self.theirs.get_next_available_stream_id()
        self.theirs.send_headers(stream_id, headers, end_stream=not body)
        if body:
            self.theirs.send_data(stream_id, body, end_stream=True)
        self.settle()
        return stream_id

    def stream(self, stream_id):
        return self.ours._sending.streams[stream_id]

    def of_kind(self, kind):
        return [event for event in self.told if isinstance(event, kind)]

    def body(self):
        return b"".join(event.data for event in self.of_kind(h2.events.DataReceived))


@pytest.fixture
def peer():
    return Peer()


def greeted():
    ours = Connection(tuple)
    ours.receive(frames.PREFACE + frames.settings_frame(()))
    ours.take()
    return ours


def asking(stream_id, flags=frames.END_HEADERS, block=PLAIN):
    return frame(frames.HEADERS, flags, stream_id, block)


# Requests and responses


def test_a_request_is_answered_with_a_head_a_body_and_trailers(peer):
    stream_id = peer.ask(b"body")
    began, received = peer.events
    assert isinstance(began, Began)
    assert not began.is_whole
    assert set(ASKED) <= set(began.head)
    assert isinstance(received, Received)
    assert (received.data, received.is_last) == (b"body", True)
    peer.ours.send_head(began.stream, HEAD)
    peer.ours.send_data(began.stream, b"answer")
    peer.ours.end(began.stream, TRAILERS)
    peer.settle()
    assert peer.of_kind(h2.events.ResponseReceived)[0].headers[0] == (b":status", b"200")
    assert peer.body() == b"answer"
    assert peer.of_kind(h2.events.TrailersReceived)[0].headers == [(b"grpc-status", b"0")]
    assert peer.of_kind(h2.events.StreamEnded)[0].stream_id == stream_id
    assert not peer.ours.streams


def test_an_answer_before_the_request_is_whole_asks_for_no_more_of_it(peer):
    stream_id = peer.theirs.get_next_available_stream_id()
    peer.theirs.send_headers(stream_id, ASKED)
    peer.settle()
    peer.ours.end(peer.stream(stream_id), HEAD + TRAILERS)
    peer.settle()
    assert peer.of_kind(h2.events.StreamReset)[0].error_code == frames.NO_ERROR
    peer.events.clear()
    peer.events += peer.ours.receive(frame(frames.DATA, frames.END_STREAM, stream_id, b"late"))
    assert peer.events == []
    assert not peer.ours.is_over


def test_what_has_no_room_waits_and_goes_in_turn_with_its_trailers_last(peer):
    first, second = (peer.stream(peer.ask(b"x")) for _ in range(2))
    whole = bytes(range(256)) * 1024
    for stream in (first, second):
        peer.ours.send_head(stream, HEAD)
        peer.ours.send_data(stream, whole)
        peer.ours.end(stream, TRAILERS)
    peer.settle()
    assert first.waiting, "the window of the connection is used up"
    assert peer.of_kind(h2.events.TrailersReceived) == []
    assert not second.is_ended
    sizes = {stream.id: 0 for stream in (first, second)}
    while len(peer.of_kind(h2.events.StreamEnded)) < 2:
        for event in peer.of_kind(h2.events.DataReceived):
            peer.theirs.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            sizes[event.stream_id] += len(event.data)
        peer.told = [event for event in peer.told if not isinstance(event, h2.events.DataReceived)]
        peer.settle()
    sizes_left = [event.flow_controlled_length for event in peer.of_kind(h2.events.DataReceived)]
    assert sum(sizes.values()) + sum(sizes_left) == 2 * len(whole)
    assert peer.drained == [first, second]


def test_nothing_is_made_ready_while_the_transport_is_full(peer):
    stream = peer.stream(peer.ask(b"x"))
    peer.ours.send_head(stream, HEAD)
    peer.ours.hold(is_held=True)
    peer.ours.send_data(stream, b"answer")
    peer.settle()
    assert peer.body() == b""
    peer.ours.hold(is_held=False)
    peer.settle()
    assert (peer.body(), peer.drained) == (b"answer", [stream])


@pytest.mark.parametrize("later", [0, 10, 100_000])
def test_a_window_that_changes_amid_an_answer_is_kept(peer, later):
    stream = peer.stream(peer.ask(b"x"))
    whole = bytes(80_000)
    peer.ours.send_head(stream, HEAD)
    peer.ours.send_data(stream, whole)
    peer.settle()
    sent = len(peer.body())
    assert sent == frames.FIRST_WINDOW_BYTES
    peer.theirs.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: later})
    peer.settle()
    assert stream.room_bytes == later - sent
    peer.theirs.increment_flow_control_window(len(whole))
    peer.theirs.increment_flow_control_window(len(whole), stream.id)
    peer.settle()
    assert len(peer.body()) == len(whole)


def test_larger_frames_are_sent_to_who_takes_them(peer):
    peer.theirs.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: 60_000})
    peer.settle()
    stream = peer.stream(peer.ask(b"x"))
    peer.ours.send_head(stream, HEAD)
    peer.ours.send_data(stream, bytes(60_000))
    peer.settle()
    assert [len(event.data) for event in peer.of_kind(h2.events.DataReceived)] == [60_000]


def test_a_peer_without_a_table_can_read_our_heads(peer):
    peer.theirs.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    peer.settle()
    stream = peer.stream(peer.ask(b"x"))
    peer.ours.send_head(stream, HEAD)
    assert peer.ours.take()[9:10] == b"\x20", "strict peers want to be told"
    peer.ours.end(stream, TRAILERS)
    assert peer.ours.take()[9:10] == b"\0", "once"


def test_a_body_is_let_come_as_it_is_taken(peer):
    stream_id = peer.theirs.get_next_available_stream_id()
    peer.theirs.send_headers(stream_id, ASKED)
    peer.settle()

    def room():
        return peer.theirs.local_flow_control_window(stream_id)

    assert room() == http2.STREAM_BYTES
    while room():
        peer.theirs.send_data(stream_id, bytes(min(room(), frames.FRAME_BYTES)))
        peer.settle()
    peer.ours.grant(peer.stream(stream_id), http2.STREAM_BYTES - 10)
    peer.settle()
    assert room() == http2.STREAM_BYTES - 10


def test_a_reset_drops_what_waits_and_is_told(peer):
    stream = peer.stream(peer.ask(b"x"))
    peer.ours.send_head(stream, HEAD)
    peer.ours.send_data(stream, bytes(100_000))
    peer.settle()
    peer.theirs.reset_stream(stream.id)
    peer.settle()
    assert peer.events[-1].stream is stream
    assert isinstance(peer.events[-1], Ended)
    for do in (peer.ours.send_head, peer.ours.end):
        do(stream, HEAD)
    peer.ours.send_data(stream, b"late")
    assert peer.ours.take() == b""


def test_streams_over_the_bound_are_refused_until_their_work_has_ended(monkeypatch):
    monkeypatch.setattr(http2, "MAX_STREAMS", 2)
    ours = greeted()
    rapid = b"".join(asking(number) + frames.rst_stream(number, frames.CANCEL) for number in (1, 3, 5))
    events = ours.receive(rapid)
    assert [type(event) for event in events] == [Began, Ended, Began, Ended]
    assert ours.take() == frames.rst_stream(5, frames.REFUSED_STREAM)
    ours.release()
    assert len(ours.receive(asking(7))) == 1
    ours.receive(asking(9))
    assert ours.take() == frames.rst_stream(9, frames.REFUSED_STREAM)


def test_who_leaves_takes_no_new_requests_and_still_reads_their_heads(peer):
    before = peer.stream(peer.ask(b"x"))
    peer.ours.leave()
    goaway = peer.ours.take()
    late = peer.theirs.get_next_available_stream_id()
    peer.theirs.send_headers(late, (*ASKED, (b"new-name", b"1")), end_stream=True)
    assert peer.ours.receive(peer.theirs.data_to_send()) == []
    assert peer.ours.take() == frames.rst_stream(late, frames.REFUSED_STREAM)
    assert not peer.ours.is_over
    peer.told += peer.theirs.receive_data(goaway)
    peer.ours.end(before, HEAD + TRAILERS)
    assert peer.of_kind(h2.events.ConnectionTerminated)[0].last_stream_id == before.id


def test_a_ping_is_answered_and_sent(peer):
    peer.theirs.ping(b"12345678")
    peer.ours.ping()
    peer.settle()
    assert peer.of_kind(h2.events.PingAckReceived)[0].ping_data == b"12345678"
    assert peer.of_kind(h2.events.PingReceived) != []


# Heads

FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"a", b"grpc-timeout", b"authorization", b":path"]), st.sampled_from([b"1", b"2", b"x" * 200])
    ),
    max_size=4,
).map(tuple)


@given(st.lists(st.one_of(FIELDS, st.just(ASKED)), max_size=30), st.sampled_from([0, 100, 4096]))
def test_heads_that_repeat_mean_what_they_say_whatever_comes_between(heads, table_bytes):
    encoder = hpack.Encoder()
    encoder.header_table_size = table_bytes
    ours = greeted()
    for number, fields in enumerate(heads):
        (began,) = ours.receive(asking(2 * number + 1, frames.END_HEADERS | frames.END_STREAM, encoder.encode(fields)))
        assert began.head == fields


def test_a_head_that_repeats_is_read_once():
    encoder = hpack.Encoder()
    ours = greeted()
    heads = [ours.receive(asking(number, block=encoder.encode(ASKED)))[0].head for number in (1, 3, 5, 7)]
    assert heads[1] is heads[2] is heads[3]


def test_a_head_may_come_in_pieces_with_padding_and_priority():
    ours = greeted()
    block = block_of(ASKED)
    padded = bytes((4,)) + bytes(5) + block[:3] + bytes(4)
    assert ours.receive(frame(frames.HEADERS, frames.PADDED | frames.HAS_PRIORITY, 1, padded)) == []
    assert ours.is_amid_head
    assert ours.receive(frame(frames.CONTINUATION, 0, 1, block[3:9])) == []
    (began,) = ours.receive(frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:]))
    assert began.head == ASKED
    assert not ours.is_amid_head
    (received,) = ours.receive(frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\x02data\0\0"))
    assert (received.data, received.is_last) == (b"data", True)


def test_trailers_end_a_request():
    ours = greeted()
    ours.receive(asking(1))
    (received,) = ours.receive(asking(1, frames.END_HEADERS | frames.END_STREAM, block_of([(b"a", b"b")])))
    assert (received.data, received.is_last) == (b"", True)


@given(st.data())
def test_it_makes_no_difference_how_bytes_are_cut(data):
    whole = frames.PREFACE + frames.settings_frame(((frames.INITIAL_WINDOW_SIZE, 70_000),))
    for number in (1, 3):
        whole += asking(number) + frame(frames.DATA, 0, number, b"abc") + frame(frames.DATA, frames.END_STREAM, number)
    whole += frame(99, 7, 5, b"an unknown kind") + frames.window_update(0, 7) + frame(frames.PRIORITY, 0, 9, bytes(5))

    def told(pieces):
        ours = Connection(tuple)
        events = [event for piece in pieces for event in ours.receive(piece)]
        plain = [(type(event), event.stream.id, getattr(event, "data", None)) for event in events]
        return plain, ours.take(), ours.is_over

    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert told(pieces) == told([whole])
    assert not told([whole])[2]


# Who breaks the rules

_BROKEN = {
    "no preface": (b"GET / HTTP/1.1\r\n\r\n", frames.PROTOCOL_ERROR),
    "frame too large": (frame(frames.DATA, 0, 1, bytes(frames.FRAME_BYTES + 1)), frames.FRAME_SIZE_ERROR),
    "data for the connection": (frame(frames.DATA, 0, 0, b"x"), frames.PROTOCOL_ERROR),
    "data before a head": (frame(frames.DATA, 0, 1, b"x"), frames.PROTOCOL_ERROR),
    "data after the end": (
        asking(1, frames.END_HEADERS | frames.END_STREAM) + frame(frames.DATA, 0, 1, b"x"),
        frames.STREAM_CLOSED,
    ),
    "a head after the end": (2 * asking(1, frames.END_HEADERS | frames.END_STREAM), frames.STREAM_CLOSED),
    "two heads": (2 * asking(1), frames.PROTOCOL_ERROR),
    "an even number": (asking(2), frames.PROTOCOL_ERROR),
    "a head for the connection": (asking(0), frames.PROTOCOL_ERROR),
    "a continuation of nothing": (frame(frames.CONTINUATION, 0, 1, b"x"), frames.PROTOCOL_ERROR),
    "another frame amid a head": (asking(1, 0) + frame(frames.PING, 0, 0, bytes(8)), frames.PROTOCOL_ERROR),
    "a head of another stream amid one": (
        asking(1, 0) + frame(frames.CONTINUATION, frames.END_HEADERS, 3, b""),
        frames.PROTOCOL_ERROR,
    ),
    "parts of a head without bytes": (asking(1, 0) + frame(frames.CONTINUATION, 0, 1), frames.ENHANCE_YOUR_CALM),
    "a head without end": (
        asking(1, 0) + 5 * frame(frames.CONTINUATION, 0, 1, bytes(frames.FRAME_BYTES)),
        frames.ENHANCE_YOUR_CALM,
    ),
    "a head that unfolds": (
        asking(1, block=hpack.Encoder().encode([(b"a", b"b" * 4000)]) + 20 * b"\xbe"),
        frames.ENHANCE_YOUR_CALM,
    ),
    "a head that cannot be read": (asking(1, block=b"\xff\xff\xff\xff"), frames.COMPRESSION_ERROR),
    "too much padding": (asking(1, frames.PADDED | frames.END_HEADERS, b"\x09abc"), frames.PROTOCOL_ERROR),
    "no room for priority": (asking(1, frames.HAS_PRIORITY | frames.END_HEADERS, b"abc"), frames.FRAME_SIZE_ERROR),
    "settings cut off": (frame(frames.SETTINGS, 0, 0, b"abc"), frames.FRAME_SIZE_ERROR),
    "settings of a stream": (frame(frames.SETTINGS, 0, 1), frames.PROTOCOL_ERROR),
    "an acknowledgement with settings": (frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), frames.FRAME_SIZE_ERROR),
    "a window too large in settings": (
        frames.settings_frame(((frames.INITIAL_WINDOW_SIZE, 2**31),)),
        frames.FLOW_CONTROL_ERROR,
    ),
    "a window that settings make too large": (
        asking(1)
        + frames.window_update(1, 2**31 - 65_536)
        + frames.settings_frame(((frames.INITIAL_WINDOW_SIZE, 65_537),)),
        frames.FLOW_CONTROL_ERROR,
    ),
    "a frame size too small": (frames.settings_frame(((frames.MAX_FRAME_SIZE, 100),)), frames.PROTOCOL_ERROR),
    "a push that is neither": (frames.settings_frame(((frames.ENABLE_PUSH, 2),)), frames.PROTOCOL_ERROR),
    "a promise": (frame(frames.PUSH_PROMISE, 0, 1, bytes(8)), frames.PROTOCOL_ERROR),
    "a short ping": (frame(frames.PING, 0, 0, b"x"), frames.FRAME_SIZE_ERROR),
    "a window of nothing": (frames.window_update(0, 0), frames.PROTOCOL_ERROR),
    "a window too large": (frames.window_update(0, 2**31 - 1), frames.FLOW_CONTROL_ERROR),
    "a window of a stream too large": (asking(1) + frames.window_update(1, 2**31 - 1), frames.FLOW_CONTROL_ERROR),
    "a window of what has not begun": (frames.window_update(7, 1), frames.PROTOCOL_ERROR),
    "a reset of what has not begun": (frames.rst_stream(7, 0), frames.PROTOCOL_ERROR),
    "more than a stream's window": (
        asking(1)
        + (http2.STREAM_BYTES // frames.FRAME_BYTES + 1) * frame(frames.DATA, 0, 1, bytes(frames.FRAME_BYTES)),
        frames.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize(("sent", "code"), _BROKEN.values(), ids=_BROKEN)
def test_who_breaks_a_rule_is_told_which_and_let_go(sent, code):
    ours = Connection(tuple) if sent.startswith(b"GET") else greeted()
    ours.take()
    ours.receive(sent)
    told = ours.take()
    assert ours.is_over
    last = told[told.rindex(b"\x07\0\0\0\0\0") - 3 :]  # a GOAWAY of the connection
    assert frames.u32_of(last[13:17]) == code, last[17:]
    assert len(last[17:]) > 10, "it says why"
    assert ours.receive(asking(99)) == []


@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 7), st.binary(max_size=40)), max_size=20)
)
@settings(max_examples=400)
def test_whatever_comes_is_taken_or_ends_the_connection(sent):
    ours = greeted()
    for kind, flags, stream_id, payload in sent:
        for event in ours.receive(frame(kind, flags, stream_id, payload)):
            assert event.stream.id % 2
    ours.take()
    assert len(ours.streams) <= len(sent)
