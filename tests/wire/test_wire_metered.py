"""What a host decodes itself: the same values, and a bound on what any body can cost."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import pytest
from helpers import line_of, program, stop
from hypothesis import given, settings
from hypothesis import strategies as st
from test_wire_properties import VALUES, samples, typed

from hostd_workers.wire import codec
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.arrays import MAX_DIMENSIONS, ArrayView
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import HostError, InvalidArgumentError
from hostd_workers.wire.metered import Budget, decode_metered

if TYPE_CHECKING:
    from collections.abc import Sequence

AMPLE = Budget(1 << 20, values=100_000, list_len=1000, map_len=1000, depth=64, buffer_bytes=1 << 20)
SMALL = Budget(1000, values=100, list_len=60, map_len=40, depth=5, buffer_bytes=50)


def there_and_back(value: object, budget: Budget = AMPLE) -> Any:
    return decode_metered(*encode(value), budget)


def extension(code: int, data: bytes) -> bytes:
    return bytes(msgpack.packb(msgpack.ExtType(code, data)))


# The same values


@settings(deadline=None, max_examples=120)
@given(VALUES)
def test_every_value_comes_back_as_it_was(value: object) -> None:
    assert typed(there_and_back(value)) == typed(value)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_a_body_is_read_as_by_decode_or_refused(body: bytes) -> None:
    with contextlib.suppress(HostError):
        assert repr(decode_metered(body, (), AMPLE)) == repr(decode(body))


def test_no_body_raises_anything_but_a_typed_error() -> None:
    for frames in samples():
        envelope = wire.unpack(frames)
        for length in range(min(len(envelope.body), 400) + 1):
            for budget in (AMPLE, SMALL, msg.HEADER_LIMITS):
                with contextlib.suppress(HostError):
                    decode_metered(envelope.body[:length], envelope.buffers, budget)


@pytest.mark.parametrize(
    "scalar",
    [
        *(np.dtype(f"{order}{kind}").type(7) for order in "<>" for kind in ("i1", "i2", "i4", "i8", "u1", "u8", "f2")),
        np.float32(0.1),
        np.float64(-1e300),
        np.bool_(True),
        np.str_("grüße 🦉"),
        np.str_(""),
    ],
    ids=repr,
)
def test_a_number_or_text_of_numpy_becomes_one_of_python(scalar: Any) -> None:
    back = there_and_back([scalar])[0]
    assert back == scalar.item()
    assert type(back) is type(scalar.item())


def test_a_number_in_another_byte_order_is_read() -> None:
    for dtype, data in (("<i4", b"\1\0\0\0"), (">i4", b"\0\0\0\1"), (">U1", "a".encode("utf-32-be"))):
        back = decode_metered(extension(codec.EXT_SCALAR, msgpack.packb([dtype, data])), (), AMPLE)
        assert back in (1, "a")


@pytest.mark.parametrize(
    "value",
    [np.arange(6, dtype="<i2").reshape(2, 3), np.arange(3000.0), np.asfortranarray(np.ones((99, 99))), np.ones(())],
    ids=["small", "big", "order", "no dimension"],
)
def test_an_array_travels_on_as_it_is(value: Any) -> None:
    view = there_and_back(value)
    assert type(view) is ArrayView
    assert view.shape == value.shape
    onward = decode(*encode(view))
    assert (onward.dtype, onward.shape) == (value.dtype, value.shape)
    assert (onward == value).all()


@pytest.mark.parametrize("value", [np.datetime64("2024-01-01", "us"), np.complex64(1j), np.bytes_(b"x")], ids=repr)
def test_a_scalar_that_python_has_no_form_for_travels_on_as_an_array_of_no_dimension(value: Any) -> None:
    onward = decode(*encode(there_and_back(value)))
    assert (onward.shape, onward[()]) == ((), value)


@pytest.mark.parametrize("shape", [7, None, "ab", ["1"], [1.5], [True], [0] * (MAX_DIMENSIONS + 1), {"a": 1}], ids=repr)
def test_an_array_of_no_shape_is_refused(shape: object) -> None:
    body = extension(codec.EXT_ARRAY, msgpack.packb(["<f8", shape, "C", b""]))
    with pytest.raises(InvalidArgumentError, match="shape must be a list"):
        decode_metered(body, (), AMPLE)


def test_a_malformed_scalar_stays_what_it_is_or_is_refused() -> None:
    for parts in (["<f8", b"x"], [["<f8"], b"x"], ["", b""], ["<f9", b"12345678"]):
        assert type(decode_metered(extension(codec.EXT_SCALAR, msgpack.packb(parts)), (), AMPLE)) is ArrayView
    for parts in (["<U1", b"\xff" * 4], ["<U1", b"x"], ["<f8", 8], ["<f8"]):
        with pytest.raises(InvalidArgumentError):
            decode_metered(extension(codec.EXT_SCALAR, msgpack.packb(parts)), (), AMPLE)


WITHOUT_NUMPY = """
    import sys
    from hostd_workers.wire.metered import Budget, decode_metered
    value = decode_metered(bytes.fromhex(sys.argv[1]), [bytes(40000)], Budget(1000, 1000, 10, 10, 9, 100_000))
    print("numpy" in sys.modules, value[0].shape, value[1])
"""


def test_a_host_does_not_import_numpy_for_a_peer() -> None:
    body, _ = encode([np.arange(5000), np.float64(0.5)])
    reader = program(WITHOUT_NUMPY, body.hex())
    try:
        assert line_of(reader) == "False (5000,) 0.5"
    finally:
        stop(reader)


# Budgets


def refused(value: object, match: str, *, but_not: object, buffers: Sequence[bytes] = ()) -> None:
    with pytest.raises(InvalidArgumentError, match=match):
        decode_metered(value if isinstance(value, bytes) else encode(value)[0], buffers, SMALL)
    decode_metered(but_not if isinstance(but_not, bytes) else encode(but_not)[0], (), SMALL)


def test_the_bytes_of_a_body_are_counted_before_it_is_read() -> None:
    refused(b"\xc1" * 1001, "the body has 1001 bytes, at most 1000 are allowed", but_not="x" * 997)


def test_the_bytes_of_all_buffers_are_counted() -> None:
    reference = extension(codec.EXT_BYTES_BUFFER, b"\0")
    assert decode_metered(reference, [bytes(50)], SMALL) == bytes(50)
    assert decode_metered(reference, [memoryview(bytes(48)).cast("d")], SMALL) == bytes(48)
    for buffers in ([bytes(51)], [bytes(25), bytes(26)], [memoryview(bytes(56)).cast("d")]):
        with pytest.raises(InvalidArgumentError, match=r"have 5[16] bytes, at most 50 are allowed"):
            decode_metered(reference, buffers, SMALL)


def test_the_elements_of_a_list_and_of_a_map_are_counted() -> None:
    refused([0] * 61, "limit: 61 exceeds", but_not=[0] * 60)
    refused(dict.fromkeys(range(41)), "limit: 41 exceeds", but_not=dict.fromkeys(range(40)))


@pytest.mark.parametrize(
    ("fits", "over"),
    [
        ([[0] * 49, [0] * 49], [[0] * 49, [0] * 50]),
        ([[]] * 50, [[]] * 51),
        ([{}] * 50, [{}] * 51),
        ([dict.fromkeys(range(24))] * 2, [dict.fromkeys(range(24)), dict.fromkeys(range(26))]),
        ([()] * 5, [()] * 6),
        ([(0,) * 15, [0] * 60], [(0,) * 30, [0] * 60]),
        ([dt.datetime(2020, 1, 1)] * 4, [dt.datetime(2020, 1, 1)] * 5),
        ([np.float64(1)] * 5, [np.float64(1)] * 6),
        (np.zeros(9), np.zeros(12)),
    ],
    ids=["lists", "empty lists", "empty maps", "maps", "tuples", "elements of tuples", "dates", "scalars", "arrays"],
)
def test_values_are_counted_wherever_they_are(fits: object, over: object) -> None:
    refused(over, "at most 100 values are allowed here", but_not=fits)


def test_what_a_tuple_copies_counts() -> None:
    budget = Budget(10_000, values=100, list_len=10, map_len=10, depth=16)
    value: object = "x" * 2000
    for _ in range(2):
        value = (value,)
    assert there_and_back(value, budget) == value
    with pytest.raises(InvalidArgumentError, match="at most 100 values"):
        there_and_back((value,), budget)


def test_nesting_is_counted() -> None:
    refused([[[[[[]]]]]], "at most 5 containers", but_not=[[[[[]]]]])
    refused(b"\x91" * 90 + b"\xc0", "at most 5 containers", but_not=b"\x91" * 5 + b"\xc0")


@pytest.mark.parametrize("budget", [msg.HEADER_LIMITS, msg.CONTROL_LIMITS, msg.UPLOAD_LIMITS, msg.LOADED_LIMITS])
@pytest.mark.parametrize(
    "item",
    [
        b"\xc0",
        b"\xa2ab",
        b"\x90",
        b"\x80",
        b"\x91\xc0",
        b"\x81\xc0\xc0",
        b"\xd4\x01\x90",
        b"\xd6\xff\0\0\0\0",
        b"\xc7\x0a\x022020-01-01",
        extension(codec.EXT_SCALAR, msgpack.packb(["<f8", bytes(8)])),
    ],
    ids=["nil", "text", "list", "map", "list of one", "map of one", "tuple", "timestamp", "date", "scalar"],
)
def test_a_body_that_is_full_of_anything_is_refused_for_its_values(item: bytes, budget: Budget) -> None:
    each = 1000
    rows = 1 + min(budget.values, (budget.body_bytes - 100) // len(item)) // each
    body = b"\xdc" + rows.to_bytes(2, "big") + (b"\xdc" + each.to_bytes(2, "big") + item * each) * rows
    with pytest.raises(InvalidArgumentError, match=f"at most {budget.values} values are allowed here"):
        decode_metered(body, (), dataclasses.replace(budget, body_bytes=len(body), list_len=each))
