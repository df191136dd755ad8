"""Arrays and scalars of NumPy: every fixed-size dtype and layout, without a copy where there need be none."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from hostd_workers.wire import arrays, codec
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import InvalidArgumentError

SIMPLE = [*"?bBhHiIlLqQpPefdgFDG", "S1", "S5", "U1", "U7", "V3", "S300", "U100"]
TIMES = [f"{kind}8[{unit}]" for kind in "Mm" for unit in ("Y", "M", "D", "h", "s", "ms", "us", "ns", "25s", "as")]
STRUCTURED: list[Any] = [
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


def filled(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    count = int(np.prod(shape)) * dtype.itemsize
    array = np.frombuffer(bytes(n % 61 + 1 if dtype.kind != "U" else 0 for n in range(count)), np.uint8)
    return array.copy().view(dtype).reshape(shape) if count else np.zeros(shape, dtype)


def there_and_back(value: object) -> Any:
    return decode(*encode(value))


def assert_same(back: Any, array: np.ndarray[Any, Any]) -> None:
    assert type(back) is np.ndarray
    assert back.dtype == array.dtype
    assert back.dtype.str == array.dtype.str
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_fixed_size_dtype_comes_back_in_every_shape(dtype: np.dtype[Any]) -> None:
    for shape in SHAPES:
        array = filled(dtype, shape)
        assert_same(there_and_back(array), array)
        assert_same(there_and_back({"deep": [(array,)]})["deep"][0][0], array)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scalars_keep_their_dtype(dtype: np.dtype[Any]) -> None:
    scalar = filled(dtype, (1,))[0]
    for back in (there_and_back(scalar), there_and_back([scalar])[0]):
        assert isinstance(back, np.generic)
        assert back.dtype == scalar.dtype
        assert str(back) == str(scalar)


@pytest.mark.parametrize(
    "scalar", [np.str_(""), np.str_("a\0b"), np.bytes_(b""), np.bytes_(b"a\0b"), np.datetime64("NaT")]
)
def test_strings_and_times_without_content_are_scalars_too(scalar: np.generic) -> None:
    back = there_and_back(scalar)
    assert type(back) is type(scalar)
    assert str(back) == str(scalar)


@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda a: a.T,
        lambda a: a[::2, ::3],
        lambda a: a[::-1],
        lambda a: a[:, 1],
        lambda a: np.broadcast_to(a[0], a.shape),
        lambda a: a[..., np.newaxis].transpose(2, 1, 0),
        lambda a: np.lib.stride_tricks.sliding_window_view(a, 3, axis=0),
        lambda a: a.view(np.matrix),
        lambda a: np.asfortranarray(a).view(np.matrix),
    ],
)
def test_every_layout_comes_back_with_the_same_values(layout: Any, size: int) -> None:
    array = layout(np.arange(size * size, dtype=np.float64).reshape(size, size))
    back = there_and_back(array)
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, np.asarray(array))


def test_a_big_fortran_array_stays_one_and_is_not_copied() -> None:
    array = np.asfortranarray(np.arange(10_000.0).reshape(100, 100))
    body, buffers = encode(array)
    assert np.shares_memory(np.frombuffer(buffers[0], np.uint8), array)
    back = decode(body, buffers)
    assert back.flags.f_contiguous
    assert not back.flags.c_contiguous
    assert np.shares_memory(back, array)


def test_a_big_array_is_sent_and_received_without_a_copy() -> None:
    array = np.arange(10_000.0)
    body, buffers = encode([array])
    back = decode(body, buffers)[0]
    assert np.shares_memory(back, array)
    assert back.flags.writeable


def test_an_array_is_writable_where_its_buffer_is() -> None:
    body, (buffer,) = encode(np.arange(10_000.0))
    assert not decode(body, [bytes(buffer)]).flags.writeable
    assert decode(body, [bytearray(buffer)]).flags.writeable


def test_a_small_array_owns_writable_memory_of_its_own() -> None:
    array = np.arange(4)
    back = there_and_back(array)
    back[0] = 99
    assert array[0] == 0


def test_arrays_move_out_of_the_body_above_the_limit() -> None:
    for size, count in ((codec.INLINE_ARRAY_BYTES, 0), (codec.INLINE_ARRAY_BYTES + 1, 1)):
        array = np.arange(size) % 251
        _, buffers = encode(array.astype(np.uint8))
        assert len(buffers) == count


def test_a_column_of_a_bigger_array_is_copied_not_sent_whole() -> None:
    _, buffers = encode(np.zeros((5000, 100))[:, 3])
    assert len(buffers[0]) == 40_000


def test_several_arrays_have_several_buffers() -> None:
    many = {str(n): np.full(6000, n) for n in range(5)}
    back = there_and_back(many)
    assert all((back[str(n)] == n).all() for n in range(5))


def test_record_arrays_and_memory_maps_arrive_as_plain_arrays(tmp_path: Any) -> None:
    records = np.zeros(3, [("a", "<f8")]).view(np.recarray)
    assert_same(there_and_back(records), np.asarray(records).view(np.dtype([("a", "<f8")])))
    mapped = np.memmap(tmp_path / "data", np.float64, "w+", shape=(2000,))
    mapped[:] = 7
    assert_same(there_and_back(mapped), np.full(2000, 7.0))


# What is refused


@pytest.mark.parametrize("make", [lambda o: np.array([o]), lambda o: np.array([(o,)], [("f", "O")])])
def test_arrays_of_objects_are_refused(make: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="holds Python objects"):
        encode(make(object()))


def test_arrays_of_variable_strings_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="convert it to a fixed-size dtype"):
        encode(np.array(["a", "bc"], np.dtypes.StringDType()))


def test_a_masked_array_is_refused_rather_than_lose_its_mask() -> None:
    with pytest.raises(InvalidArgumentError, match="lose its mask"):
        encode(np.ma.array([1, 2], mask=[False, True]))


def test_a_dtype_of_an_extension_is_refused_rather_than_become_raw_bytes() -> None:
    extension = pytest.importorskip("ml_dtypes")
    array = np.ones(3, extension.bfloat16)
    with pytest.raises(InvalidArgumentError, match=r"would arrive as raw bytes .*view\('u2'\)"):
        encode(array)
    with pytest.raises(InvalidArgumentError, match="raw bytes"):
        encode(array[0])
    with pytest.raises(InvalidArgumentError, match="cannot be described"):
        encode(np.zeros(2, [("a", extension.bfloat16)]))


@pytest.mark.parametrize("offsets", [[0, 2], [4, 0]], ids=["overlapping", "out of order"])
def test_fields_that_the_format_cannot_describe_are_refused(offsets: list[int]) -> None:
    dtype = np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": offsets})
    with pytest.raises(InvalidArgumentError, match="fields that do not overlap"):
        encode(np.zeros(2, dtype))


# What a peer may send


def array_of_parts(*parts: object, code: int = codec.EXT_ARRAY) -> bytes:
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
def test_a_malformed_array_is_refused(parts: tuple[object, ...]) -> None:
    with pytest.raises(InvalidArgumentError):
        decode(array_of_parts(*parts))


@pytest.mark.parametrize("parts", [("<f8",), ("<f8", b"\0" * 7), ("|O", b"\0" * 8), ("<f8", 2**40), 7, None])
def test_a_malformed_scalar_is_refused(parts: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        decode(msgpack.packb(msgpack.ExtType(codec.EXT_SCALAR, msgpack.packb(parts))))


@pytest.mark.parametrize("index", [-1, 1, "0", None, True, 0.0, [0]])
@pytest.mark.parametrize("code", [codec.EXT_ARRAY_BUFFER, codec.EXT_BYTES_BUFFER])
def test_a_reference_to_no_buffer_is_refused(code: int, index: object) -> None:
    parts = ["<u1", [1], "C", index] if code == codec.EXT_ARRAY_BUFFER else index
    with pytest.raises(InvalidArgumentError, match="refers to buffer"):
        decode(msgpack.packb(msgpack.ExtType(code, msgpack.packb(parts))), [b"x"])


@pytest.mark.parametrize("code", [codec.EXT_ARRAY_BUFFER, codec.EXT_BYTES_BUFFER])
def test_a_buffer_can_be_referred_to_only_once(code: int) -> None:
    parts = ["<u1", [1], "C", 0] if code == codec.EXT_ARRAY_BUFFER else 0
    reference = msgpack.ExtType(code, msgpack.packb(parts))
    with pytest.raises(InvalidArgumentError, match="more than once"):
        decode(msgpack.packb([reference, reference]), [b"x"])


def test_a_shape_whose_product_would_take_minutes_is_refused_at_once() -> None:
    with pytest.raises(InvalidArgumentError, match="at most 64 sizes"):
        decode(array_of_parts("<f8", [2**63] * 200_000, "C", b""))


def test_a_dtype_of_very_many_fields_is_refused_at_once() -> None:
    fields = [[f"f{n}", "|u1"] for n in range(arrays.MAX_FIELDS)]
    assert len(decode(array_of_parts(fields, [0], "C", b"")).dtype.names) == arrays.MAX_FIELDS
    for more in ([*fields, ["last", "|u1"]], [["a", fields], ["b", fields]]):
        with pytest.raises(InvalidArgumentError, match="at most 4096 fields"):
            decode(array_of_parts(more, [0], "C", b""))


def test_a_dtype_that_nests_without_end_is_refused() -> None:
    fields: object = "|u1"
    for _ in range(400):
        fields = [["f", fields]]
    with pytest.raises(InvalidArgumentError):
        decode(array_of_parts(fields, ["no shape"], "C", b""))
    with pytest.raises(InvalidArgumentError):
        decode(array_of_parts([["f", fields], 7], [0], "C", b""))


def test_unknown_extensions_are_refused() -> None:
    for code in (0, 7, 99, 127, -2, -128):
        with pytest.raises(InvalidArgumentError, match="unknown"):
            decode(bytes([0xC7, 1, code % 256, 0]))


@pytest.mark.parametrize("dtype", ["<U1", [["a", "<U1"]]])
@pytest.mark.parametrize("data", [b"\xff" * 4, b"\0\0\x11\0"])
def test_a_scalar_that_is_no_unicode_is_refused(dtype: object, data: bytes) -> None:
    scalar = msgpack.packb(msgpack.ExtType(codec.EXT_SCALAR, msgpack.packb([dtype, data])))
    body = scalar if isinstance(dtype, str) else b"\x81" + scalar + b"\0"  # a key is hashed, which reads the field
    with pytest.raises(InvalidArgumentError):
        decode(body)


def test_an_extension_where_a_map_needs_a_key_is_refused_if_it_is_no_key() -> None:
    key = array_of_parts("<u1", [1], "C", b"x")
    with pytest.raises(InvalidArgumentError):
        decode(b"\x81" + key + b"\0")
