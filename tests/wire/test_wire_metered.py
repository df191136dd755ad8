"""What a host decodes itself: the same values, and a bound on what any body can cost."""

import dataclasses
import datetime as dt

import msgpack
import numpy as np
import pytest
from helpers import line_of, program, stop
from test_wire_properties import AMPLE, SMALL

from hostd_workers.wire import codec
from hostd_workers.wire import messages as msg
from hostd_workers.wire.arrays import MAX_DIMENSIONS, ArrayView
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.metered import Budget, decode_metered


def there_and_back(value, budget=AMPLE):
    return decode_metered(*encode(value), budget)


def extension(code, parts):
    return bytes(msgpack.packb(msgpack.ExtType(code, msgpack.packb(parts))))


def scalar(*parts):
    return extension(codec.EXT_SCALAR, parts)


def refused(value, match, *, but_not=None, buffers=(), budget=SMALL):
    with pytest.raises(InvalidArgumentError, match=match):
        decode_metered(value if isinstance(value, bytes) else encode(value)[0], buffers, budget)
    decode_metered(but_not if isinstance(but_not, bytes) else encode(but_not)[0], (), budget)


NUMBERS = [np.dtype(order + kind).type(7) for order in "<>" for kind in ["i1", "i2", "i4", "i8", "u1", "u8", "f2"]]
OTHERS = [np.float32(0.1), np.float64(-1e300), np.bool_(True), np.str_("grüße 🦉"), np.str_("")]


@pytest.mark.parametrize("value", NUMBERS + OTHERS, ids=repr)
def test_a_number_or_text_of_numpy_becomes_one_of_python(value):
    back = there_and_back([value])[0]
    assert (back, type(back)) == (value.item(), type(value.item()))


def test_a_number_in_another_byte_order_is_read():
    for parts in (("<i4", b"\1\0\0\0"), (">i4", b"\0\0\0\1"), (">U1", "a".encode("utf-32-be"))):
        assert decode_metered(scalar(*parts), (), AMPLE) in (1, "a")


ARRAYS = [np.arange(6, dtype="<i2").reshape(2, 3), np.arange(3000.0), np.asfortranarray(np.ones((99, 99))), np.ones(())]


@pytest.mark.parametrize("value", ARRAYS, ids=["small", "big", "order", "no dimension"])
def test_an_array_travels_on_as_it_is(value):
    view = there_and_back(value)
    assert (type(view), view.shape) == (ArrayView, value.shape)
    onward = decode(*encode(view))
    assert (onward.dtype, onward.shape) == (value.dtype, value.shape)
    assert (onward == value).all()


@pytest.mark.parametrize("value", [np.datetime64("2024-01-01", "us"), np.complex64(1j), np.bytes_(b"x")], ids=repr)
def test_a_scalar_that_python_has_no_form_for_travels_on_as_an_array_of_no_dimension(value):
    onward = decode(*encode(there_and_back(value)))
    assert (onward.shape, onward[()]) == ((), value)


@pytest.mark.parametrize("shape", [7, None, "ab", ["1"], [1.5], [True], [0] * (MAX_DIMENSIONS + 1), {"a": 1}], ids=repr)
def test_an_array_of_no_shape_is_refused(shape):
    refused(extension(codec.EXT_ARRAY, ["<f8", shape, "C", b""]), "shape must be a list", budget=AMPLE)


def test_a_malformed_scalar_stays_what_it_is_or_is_refused():
    for parts in (["<f8", b"x"], [["<f8"], b"x"], ["", b""], ["<f9", b"12345678"]):
        assert type(decode_metered(scalar(*parts), (), AMPLE)) is ArrayView
    for parts in (["<U1", b"\xff" * 4], ["<U1", b"x"], ["<f8", 8], ["<f8"]):
        refused(scalar(*parts), ".", budget=AMPLE)


WITHOUT_NUMPY = """
    import sys
    from hostd_workers.wire.metered import Budget, decode_metered
    value = decode_metered(bytes.fromhex(sys.argv[1]), [bytes(40000)], Budget(1000, 1000, 10, 10, 9, 100_000))
    print("numpy" in sys.modules, value[0].shape, value[1])
"""


def test_a_host_does_not_import_numpy_for_a_peer():
    reader = program(WITHOUT_NUMPY, encode([np.arange(5000), np.float64(0.5)])[0].hex())
    try:
        assert line_of(reader) == "False (5000,) 0.5"
    finally:
        stop(reader)


# Budgets


def test_bytes_are_counted_before_they_are_read():
    refused(b"\xc1" * 1001, "the body has 1001 bytes, at most 1000 are allowed", but_not="x" * 997)
    reference = extension(codec.EXT_BYTES_BUFFER, 0)
    for fits in (bytes(50), memoryview(bytes(48)).cast("d")):
        assert decode_metered(reference, [fits], SMALL) == bytes(fits)
    for buffers in ([bytes(51)], [bytes(25), bytes(26)], [memoryview(bytes(56)).cast("d")]):
        refused(reference, r"have 5[16] bytes, at most 50 are allowed", buffers=buffers)


def test_the_elements_of_a_list_and_of_a_map_and_the_depth_are_limited():
    refused([0] * 61, "limit: 61 exceeds", but_not=[0] * 60)
    refused(dict.fromkeys(range(41)), "limit: 41 exceeds", but_not=dict.fromkeys(range(40)))
    refused([[[[[[]]]]]], "at most 5 containers", but_not=[[[[[]]]]])
    refused(b"\x91" * 90 + b"\xc0", "at most 5 containers", but_not=b"\x91" * 5 + b"\xc0")


DATE, HALF = dt.datetime(2020, 1, 1), dict.fromkeys(range(24))
COUNTED = {
    "lists": ([[0] * 49, [0] * 49], [[0] * 49, [0] * 50]),
    "empty lists": ([[]] * 50, [[]] * 51),
    "empty maps": ([{}] * 50, [{}] * 51),
    "maps": ([HALF] * 2, [HALF, dict.fromkeys(range(26))]),
    "tuples": ([()] * 5, [()] * 6),
    "elements of tuples": ([(0,) * 15, [0] * 60], [(0,) * 30, [0] * 60]),
    "dates": ([DATE] * 4, [DATE] * 5),
    "scalars": ([np.float64(1)] * 5, [np.float64(1)] * 6),
    "arrays": (np.zeros(9), np.zeros(12)),
}


@pytest.mark.parametrize(("fits", "over"), COUNTED.values(), ids=COUNTED)
def test_values_are_counted_wherever_they_are(fits, over):
    refused(over, "at most 100 values are allowed here", but_not=fits)


def test_what_a_tuple_copies_counts():
    value = (("x" * 2000,),)
    budget = Budget(10_000, values=100, list_len=10, map_len=10, depth=16)
    assert there_and_back(value, budget) == value
    refused((value,), "at most 100 values", budget=budget)


ITEMS = {
    "nil": b"\xc0",
    "text": b"\xa2ab",
    "list": b"\x90",
    "map": b"\x80",
    "list of one": b"\x91\xc0",
    "map of one": b"\x81\xc0\xc0",
    "tuple": b"\xd4\x01\x90",
    "timestamp": b"\xd6\xff\0\0\0\0",
    "date": b"\xc7\x0a\x022020-01-01",
    "scalar": scalar("<f8", bytes(8)),
}


@pytest.mark.parametrize("limits", ["HEADER", "CONTROL", "UPLOAD", "LOADED"])
@pytest.mark.parametrize("item", ITEMS)
def test_a_body_that_is_full_of_anything_is_refused_for_its_values(item, limits):
    budget, one, each = getattr(msg, f"{limits}_LIMITS"), ITEMS[item], 1000
    rows = 1 + min(budget.values, (budget.body_bytes - 100) // len(one)) // each
    body = b"\xdc" + rows.to_bytes(2, "big") + (b"\xdc" + each.to_bytes(2, "big") + one * each) * rows
    with pytest.raises(InvalidArgumentError, match=f"at most {budget.values} values are allowed here"):
        decode_metered(body, (), dataclasses.replace(budget, body_bytes=len(body), list_len=each))
