"""Tensors to arguments and results to tensors, by what a method's record says; without a host."""

import json

import numpy as np
import pytest

from hostd import MethodInfo, ModelInfo, TensorInfo
from hostd.fronts.calling import arguments_of, method_of, selected, tensors_of
from hostd.fronts.signatures import parameters_of
from hostd.fronts.tensors import of_result, to_json
from hostd_workers.wire.errors import InvalidArgumentError, UnimplementedError


def tensor(name, value):
    made = of_result(name, value)
    assert made is not None
    return made


def method(*inputs, passing="", signature="(...)", outputs=()):
    return MethodInfo(
        "predict",
        signature=signature,
        inputs=inputs,
        outputs=tuple(map(TensorInfo, outputs)),
        known_from="declared",
        passing=passing,
    )


A, B = np.array([1.0, 2.0]), np.array([3.0, 4.0])


@pytest.mark.parametrize(
    ("passing", "signature", "names", "expected"),
    [
        ("array", "(...)", ["x"], ((A,), {})),
        ("map", "(...)", ["x"], (({"x": A},), {})),
        ("map", "(...)", ["x", "y"], (({"x": A, "y": B},), {})),
        ("keywords", "(...)", ["x", "y"], ((), {"x": A, "y": B})),
        ("", "(...)", ["input-0"], ((A,), {})),
        ("", "(self)", ["x"], ((A,), {})),
        ("", "(*, x)", ["x"], ((), {"x": A})),
        ("", "(x, y=1)", ["x", "y"], ((), {"x": A, "y": B})),
        ("", "(**inputs)", ["x", "y"], ((), {"x": A, "y": B})),
        ("", "(x, y, /)", ["x", "y"], (({"x": A, "y": B},), {})),
        ("", "(x)", ["x", "y"], (({"x": A, "y": B},), {})),
        ("", "(...)", ["x", "y"], (({"x": A, "y": B},), {})),
        ("", "(...)", [], ((), {})),
    ],
)
def test_inputs_are_passed_as_the_record_says_or_as_the_signature_suggests(passing, signature, names, expected):
    tensors = [tensor(name, value) for name, value in zip(names, (A, B))]  # noqa: B905 - as many as there are names
    args, kwargs = arguments_of(method(passing=passing, signature=signature), tensors)
    assert str((args, kwargs)) == str(expected)


@pytest.mark.parametrize(
    ("signature", "placed", "named"),
    [
        ("(x, *, scale=1)", ("x",), {"x", "scale"}),
        ("(x: 'a, b' = '(,', /, y: dict[str, int] = {1: (2, 3)}, *args) -> tuple[int, int]", ("x", "y"), {"y"}),
        ("(f: Callable[[int], str] = <function f at 0x1>, g=lambda: (1, 2)) -> None", ("f", "g"), {"f", "g"}),
        ("()", (), set()),
    ],
)
def test_signatures_are_read_whatever_the_defaults_are(signature, placed, named):
    found = parameters_of(signature)
    assert (found.is_known, found.placed, found.named) == (True, placed, named)


@pytest.mark.parametrize("signature", ["(...)", "", "(x, y=[1,", "x", "(1)"])
def test_what_is_no_signature_or_cut_off_is_not_known(signature):
    found = parameters_of(signature)
    assert (found.is_known, found.takes_a_place, found.takes("x")) == (False, True, False)


def test_the_only_input_of_an_array_method_may_have_any_name():
    (value,), kwargs = arguments_of(method(TensorInfo("x", "FP64", (-1,)), passing="array"), [tensor("input-0", A)])
    assert (value.tolist(), kwargs) == ([1.0, 2.0], {})
    with pytest.raises(InvalidArgumentError, match="takes one input, got 2: 'x', 'y'"):
        arguments_of(method(passing="array"), [tensor("x", A), tensor("y", B)])


@pytest.mark.parametrize("value", [[5], np.array(5), 5.0])
def test_a_declared_single_value_is_a_plain_one(value):
    declared = method(TensorInfo("n", "FP64", ()), passing="keywords")
    _, kwargs = arguments_of(declared, [tensor("n", value)])
    assert (type(kwargs["n"]), kwargs["n"]) == (float, 5.0)
    _, kwargs = arguments_of(method(TensorInfo("s", "BYTES", ()), passing="keywords"), [tensor("s", ["text"])])
    assert kwargs == {"s": "text"}


@pytest.mark.parametrize(
    ("declared", "given", "dtype"),
    [
        ("FP64", np.array([1], np.int8), np.float64),
        ("FP32", np.array([1.5], np.float64), np.float32),
        ("INT64", np.array([1], np.uint8), np.int64),
        ("INT8", np.array([127], np.int64), np.int8),
        ("FP32", np.array([True]), np.float32),
        ("", np.array([1], np.int8), np.int8),
        ("FP8", np.array([1], np.int8), np.int8),
        ("BF16", np.array([1.5], np.float32), np.float32),
    ],
)
def test_datatypes_that_can_be_cast_safely_are(declared, given, dtype):
    (value,), _ = arguments_of(method(TensorInfo("x", declared, (-1,)), passing="array"), [tensor("x", given)])
    assert (value.dtype, value.tolist()) == (dtype, given.tolist())


@pytest.mark.parametrize(
    ("info", "given", "words"),
    [
        (TensorInfo("x", "INT64", (-1,)), A, "got datatype FP64, expected INT64"),
        (TensorInfo("x", "UINT8", (-1,)), np.array([1]), "got datatype INT64, expected UINT8"),
        (TensorInfo("x", "INT8", (-1,)), np.array([128]), "values that are too big for INT8"),
        (TensorInfo("x", "FP32", (-1,)), np.array([1e39]), "too big for float32"),
        (TensorInfo("x", "BYTES", (-1,)), A, "got datatype FP64, expected BYTES"),
        (TensorInfo("x", "FP32", (-1,)), ["a"], "got datatype BYTES, expected FP32"),
        (TensorInfo("x", "FP64", (-1, 4)), A, "got shape [2], expected [-1, 4]"),
        (TensorInfo("x", "FP64", (3,)), A, "got shape [2], expected [3]"),
        (TensorInfo("x", "", (3,)), A, "got shape [2], expected [3]"),
        (TensorInfo("x", "FP64", ()), A, "got shape [2], expected a single value"),
    ],
)
@pytest.mark.parametrize("passing", ["array", "map", "keywords", ""])
def test_what_does_not_fit_the_declaration_is_refused_by_name(info, given, words, passing):
    with pytest.raises(InvalidArgumentError) as caught:
        arguments_of(method(info, passing=passing), [tensor("x", given)])
    assert caught.value.message.startswith("input 'x': ")
    assert words in caught.value.message


def test_names_are_checked_against_the_declaration():
    declared = method(TensorInfo("x"), TensorInfo("y", optional=True), passing="keywords")
    assert list(arguments_of(declared, [tensor("x", A)])[1]) == ["x"]
    with pytest.raises(InvalidArgumentError, match="input 'x' is missing: method 'predict' expects 'x', 'y', got 'y'"):
        arguments_of(declared, [tensor("y", A)])
    with pytest.raises(InvalidArgumentError, match="got input 'z', expected of method 'predict': 'x', 'y'"):
        arguments_of(declared, [tensor("x", A), tensor("z", A)])
    for one in (declared, method()):
        with pytest.raises(InvalidArgumentError, match="input 'x' is given twice"):
            arguments_of(one, [tensor("x", A), tensor("x", A)])


def test_results_get_the_declared_names():
    def names(result, *outputs):
        return [made.name for made in tensors_of(method(outputs=outputs), result)]

    assert names(A) == ["output_0"]
    assert names(A, "y", "z") == ["y"]
    assert names([A, B]) == ["output_0", "output_1"]
    assert names((A, B), "y", "z") == ["y", "z"]
    assert names([A, B], "y") == ["output_0", "output_1"]
    assert names((A, 0.5)) == ["output_0", "output_1"]
    assert names({"b": A, "a": [1]}, "y") == ["b", "a"]
    assert names(3, "y") == ["y"]


@pytest.mark.parametrize(
    "result", [None, {"a": {"b": 1}}, {"a": None}, {}, [{"a": 1}], [[1], [2, 3]], {1: None}, [1, "a"]]
)
def test_other_results_are_one_string_of_json(result):
    (made,) = tensors_of(method(), result)
    assert (made.name, made.datatype, made.shape, made.parameters) == (
        "output_0",
        "BYTES",
        (1,),
        {"content_type": "json"},
    )
    assert json.loads(to_json(made)[0]) == json.loads(json.dumps(result))


def test_results_that_are_not_even_json_are_refused_with_what_to_return():
    with pytest.raises(UnimplementedError, match=r"method 'predict' returned a dict .* let it return an array"):
        tensors_of(method(), {"a": {"b": b"\xff"}})


def test_of_a_map_with_an_array_each_value_is_an_output():
    found = {each.name: each for each in tensors_of(method(), {"label": A, "odds": [{"a": 0.5}], "text": "t"})}
    assert {name: (each.datatype, tuple(each.shape)) for name, each in found.items()} == {
        "label": ("FP64", (2,)),
        "odds": ("BYTES", (1,)),
        "text": ("BYTES", (1,)),
    }
    assert json.loads(to_json(found["odds"])[0]) == [{"a": 0.5}]


def test_a_table_may_come_as_one_tensor_with_all_columns():
    columns = method(TensorInfo("age", "", (-1,)), TensorInfo("size", "", (-1,)), passing="map")
    table = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    ((given,), kwargs) = arguments_of(columns, [tensor("X", table)])
    assert given.tolist() == table.tolist()
    assert kwargs == {}
    for wrong in (table[:, :1], A):
        with pytest.raises(InvalidArgumentError, match="got input 'X', expected of method 'predict': 'age', 'size'"):
            arguments_of(columns, [tensor("X", wrong)])


def test_outputs_are_selected_in_the_order_that_they_are_asked_for():
    tensors = tensors_of(method(), {"a": 1, "b": 2})
    assert [one.name for one in selected(tensors, ["b", "a"])] == ["b", "a"]
    with pytest.raises(InvalidArgumentError, match="no output 'c', expected one of: 'a', 'b'"):
        selected(tensors, ["c"])


def test_a_method_is_the_named_the_default_or_predict():
    methods = {name: MethodInfo(name) for name in ("predict", "transform")}
    info = ModelInfo("m", "READY", None, "t", methods=methods, default_method="transform")
    assert method_of(info).name == "transform"
    assert method_of(info, "predict").name == "predict"
    with pytest.raises(UnimplementedError, match=r"model 'm' has no method 'guess'.*it has: predict, transform"):
        method_of(info, "guess")
    assert method_of(ModelInfo("m", "READY", None, "t", methods=methods)).name == "predict"
    with pytest.raises(UnimplementedError, match="no default method"):
        method_of(ModelInfo("m", "READY", None, "t", methods={"run": MethodInfo("run")}))
