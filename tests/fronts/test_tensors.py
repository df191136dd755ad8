"""Tensors, their two forms, and what models take and return; without a host."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hostd.fronts import texts
from hostd.fronts.datatypes import DTYPES, MAX_DIMENSIONS, narrowed, widened
from hostd.fronts.tensors import Tensor, from_json, from_raw, of_result, to_json, to_raw
from hostd_workers.wire.errors import InvalidArgumentError, UnimplementedError

NUMBERS = sorted(set(DTYPES) - {"BF16"})


def packed(*elements):
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@given(st.data())
def test_numbers_in_binary_form_come_back_as_they_went(data):
    datatype = data.draw(st.sampled_from(NUMBERS))
    shape = data.draw(hnp.array_shapes(min_dims=0, min_side=0))
    array = data.draw(hnp.arrays(DTYPES[datatype], shape))
    tensor = from_raw("x", datatype, list(shape), array.tobytes())
    assert (tensor.datatype, tensor.data.dtype, tensor.data.shape) == (datatype, array.dtype, shape)
    assert bytes(to_raw(tensor)) == array.tobytes()


@given(st.data())
def test_numbers_in_json_come_back_as_they_went_flat_or_nested(data):
    datatype = data.draw(st.sampled_from(sorted(set(NUMBERS) - {"FP16"})))
    shape = data.draw(hnp.array_shapes(max_side=3))
    elements = {"allow_infinity": False} if datatype.startswith("FP") else None
    array = data.draw(hnp.arrays(DTYPES[datatype], shape, elements=elements))
    for given_data in (array.tolist(), array.reshape(-1).tolist()):
        tensor = from_json("x", datatype, list(shape), given_data)
        np.testing.assert_array_equal(tensor.data, array, strict=True)
        np.testing.assert_array_equal(to_json(tensor), array.reshape(-1), strict=True)


@given(st.lists(st.one_of(st.text(), st.binary()), min_size=1))
def test_strings_in_binary_form_come_back_as_they_went(elements):
    raw = packed(*(e.encode() if isinstance(e, str) else e for e in elements))
    tensor = from_raw("x", "BYTES", [len(elements)], raw)
    assert len(set(map(type, tensor.data))) == 1, "all are str, or all are bytes"
    assert to_raw(tensor) == raw


def test_numbers_are_views_of_the_bytes_also_where_they_are_not_aligned():
    body = bytes(1) + np.arange(4, dtype="<f8").tobytes()
    tensor = from_raw("x", "FP64", [2, 2], memoryview(body)[1:])
    assert tensor.data.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert np.shares_memory(tensor.data, np.frombuffer(body, np.uint8))
    contiguous = Tensor("y", "FP64", (2,), np.zeros(2))
    assert np.shares_memory(np.frombuffer(to_raw(contiguous), np.uint8), contiguous.data)


def test_any_byte_but_zero_is_true():
    tensor = from_raw("x", "BOOL", [3], b"\x00\x01\xff")
    assert (tensor.data == np.array([False, True, True])).all()
    assert bytes(to_raw(tensor)) == b"\x00\x01\x01"


def test_bf16_is_the_upper_half_of_fp32_and_is_rounded_to_the_nearest_even():
    halves = np.arange(2**16, dtype=np.uint16)
    values = widened(halves)
    is_number = ~np.isnan(values)
    assert (narrowed(values)[is_number] == halves[is_number]).all()
    assert np.isnan(widened(narrowed(values[~is_number]))).all()
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7FFFFFFF], np.uint32)
    assert narrowed(bits.view(np.float32)).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0x7FFF]
    tensor = from_raw("x", "BF16", [2, 1], b"\x80\x3f\x00\xc0")
    assert (tensor.data.dtype, tensor.data.tolist()) == (np.float32, [[1.0], [-2.0]])
    assert to_raw(tensor) == b"\x80\x3f\x00\xc0"


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "words"),
    [
        ("FP128", [1], b"", "got datatype 'FP128', expected one of BF16, BOOL, BYTES"),
        (None, [1], b"", "got datatype None"),
        ("FP32", [2], bytes(7), "got 7 bytes, expected 8, by its datatype FP32 and shape [2]"),
        ("BF16", [2], bytes(8), "got 8 bytes, expected 4"),
        ("FP32", [-1], bytes(4), "got shape [-1], expected a list of sizes"),
        ("FP32", [True], bytes(4), "got shape [True]"),
        ("FP32", [1.0], bytes(4), "got shape [1.0]"),
        ("FP32", "1", bytes(4), "got shape '1'"),
        ("FP32", None, bytes(4), "got shape None"),
        ("FP32", [2**32, 2**32], b"", "has more than"),
        ("FP32", [0, 2**60], b"", "has more than"),
        ("FP32", [1] * (MAX_DIMENSIONS + 1), bytes(4), "expected at most 32"),
        ("BYTES", [2], packed(b"a"), "got 1 elements, expected 2"),
        ("BYTES", [1], packed(b"a", b"b"), "got 5 bytes after its 1 elements"),
        ("BYTES", [1], b"\x02\x00\x00\x00a", "element 0 is cut off: got 1 bytes, expected 2"),
        ("BYTES", [1], b"\x02\x00", "element 0 is cut off"),
        ("BYTES", [1], b"\xff\xff\xff\xff", "expected 4294967295"),
        ("BYTES", [2**40, 0], b"", "too many empty lists"),
    ],
)
def test_wrong_binary_inputs_are_refused_by_name(datatype, shape, raw, words):
    with pytest.raises(InvalidArgumentError) as caught:
        from_raw("pixels", datatype, shape, raw)
    assert caught.value.message.startswith("input 'pixels'")
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("FP32", [3], [1.0, 2.0], "got 2 elements, expected 3, by its shape [3]"),
        ("FP32", [2], [[1.0], 2.0], "got list among its data"),
        ("FP32", [1], ["1"], "got str among its data, expected FP32"),
        ("FP32", [1], [True], "got bool"),
        ("FP32", [1], [1e39], "too big for float32"),
        ("INT64", [1], [1.0], "got float"),
        ("INT64", [1], [None], "got NoneType"),
        ("UINT8", [2], [0, 256], "got values from 0 to 256, expected UINT8: 0 to 255"),
        ("UINT8", [1], [-1], "got values from -1"),
        ("BOOL", [1], [1], "got int"),
        ("BYTES", [2], ["a", 1], "got int"),
        ("FP16", [1], [1.0], "FP16 does not travel as JSON"),
        ("BF16", [1], [1.0], "BF16 does not travel as JSON"),
        ("FP32", [1], {"a": 1}, "got dict"),
    ],
)
def test_wrong_json_inputs_are_refused_by_name(datatype, shape, data, words):
    with pytest.raises(InvalidArgumentError) as caught:
        from_json("pixels", datatype, shape, data)
    assert caught.value.message.startswith("input 'pixels'")
    assert words in caught.value.message


def test_a_null_among_floats_is_nan_and_ints_are_floats():
    assert np.isnan(from_json("x", "FP64", [2], [None, 1]).data).tolist() == [True, False]


def test_a_long_string_among_many_numbers_costs_no_memory():
    data = ["a" * 100_000, *[1.0] * 100_000]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgumentError, match="got str"):
            from_json("x", "FP32", [len(data)], data)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_strings_are_nested_as_their_shape_has_it():
    assert from_json("x", "BYTES", [2, 2], ["a", "b", "c", "d"]).data == [["a", "b"], ["c", "d"]]
    assert from_raw("x", "BYTES", [1, 2], packed(b"a", b"\xff")).data == [[b"a", b"\xff"]]
    assert from_json("x", "BYTES", [], ["a"]).data == "a"
    assert from_json("x", "BYTES", [2, 0], []).data == [[], []]
    assert from_raw("x", "BYTES", [0, 5], b"").data == []
    assert texts.flattened([[["a"], ["b"]]]) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "datatype", "shape", "data"),
    [
        (True, "BOOL", (1,), [True]),
        (7, "INT64", (1,), [7]),
        (2**63, "UINT64", (1,), [2**63]),
        (1.5, "FP64", (1,), [1.5]),
        ("a", "BYTES", (1,), ["a"]),
        (b"a", "BYTES", (1,), ["a"]),
        (np.float32(1.5), "FP32", (1,), [1.5]),
        ([[1, 2], [3, 4]], "INT64", (2, 2), [1, 2, 3, 4]),
        ((1, 2.5), "FP64", (2,), [1.0, 2.5]),
        ([["a"], ["b"]], "BYTES", (2, 1), ["a", "b"]),
        ([], "FP64", (0,), []),
        ([[], []], "FP64", (2, 0), []),
        ([np.int8(1), np.int8(2)], "INT8", (2,), [1, 2]),
        (np.array(3, np.uint8), "UINT8", (1,), [3]),
        (np.array([1, 2], ">i4"), "INT32", (2,), [1, 2]),
        (np.arange(6).reshape(2, 3).T, "INT64", (3, 2), [0, 3, 1, 4, 2, 5]),
        (np.array([["a"], ["bc"]]), "BYTES", (2, 1), ["a", "bc"]),
        (np.array([b"a"]), "BYTES", (1,), ["a"]),
    ],
)
def test_results_become_tensors_by_what_they_are(value, datatype, shape, data):
    tensor = of_result("y", value)
    assert (tensor.name, tensor.datatype, tensor.shape) == ("y", datatype, shape)
    assert list(to_json(tensor)) == data
    if datatype != "BYTES":
        back = from_raw("y", datatype, list(shape), to_raw(tensor))
        assert back.data.reshape(-1).tolist() == data


@pytest.mark.parametrize(
    "value", [None, {"a": 1}, [1, "a"], [[1], [1, 2]], [[1], 2], [None], 2**64, [-1, 2**63], [True, 1]]
)
def test_other_results_are_no_tensors(value):
    assert of_result("y", value) is None


@pytest.mark.parametrize("dtype", ["c16", "M8[s]", [("a", "i4")]])
def test_arrays_that_the_protocol_does_not_know_are_refused(dtype):
    with pytest.raises(UnimplementedError, match="has no datatype: let the model return numbers"):
        of_result("y", np.zeros(1, dtype))


def test_what_json_cannot_hold_is_asked_for_in_binary_form():
    for value in (np.zeros(1, np.float16), [b"\xff"]):
        with pytest.raises(InvalidArgumentError, match=r"output 'y' .*ask for it in binary form"):
            to_json(of_result("y", value))
