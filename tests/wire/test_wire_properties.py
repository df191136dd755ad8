"""What holds for every value, and what no bytes can do: only typed errors, little time, little memory."""

import contextlib
import datetime as dt
import random
import time
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mutated import mutated, samples

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode, encode_call
from hostd_workers.wire.errors import HostError, from_wire
from hostd_workers.wire.metered import Budget, decode_metered

AMPLE = Budget(1 << 20, values=100_000, list_len=1000, map_len=1000, depth=64, buffer_bytes=1 << 20)
SMALL = Budget(1000, values=100, list_len=60, map_len=40, depth=5, buffer_bytes=50)

# Whole minutes, because before Python 3.13 `fromisoformat` reads an offset of less than a second as none.
OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
AWARE = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=OFFSETS)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
KEYS = st.one_of(st.text(), INTEGERS, st.binary(), st.booleans(), st.none())
PLAIN = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(allow_nan=False), st.text(), st.binary(max_size=300))
VALUES = st.recursive(
    st.one_of(PLAIN, st.datetimes(), AWARE),
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner)),
    max_leaves=30,
)
DTYPES = hnp.nested_dtypes(hnp.scalar_dtypes(), max_leaves=5).filter(lambda dtype: dtype.itemsize > 0)
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=6)))


def typed(value):
    """Return a value that is equal only for values of the same types all the way down."""
    if isinstance(value, (list, tuple)):
        return (type(value), [typed(item) for item in value])
    if isinstance(value, dict):
        return (dict, [(typed(key), typed(item)) for key, item in value.items()])
    if isinstance(value, dt.datetime):
        return (value.isoformat(),)
    return (type(value), value)


@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_every_value_comes_back_as_it_was_whatever_reads_it(value):
    expected = typed(value)
    assert typed(decode(*encode(value))) == expected
    assert typed(decode_metered(*encode(value), AMPLE)) == expected
    assert typed(decode(*encode_call([value, 1], {"grüße": value}))) == typed([[value, 1], {"grüße": value}])
    assert isinstance(from_wire(value), HostError)
    assert isinstance(msg.unpack_error(wire.Envelope(msg.ERROR, 0, 1, b"", *encode(value))), HostError)


@settings(deadline=None, max_examples=60)
@given(ARRAYS, st.booleans())
def test_every_array_comes_back_as_it_was(array, transposed):
    array = array.T if transposed else array
    back = decode(*encode([array]))[0]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=50),
    st.binary(min_size=1, max_size=50) | st.just(b"b" * 9000),
    st.lists(st.binary(), max_size=3),
    st.integers(0, wire.MAX_DEADLINE_MS),
)
def test_every_message_comes_back_as_it_was(kind, id, header, body, buffers, deadline_ms):
    frames = wire.pack(kind, id, header, body, buffers, deadline_ms)
    assert wire.unpack(frames) == wire.Envelope(kind, deadline_ms, id, header, body, buffers)
    assert wire.unpack_prefix(frames) == (kind, len(header), deadline_ms, id)


# No bytes can do harm


@contextlib.contextmanager
def little(seconds, peak_bytes):
    """Fail if the block takes longer, or has more memory at one time."""
    tracemalloc.start()
    began_s = time.perf_counter()
    try:
        yield
        took_s, (_, peak) = time.perf_counter() - began_s, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert took_s < seconds
    assert peak < peak_bytes


READERS = [
    lambda e: decode(e.body, e.buffers),
    *(lambda e, budget=budget: decode_metered(e.body, e.buffers, budget) for budget in (AMPLE, SMALL)),
    lambda e: msg.unpack_map(e, msg.HEADER_LIMITS),
    lambda e: msg.unpack_target(e.header),
    lambda e: msg.unpack_verb(e.header),
    lambda e: msg.unpack_credit(e.header),
    msg.unpack_error,
]


def read_in_every_way(frames):
    """Only typed errors may come out."""
    try:
        envelope = wire.unpack(frames)
    except HostError:
        return
    for read in READERS:
        with contextlib.suppress(HostError):
            read(envelope)


@pytest.mark.parametrize("seed", range(2))
def test_no_change_of_a_valid_message_does_harm(seed):
    chance, originals = random.Random(seed), samples()
    with little(seconds=60, peak_bytes=64 << 20):
        for _ in range(2000):
            read_in_every_way(mutated(chance.choice(originals), chance))


def test_no_truncation_of_a_valid_message_does_harm():
    with little(seconds=60, peak_bytes=16 << 20):
        for frames in samples():
            for length in range(min(len(frames[0]), 400)):
                read_in_every_way([frames[0][:length], *frames[1:]])


def test_no_random_bytes_do_harm():
    chance = random.Random(0)
    with little(seconds=60, peak_bytes=16 << 20):
        for _ in range(2000):
            body, header = (chance.randbytes(chance.randint(0, length)) for length in (60, 20))
            prefix = bytes([chance.randrange(40), 1]) + len(header).to_bytes(2, "big") + chance.randbytes(12)
            read_in_every_way([prefix + header + body, chance.randbytes(20)])


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_a_body_is_read_the_same_with_a_budget_or_refused(body):
    with contextlib.suppress(HostError):
        assert repr(decode_metered(body, (), AMPLE)) == repr(decode(body))


def as_peer_may(depth=3):
    """Return what a peer may put into the parts of an array: nearly right, mostly."""
    dtype = st.one_of(
        hnp.scalar_dtypes().map(lambda dtype: dtype.str),
        st.text("<>|=?biufcmMSUVO0123456789[]smn,", max_size=8),
        st.lists(st.lists(st.one_of(st.text(max_size=2), st.just("<f8"), st.lists(st.integers(0, 3))), max_size=4)),
    )
    size = st.one_of(st.integers(0, 8), st.sampled_from([-1, 2**31, 2**62, 2**63, True, None, "1", 1.0]))
    data = st.one_of(st.binary(max_size=64), st.sampled_from([0, 2**40, None, "x", []]))
    parts = st.tuples(dtype, st.lists(size, max_size=depth), st.sampled_from(["C", "F", "K", None, 1]), data).map(list)
    return st.one_of(parts, st.tuples(dtype, data).map(list), st.lists(data), data)


@settings(deadline=None, max_examples=200)
@given(st.integers(-128, 127), as_peer_may())
def test_no_extension_raises_anything_but_a_typed_error(code, parts):
    packed = msgpack.packb(parts)
    with contextlib.suppress(HostError):
        decode(bytes([0xC8, *len(packed).to_bytes(2, "big"), code % 256]) + packed, [bytes(64)])


LIES = [
    *(bytes([code]) + b"\xff" * 4 for code in (0xDD, 0xDF, 0xDB, 0xC6, 0xC9)),
    b"\xdd\0\x3d\x09\0",
    b"\xdc\xff\xff" * 20,
]


@pytest.mark.parametrize("body", LIES, ids=bytes.hex)
def test_a_length_that_is_a_lie_allocates_nothing(body):
    with little(seconds=5, peak_bytes=64 << 20), contextlib.suppress(HostError):
        decode(body + b"\1")


def test_one_buffer_cannot_be_multiplied():
    reference = msgpack.packb(msgpack.ExtType(5, b"\0"))
    body = b"\xdd" + (100_000).to_bytes(4, "big") + reference * 100_000
    with little(seconds=5, peak_bytes=16 << 20), pytest.raises(HostError, match="more than once"):
        decode(body, [bytes(1 << 20)])
