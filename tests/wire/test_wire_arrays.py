"""Arrays and scalars of NumPy: every fixed-size dtype and layout, without a copy where there need be none."""

import msgpack
import numpy as np
import pytest

from hostd_workers.wire import arrays, codec
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import InvalidArgumentError

SIMPLE = [*"?bBhHiIlLqQpPefdgFDG", "S1", "S5", "U1", "U7", "V3", "S300", "U100"]
TIMES = [f"{kind}8[{unit}]" for kind in "Mm" for unit in ("Y", "M", "D", "h", "s", "ms", "us", "ns", "25s", "as")]
STRUCTURED = [
    [("a", "<f8"), ("b", ">i2")],
    [("t", "M8[us]"), ("s", "S4"), ("u", "U3"), ("v", "V2")],
    [("a", "<f4", (2, 3)), ("b", "u1", (1,))],
    [("outer", [("inner", "<c16"), ("deeper", [("x", "?")], (2,))])],
    [(("a title", "name"), "<i4")],
    {"names": ["a", "b"], "formats": ["u1", "<f8"], "offsets": [3, 16], "itemsize": 40},
]
DTYPES = [np.dtype(spec) for spec in (*SIMPLE, *TIMES, *STRUCTURED)]
DTYPES.append(np.dtype([("a", "u1"), ("b", "<f8"), ("c", [("x", "u1"), ("y", "<i4")])], align=True))
DTYPES.extend(dtype.newbyteorder(">") for dtype in list(DTYPES) if dtype.itemsize > 1)

SHAPES = [(), (0,), (1,), (3,), (2, 3), (0, 5), (4, 0, 2), (1, 1, 1, 1), (700,), (30, 20), (2,) * 10]


def filled(dtype, shape):
    count = int(np.prod(shape)) * dtype.itemsize
    array = np.frombuffer(bytes(n % 61 + 1 if dtype.kind != "U" else 0 for n in range(count)), np.uint8)
    return array.copy().view(dtype).reshape(shape) if count else np.zeros(shape, dtype)


def there_and_back(value):
    return decode(*encode(value))


def refused(body, match=".", buffers=()):
    with pytest.raises(InvalidArgumentError, match=match):
        decode(body, buffers)


def assert_same(back, array):
    assert type(back) is np.ndarray
    assert (back.dtype, back.dtype.str, back.shape) == (array.dtype, array.dtype.str, array.shape)
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_fixed_size_dtype_comes_back_in_every_shape_and_as_a_scalar(dtype):
    for shape in SHAPES:
        array = filled(dtype, shape)
        for back in there_and_back([array, {"deep": [(array,)]}]):
            assert_same(back["deep"][0][0] if isinstance(back, dict) else back, array)
    assert_same(there_and_back(array), array)
    scalar = filled(dtype, (1,))[0]
    for back in (there_and_back(scalar), there_and_back([scalar])[0]):
        assert isinstance(back, np.generic)
        assert (back.dtype, str(back)) == (scalar.dtype, str(scalar))


EMPTY = [np.str_(""), np.str_("a\0b"), np.bytes_(b""), np.bytes_(b"a\0b"), np.datetime64("NaT")]


@pytest.mark.parametrize("scalar", EMPTY, ids=repr)
def test_strings_and_times_without_content_are_scalars_too(scalar):
    back = there_and_back(scalar)
    assert (type(back), str(back)) == (type(scalar), str(scalar))


LAYOUTS = {
    "fortran": np.asfortranarray,
    "transposed": lambda a: a.T,
    "strided": lambda a: a[::2, ::3],
    "reversed": lambda a: a[::-1],
    "column": lambda a: a[:, 1],
    "broadcast": lambda a: np.broadcast_to(a[0], a.shape),
    "new axis": lambda a: a[..., np.newaxis].transpose(2, 1, 0),
    "sliding": lambda a: np.lib.stride_tricks.sliding_window_view(a, 3, axis=0),
    "matrix": lambda a: a.view(np.matrix),
    "fortran matrix": lambda a: np.asfortranarray(a).view(np.matrix),
}


@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_comes_back_with_the_same_values(layout, size):
    array = LAYOUTS[layout](np.arange(size * size, dtype=np.float64).reshape(size, size))
    back = there_and_back(array)
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, np.asarray(array))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_big_array_keeps_its_order_and_is_sent_and_received_without_a_copy(order):
    array = np.asarray(np.arange(10_000.0).reshape(100, 100), order=order)
    body, buffers = encode([array])
    (back,) = decode(body, buffers)
    assert np.shares_memory(np.frombuffer(buffers[0], np.uint8), array)
    assert np.shares_memory(back, array)
    assert (back.flags.c_contiguous, back.flags.f_contiguous) == (order == "C", order == "F")
    assert back.flags.writeable


def test_an_array_is_writable_where_its_buffer_is_and_a_small_one_owns_its_memory():
    body, (buffer,) = encode(np.arange(10_000.0))
    assert not decode(body, [bytes(buffer)]).flags.writeable
    assert decode(body, [bytearray(buffer)]).flags.writeable
    array = np.arange(4)
    back = there_and_back(array)
    back[0] = 99
    assert array[0] == 0


def test_arrays_move_out_of_the_body_above_the_limit_each_with_its_own_bytes():
    for size, count in ((codec.INLINE_ARRAY_BYTES, 0), (codec.INLINE_ARRAY_BYTES + 1, 1)):
        assert len(encode((np.arange(size) % 251).astype(np.uint8))[1]) == count
    column = encode(np.zeros((5000, 100))[:, 3])[1]
    assert len(column[0]) == 40_000, "a column of a bigger array is copied, not sent whole"
    back = there_and_back({str(n): np.full(6000, n) for n in range(5)})
    assert all((back[str(n)] == n).all() for n in range(5))


def test_record_arrays_and_memory_maps_arrive_as_plain_arrays(tmp_path):
    records = np.zeros(3, [("a", "<f8")]).view(np.recarray)
    assert_same(there_and_back(records), np.asarray(records).view(np.dtype([("a", "<f8")])))
    mapped = np.memmap(tmp_path / "data", np.float64, "w+", shape=(2000,))
    mapped[:] = 7
    assert_same(there_and_back(mapped), np.full(2000, 7.0))


# What is refused


def of_offsets(*offsets):
    return np.zeros(2, np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": offsets}))


LOSSES = {
    "objects": (np.array([object()]), "holds Python objects"),
    "objects in a field": (np.array([(object(),)], [("f", "O")]), "holds Python objects"),
    "masked": (np.ma.array([1, 2], mask=[False, True]), "lose its mask"),
    "overlapping fields": (of_offsets(0, 2), "fields that do not overlap"),
    "fields out of order": (of_offsets(4, 0), "fields that do not overlap"),
}


@pytest.mark.parametrize(("array", "says"), LOSSES.values(), ids=LOSSES)
def test_an_array_that_would_lose_something_is_refused(array, says):
    with pytest.raises(InvalidArgumentError, match=says):
        encode(array)


def test_arrays_of_variable_strings_are_refused():
    with pytest.raises(InvalidArgumentError, match="convert it to a fixed-size dtype"):
        encode(np.array(["a", "bc"], np.dtypes.StringDType()))


def test_a_dtype_of_an_extension_is_refused_rather_than_become_raw_bytes():
    extension = pytest.importorskip("ml_dtypes")
    array = np.ones(3, extension.bfloat16)
    for value, says in (
        (array, r"would arrive as raw bytes .*view\('u2'\)"),
        (array[0], "raw bytes"),
        (np.zeros(2, [("a", extension.bfloat16)]), "cannot be described"),
    ):
        with pytest.raises(InvalidArgumentError, match=says):
            encode(value)


# What a peer may send


def packed(parts, code=codec.EXT_ARRAY):
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb(parts)))


MALFORMED = {
    "too few parts": ("<f8", [1], "C"),
    "too many parts": ("<f8", [0], "C", b"", 1),
    "wrong length": ("<f8", [2], "C", b"\0" * 15),
    "negative size": ("<f8", [-1], "C", b""),
    "size is no number": ("<f8", ["1"], "C", b"\0" * 8),
    "size is a bool": ("<u1", [True], "C", b"\0"),
    "shape is no list": ("<f8", 1, "C", b"\0" * 8),
    "unknown order": ("<f8", [1], "K", b"\0" * 8),
    "order is a list": ("<f8", [1], ["C"], b"\0" * 8),
    "data is a number": ("<u1", [2**40], "C", 2**40),
    "data is text": ("<u1", [1], "C", "x"),
    "data is missing": ("<u1", [0], "C", None),
    "objects": ("|O", [1], "C", b"\0" * 8),
    "objects in a field": ([["a", "|O"]], [1], "C", b"\0" * 8),
    "unknown dtype": ("<f3", [1], "C", b"\0" * 3),
    "an alias that warns": ("a10", [0], "C", b""),
    "a name": ("float64", [1], "C", b"\0" * 8),
    "comma string": ("<i4,<i4", [1], "C", b"\0" * 8),
    "empty dtype": ("", [1], "C", b"\0" * 8),
    "dtype is a number": (8, [1], "C", b"\0" * 8),
    "dtype is none": (None, [1], "C", b"\0" * 8),
    "dtype is a map": ({"names": []}, [1], "C", b"\0" * 8),
    "huge dtype": ("|S9999999999", [0], "C", b""),
    "overflowing dtype": ("<U4294967295", [0], "C", b""),
    "field without a dtype": ([["a"]], [0], "C", b""),
    "field is a number": ([1], [0], "C", b""),
    "two fields of one name": ([["a", "<f8"], ["a", "<f8"]], [0], "C", b""),
    "field named by a number": ([[1, "<f8"]], [0], "C", b""),
    "field of a huge shape": ([["a", "<f8", [2**40, 2**40]]], [0], "C", b""),
    "field with too much": ([["a", "<f8", [1], 3]], [0], "C", b""),
    "empty field list": ([], [2], "C", b"x"),
    "too many dimensions": ("<f8", [1] * 65, "C", b"\0" * 8),
    "dimensions beyond memory": ("<f8", [0, 2**62, 2**62], "C", b""),
}


@pytest.mark.parametrize("parts", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_array_is_refused(parts):
    refused(packed(parts))


@pytest.mark.parametrize("parts", [("<f8",), ("<f8", b"\0" * 7), ("|O", b"\0" * 8), ("<f8", 2**40), 7, None], ids=repr)
def test_a_malformed_scalar_is_refused(parts):
    refused(packed(parts, codec.EXT_SCALAR))


@pytest.mark.parametrize("code", [codec.EXT_ARRAY_BUFFER, codec.EXT_BYTES_BUFFER])
def test_a_buffer_is_referred_to_by_its_index_and_once(code):
    def reference(index):
        return packed(["<u1", [1], "C", index] if code == codec.EXT_ARRAY_BUFFER else index, code)

    for index in (-1, 1, "0", None, True, 0.0, [0]):
        refused(reference(index), "refers to buffer", [b"x"])
    refused(b"\x92" + reference(0) * 2, "more than once", [b"x"])


def test_shapes_and_dtypes_that_would_take_minutes_are_refused_at_once():
    refused(packed(["<f8", [2**63] * 200_000, "C", b""]), "at most 64 sizes")
    fields = [[f"f{n}", "|u1"] for n in range(arrays.MAX_FIELDS)]
    assert len(decode(packed([fields, [0], "C", b""])).dtype.names) == arrays.MAX_FIELDS
    for more in ([*fields, ["last", "|u1"]], [["a", fields], ["b", fields]]):
        refused(packed([more, [0], "C", b""]), "at most 4096 fields")
    endless = "|u1"
    for _ in range(400):
        endless = [["f", endless]]
    refused(packed([endless, ["no shape"], "C", b""]))
    refused(packed([[["f", endless], 7], [0], "C", b""]))


def test_unknown_extensions_are_refused():
    for code in (0, 7, 99, 127, -2, -128):
        refused(bytes([0xC7, 1, code % 256, 0]), "unknown")


@pytest.mark.parametrize("data", [b"\xff" * 4, b"\0\0\x11\0"])
def test_a_scalar_that_is_no_unicode_and_a_key_that_is_none_are_refused(data):
    refused(packed(["<U1", data], codec.EXT_SCALAR))
    refused(
        b"\x81" + packed([[["a", "<U1"]], data], codec.EXT_SCALAR) + b"\0"
    )  # a key is hashed, which reads the field
    refused(b"\x81" + packed(["<u1", [1], "C", b"x"]) + b"\0")
