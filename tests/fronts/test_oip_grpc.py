"""The gRPC front of a real host, asked by Triton's clients and by plain stubs."""

import asyncio
import json

import grpc
import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="asked as its clients do")

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_rig import given, parameters_of, stream_of, stub_of, target_of, text
from helpers import PATIENCE_S, eventually
from test_oip_http import ARRAYS
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

import hostd


@pytest.fixture(scope="module")
def fronts():
    return {"grpc": 0, "anonymous": "admin", "max_body_bytes": 4 << 20}


@pytest.fixture(scope="module")
def target(fronted):
    """Where the front is."""
    return target_of(fronted)


@pytest.fixture
def asking(target):
    """Triton's own client."""
    with triton.InferenceServerClient(target) as client:
        yield client


@pytest.fixture
def stub(target):
    with stub_of(target) as methods:
        yield methods


def status_of(caught):
    return caught.value.status().removeprefix("StatusCode.")


# Calls


@pytest.mark.parametrize("datatype", ARRAYS)
def test_every_datatype_comes_back_as_it_went(asking, datatype):
    array = ARRAYS[datatype]
    result = asking.infer("kinds", [given("x", array, datatype)])
    assert result.get_output("output_0").datatype == datatype
    back = result.as_numpy("output_0")
    assert (np.vectorize(bytes.decode)(back) if datatype == "BYTES" else back).tolist() == array.tolist()


def test_half_precision_comes_back_and_bf16_reaches_a_model_as_fp32(asking):
    half = asking.infer("kinds", [given("x", np.array([1.5, -2.0], np.float16), "FP16")])
    assert (half.as_numpy("output_0").dtype, half.as_numpy("output_0").tolist()) == (np.float16, [1.5, -2.0])
    brain = asking.infer("kinds", [given("x", np.array([1.5, -0.078125], ml_dtypes.bfloat16), "BF16")])
    assert brain.get_output("output_0").datatype == "FP32"
    assert brain.as_numpy("output_0").tolist() == [1.5, -0.078125]


CONTENTS = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-128, 127]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "UINT16": ("uint_contents", [0, 65535]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", [0.5, -2.0]),
    "FP64": ("fp64_contents", [0.1, -1e300]),
    "BYTES": ("bytes_contents", [b"Ada", "Zoë".encode()]),
}


def typed(datatype, field, values, method=None):
    """Return a request whose only input has typed contents."""
    request = service_pb2.ModelInferRequest(model_name="kinds", id="7")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[len(values)])
    getattr(tensor.contents, field).extend(values)
    if method is not None:
        request.parameters["method"].string_param = method
    return request


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents_are_answered_with_typed_contents(stub, datatype):
    field, values = CONTENTS[datatype]
    answer = stub.ModelInfer(typed(datatype, field, values))
    (output,) = answer.outputs
    assert (output.datatype, list(output.shape), answer.id) == (datatype, [2], "7")
    assert list(getattr(output.contents, field)) == values
    assert not answer.raw_output_contents


def test_an_output_without_a_typed_form_comes_raw(stub):
    answer = stub.ModelInfer(typed("FP32", "fp32_contents", [0.5, 1.0], method="half"))
    assert (answer.outputs[0].datatype, answer.outputs[0].HasField("contents")) == ("FP16", False)
    assert np.frombuffer(answer.raw_output_contents[0], np.float16).tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.raw_input_contents.append(bytes(8)), "has contents, and the request has raw_input_contents"),
        (lambda r: r.inputs[0].contents.int_contents.append(1), "got int_contents, expected fp32_contents"),
        (lambda r: r.inputs[0].contents.fp32_contents.append(1), "got 3 elements, expected 2"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP16"), "FP16 has no typed contents"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP7"), "got datatype 'FP7'"),
    ],
)
def test_contents_that_are_wrong_are_told_what_is_wrong(stub, change, words):
    request = typed("FP32", "fp32_contents", [0.5, 1.0])
    change(request)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()


def test_raw_contents_are_one_for_each_input(stub):
    request = service_pb2.ModelInferRequest(model_name="kinds", raw_input_contents=[bytes(4), bytes(4)])
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    with pytest.raises(grpc.RpcError, match="got 2 raw_input_contents, expected one for each"):
        stub.ModelInfer(request)
    request.inputs.add(name="y", datatype="FP32", shape=[1])
    request.inputs.add(name="z", datatype="FP32", shape=[1])
    with pytest.raises(grpc.RpcError, match="input 'z': there are no raw_input_contents for it"):
        stub.ModelInfer(request)


def test_only_requested_outputs_come_in_their_order(asking):
    inputs = [given("a", np.array([5]), "INT64"), given("b", np.array([1]), "INT64")]
    outputs = [triton.InferRequestedOutput(name) for name in ("difference", "sum")]
    result = asking.infer("kinds", inputs, request_id="42", outputs=outputs, parameters={"method": "both"})
    response = result.get_response()
    assert [output.name for output in response.outputs] == ["difference", "sum"]
    assert (response.id, response.model_name, response.model_version) == ("42", "kinds", "1")
    assert (result.as_numpy("difference").tolist(), result.as_numpy("sum").tolist()) == ([4], [6])
    with pytest.raises(InferenceServerException, match="no output 'total', expected one of: 'sum', 'difference'"):
        asking.infer("kinds", inputs, outputs=[triton.InferRequestedOutput("total")], parameters={"method": "both"})


def test_models_of_scikit_learn_and_onnx_are_called(asking):
    rows = given("anything", np.array([[0.0, 0.5], [4.0, 4.5]]), "FP64")
    result = asking.infer("classifier", [rows])
    assert result.as_numpy(result.get_response().outputs[0].name).tolist() == [0, 1]
    inputs = [given(name, np.array([1.0, 2.0], np.float32), "FP32") for name in ("b", "a")]
    result = asking.infer("sum", inputs)
    assert result.as_numpy(result.get_response().outputs[0].name).tolist() == [2.0, 4.0]


def test_what_is_no_tensor_comes_as_json_and_says_so(asking):
    result = asking.infer("kinds", [given("x", np.ones(1), "FP64")], parameters={"method": "records"})
    assert json.loads(result.as_numpy("output_0")[0]) == [{"label": "cat", "score": 0.5}]
    assert result.get_output("output_0").parameters["content_type"].string_param == "json"


def test_the_asyncio_client_is_served_too(target):
    async def ask():
        async with triton_aio.InferenceServerClient(target) as client:
            assert await client.is_server_ready()
            many = [client.infer("kinds", [given("x", np.full(1000, n), "INT64")]) for n in range(32)]
            return [result.as_numpy("output_0")[0] for result in await asyncio.gather(*many)]

    assert asyncio.run(ask()) == list(range(32))


def test_errors_have_their_codes_and_words(asking):
    inputs = [given("x", np.zeros(1), "FP64")]
    for model_id, options, code, words in (
        ("nobody", {}, "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
        ("kinds", {"model_version": "7"}, "NOT_FOUND", "Request for unknown model: 'kinds' version 7 is not found"),
        ("kinds", {"parameters": {"method": "guess"}}, "UNIMPLEMENTED", "no method 'guess'"),
        ("kinds", {"parameters": {"method": "fail"}}, "UNKNOWN", "these inputs are bad"),
        ("kinds", {"parameters": {"method": "generate"}}, "INVALID_ARGUMENT", "stream"),
        ("kinds", {"timeout": -1}, "INVALID_ARGUMENT", "'timeout': got -1"),
    ):
        with pytest.raises(InferenceServerException, match=words) as caught:
            asking.infer(model_id, inputs, **options)
        assert status_of(caught) == code
    with pytest.raises(InferenceServerException, match=r"at most 4194304 .*fronts\.max_body_bytes") as caught:
        asking.infer("kinds", [given("x", np.zeros(1 << 20), "FP64")])
    assert status_of(caught) == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("options", [{"timeout": 50_000}, {"client_timeout": 0.5}], ids=["parameter", "deadline"])
def test_a_deadline_ends_a_call(asking, tmp_path, options):
    marker = tmp_path / "late"
    with pytest.raises(InferenceServerException) as caught:
        asking.infer("kinds", [text("marker", str(marker))], parameters={"method": "wait"}, **options)
    assert status_of(caught) == "DEADLINE_EXCEEDED"
    eventually(lambda: not marker.exists() or marker.read_text() == "cancelled", "it does not run on")


def test_a_client_that_cancels_cancels_its_call(asking, tmp_path):
    marker = tmp_path / "marker"
    call = asking.async_infer(
        "kinds", [text("marker", str(marker))], lambda result, error: None, parameters={"method": "wait"}
    )
    eventually(lambda: marker.exists() and marker.read_text() == "begun", "the call runs")
    call.cancel()
    eventually(lambda: marker.read_text() == "cancelled", "it is cancelled")


# Streams


def test_a_stream_has_an_answer_for_each_item_and_an_empty_last_one_if_it_is_wanted(asking):
    asked = {"parameters": {"method": "generate"}, "request_id": "7"}
    with stream_of(asking) as following:
        asking.async_stream_infer("kinds", [text("prompt", "a")], enable_empty_final_response=True, **asked)
        results = [following()[0] for _ in range(4)]
        assert [result.as_numpy("output_0").tolist() for result in results[:3]] == [[b"a0 "], [b"a1 "], [b"a2 "]]
        assert [parameters_of(result)["triton_final_response"] for result in results] == [False, False, False, True]
        assert {result.get_response().id for result in results} == {"7"}
        assert len(results[3].get_response().outputs) == 0
        asking.async_stream_infer("kinds", [text("prompt", "b")], **asked)
        assert [following()[0].as_numpy("output_0")[0] for _ in range(3)] == [b"b0 ", b"b1 ", b"b2 "]
        asking.async_stream_infer("kinds", [given("x", np.ones(1), "FP64")])
        assert parameters_of(following()[0]) == {"triton_final_response": True}


def test_single_answers_keep_the_order_of_their_requests_and_a_stream_goes_on_between(asking, tmp_path):
    with stream_of(asking) as following:
        marker = text("marker", str(tmp_path / "m"))
        asking.async_stream_infer("kinds", [marker], request_id="slow", timeout=10**6, parameters={"method": "wait"})
        asking.async_stream_infer("kinds", [text("prompt", "a")], request_id="s", parameters={"method": "generate"})
        for n in range(8):
            asking.async_stream_infer("kinds", [given("x", np.full(1, n), "INT64")], request_id=str(n))
        assert [following()[0].get_response().id for _ in range(3)] == ["s"] * 3
        assert "deadline" in str(following()[1]).lower()
        assert [following()[0].get_response().id for _ in range(8)] == [str(n) for n in range(8)]


def test_an_error_is_told_in_the_stream_which_goes_on(stub):
    def requests():
        yield service_pb2.ModelInferRequest(model_name="nobody", id="1")
        wrong = typed("FP32", "fp32_contents", [0.5], method="fail")
        wrong.id = "2"
        yield wrong
        yield typed("FP32", "fp32_contents", [0.5])

    unknown, failed, well = stub.ModelStreamInfer(requests(), timeout=PATIENCE_S)
    assert (unknown.infer_response.id, failed.infer_response.id, well.infer_response.id) == ("1", "2", "7")
    assert unknown.error_message.startswith("Request for unknown model: 'nobody'")
    assert "these inputs are bad" in failed.error_message
    assert (well.error_message, list(well.infer_response.outputs[0].contents.fp32_contents)) == ("", [0.5])


def test_a_stream_that_fails_on_its_way_says_so_after_its_items(stub):
    request = service_pb2.ModelInferRequest(model_name="kinds")
    request.inputs.add(name="prompt", datatype="BYTES").contents.bytes_contents.append(b"a")
    request.inputs.add(name="fail_at", datatype="INT64").contents.int64_contents.append(1)
    request.parameters["method"].string_param = "generate"
    first, last = stub.ModelStreamInfer(iter([request]), timeout=PATIENCE_S)
    assert first.infer_response.outputs[0].contents.bytes_contents[0].startswith(b"a0")
    assert "no more" in last.error_message


def test_more_requests_of_a_stream_than_may_run_at_once_are_all_answered(stub):
    answers = stub.ModelStreamInfer((typed("INT64", "int64_contents", [n]) for n in range(300)), timeout=PATIENCE_S)
    found = [answer.infer_response.outputs[0].contents.int64_contents[0] for answer in answers]
    assert found == list(range(300))


def test_a_client_that_leaves_a_stream_ends_it_in_the_model(stub, tmp_path):
    marker = tmp_path / "ended"
    request = service_pb2.ModelInferRequest(model_name="kinds")
    request.inputs.add(name="prompt", datatype="BYTES").contents.bytes_contents.append(b"a")
    request.inputs.add(name="count", datatype="INT64").contents.int64_contents.append(10**9)
    request.inputs.add(name="marker", datatype="BYTES").contents.bytes_contents.append(str(marker).encode())
    request.parameters["method"].string_param = "generate"
    answers = stub.ModelStreamInfer(iter([request]), timeout=PATIENCE_S)
    assert next(answers).error_message == ""
    answers.cancel()
    eventually(marker.exists, "the stream ends")


# What calls no model


def test_health_and_metadata_are_told_and_nothing_is_loaded_for_them(asking, fronted):
    assert asking.is_server_live()
    assert asking.is_server_ready()
    assert asking.is_model_ready("kinds")
    assert asking.is_model_ready("team/kinds", "1")
    assert not asking.is_model_ready("kinds", "2")
    assert not asking.is_model_ready("spare")
    assert not asking.is_model_ready("nobody")
    metadata = asking.get_server_metadata(as_json=True)
    assert (metadata["name"], metadata["version"]) == ("hostd", hostd.__version__)
    assert asking.get_model_metadata("spare").name == "spare"
    assert fronted.client().get_model("spare", all=True).state == "AVAILABLE"
    found = asking.get_model_metadata("classifier")
    assert (found.platform, found.inputs[0].datatype, list(found.inputs[0].shape)) == ("sklearn", "FP64", [-1, 2])


def test_the_configuration_is_what_tritons_clients_need_of_it(asking):
    config = asking.get_model_config("classifier").config
    assert (config.name, config.platform, config.max_batch_size) == ("classifier", "sklearn", 0)
    assert (config.input[0].data_type, list(config.input[0].dims)) == (12, [-1, 2])
    assert not config.model_transaction_policy.decoupled
    with pytest.raises(InferenceServerException, match="unknown model: 'nobody'"):
        asking.get_model_config("nobody")


def test_the_repository_lists_loads_and_unloads(asking):
    def states():
        return {entry.name: entry.state for entry in asking.get_model_repository_index().models}

    assert states().items() >= {"kinds": "READY", "spare": "UNAVAILABLE"}.items()
    asking.load_model("spare")
    assert states()["spare"] == "READY"
    assert asking.infer("spare", [given("x", np.ones(1), "FP64")]).as_numpy("output_0").tolist() == [1.0]
    asking.unload_model("spare")
    assert states()["spare"] == "UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="failed to load 'nobody', ") as caught:
        asking.load_model("nobody")
    assert status_of(caught) == "NOT_FOUND"
    with pytest.raises(InferenceServerException, match="failed to load 'spare', a load takes no parameters"):
        asking.load_model("spare", config="{}")


def test_statistics_count_what_ended_well_and_what_did_not(asking):
    def counts():
        (of_model,) = asking.get_inference_statistics("team/kinds").model_stats
        return of_model.inference_stats.success.count, of_model.inference_stats.fail.count

    before = counts()
    asking.infer("team/kinds", [given("x", np.ones(1), "FP64")])
    with pytest.raises(InferenceServerException, match="these inputs are bad"):
        asking.infer("team/kinds", [given("x", np.ones(1), "FP64")], parameters={"method": "fail"})
    eventually(lambda: counts() == (before[0] + 1, before[1] + 1), "both are counted")
    assert {"kinds", "sum"} <= {of_model.name for of_model in asking.get_inference_statistics().model_stats}


def test_what_this_front_does_not_have_is_refused_clearly(asking):
    for refused, words in (
        (asking.get_cuda_shared_memory_status, "no memory of CUDA devices"),
        (asking.get_trace_settings, "no traces"),
        (asking.get_log_settings, "the log is set by"),
    ):
        with pytest.raises(InferenceServerException, match=words) as caught:
            refused()
        assert status_of(caught) == "UNIMPLEMENTED"
