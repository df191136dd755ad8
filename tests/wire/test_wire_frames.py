"""The envelope: bytes in their places, big parts in frames of their own, and nothing else accepted."""

from __future__ import annotations

import pytest

from hostd_workers.wire import frames as wire
from hostd_workers.wire.errors import MessageTooLargeError, ProtocolError, Status, VersionMismatchError

BIG = b"b" * (wire.INLINE_BODY_BYTES + 1)


def test_the_prefix_lies_as_the_protocol_says() -> None:
    (first,) = wire.pack(2, 0x0102030405060708, b"head", b"body", deadline_ms=0x0A0B0C0D)
    assert bytes(first) == bytes.fromhex("02 01 0004 0a0b0c0d 0102030405060708") + b"headbody"


def test_a_small_message_is_one_frame_and_comes_back_as_it_was() -> None:
    frames = wire.pack(3, 7, b"header", b"body", deadline_ms=500)
    assert wire.unpack(frames) == wire.Envelope(3, 500, 7, b"header", b"body", [])
    assert len(frames) == 1


def test_a_message_without_body_and_deadline_says_so() -> None:
    envelope = wire.unpack(wire.pack(5, 2**64 - 1))
    assert envelope == wire.Envelope(5, wire.MAX_DEADLINE_MS, 2**64 - 1, b"", b"", ())


@pytest.mark.parametrize("extra", [0, 1])
def test_the_body_moves_to_a_frame_of_its_own_above_its_limit(extra: int) -> None:
    body = b"x" * (wire.INLINE_BODY_BYTES + extra)
    frames = wire.pack(2, 1, b"h", body)
    assert len(frames) == 1 + extra
    assert wire.unpack(frames).body == body


def test_big_bodies_and_buffers_are_the_very_frames_not_copies() -> None:
    buffer = memoryview(bytearray(9000))
    frames = wire.pack(2, 1, b"h", BIG, [buffer])
    assert frames[1] is BIG
    assert frames[2] is buffer
    envelope = wire.unpack(frames)
    assert envelope.body is BIG
    assert envelope.buffers[0] is buffer


def test_buffers_follow_an_inline_body() -> None:
    frames = wire.pack(2, 1, b"h", b"body", [b"one", b"two"])
    assert wire.unpack(frames) == wire.Envelope(2, wire.MAX_DEADLINE_MS, 1, b"h", b"body", [b"one", b"two"])


def test_frames_may_be_views_of_a_bigger_buffer() -> None:
    frames = [memoryview(bytes(frame)) for frame in wire.pack(2, 1, b"h", b"body", [b"buffer"])]
    envelope = wire.unpack(frames)
    assert (envelope.header, bytes(envelope.body)) == (b"h", b"body")


def test_the_longest_header_fits_and_a_longer_one_is_refused() -> None:
    longest = b"h" * wire.MAX_HEADER_BYTES
    assert wire.unpack(wire.pack(2, 1, longest, b"b")).header == longest
    with pytest.raises(MessageTooLargeError, match="65536 bytes, at most 65535 fit") as caught:
        wire.pack(2, 1, longest + b"h")
    assert caught.value.status is Status.RESOURCE_EXHAUSTED


def test_more_buffers_than_frames_are_refused() -> None:
    assert len(wire.pack(2, 1, b"", BIG, [b"x"] * (wire.MAX_FRAMES - 2))) == wire.MAX_FRAMES
    with pytest.raises(MessageTooLargeError, match="join the arrays"):
        wire.pack(2, 1, b"", b"body", [b"x"] * (wire.MAX_FRAMES - 1))


@pytest.mark.parametrize("frames", [[], [b""], [b"\2\1" + b"\0" * 13], [b"", b"x" * 100]])
def test_what_is_too_short_for_a_prefix_is_no_message(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="at least 16 bytes"):
        wire.unpack(frames)


def test_a_header_that_ends_after_its_frame_is_no_message() -> None:
    (first,) = wire.pack(2, 1, b"header")
    with pytest.raises(ProtocolError, match="should have 6 bytes"):
        wire.unpack([first[:-1], b"the rest"])


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_a_typed_error_that_lists_what_is_supported(version: int) -> None:
    (first,) = wire.pack(2, 1, b"header")
    with pytest.raises(VersionMismatchError, match=f"version {version}") as caught:
        wire.unpack([bytes([2, version]) + bytes(first[2:])])
    assert caught.value.details == {"version": version, "supported": [1]}
    assert caught.value.status is Status.FAILED_PRECONDITION


def test_readdressing_changes_id_and_deadline_and_nothing_else() -> None:
    frames = wire.pack(3, 1, b"header", b"body", [b"buffer"], deadline_ms=9)
    for first in (frames[0], memoryview(bytes(frames[0]))):
        moved = wire.readdress(first, 2**64 - 1, 77)
        assert wire.unpack([moved, *frames[1:]]) == wire.Envelope(3, 77, 2**64 - 1, b"header", b"body", [b"buffer"])


def test_the_prefix_can_be_read_alone() -> None:
    assert wire.unpack_prefix(wire.pack(4, 11, b"verb", b"body", deadline_ms=3)) == (4, 4, 3, 11)


# Batches


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_a_batch_holds_its_messages_in_order(count: int) -> None:
    messages = [bytes(wire.pack(18, n, body=b"x" * n)[0]) for n in range(count)]
    batch = wire.pack_batch(messages)
    assert batch[0] == wire.BATCH
    assert wire.id_of(batch) == count
    assert wire.unpack_batch(batch) == messages
    assert wire.unpack_batch(memoryview(batch)) == messages


def test_a_batch_lies_as_the_protocol_says() -> None:
    batch = wire.pack_batch([b"ab", b""])
    assert batch == bytes.fromhex("17 01 0000 00000000 0000000000000002 00000002") + b"ab" + bytes(4)


@pytest.mark.parametrize("count", [0, 1, 3, 2**64 - 1])
def test_a_batch_of_another_count_is_refused(count: int) -> None:
    batch = wire.readdress(wire.pack_batch([b"ab", b"cd"]), count, 0)
    with pytest.raises(ProtocolError, match="does not fill its frame"):
        wire.unpack_batch(batch)


def test_a_batch_that_does_not_fill_its_frame_is_refused() -> None:
    batch = wire.pack_batch([b"ab", b"cd"])
    for malformed in [batch + b"\0", *(batch[:end] for end in range(wire.PREFIX_BYTES, len(batch)))]:
        with pytest.raises(ProtocolError):
            wire.unpack_batch(malformed)


def test_a_length_beyond_the_frame_is_refused() -> None:
    batch = bytearray(wire.pack_batch([b"ab"]))
    batch[wire.PREFIX_BYTES : wire.PREFIX_BYTES + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ProtocolError):
        wire.unpack_batch(bytes(batch))
    with pytest.raises(ProtocolError):
        wire.unpack_batch(b"")


def test_the_id_can_be_read_whatever_the_version() -> None:
    assert wire.id_of(b"\1\x63\0\0" + b"\xff" * 4 + (12345).to_bytes(8, "big") + b"anything") == 12345


def test_a_big_body_may_not_be_inline_because_every_hop_would_copy_it() -> None:
    frames = wire.pack(2, 1, b"header", b"b" * wire.INLINE_BODY_BYTES)
    assert len(wire.unpack(frames).body) == wire.INLINE_BODY_BYTES
    with pytest.raises(ProtocolError, match="a frame of its own"):
        wire.unpack([bytes(frames[0]) + b"b"])


def test_a_batch_of_very_many_messages_is_refused_though_it_fills_its_frame() -> None:
    assert len(wire.unpack_batch(wire.pack_batch([b""] * wire.MAX_BATCH_MESSAGES))) == wire.MAX_BATCH_MESSAGES
    with pytest.raises(ProtocolError, match="1024"):
        wire.unpack_batch(wire.pack_batch([b""] * (wire.MAX_BATCH_MESSAGES + 1)))
