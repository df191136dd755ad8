"""What holds for every value, and what no bytes can do: only typed errors, little time, little memory."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

UTC = dt.timezone.utc

# Whole minutes, because before Python 3.13 `fromisoformat` reads an offset of less than a second as none.
OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
KEYS = st.one_of(st.text(), st.integers(-(2**63), 2**64 - 1), st.binary(), st.booleans(), st.none())
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=300),
    st.datetimes(),
    st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=OFFSETS),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner)),
    max_leaves=30,
)
DTYPES = hnp.nested_dtypes(hnp.scalar_dtypes(), max_leaves=5).filter(lambda dtype: dtype.itemsize > 0)
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=6)))


def typed(value: object) -> object:
    """Return a value that is equal only for values of the same types all the way down."""
    if isinstance(value, (list, tuple)):
        return (type(value), [typed(item) for item in value])
    if isinstance(value, dict):
        return (dict, [(typed(key), typed(item)) for key, item in value.items()])
    if isinstance(value, dt.datetime):
        return (value.isoformat(),)
    return (type(value), value)


@settings(deadline=None, max_examples=120)
@given(VALUES)
def test_every_value_comes_back_as_it_was(value: object) -> None:
    assert typed(decode(*encode(value))) == typed(value)


@settings(deadline=None, max_examples=80)
@given(st.lists(VALUES, max_size=4), st.dictionaries(st.text(), VALUES, max_size=3))
def test_every_call_comes_back_as_it_was(args: list[object], kwargs: dict[str, object]) -> None:
    assert typed(decode(*encode_call(args, kwargs))) == typed([args, kwargs])


@settings(deadline=None, max_examples=120)
@given(ARRAYS, st.booleans())
def test_every_array_comes_back_as_it_was(array: np.ndarray[Any, Any], transposed: bool) -> None:
    array = array.T if transposed else array
    back = decode(*encode([array]))[0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=50),
    st.binary(min_size=1, max_size=50) | st.just(b"b" * 9000),
    st.lists(st.binary(), max_size=3),
    st.integers(0, wire.MAX_DEADLINE_MS),
)
def test_every_message_comes_back_as_it_was(
    kind: int, id: int, header: bytes, body: bytes, buffers: list[bytes], deadline_ms: int
) -> None:
    frames = wire.pack(kind, id, header, body, buffers, deadline_ms)
    back = wire.unpack(frames)
    assert back == wire.Envelope(kind, deadline_ms, id, header, body, buffers)
    assert wire.unpack_prefix(frames) == (kind, len(header), deadline_ms, id)


# No bytes can do harm


@contextlib.contextmanager
def little(seconds: float, peak_bytes: int) -> Iterator[None]:
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


def every_reader(frames: list[bytes]) -> None:
    """Read a message in every way there is; only typed errors may come out."""
    readers: list[Callable[[wire.Envelope], object]] = [
        lambda e: decode(e.body, e.buffers),
        lambda e: msg.unpack_map(e, msg.HEADER_LIMITS),
        lambda e: msg.unpack_target(e.header),
        lambda e: msg.unpack_verb(e.header),
        lambda e: msg.unpack_credit(e.header),
        msg.unpack_error,
    ]
    try:
        envelope = wire.unpack(frames)
    except HostError:
        return
    for read in readers:
        with contextlib.suppress(HostError):
            read(envelope)


@pytest.mark.parametrize("seed", range(4))
def test_no_change_of_a_valid_message_does_harm(seed: int) -> None:
    chance, originals = random.Random(seed), samples()
    with little(seconds=60, peak_bytes=64 << 20):
        for _ in range(4000):
            every_reader(mutated(chance.choice(originals), chance))


def test_no_truncation_of_a_valid_message_does_harm() -> None:
    with little(seconds=60, peak_bytes=16 << 20):
        for frames in samples():
            for length in range(min(len(frames[0]), 400)):
                every_reader([frames[0][:length], *frames[1:]])
                every_reader([frames[0][:length]])


@pytest.mark.parametrize("seed", range(2))
def test_no_random_bytes_do_harm(seed: int) -> None:
    chance = random.Random(seed)
    with little(seconds=60, peak_bytes=16 << 20):
        for _ in range(4000):
            body = chance.randbytes(chance.randint(0, 60))
            header = chance.randbytes(chance.randint(0, 20))
            prefix = bytes([chance.randrange(40), 1]) + len(header).to_bytes(2, "big") + chance.randbytes(12)
            every_reader([prefix + header + body, chance.randbytes(20)])


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_no_body_raises_anything_but_a_typed_error(body: bytes) -> None:
    with contextlib.suppress(HostError):
        decode(body, [bytes(64)])


def as_peer_may(depth: int = 3) -> st.SearchStrategy[Any]:
    """Return what a peer may put into the parts of an array: nearly right, mostly."""
    dtype = st.one_of(
        hnp.scalar_dtypes().map(lambda dtype: dtype.str),
        st.text("<>|=?biufcmMSUVO0123456789[]smn,", max_size=8),
        st.lists(st.lists(st.one_of(st.text(max_size=2), st.just("<f8"), st.lists(st.integers(0, 3))), max_size=4)),
    )
    size = st.one_of(st.integers(0, 8), st.sampled_from([-1, 2**31, 2**62, 2**63, True, None, "1", 1.0]))
    data = st.one_of(st.binary(max_size=64), st.sampled_from([0, 2**40, None, "x", []]))
    order = st.sampled_from(["C", "F", "K", None, 1])
    parts = st.tuples(dtype, st.lists(size, max_size=depth), order, data).map(list)
    return st.one_of(parts, st.tuples(dtype, data).map(list), st.lists(data), data)


@settings(deadline=None, max_examples=400)
@given(st.integers(-128, 127), as_peer_may())
def test_no_extension_raises_anything_but_a_typed_error(code: int, parts: Any) -> None:
    packed = msgpack.packb(parts)
    with contextlib.suppress(HostError):
        decode(bytes([0xC8, *len(packed).to_bytes(2, "big"), code % 256]) + packed, [bytes(64)])


@settings(deadline=None, max_examples=120)
@given(VALUES)
def test_anything_that_stands_for_an_error_gives_one(value: object) -> None:
    assert isinstance(from_wire(value), HostError)
    encoded, buffers = encode(value)
    assert isinstance(msg.unpack_error(wire.Envelope(msg.ERROR, 0, 1, b"", encoded, buffers)), HostError)


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\1",
        b"\xdd\x00\x3d\x09\x00",
        b"\xdc\xff\xff" * 20,
    ],
)
def test_a_length_that_is_a_lie_allocates_nothing(body: bytes) -> None:
    with little(seconds=5, peak_bytes=64 << 20), contextlib.suppress(HostError):
        decode(body)


def test_one_buffer_cannot_be_multiplied() -> None:
    reference = msgpack.packb(msgpack.ExtType(5, b"\0"))
    body = b"\xdd" + (100_000).to_bytes(4, "big") + reference * 100_000
    with little(seconds=5, peak_bytes=16 << 20), pytest.raises(HostError, match="more than once"):
        decode(body, [bytes(1 << 20)])
