"""Messages and paths of the Open Inference Protocol; without I/O."""

import contextlib
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostd import HostError, MethodInfo, ModelInfo, TensorInfo
from hostd.fronts.datatypes import DTYPES
from hostd.fronts.errors import MethodNotAllowedError, NoSuchRouteError
from hostd.fronts.oip import describing, generate, protocol
from hostd.fronts.oip.routes import Action, Route, route_of
from hostd.fronts.tensors import of_result
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError, UnimplementedError


def body_of(request, *binary):
    header = json.dumps(request).encode()
    return b"".join((header, *binary)), len(header)


def binary_input(name, size, datatype="FP32", shape=(1,)):
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}


def parse(body, length=None):
    return protocol.parse(body, length, read_nothing)


def respond(*answer):
    return protocol.respond(*answer, write_nothing)


def read_nothing(place, where):
    raise AssertionError(f"{where} is in no shared memory")


def write_nothing(place, data, where):
    raise AssertionError(f"{where} goes to no shared memory")


X = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.5]}


# Requests


def test_a_request_has_its_parts_and_defaults():
    request = parse(body_of({"inputs": [X]})[0])
    assert (request.id, request.outputs, request.is_binary, request.method, request.timeout_s) == (
        "",
        (),
        False,
        None,
        None,
    )
    asked = {
        "id": "42",
        "inputs": [X],
        "parameters": {"binary_data_output": True, "method": "score", "timeout": 1500},
        "outputs": [{"name": "y"}, {"name": "z", "parameters": {"binary_data": False}}],
    }
    request = parse(body_of(asked)[0])
    assert (request.id, request.is_binary, request.method, request.timeout_s) == ("42", True, "score", 0.0015)
    assert [(output.name, output.is_binary) for output in request.outputs] == [("y", None), ("z", False)]
    assert request.inputs[0].data.tolist() == [1.5]


def test_binary_inputs_follow_the_json_one_after_the_other_and_are_views_of_the_body():
    a, b = np.array([1.5], np.float32), np.array([7, 8], np.int64)
    asked = {"inputs": [binary_input("a", 4), X, binary_input("b", 16, "INT64", (2,))]}
    body, length = body_of(asked, a.tobytes(), b.tobytes())
    inputs = parse(body, length).inputs
    assert [one.data.tolist() for one in inputs] == [[1.5], [1.5], [7, 8]]
    assert np.shares_memory(inputs[2].data, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize(
    ("request_of", "binary", "words"),
    [
        ({"inputs": [binary_input("a", 8)]}, bytes(4), "input 'a': got binary_data_size 8, expected at most 4"),
        ({"inputs": [binary_input("a", -1)]}, bytes(4), "input 'a': got binary_data_size -1"),
        ({"inputs": [binary_input("a", "4")]}, bytes(4), "input 'a': binary_data_size: got '4', expected int"),
        ({"inputs": [binary_input("a", True)]}, bytes(4), "got True, expected int"),
        ({"inputs": [binary_input("a", 4)]}, bytes(5), "1 bytes are left behind"),
        ({"inputs": [{**binary_input("a", 4), "data": [1]}]}, bytes(4), "both"),
        ({"inputs": [X]}, bytes(1), "1 bytes are left behind"),
        ({"inputs": [binary_input("a", 3)]}, bytes(3), "got 3 bytes, expected 4"),
    ],
)
def test_binary_data_that_does_not_add_up_is_refused(request_of, binary, words):
    body, length = body_of(request_of, binary)
    with pytest.raises(InvalidArgumentError) as caught:
        parse(body, length)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        (7, "must be a JSON object"),
        ({"inputs": {}}, 'a list "inputs"'),
        ({"inputs": [7]}, 'a string "name"'),
        ({"inputs": [{"name": 7}]}, 'a string "name"'),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}, "neither"),
        ({"inputs": [binary_input("a", 4)]}, "the header Inference-Header-Content-Length must be there"),
        ({"inputs": [X], "parameters": []}, "the request: parameters: got [], expected dict"),
        ({"inputs": [{**X, "parameters": 1}]}, "input 'x': parameters: got 1"),
        ({"inputs": [X], "id": []}, "the id: got []"),
        ({"inputs": [X], "outputs": {}}, "outputs: got {}"),
        ({"inputs": [X], "outputs": ["y"]}, "each of the outputs"),
        ({"inputs": [X], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "'binary_data': got 1"),
        ({"inputs": [X], "parameters": {"binary_data_output": "yes"}}, "'binary_data_output': got 'yes'"),
    ],
)
def test_what_is_no_request_is_refused_with_what_is_wrong(request_of, words):
    with pytest.raises(InvalidArgumentError) as caught:
        parse(body_of(request_of)[0])
    assert words in caught.value.message


def test_extensions_that_are_not_here_are_said_to_be_missing():
    outputs = [{"name": "y", "parameters": {"classification": 3}}]
    with pytest.raises(UnimplementedError, match="output 'y': the extension 'classification'"):
        parse(body_of({"inputs": [X], "outputs": outputs})[0])


@pytest.mark.parametrize(("header", "length"), [(None, None), (b"0", 0), (b"17", 17)])
def test_the_length_of_the_json_is_a_number_within_the_body(header, length):
    assert protocol.header_length_of(header) == length


def test_a_length_that_is_none_is_refused():
    for header in (b"", b"-1", b"x", b"1.0"):
        with pytest.raises(InvalidArgumentError, match="Inference-Header-Content-Length: got"):
            protocol.header_length_of(header)
    with pytest.raises(InvalidArgumentError, match="got 3, expected at most the 2 bytes"):
        parse(b"{}", 3)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([*DTYPES, "BYTES"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["name", "data", "parameters", "inputs"]), inner),
)
shapes = st.lists(st.integers(-1, 2**62), max_size=4) | json_values
requests = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.text(max_size=2), "datatype": json_values, "shape": shapes, "data": json_values}
            )
        )
    },
    optional={"parameters": json_values, "outputs": json_values, "id": json_values},
)


@given(st.binary() | requests.map(lambda request: json.dumps(request).encode()), st.none() | st.integers(0, 200))
def test_whatever_comes_is_a_request_or_an_error_of_ours(body, length):
    with contextlib.suppress(HostError):
        request = parse(body, length)
        _ = request.method, request.timeout_s  # are read when they are needed


# A body that is the only input


def raw(body, *inputs):
    return protocol.parse_raw(body, MethodInfo("predict", inputs=inputs))


def test_a_body_without_json_is_the_declared_input():
    request = raw(np.arange(6, dtype="<f4").tobytes(), TensorInfo("x", "FP32", (-1, 3)))
    (tensor,) = request.inputs
    assert (tensor.name, tensor.data.tolist(), request.is_binary) == ("x", [[0, 1, 2], [3, 4, 5]], True)
    (tensor,) = raw(b"\x80\x3f", TensorInfo("x", "BF16", (1,))).inputs
    assert tensor.data.tolist() == [1.0]
    (tensor,) = raw(bytes(8), TensorInfo("x", "FP64", ())).inputs
    assert tensor.shape == ()
    for shape in ((1,), (-1,), (-1, 1)):
        (tensor,) = raw(b"a text", TensorInfo("x", "BYTES", shape)).inputs
        assert tensor.element == "a text"


@pytest.mark.parametrize(
    ("body", "inputs", "words"),
    [
        (bytes(8), [], "does not declare that"),
        (bytes(8), [TensorInfo("x")], "does not declare that"),
        (bytes(8), [TensorInfo("x", "FP32")], "does not declare that"),
        (bytes(8), [TensorInfo("x", "FP32", (2,)), TensorInfo("y", "FP32", (2,))], "one input of a known"),
        (bytes(8), [TensorInfo("x", "FP32", (-1, -1))], "tells only one"),
        (bytes(8), [TensorInfo("x", "FP32", (3,))], "got 8 bytes, expected 12"),
        (bytes(9), [TensorInfo("x", "FP32", (-1,))], "got 9 bytes, expected 8"),
        (bytes(8), [TensorInfo("x", "FP32", (-1, 3))], "got 8 bytes, expected 0"),
        (b"ab", [TensorInfo("x", "BYTES", (2,))], "got 1 elements, expected 2"),
    ],
)
def test_a_body_without_json_that_fits_no_declaration_is_refused(body, inputs, words):
    with pytest.raises(InvalidArgumentError) as caught:
        raw(body, *inputs)
    assert words in caught.value.message


# Responses


def responded(request, *results):
    tensors = [of_result(name, value) for name, value in results]
    body, length = respond("m", "1", request, tensors)
    header = json.loads(body if length is None else body[:length])
    return header, None if length is None else body[length:]


def requested(*outputs, **rest):
    return protocol.InferRequest((), outputs=tuple(itertools.starmap(protocol.RequestedOutput, outputs)), **rest)


def test_a_response_is_json_unless_binary_data_is_asked_for():
    header, rest = responded(requested(), ("y", np.array([[1, 2]], np.int8)))
    assert header == {
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "INT8", "shape": [1, 2], "data": [1, 2]}],
    }
    assert rest is None
    header, rest = responded(requested(id="7", is_binary=True), ("y", np.array([1, 2], np.int8)))
    expected = {"name": "y", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}}
    assert (header["id"], header["outputs"], rest) == ("7", [expected], b"\x01\x02")


def test_each_output_may_be_in_its_own_form():
    results = [("a", np.array([1], np.int8)), ("b", np.array([2], np.int8)), ("c", np.array([3], np.int8))]
    header, rest = responded(requested(("a", True), ("b", None), ("c", True)), *results)
    assert (["data" in output for output in header["outputs"]], rest) == ([False, True, False], b"\x01\x03")
    header, rest = responded(requested(("a", None), ("b", False), ("c", None), is_binary=True), *results)
    assert (["data" in output for output in header["outputs"]], rest) == ([False, True, False], b"\x01\x03")


def test_an_empty_output_may_be_binary():
    header, rest = responded(requested(is_binary=True), ("y", np.zeros((0, 3))))
    assert (header["outputs"][0]["parameters"], rest) == ({"binary_data_size": 0}, b"")


# Paths


@pytest.mark.parametrize(
    ("verb", "path", "route"),
    [
        ("GET", "/v2", Route(Action.METADATA)),
        ("GET", "/v2/", Route(Action.METADATA)),
        ("GET", "/v2/health/live", Route(Action.LIVE)),
        ("GET", "/v2/health/ready", Route(Action.READY)),
        ("GET", "/v2/models/stats", Route(Action.STATISTICS)),
        ("GET", "/v2/models/m", Route(Action.MODEL_METADATA, "m")),
        ("GET", "/v2/models/m/versions/3", Route(Action.MODEL_METADATA, "m", "3")),
        ("GET", "/v2/models/m/versions/3/ready", Route(Action.MODEL_READY, "m", "3")),
        ("GET", "/v2/models/m/stats", Route(Action.MODEL_STATISTICS, "m")),
        ("POST", "/v2/models/m/infer", Route(Action.INFER, "m")),
        ("POST", "/v2/models/a/b/c/infer", Route(Action.INFER, "a/b/c")),
        ("POST", "/v2/models/a%2Fb/infer", Route(Action.INFER, "a/b")),
        ("GET", "/v2/models/team%2Fready", Route(Action.MODEL_METADATA, "team/ready")),
        ("GET", "/v2/models/team/ready", Route(Action.MODEL_READY, "team")),
        ("GET", "/v2/models/team%2Fready/ready", Route(Action.MODEL_READY, "team/ready")),
        ("GET", "/v2/models/versions/1", Route(Action.MODEL_METADATA, "versions/1")),
        ("GET", "/v2/models/ready", Route(Action.MODEL_METADATA, "ready")),
        ("GET", "/v2/models/a%20%C3%B6%2525", Route(Action.MODEL_METADATA, "a ö%25")),
        ("POST", "/v2/models/m/generate", Route(Action.GENERATE, "m")),
        ("POST", "/v2/models/m/generate_stream", Route(Action.GENERATE_STREAM, "m")),
        ("POST", "/v2/repository/index", Route(Action.INDEX)),
        ("POST", "/v2/repository/models/a/b/load", Route(Action.LOAD, "a/b")),
        ("POST", "/v2/repository/models/m/unload", Route(Action.UNLOAD, "m")),
    ],
)
def test_a_path_says_what_is_asked_of_which_model(verb, path, route):
    assert route_of(verb, path) == route


def test_other_paths_and_methods_are_refused():
    for path in ("", "/", "/v1/models/m", "/v2/models", "/v2/repository/models/load", "/v2/repository/models/m/drop"):
        with pytest.raises(NoSuchRouteError, match="there is nothing at"):
            route_of("GET", path)
    with pytest.raises(MethodNotAllowedError, match="is asked for with POST, got GET") as caught:
        route_of("GET", "/v2/models/m/infer")
    assert caught.value.details == {"allow": ["POST"]}
    with pytest.raises(InvalidArgumentError, match="are not UTF-8"):
        route_of("GET", "/v2/models/%ff")


# What is told


def test_metadata_is_of_the_declared_inputs_and_outputs():
    method = MethodInfo(
        "predict", inputs=(TensorInfo("x", "FP32", (-1, 4)), TensorInfo("n", "INT64", ())), outputs=(TensorInfo("y"),)
    )
    info = ModelInfo("m", "READY", "/m", "standalone-model", loader="onnx")
    assert describing.model_metadata(info, method) == {
        "name": "m",
        "versions": ["1"],
        "platform": "onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "n", "datatype": "INT64", "shape": [1]},
        ],
        "outputs": [{"name": "y", "datatype": "", "shape": [-1]}],
    }
    assert describing.model_metadata(info, None)["inputs"] == []


def test_calls_in_flight_count_neither_as_well_nor_as_failed():
    counts = {"calls": 11, "errors": 3, "cancelled": 1, "succeeded": 5, "success_ns": 50, "fail_ns": 30}
    ran = {"executions": 7, "queue_ns": 6, "compute_ns": 40}
    info = ModelInfo("m", "READY", None, "t", last_used_s=1.5, **counts, **ran)
    found = describing.model_statistics(info)
    assert found["inference_stats"] == {
        "success": {"count": 5, "ns": 50},
        "fail": {"count": 3, "ns": 30},
        "queue": {"count": 7, "ns": 6},
        "compute_infer": {"count": 7, "ns": 40},
    }
    assert (found["inference_count"], found["execution_count"], found["last_inference"]) == (5, 7, 1500)
    assert "last_inference" not in describing.model_statistics(ModelInfo("m", "EVICTED", None, "t"))


def test_the_index_has_the_words_of_the_repository_and_the_reasons():
    states = ("READY", "DEGRADED", "LOADING", "UNLOADING", "FAILED", "AVAILABLE")
    infos = [ModelInfo(state.lower(), state, None, "t", reason="so" if state == "FAILED" else "") for state in states]
    index = describing.index_of(infos, only_ready=False)
    assert [entry["state"] for entry in index] == ["READY", "READY", "LOADING", "UNLOADING", *["UNAVAILABLE"] * 2]
    assert [entry["reason"] for entry in index[3:]] == ["UNLOADING", "FAILED: so", "AVAILABLE"]
    assert [entry["name"] for entry in describing.index_of(infos, only_ready=True)] == ["ready", "degraded"]


def test_every_model_has_one_version():
    describing.check_version("m", "")
    describing.check_version("m", "1")
    with pytest.raises(NotFoundError, match=r"^Request for unknown model: 'm' version 2 is not found"):
        describing.check_version("m", "2")


# Generate


def test_generate_takes_keys_and_parameters_as_arguments():
    asked = {"text_input": "a", "top_k": 3, "id": 7, "parameters": {"t": 0.5, "method": "chat", "timeout": 10**6}}
    request = generate.parse(json.dumps(asked).encode())
    assert (request.id, request.method, request.timeout_s) == ("7", "chat", 1.0)
    assert request.arguments == {"text_input": "a", "top_k": 3, "t": 0.5}
    for signature, args in (
        ("(prompt, **options)", ("a",)),
        ("(text_input, top_k, t)", ()),
        ("(...)", ("a",)),
        ("(*, q)", ()),
    ):
        got, named = generate.arguments_of(MethodInfo("chat", signature=signature), request)
        assert (got, named) == (args, {**({} if args else {"text_input": "a"}), "top_k": 3, "t": 0.5})


def test_generate_passes_stream_only_to_a_method_that_has_such_a_parameter():
    request = generate.parse(b'{"x": 1, "stream": true}')
    assert generate.arguments_of(MethodInfo("m", signature="(x, **rest)"), request) == ((), {"x": 1})
    assert generate.arguments_of(MethodInfo("m", signature="(x, stream)"), request) == ((), {"x": 1, "stream": True})


@pytest.mark.parametrize(
    "body", [b"[]", b'{"parameters": 1}', b'{"parameters": {"method": 1}}', b"{", b'{"parameters": {"timeout": "x"}}']
)
def test_what_is_no_generate_request_is_refused(body):
    with pytest.raises(InvalidArgumentError):
        generate.parse(body)


def test_what_is_collected_is_text_if_all_of_it_is():
    assert generate.collected(["a", "b"]) == "ab"
    assert generate.collected(["a", 1]) == ["a", 1]
    assert generate.collected([]) == []
    info = ModelInfo("m", "READY", None, "t")
    answer = generate.answer(
        info, "1", generate.GenerateRequest({}), {"score": np.float32(0.5), "y": np.ones((2, 1)).T}
    )
    assert json.loads(answer) == {"model_name": "m", "model_version": "1", "score": 0.5, "y": [[1.0, 1.0]]}
    with pytest.raises(UnimplementedError, match="neither tensors nor JSON"):
        generate.answer(info, "1", generate.GenerateRequest({}), b"\xff")
