"""What is known of the inputs and outputs of methods: declared, reported by a loader, or said by type hints."""

import json

import pytest

from hostd_workers.api import Signature, Tensor
from hostd_workers.signatures import described
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.signatures import MAX_EXAMPLE_CHARS, MAX_TENSORS, datatype_of

X = Tensor("x", "FP32", (-1, 4))
PLAIN_X = ["x", "FP32", [-1, 4], False]


def predict(x):
    return x


def of(function, declared=None, served=None):
    """Return what is known of one function, called f."""
    found = described(
        {"f": function}, "f", {} if declared is None else {"f": declared}, {} if served is None else {"f": served}
    )
    return found.get("f")


def inputs_of(function):
    known = of(function)
    return known and [tuple(tensor) for tensor in known["inputs"]]


def test_what_model_yaml_says_comes_before_what_the_loader_says_and_that_before_hints():
    def hinted(x: int) -> int: ...

    assert of(hinted)["inputs"] == [["x", "INT64", [], False]]
    assert of(hinted, served=Signature([X]))["inputs"] == [PLAIN_X]
    declared = {"inputs": [{"name": "y"}], "batch_axis": None}
    assert of(hinted, declared, Signature([X]))["inputs"] == [["y", "", None, False]]
    assert of(predict) is None


def test_a_signature_travels_as_plain_values():
    told = Signature([X], [Tensor("y", optional=True)], "map", 0, {"x": [[1, 2.5, 3, 4]]}, "reported")
    assert of(predict, served=told) == {
        "inputs": [PLAIN_X],
        "outputs": [["y", "", None, True]],
        "passing": "map",
        "batch_axis": 0,
        "known_from": "reported",
        "example": '{"x": [[1, 2.5, 3, 4]]}',
    }


@pytest.mark.parametrize(("inputs", "passing"), [((X,), "array"), ((X, Tensor("k")), "keywords"), ((), "keywords")])
def test_how_inputs_are_passed_follows_from_their_number_if_nobody_says(inputs, passing):
    assert of(predict, served=Signature(inputs))["passing"] == passing


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        (5, "must be a hostd_workers.api.Signature, got int"),
        (Signature("x"), "inputs must be a list of hostd_workers.api.Tensor"),
        (Signature([Tensor("")]), "a name is text of 1 to 200 characters, got ''"),
        (Signature([Tensor("x", "float32")]), "'x' has the datatype 'float32'; one of BOOL, "),
        (Signature([Tensor("x", "FP32", (-2,))]), r"'x' has the shape \(-2,\)"),
        (Signature([Tensor("x", "FP32", 4)]), "'x' has the shape 4"),
        (Signature([X, X]), "the name 'x' is there twice"),
        (Signature([], [X, X]), "outputs: the name 'x' is there twice"),
        (Signature([X], passing="tuple"), "passing is one of array, map, keywords, got 'tuple'"),
        (Signature([X, Tensor("k")], passing="array"), "'array' is for one input, not 2"),
        (Signature([X], batch_axis=-1), "batch_axis is an axis from 0 on, or none, got -1"),
        (Signature([X], batch_axis=True), "batch_axis is an axis"),
        (Signature([X], example=[1]), r"example is a map of inputs \(x\) to values, got list"),
        (Signature([X], example={"z": 1}), "to values, got 'z'"),
        (Signature([X], example={"x": object()}), "example takes lists and plain values"),
        (Signature([X], example={"x": float("nan")}), "example takes lists and plain values"),
        (Signature([X], example={"x": "a" * MAX_EXAMPLE_CHARS}), f"{MAX_EXAMPLE_CHARS} at most"),
    ],
)
def test_a_wrong_signature_says_what_is_wrong(signature, says):
    with pytest.raises(InvalidArgumentError, match=says):
        of(predict, served=signature)


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ([], "signature.f must be a map with batch_axis, example, inputs, outputs, passing"),
        ({"input": []}, "signature.f must be a map"),
        ({"inputs": {}}, None),
        ({"inputs": {"x": 1}}, "signature.f.inputs must be a list of maps"),
        ({"outputs": [{"nam": "x"}]}, "signature.f.outputs: a map with name, datatype, shape, optional"),
        ({"inputs": [{"name": "x", "kind": 1}]}, "signature.f.inputs: a map with name"),
    ],
)
def test_what_a_finder_of_others_declares_is_checked_too(declared, says):
    if says is None:
        assert of(predict, declared)["inputs"] == []
    else:
        with pytest.raises(InvalidArgumentError, match=says):
            of(predict, declared)


@pytest.mark.parametrize(("declared", "served"), [({"g": {}}, {}), ({}, {"g": Signature()})])
def test_a_signature_of_a_method_that_is_not_there_is_refused(declared, served):
    with pytest.raises(InvalidArgumentError, match="names the method 'g'; the model has f"):
        described({"f": predict}, "f", declared, served)


def test_hints_say_what_single_values_and_lists_are():
    def f(a: int, b: "list[list[float]]", *, c: str | None = None, d: bytes = b"", e=3) -> list[str]: ...

    assert inputs_of(f) == [
        ("a", "INT64", [], False),
        ("b", "FP64", [-1, -1], False),
        ("c", "BYTES", [], True),
        ("d", "BYTES", [], True),
        ("e", "", None, True),
    ]
    known = of(f)
    assert (known["outputs"], known["passing"]) == ([["output", "BYTES", [-1], False]], "keywords")
    assert (known["known_from"], known["batch_axis"]) == ("declared", None)


def test_hints_of_arrays_say_their_datatype():
    numpy = pytest.importorskip("numpy", reason="hints of its arrays")
    typing = pytest.importorskip("numpy.typing", reason="hints of its arrays")

    def f(a: typing.NDArray[numpy.float32], b: typing.NDArray[numpy.floating], c: numpy.ndarray, d: int): ...

    assert inputs_of(f) == [
        ("a", "FP32", None, False),
        ("b", "", None, False),
        ("c", "", None, False),
        ("d", "INT64", [], False),
    ]


def test_a_lone_positional_argument_is_passed_by_its_place():
    def f(x: float, /): ...

    assert of(f)["passing"] == "array"


class Base:
    def method(self, n: int): ...


def test_methods_have_no_self():
    assert inputs_of(Base().method) == [("n", "INT64", [], False)]


def unknown_name(x: "Nowhere"): ...  # noqa: F821 - just that


def no_types(x: object, y: dict): ...


def many(*xs: int): ...


def named(**xs: int): ...


def mixed(x: int, /, y: int): ...


def returns(x) -> int: ...


@pytest.mark.parametrize("function", [predict, unknown_name, no_types, many, named, mixed, returns, print, len])
def test_hints_that_do_not_say_how_to_call_say_nothing(function):
    assert of(function) is None


def test_a_model_with_too_many_columns_keeps_the_signature_of_its_default_method():
    wide = Signature([Tensor(f"c{number}") for number in range(MAX_TENSORS)], passing="map")
    known = described({"a": predict, "b": predict}, "b", {}, {"a": Signature([X]), "b": wide})
    assert list(known) == ["b"]
    too_wide = Signature([Tensor(f"c{number}") for number in range(MAX_TENSORS + 1)], passing="map")
    assert described({"a": predict}, "a", {}, {"a": too_wide}) == {}


def test_an_example_is_json():
    assert json.loads(of(predict, {"inputs": [{"name": "x"}], "example": {"x": [1, "a", None]}})["example"]) == {
        "x": [1, "a", None]
    }


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [
        ("<f4", "FP32"),
        ("|b1", "BOOL"),
        ("|u1", "UINT8"),
        ("<U5", "BYTES"),
        ("|S3", "BYTES"),
        ("|O", "BYTES"),
        ("<c8", ""),
        ("<M8[ns]", ""),
    ],
)
def test_dtypes_have_datatypes(dtype, datatype):
    assert datatype_of(dtype) == datatype
