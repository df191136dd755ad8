"""What an ONNX model takes and returns, on models built and exported here."""

import pytest
from loading_rig import over_the_wire, refused

from hostd_workers.loaders.onnx import load
from hostd_workers.wire.errors import HostError

np = pytest.importorskip("numpy", reason="ONNX models work on NumPy arrays")
onnx = pytest.importorskip("onnx", reason="builds the models of these tests")
ort = pytest.importorskip("onnxruntime", reason="tests with real sessions")

from onnx import TensorProto, helper  # noqa: E402
from onnx_models import made, save  # noqa: E402

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def linear(directory):
    """y = a + b, both float32 of shape (N, 2)."""
    ports = [("a", FLOAT, ["N", 2]), ("b", FLOAT, ["N", 2])]
    return save(directory / "linear.onnx", [("Add", ["a", "b"], ["y"])], ports, [("y", FLOAT, ["N", 2])])


@pytest.fixture(scope="module")
def several(directory):
    """An output per input, of other types than float."""
    ports = [("i", INT64, [None]), ("s", STRING, [None]), ("f", BOOL, [None]), ("h", TensorProto.FLOAT16, [None])]
    nodes = [("Identity", [name], [f"{name}_out"]) for name, *_ in ports]
    return save(directory / "several.onnx", nodes, ports, [(f"{name}_out", *rest) for name, *rest in ports])


@pytest.fixture(scope="module")
def add(linear):
    return load(linear).model


@pytest.fixture(scope="module")
def echo(several):
    return load(several).model


ONES = np.ones((3, 2), np.float32)


def test_predict_takes_inputs_by_position_by_name_or_as_one_map(linear):
    served = load(linear)
    assert (served.methods, served.default) == (("predict", "run", "describe"), "predict")
    model = served.model
    for result in (
        model.predict(ONES, ONES),
        model.predict(ONES, b=ONES),
        model.predict(a=ONES, b=ONES),
        model.predict({"a": ONES, "b": ONES}),
        model.run(a=ONES, b=ONES)["y"],
        model.run(["y"], a=ONES, b=ONES)["y"],
        model.run(outputs=["y"], a=ONES, b=ONES)["y"],
    ):
        assert result.dtype == np.float32
        assert np.array_equal(result, ONES * 2)
    assert repr(model) == "OnnxModel(inputs=['a', 'b'], outputs=['y'])"


def test_lists_numbers_and_arrays_of_any_layout_become_the_dtype_of_the_input(add, echo):
    assert add.predict([[1, 2.5]], [[True, False]]).tolist() == [[2.0, 2.5]]
    given = {"i": [1, 2], "s": ["x", "long word"], "f": [True], "h": [1.5]}
    result = echo.predict(*given.values())
    assert {name: array.tolist() for name, array in over_the_wire(result).items()} == {
        f"{name}_out": values for name, values in given.items()
    }
    assert result["h_out"].dtype == np.float16
    words = np.array(["a", "bcd"])
    assert echo.predict(**{**given, "s": words})["s_out"].tolist() == ["a", "bcd"]
    assert add.predict(np.ones((0, 2), np.float32), np.ones((0, 2), np.float32)).shape == (0, 2)
    assert echo.predict(i=[], s=[], f=[], h=[])["i_out"].shape == (0,)
    transposed = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    strided = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    strided.flags.writeable = False
    assert np.array_equal(add.predict(transposed, strided), transposed + strided)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (ONES.astype(np.float64), r"'a' expected float32 of shape \(N, 2\), got float64 of shape \(3, 2\); convert it"),
        (ONES.astype(">f4"), "expected float32 .*got >f4"),
        (ONES[0], r"expected float32 of shape \(N, 2\), got float32 of shape \(2,\)"),
        (np.ones((3, 3), np.float32), r"got float32 of shape \(3, 3\)"),
        ([1.0, 2.0], r"got float32 of shape \(2,\)"),
        (1.0, r"got float32 of shape \(\)"),
        (np.float32(1), r"got float32 of shape \(\)"),
        ([["a", "b"]], "got str of shape"),
        ([[1.0, None]], "got object"),
        ([[1.0], [1.0, 2.0]], "got a list: .*inhomogeneous"),
        ([[1e300, 1.0]], "do not fit"),
        ("text", "takes an array or a nested list: expected float32 .*got str"),
        (b"bytes", "got bytes"),
        (None, "got NoneType"),
        ({"x": 1}, "got dict"),
    ],
)
def test_a_wrong_value_says_what_was_expected_and_what_came(add, value, words):
    refused(words, add.predict, value, ONES)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("i", [1.5], "expected int64 .*got float64"),
        ("i", [2**63], "do not fit"),
        ("i", [2**70], "got object"),
        ("i", np.array([1], np.int32), r"got int32 .*x\.astype\('int64'\)"),
        ("s", [1], "expected str .*got int64"),
        ("s", ["a", None], "got object"),
        ("s", np.array([1]), "expected str .*got int64"),
        ("s", np.array([b"a"]), r"expected str .*got \|S1"),
        ("f", [1], "expected bool .*got int64"),
        ("h", [1e6], "do not fit"),
    ],
)
def test_no_value_changes_its_meaning_on_the_way(echo, name, value, words):
    refused(words, echo.predict, **{"i": [1], "s": ["a"], "f": [True], "h": [1.0], name: value})


def test_wrong_names_and_numbers_of_inputs_say_what_the_model_has(add):
    refused(r"no input 'c'; it has 'a': float32 of shape \(N, 2\), 'b'", add.predict, ONES, ONES, c=ONES)
    refused("'b' is missing", add.predict, ONES)
    refused(r"2 in all\), got 3", add.predict, ONES, ONES, ONES)
    refused("'a' was given twice", add.predict, ONES, a=ONES)
    refused("no input 1", add.predict, {1: ONES})
    refused("no output 'z'; it has y", add.run, ["z"], a=ONES, b=ONES)
    for outputs in ("y", [], 3):
        refused("list of names", add.run, outputs, a=ONES, b=ONES)


def test_what_onnxruntime_refuses_itself_is_an_invalid_argument_and_a_failure_inside_passes_through(tmp_path, add):
    table = helper.make_tensor("table", FLOAT, [2], [1.0, 2.0])
    nodes, ports = [("Gather", ["table", "token"], ["y"])], [("token", INT64, [None])]
    model = load(save(tmp_path / "m.onnx", nodes, ports, [("y", FLOAT, [None])], [table])).model
    assert model.predict([1, 0]).tolist() == [2.0, 1.0]
    refused(r"onnxruntime refused the inputs: .*out of data bounds", model.predict, [2])
    with pytest.raises(Exception, match="broadcast an axis") as caught:
        add.predict(np.ones((3, 2), np.float32), np.ones((4, 2), np.float32))
    assert not isinstance(caught.value, HostError)


def test_describe_tells_names_types_and_shapes(add, echo):
    told = over_the_wire(add.describe())
    assert told["inputs"][0] == {"name": "a", "type": "tensor(float)", "dtype": "float32", "shape": ["N", 2]}
    assert told["outputs"] == [{"name": "y", "type": "tensor(float)", "dtype": "float32", "shape": ["N", 2]}]
    assert told["optional_inputs"] == []
    assert "CPUExecutionProvider" in told["providers"]
    assert [port["dtype"] for port in echo.describe()["inputs"]] == ["int64", "str", "bool", "float16"]
    assert echo.describe()["inputs"][0]["shape"] == [None]


def test_any_input_name_can_be_used(tmp_path):
    names = ["self", "outputs", "x:0"]
    nodes = [("Sum", names, ["y"])]
    model = load(save(tmp_path / "m.onnx", nodes, [(n, FLOAT, [1]) for n in names], [("y", FLOAT, [1])])).model
    assert model.predict([1], [2], [3]).tolist() == [6.0]
    assert model.predict(**{name: [1] for name in names}).tolist() == [3.0]


def test_an_initializer_that_may_be_replaced_is_an_optional_input(tmp_path):
    default = helper.make_tensor("b", FLOAT, [1], [10.0])
    ports = [("a", FLOAT, [1]), ("b", FLOAT, [1])]
    model = load(save(tmp_path / "m.onnx", [("Add", ["a", "b"], ["y"])], ports, [("y", FLOAT, [1])], [default])).model
    assert model.predict([1]).tolist() == [11.0]
    assert model.predict([1], b=[2]).tolist() == [3.0]
    assert [port["name"] for port in model.describe()["optional_inputs"]] == ["b"]


def test_an_input_without_a_shape_takes_any(tmp_path):
    model = load(save(tmp_path / "m.onnx", [("Neg", ["a"], ["y"])], [("a", FLOAT, None)], [("y", FLOAT, None)])).model
    assert model.predict(2.0).tolist() == -2.0
    assert model.predict([[1, 2]]).tolist() == [[-1.0, -2.0]]


def test_a_type_that_numpy_lacks_is_left_to_onnxruntime(tmp_path):
    sequence = helper.make_tensor_sequence_value_info
    nodes = [helper.make_node("SequenceLength", ["xs"], ["n"]), helper.make_node("Identity", ["xs"], ["ys"])]
    outputs = [helper.make_tensor_value_info("n", INT64, []), sequence("ys", FLOAT, None)]
    loaded = load(made(tmp_path / "m.onnx", nodes, [sequence("xs", FLOAT, None)], outputs)).model
    assert loaded.describe()["inputs"][0]["dtype"] is None
    result = loaded.predict([ONES, ONES[0]])
    assert result["n"] == 2
    assert [part.shape for part in over_the_wire(result)["ys"]] == [(3, 2), (2,)]


def exported(file, estimator, *example, **how):
    skl2onnx = pytest.importorskip("skl2onnx", reason="exports a scikit-learn model")
    file.write_bytes(skl2onnx.to_onnx(estimator, *example, **how).SerializeToString())
    return load(str(file)).model


def test_a_map_for_an_input_that_takes_one_is_its_value(tmp_path):
    extraction = pytest.importorskip("sklearn.feature_extraction", reason="exports a scikit-learn model")
    types = pytest.importorskip("skl2onnx.common.data_types", reason="exports a scikit-learn model")
    vectorizer = extraction.DictVectorizer(sparse=False).fit([{"a": 1.0, "b": 2.0}])
    kind = types.DictionaryType(types.StringTensorType([1]), types.FloatTensorType([1]))
    model = exported(tmp_path / "m.onnx", vectorizer, initial_types=[("sample", kind)])
    assert model.predict({"b": 3.0, "a": 1.0}).tolist() == [[1.0, 3.0]]


def test_an_optional_input_may_be_left_out(tmp_path):
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [1]))
    nodes = [helper.make_node("OptionalHasElement", ["x"], ["y"])]
    ports = ([helper.make_value_info("x", optional)], [helper.make_tensor_value_info("y", BOOL, [])])
    loaded = load(made(tmp_path / "m.onnx", nodes, *ports, opset=18)).model
    assert loaded.predict(x=None).tolist() is loaded.predict().tolist() is False


@pytest.mark.parametrize("labels", [("no", "yes"), (0, 1)], ids=str)
def test_a_scikit_learn_classifier_gives_labels_and_probabilities(tmp_path, labels):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="exports a scikit-learn model")
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    classifier = linear_model.LogisticRegression().fit(x, np.array(labels)[(x[:, 0] > 0).astype(int)])
    model = exported(tmp_path / "m.onnx", classifier, x[:1])
    result = over_the_wire(model.predict(x))
    assert list(result) == ["output_label", "output_probability"]
    assert result["output_label"].tolist() == classifier.predict(x).tolist()
    first = result["output_probability"][0]
    assert list(first) == classifier.classes_.tolist()
    assert np.allclose(list(first.values()), classifier.predict_proba(x[:1])[0], atol=1e-5)
    assert np.array_equal(model.predict(x.tolist())["output_label"], result["output_label"])


def test_a_pipeline_with_an_input_for_each_column_takes_columns_and_records(tmp_path):
    ports = [("size", FLOAT, [None, 1]), ("town", STRING, [None, 1])]
    nodes = [("Identity", [name], [f"{name}_out"]) for name, *_ in ports]
    model = load(save(tmp_path / "m.onnx", nodes, ports, [(f"{name}_out", *rest) for name, *rest in ports])).model
    records = [{"town": "a", "size": 1.0}, {"size": 2.0, "town": "b"}]
    columns = {"town": ["a", "b"], "size": np.array([1.0, 2.0], np.float32)}
    for data in (records, columns):
        found = over_the_wire(model.predict(data))
        assert (found["size_out"].tolist(), found["town_out"].tolist()) == ([[1.0], [2.0]], [["a"], ["b"]])
    refused(r"the record 1 must have the columns \['size'\]", model.predict, [{"size": 1.0}, {"town": "a"}])
    says = r"the input 'size' expected float32 of shape \(\?, 1\), got"
    refused(says, model.predict, {"size": [[1.0, 2.0]], "town": ["a"]})
