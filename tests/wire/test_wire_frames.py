"""The envelope: bytes in their places, big parts in frames of their own, and nothing else accepted."""

import pytest

from hostd_workers.wire import frames as wire
from hostd_workers.wire.errors import MessageTooLargeError, ProtocolError, Status, VersionMismatchError

BIG = b"b" * (wire.INLINE_BODY_BYTES + 1)


def test_the_prefix_lies_as_the_protocol_says_and_can_be_read_alone():
    (first,) = wire.pack(2, 0x0102030405060708, b"head", b"body", deadline_ms=0x0A0B0C0D)
    assert bytes(first) == bytes.fromhex("02 01 0004 0a0b0c0d 0102030405060708") + b"headbody"
    assert wire.unpack_prefix([first]) == (2, 4, 0x0A0B0C0D, 0x0102030405060708)
    assert wire.id_of(b"\1\x63\0\0" + b"\xff" * 4 + (12345).to_bytes(8, "big") + b"anything") == 12345, "of any version"


def test_a_message_comes_back_as_it_was():
    frames = wire.pack(3, 7, b"header", b"body", deadline_ms=500)
    assert len(frames) == 1
    assert wire.unpack(frames) == wire.Envelope(3, 500, 7, b"header", b"body", [])
    assert wire.unpack(wire.pack(5, 2**64 - 1)) == wire.Envelope(5, wire.MAX_DEADLINE_MS, 2**64 - 1, b"", b"", ())
    frames = wire.pack(2, 1, b"h", b"body", [b"one", b"two"])
    assert wire.unpack(frames) == wire.Envelope(2, wire.MAX_DEADLINE_MS, 1, b"h", b"body", [b"one", b"two"])
    envelope = wire.unpack([memoryview(bytes(frame)) for frame in frames])
    assert (envelope.header, bytes(envelope.body)) == (b"h", b"body"), "views of a bigger buffer"


@pytest.mark.parametrize("extra", [0, 1])
def test_the_body_moves_to_a_frame_of_its_own_above_its_limit(extra):
    body = b"x" * (wire.INLINE_BODY_BYTES + extra)
    frames = wire.pack(2, 1, b"h", body)
    assert len(frames) == 1 + extra
    assert wire.unpack(frames).body == body


def test_big_bodies_and_buffers_are_the_very_frames_not_copies():
    buffer = memoryview(bytearray(9000))
    frames = wire.pack(2, 1, b"h", BIG, [buffer])
    envelope = wire.unpack(frames)
    assert frames[1] is envelope.body is BIG
    assert frames[2] is envelope.buffers[0] is buffer


def test_the_longest_header_and_the_most_buffers_fit_and_more_is_refused():
    longest = b"h" * wire.MAX_HEADER_BYTES
    assert wire.unpack(wire.pack(2, 1, longest, b"b")).header == longest
    with pytest.raises(MessageTooLargeError, match="65536 bytes, at most 65535 fit") as caught:
        wire.pack(2, 1, longest + b"h")
    assert caught.value.status is Status.RESOURCE_EXHAUSTED
    assert len(wire.pack(2, 1, b"", BIG, [b"x"] * (wire.MAX_FRAMES - 2))) == wire.MAX_FRAMES
    with pytest.raises(MessageTooLargeError, match="join the arrays"):
        wire.pack(2, 1, b"", b"body", [b"x"] * (wire.MAX_FRAMES - 1))


HEADED = bytes(wire.pack(2, 1, b"header")[0])
FULL = bytes(wire.pack(2, 1, b"header", b"b" * wire.INLINE_BODY_BYTES)[0])


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([], "at least 16 bytes"),
        ([b""], "at least 16 bytes"),
        ([b"\2\1" + b"\0" * 13], "at least 16 bytes"),
        ([b"", b"x" * 100], "at least 16 bytes"),
        ([HEADED[:-1], b"the rest"], "should have 6 bytes"),
        ([FULL + b"b"], "a frame of its own"),
    ],
    ids=["none", "empty", "short", "only the second", "header cut", "big body inline"],
)
def test_what_is_no_message_is_refused(frames, says):
    with pytest.raises(ProtocolError, match=says):
        wire.unpack(frames)
    assert len(wire.unpack([FULL]).body) == wire.INLINE_BODY_BYTES


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_a_typed_error_that_lists_what_is_supported(version):
    with pytest.raises(VersionMismatchError, match=f"version {version}") as caught:
        wire.unpack([bytes([2, version]) + HEADED[2:]])
    assert caught.value.details == {"version": version, "supported": [1]}
    assert caught.value.status is Status.FAILED_PRECONDITION


def test_readdressing_changes_id_and_deadline_and_nothing_else():
    frames = wire.pack(3, 1, b"header", b"body", [b"buffer"], deadline_ms=9)
    for first in (frames[0], memoryview(bytes(frames[0]))):
        moved = wire.readdress(first, 2**64 - 1, 77)
        assert wire.unpack([moved, *frames[1:]]) == wire.Envelope(3, 77, 2**64 - 1, b"header", b"body", [b"buffer"])


# Batches


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_a_batch_holds_its_messages_in_order(count):
    messages = [bytes(wire.pack(18, n, body=b"x" * n)[0]) for n in range(count)]
    batch = wire.pack_batch(messages)
    assert (batch[0], wire.id_of(batch)) == (wire.BATCH, count)
    assert wire.unpack_batch(batch) == wire.unpack_batch(memoryview(batch)) == messages


def test_a_batch_lies_as_the_protocol_says():
    batch = wire.pack_batch([b"ab", b""])
    assert batch == bytes.fromhex("17 01 0000 00000000 0000000000000002 00000002") + b"ab" + bytes(4)


def test_a_batch_that_does_not_fill_its_frame_is_refused():
    batch = wire.pack_batch([b"ab", b"cd"])
    for count in (0, 1, 3, 2**64 - 1):
        with pytest.raises(ProtocolError, match="does not fill its frame"):
            wire.unpack_batch(wire.readdress(batch, count, 0))
    cut = [batch[:end] for end in range(len(batch))]
    too_long = batch[: wire.PREFIX_BYTES] + b"\xff\xff\xff\xff" + batch[wire.PREFIX_BYTES + 4 :]
    for malformed in (batch + b"\0", *cut, too_long):
        with pytest.raises(ProtocolError):
            wire.unpack_batch(malformed)


def test_a_batch_of_very_many_messages_is_refused_though_it_fills_its_frame():
    assert len(wire.unpack_batch(wire.pack_batch([b""] * wire.MAX_BATCH_MESSAGES))) == wire.MAX_BATCH_MESSAGES
    with pytest.raises(ProtocolError, match="1024"):
        wire.unpack_batch(wire.pack_batch([b""] * (wire.MAX_BATCH_MESSAGES + 1)))
