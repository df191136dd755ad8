"""Messages over a byte stream: the same ones come out however the bytes are cut, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostd_workers.wire import frames as wire
from hostd_workers.wire.errors import ProtocolError, VersionMismatchError
from hostd_workers.wire.lane import stream

MAX_BYTES = 4 << 20

sizes = st.one_of(st.integers(0, 200), st.sampled_from([stream.BUFFER_BYTES // 2, stream.BUFFER_BYTES, 300_000]))
messages = st.lists(
    st.builds(
        wire.pack,
        st.integers(0, 255).filter(lambda kind: kind != wire.BATCH),
        st.integers(0, 2**64 - 1),
        header=st.binary(max_size=50),
        body=st.one_of(st.binary(max_size=200), st.just(b"b" * (wire.INLINE_BODY_BYTES + 1))),
        buffers=st.lists(sizes.map(lambda n: bytes([n % 251]) * n), max_size=4),
        deadline_ms=st.integers(0, wire.MAX_DEADLINE_MS),
    ),
    max_size=6,
)


def read(reader: stream.Reader, data: bytes, cuts: list[int]) -> list[wire.Envelope]:
    """Give a reader bytes in pieces, each of at most the next of `cuts` (again and again) and what there is space for."""
    at, turn, found = 0, 0, []
    while at < len(data):
        space = reader.space()
        size = min(len(space), cuts[turn % len(cuts)], len(data) - at)
        space[:size] = data[at : at + size]
        found += reader.received(size)
        at, turn = at + size, turn + 1
    return found


def new_reader() -> stream.Reader:
    return stream.Reader(stream.new_buffer(), MAX_BYTES)


@given(messages, st.lists(st.sampled_from([1, 3, 7, 100, 4096, 1 << 20]), min_size=1, max_size=5))
def test_the_same_messages_come_out_however_the_bytes_are_cut(sent: list[list[bytes]], cuts: list[int]) -> None:
    data = b"".join(bytes(part) for frames in sent for part in stream.pack(frames))
    if len(data) > 10_000:
        cuts = [max(cut, 4096) for cut in cuts]
    reader = new_reader()
    found = read(reader, data, cuts)
    parts = [[each._replace(buffers=()) for each in those] for those in (found, map(wire.unpack, sent))]
    assert parts[0] == parts[1]
    assert [list(each.buffers) for each in found] == [list(wire.unpack(frames).buffers) for frames in sent]
    assert not reader.is_amid_message


def test_a_long_frame_is_received_into_memory_that_is_its_own_and_can_be_written() -> None:
    array = b"a" * 500_000
    data = b"".join(stream.pack(wire.pack(1, 2, header=b"h", body=b"b", buffers=[array])))
    [envelope] = read(new_reader(), data, [1 << 20])
    assert not memoryview(envelope.buffers[0]).readonly
    assert (envelope.body, envelope.buffers) == (b"b", [array])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x05first",
        b"\x00\x00\x00\x10" + bytes(16),
        b"\x00\x00\x00\x10\x01\x01\x00\x01" + bytes(12),
        b"\x00\x00\x20\x11\x01\x01\x00\x00" + bytes(0x2011 - 4),
        b"\x7f\xff\xff\xff",
        b"\x80\x00\x00\x00",
        b"\xff\xff\xff\xff",
        b"\x80\x00\x00\x01" + (MAX_BYTES + 1).to_bytes(8, "big") + bytes(8),
        b"\x80\x00\x00\x02" + (1 << 20).to_bytes(8, "big") + bytes(24),
        b"\x80\x00\x00\x02" + bytes(16) + b"\xff" * 8 + bytes(8),
        b"\x80\x00\x00\x01" + bytes(11) + b"\x01" + bytes(4),
        b"\x80\x00\x00\x02" + bytes(27) + b"\x01" + bytes(4),
    ],
    ids=[
        "text",
        "short",
        "version",
        "header",
        "long body",
        "long",
        "no frames",
        "many frames",
        "too long",
        "long first",
        "overflow",
        "first shared",
        "shared",
    ],
)
def test_what_no_peer_of_ours_sends_is_refused(data: bytes) -> None:
    with pytest.raises((ProtocolError, VersionMismatchError)):
        read(new_reader(), data, [1 << 20])


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_garbage_is_refused_or_waits_and_nothing_else(pieces: list[bytes]) -> None:
    reader = new_reader()
    try:
        for piece in pieces:
            read(reader, piece, [len(piece) or 1])
    except (ProtocolError, VersionMismatchError):
        pass


def test_one_message_among_many_others_refers_to_no_memory_of_theirs() -> None:
    reader = new_reader()
    [kept] = read(reader, b"".join(stream.pack(wire.pack(1, 2, b"head", b"first"))), [100])
    read(reader, b"".join(stream.pack(wire.pack(3, 4, b"help", b"other"))), [100])
    assert kept == wire.Envelope(1, wire.MAX_DEADLINE_MS, 2, b"head", b"first", ())


def test_what_is_announced_and_never_sent_takes_no_memory() -> None:
    announced = b"\x80\x00\x00\x02" + (10).to_bytes(8, "big") + bytes(8) + (1 << 30).to_bytes(8, "big") + bytes(8)
    before = _resident_bytes()
    readers = [stream.Reader(stream.new_buffer(), 2 << 30) for _ in range(20)]
    for reader in readers:
        read(reader, announced + bytes(10), [1 << 20])
    assert _resident_bytes() - before < 64 << 20
    assert all(reader.is_amid_message for reader in readers)


def test_what_there_is_no_memory_for_ends_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytearray:
        raise MemoryError

    reader = new_reader()
    monkeypatch.setattr(stream, "_new_bytearray", fail)
    with pytest.raises(ProtocolError, match="no memory for"):
        read(reader, b"".join(stream.pack([b"x" * 20, bytes(300_000)])), [1 << 20])


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * 4096
