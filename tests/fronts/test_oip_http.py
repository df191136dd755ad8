"""The REST front before a real host, asked by Triton's clients and by plain HTTP."""

import asyncio
import gzip
import json
import socket
import zlib

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from fastapi import FastAPI
from helpers import eventually
from oip_rig import Front, numbers, write_python
from tritonclient.utils import InferenceServerException

import hostd
from hostd.fronts.oip import http


@pytest.fixture
def asking(front):
    """Triton's own client."""
    with triton.InferenceServerClient(front.url) as client:
        yield client


CHANGING = """
class Model:
    def {method}(self, x):
        return x

def load(path, **options):
    return Model()
"""


def given(name, array, datatype, *, binary=True):
    """Return an input of Triton's client."""
    made = triton.InferInput(name, list(array.shape), datatype)
    return made.set_data_from_numpy(array, binary_data=binary)


ARRAYS = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15), 2**15 - 1], np.int16),
    "INT32": np.array([[-(2**31)], [2**31 - 1]], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP32": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "FP64": np.array([0.1, -1e300]),
    "BYTES": np.array([["Ada", ""], ["Grace", "Zoë"]], object),
}


@pytest.mark.parametrize("binary_out", [True, False], ids=["binary-out", "json-out"])
@pytest.mark.parametrize("binary_in", [True, False], ids=["binary-in", "json-in"])
@pytest.mark.parametrize("datatype", ARRAYS)
def test_every_datatype_comes_back_as_it_went(asking, datatype, binary_in, binary_out):
    array = ARRAYS[datatype]
    wanted = [triton.InferRequestedOutput("output_0", binary_data=binary_out)]
    result = asking.infer("kinds", [given("x", array, datatype, binary=binary_in)], outputs=wanted)
    assert result.get_output("output_0")["datatype"] == datatype
    back = result.as_numpy("output_0")
    if datatype == "BYTES" and binary_out:
        back = np.vectorize(bytes.decode)(back)
    assert back.tolist() == array.tolist()


def test_fp16_goes_in_binary_form_and_is_refused_as_json(asking):
    array = np.array([1.5, -2.0], np.float16)
    back = asking.infer("kinds", [given("x", array, "FP16")]).as_numpy("output_0")
    assert (back.dtype, back.tolist()) == (np.float16, [1.5, -2.0])
    with pytest.raises(InferenceServerException, match="FP16 does not travel as JSON"):
        asking.infer("kinds", [given("x", array, "FP16", binary=False)])
    output = triton.InferRequestedOutput("output_0", binary_data=False)
    with pytest.raises(InferenceServerException, match="ask for it in binary form"):
        asking.infer("kinds", [given("x", array, "FP16")], outputs=[output], parameters={"method": "half"})


def test_bf16_reaches_a_model_as_fp32(asking):
    array = np.array([1.5, -0.078125], ml_dtypes.bfloat16)
    result = asking.infer("kinds", [given("x", array, "BF16")])
    assert result.get_output("output_0")["datatype"] == "FP32"
    assert result.as_numpy("output_0").tolist() == [1.5, -0.078125]


def test_strings_reach_a_model_as_str_and_bytes_that_are_no_text_as_bytes(asking):
    for elements, kind in (([b"a", "ö".encode()], b"str"), ([b"a", b"\xff"], b"bytes")):
        array = np.array(elements, object)
        result = asking.infer("kinds", [given("x", array, "BYTES")], parameters={"method": "kind"})
        assert result.as_numpy("output_0").tolist() == [kind]


def test_several_inputs_are_keyword_arguments_or_one_map_by_the_signature(asking):
    a, b = given("a", np.array([5, 7]), "INT64"), given("b", np.array([1, 2]), "INT64")
    result = asking.infer("kinds", [a, b], parameters={"method": "both"})
    assert (result.as_numpy("sum").tolist(), result.as_numpy("difference").tolist()) == ([6, 9], [4, 5])
    result = asking.infer("kinds", [a, b], parameters={"method": "of_map"})
    assert (result.as_numpy("a").tolist(), result.as_numpy("b").tolist()) == ([6, 8], [2, 3])


def test_only_requested_outputs_come_in_their_order_and_form(asking):
    inputs = [given("a", np.array([5]), "INT64"), given("b", np.array([1]), "INT64")]
    outputs = [triton.InferRequestedOutput("difference", binary_data=False), triton.InferRequestedOutput("sum")]
    result = asking.infer("kinds", inputs, request_id="42", outputs=outputs, parameters={"method": "both"})
    response = result.get_response()
    assert [output["name"] for output in response["outputs"]] == ["difference", "sum"]
    assert ("data" in response["outputs"][0], "data" in response["outputs"][1]) == (True, False)
    assert (response["id"], response["model_name"], response["model_version"]) == ("42", "kinds", "1")
    assert (result.as_numpy("difference").tolist(), result.as_numpy("sum").tolist()) == ([4], [6])
    with pytest.raises(InferenceServerException, match="no output 'total', expected one of: 'sum', 'difference'"):
        asking.infer("kinds", inputs, outputs=[triton.InferRequestedOutput("total")], parameters={"method": "both"})


def test_a_scikit_learn_model_predicts_and_other_methods_go_by_name(asking):
    rows = given("anything", np.array([[0.0, 0.5], [4.0, 4.5]]), "FP64")
    (name,) = [output["name"] for output in asking.infer("classifier", [rows]).get_response()["outputs"]]
    assert asking.infer("classifier", [rows]).as_numpy(name).tolist() == [0, 1]
    result = asking.infer("classifier", [rows], parameters={"method": "predict_proba"})
    (name,) = [output["name"] for output in result.get_response()["outputs"]]
    assert result.as_numpy(name).argmax(axis=1).tolist() == [0, 1]
    with pytest.raises(InferenceServerException, match=r"no method 'guess'.*it has: .*predict_proba") as caught:
        asking.infer("classifier", [rows], parameters={"method": "guess"})
    assert caught.value.status() == "501"


def test_an_onnx_model_takes_its_inputs_by_name(asking):
    inputs = [given(name, np.array([1.0, 2.0], np.float32), "FP32") for name in ("b", "a")]
    result = asking.infer("sum", inputs)
    (output,) = result.get_response()["outputs"]
    assert output["name"] in ("total", "output_0")  # its record may have no outputs
    assert result.as_numpy(output["name"]).tolist() == [2.0, 4.0]
    assert asking.get_model_metadata("sum").items() >= {"name": "sum", "versions": ["1"], "platform": "onnx"}.items()


def test_bodies_may_be_compressed_both_ways(asking, front):
    array = np.zeros(100_000, np.float32)
    for request, response in (("gzip", "deflate"), ("deflate", "gzip"), (None, "gzip"), ("gzip", None)):
        result = asking.infer(
            "kinds",
            [given("x", array, "FP32")],
            request_compression_algorithm=request,
            response_compression_algorithm=response,
        )
        assert result.as_numpy("output_0").tolist() == array.tolist()
    plain = json.dumps({"inputs": [numbers([0.0] * 1000)]}).encode()
    for accepted, inflate in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        status, headers, body = front.post("/v2/models/kinds/infer", plain, accept_encoding=accepted)
        assert (status, headers["content-encoding"]) == (200, accepted)
        assert json.loads(inflate(body))["outputs"][0]["shape"] == [1000]


def test_the_asyncio_client_is_served_too(front):
    async def ask():
        async with triton_aio.InferenceServerClient(front.url) as client:
            assert await client.is_server_ready()
            assert (await client.get_server_metadata())["name"] == "hostd"
            many = [client.infer("kinds", [given("x", np.full(1000, n), "INT64")]) for n in range(32)]
            return [result.as_numpy("output_0")[0] for result in await asyncio.gather(*many)]

    assert asyncio.run(ask()) == list(range(32))


def test_unknown_models_and_versions_are_told_in_the_words_that_clients_look_for(asking, front):
    inputs = [given("x", np.zeros(1), "FP64")]
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'nobody' is not found") as caught:
        asking.infer("nobody", inputs)
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'kinds' version 7 is not found"):
        asking.infer("kinds", inputs, model_version="7")
    assert asking.infer("kinds", inputs, model_version="1").as_numpy("output_0").tolist() == [0.0]
    assert not asking.is_model_ready("nobody")
    _, _, body = front.get("/v2/models/nobody")
    assert json.loads(body).items() >= {"status": "NOT_FOUND", "kind": "NotFoundError"}.items()


def test_health_and_metadata_are_told_and_nothing_is_loaded_for_them(asking, fronted):
    assert asking.is_server_live()
    assert asking.is_server_ready()
    assert asking.is_model_ready("kinds")
    assert asking.is_model_ready("team/kinds", "1")
    assert not asking.is_model_ready("spare")
    metadata = asking.get_server_metadata()
    assert (metadata["name"], metadata["version"]) == ("hostd", hostd.__version__)
    assert "binary_tensor_data" in metadata["extensions"]
    assert asking.get_model_metadata("spare")["name"] == "spare"
    assert fronted.client().get_model("spare", all=True).state == "AVAILABLE"


def test_the_repository_lists_loads_and_unloads(asking, front):
    def states():
        return {entry["name"]: entry["state"] for entry in asking.get_model_repository_index()}

    assert states().items() >= {"kinds": "READY", "spare": "UNAVAILABLE"}.items()
    asking.load_model("spare")
    assert states()["spare"] == "READY"
    assert asking.infer("spare", [given("x", np.ones(1), "FP64")]).as_numpy("output_0").tolist() == [1.0]
    asking.load_model("spare")  # again, which changes nothing
    asking.unload_model("spare")
    assert states()["spare"] == "UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'spare'"):
        asking.infer("spare", [given("x", np.ones(1), "FP64")])
    _, _, body = front.post("/v2/repository/index", {"ready": True})
    assert {"kinds", "team/kinds", "sum", "classifier"} == {entry["name"] for entry in json.loads(body)}
    with pytest.raises(InferenceServerException, match=r"^.404. failed to load 'nobody', "):
        asking.load_model("nobody")
    with pytest.raises(InferenceServerException, match=r"^.404. failed to unload 'nobody', "):
        asking.unload_model("nobody")
    with pytest.raises(InferenceServerException, match=r"^.501. failed to load 'spare', a load takes no parameters"):
        asking.load_model("spare", config="{}")


def test_a_load_of_what_is_loaded_takes_changed_files(asking, models_dir, fronted):
    write_python(models_dir / "changing", CHANGING.format(method="first"))
    inputs = [given("x", np.ones(1), "FP64")]
    asking.load_model("changing")
    asking.infer("changing", inputs, parameters={"method": "first"})
    client = fronted.client()
    # The host reads what it has loaded beside the load, and compares only when it is asked to load.
    eventually(lambda: client.load_model("changing", models_dir / "changing").info.files == "as loaded", "it is known")
    (models_dir / "changing" / "model.py").write_text(CHANGING.format(method="second"))
    asking.load_model("changing")
    result = asking.infer("changing", inputs, parameters={"method": "second"})
    assert result.as_numpy("output_0").tolist() == [1.0]
    asking.unload_model("changing")


def test_a_model_that_has_replaced_another_gets_its_own_inputs_from_the_first_call_on(asking, tmp_path, fronted):
    client = fronted.client()
    for name in ("a", "b"):  # within the moment for which the record of the first is kept
        source = f"def load(path):\n    return lambda {name}: {name}\n"
        path = write_python(tmp_path / name, source)
        (path / "model.yaml").write_text(f"signature: {{__call__: {{inputs: [{{name: {name}}}], passing: keywords}}}}")
        client.load_model("replaced", path)
        result = asking.infer("replaced", [given(name, np.ones(1), "FP64")])
        assert result.as_numpy("output_0").tolist() == [1.0]
        client.unload_model("replaced")


def test_statistics_count_what_ended_well_and_what_did_not(asking):
    def counts():
        (of_model,) = asking.get_inference_statistics("team/kinds")["model_stats"]
        stats = of_model["inference_stats"]
        return stats["success"]["count"], stats["fail"]["count"]

    before = counts()
    asking.infer("team/kinds", [given("x", np.ones(1), "FP64")])
    with pytest.raises(InferenceServerException, match="these inputs are bad") as caught:
        asking.infer("team/kinds", [given("x", np.ones(1), "FP64")], parameters={"method": "fail"})
    assert caught.value.status() == "500"
    # Calls that go directly are told with the worker's next report.
    eventually(lambda: counts() == (before[0] + 1, before[1] + 1), "both are counted")
    everything = {of_model["name"] for of_model in asking.get_inference_statistics()["model_stats"]}
    assert everything >= {"kinds", "team/kinds", "sum", "classifier"}


def test_plain_json_is_answered_with_plain_json(front):
    status, answer = front.infer("kinds", numbers([[1, 2], [3, 4]], shape=[2, 2]))
    assert status == 200
    assert answer["outputs"] == [
        {"name": "output_0", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]}
    ]
    _, answer = front.infer("kinds", numbers([1]), parameters={"method": "not_finite"})
    assert answer["outputs"][0]["data"] == [None, None, 1.5]
    _, answer = front.infer("kinds", numbers([1]), parameters={"method": "records"})
    assert json.loads(answer["outputs"][0]["data"][0]) == [{"label": "cat", "score": 0.5}]
    assert answer["outputs"][0]["parameters"] == {"content_type": "json"}


@pytest.mark.parametrize(
    ("request_of", "status", "words"),
    [
        ({"inputs": [numbers([1, 2], shape=[3])]}, 400, r"input 'x': got 2 elements, expected 3"),
        ({"inputs": [numbers([1])], "parameters": {"method": "raw"}}, 400, "not UTF-8, which JSON cannot hold"),
        ({"inputs": [numbers([1])], "parameters": {"method": "generate"}}, 400, "stream"),
        ({"inputs": [numbers([1])], "parameters": {"timeout": -1}}, 400, "'timeout': got -1"),
        ({"inputs": [numbers([1]), numbers([1])]}, 400, "input 'x' is given twice"),
        ({"input": []}, 400, 'a list "inputs"'),
        ([], 400, "a JSON object"),
        (b"{", 400, "is not JSON"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(front, request_of, status, words):
    got, _, body = front.post("/v2/models/kinds/infer", request_of)
    error = json.loads(body)
    assert got == status
    assert words in error["error"]


def test_an_only_input_without_a_declaration_cannot_come_without_json(front):
    status, _, body = front.post("/v2/models/kinds/infer", bytes(8), Inference_Header_Content_Length=0)
    assert (status, "does not declare that" in json.loads(body)["error"]) == (400, True)


def test_a_timeout_in_microseconds_ends_a_call(front, tmp_path):
    marker = {"name": "marker", "datatype": "BYTES", "shape": [], "data": [str(tmp_path / "late")]}
    status, answer = front.infer("kinds", marker, parameters={"method": "wait", "timeout": 50_000})
    assert (status, answer["status"]) == (504, "DEADLINE_EXCEEDED")


def test_a_client_that_goes_cancels_its_call(front, tmp_path):
    marker = tmp_path / "marker"
    inputs = [{"name": "marker", "datatype": "BYTES", "shape": [], "data": [str(marker)]}]
    body = json.dumps({"inputs": inputs, "parameters": {"method": "wait"}}).encode()
    host, port = front.url.split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v2/models/kinds/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        eventually(lambda: marker.exists() and marker.read_text() == "begun", "the call runs")
    eventually(lambda: marker.read_text() == "cancelled", "it is cancelled")


def test_generate_takes_plain_json_and_collects_a_stream(front):
    def generated(request, model_id="kinds"):
        status, _, body = front.post(f"/v2/models/{model_id}/generate", request)
        return status, json.loads(body)

    status, answer = generated({"text_input": "a", "count": 2, "id": "7", "stream": False})
    assert (status, answer["text_output"], answer["id"], answer["model_name"]) == (200, "a0 a1 ", "7", "kinds")
    asked = {"text_input": "ab", "parameters": {"method": "complete", "times": 2}}
    assert generated(asked)[1]["text_output"] == "abab"
    assert generated({"parameters": {"method": "complete"}, "prompt": "p"})[1]["text_output"] == "p"
    assert generated({"text_input": "a", "nonsense": 1})[0] == 400
    assert generated({"text_input": "a"}, "nobody")[0] == 404


def test_generate_stream_sends_events_and_errors_before_the_first_are_ordinary(front):
    def events(request):
        status, headers, body = front.post("/v2/models/kinds/generate_stream", request)
        assert (status, headers.get_content_type()) == (200, "text/event-stream")
        lines = body.decode().split("\n\n")
        assert lines.pop() == ""
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    assert [event["text_output"] for event in events({"text_input": "a"})] == ["a0 ", "a1 ", "a2 "]
    assert events({"text_input": "a", "count": 0}) == []
    first, last = events({"text_input": "a", "fail_at": 1})
    assert (first["text_output"], last["status"]) == ("a0 ", "UNKNOWN")
    assert "no more" in last["error"]
    assert [event["text_output"] for event in events({"text_input": "a", "parameters": {"method": "complete"}})] == [
        "a"
    ]
    status, _, body = front.post("/v2/models/kinds/generate_stream", {"text_input": "a", "fail_at": 0})
    assert (status, json.loads(body)["kind"]) == (500, "ModelError")


def test_a_client_that_leaves_a_stream_ends_it_in_the_model(front, tmp_path):
    marker = tmp_path / "ended"
    body = json.dumps({"text_input": "a", "count": 10**9, "marker": str(marker)}).encode()
    host, port = front.url.split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v2/models/kinds/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert connection.recv(1)
    eventually(marker.exists, "the stream ends")


@pytest.mark.parametrize(
    "path", ["team/kinds", "team%2Fkinds", "team%2fkinds", "%74eam/kinds", "team/kinds/versions/1"]
)
def test_slashes_and_escapes_in_ids_are_understood(front, path):
    status, _, body = front.get(f"/v2/models/{path}")
    assert (status, json.loads(body)["name"]) == (200, "team/kinds")


def test_other_paths_and_methods_are_refused_clearly(front):
    status, headers, _ = front.get("/v2/models/kinds/infer")
    assert (status, headers["allow"]) == (405, "POST")
    for path, expected in (
        ("/v2/nothing", 404),
        ("/v2/models/", 404),
        ("/v2/models/%ff", 400),
        ("/v2/models/..%2Fx", 404),
    ):
        status, _, body = front.get(path)
        assert (status, path, "error" in json.loads(body)) == (expected, path, True)


def test_a_body_is_bounded_as_it_comes_and_inflated(fronted):
    with Front(fronted.endpoint, max_body_bytes=1000) as small:
        assert small.infer("kinds", numbers([1.0]))[0] == 200
        for body, headers in (
            (bytes(1001), {}),
            (gzip.compress(bytes(100_000)), {"Content_Encoding": "gzip"}),
            (zlib.compress(bytes(100_000)), {"Content_Encoding": "deflate"}),
        ):
            status, _, answer = small.post("/v2/models/kinds/infer", body, **headers)
            assert (status, json.loads(answer)["kind"]) == (413, "MessageTooLargeError")
        assert small.post("/v2/models/kinds/infer", b"x", Content_Encoding="br")[0] == 415
        assert small.post("/v2/models/kinds/infer", b"x", Content_Encoding="gzip")[0] == 400
        assert small.post("/v2/models/kinds/infer", gzip.compress(b"{}")[:-9], Content_Encoding="gzip")[0] == 400


def test_it_can_be_mounted_in_an_application(fronted):
    def mounted(client):
        application = FastAPI()
        application.mount("/here", http.app(client))
        application.mount("/", http.app(client))
        return application

    with Front(fronted.endpoint, mounted) as both:
        assert both.get("/here/v2/models/team%2Fkinds/ready")[0] == 200
        with triton.InferenceServerClient(f"{both.url}/here") as client:
            back = client.infer("kinds", [given("x", np.ones(2), "FP64")]).as_numpy("output_0")
        assert back.tolist() == [1.0, 1.0]


def test_what_is_not_loaded_is_loaded_on_use_where_the_host_does_that(tmp_path):
    models = {"dir": tmp_path / "models", "lazy_load": True, "load_on_start": False, "poll_period_s": None}
    write_python(tmp_path / "models" / "lazy")
    with hostd.Host(models={**models, "write_quiet_period_s": 0}) as host, Front(host.endpoint) as front:
        assert front.get("/v2/models/lazy/ready")[0] == 400
        assert front.infer("lazy", numbers([1.0]))[0] == 200
        assert front.get("/v2/models/lazy/ready")[0] == 200


def test_a_host_that_has_gone_is_unavailable_and_may_be_tried_again():
    with hostd.Host() as host, Front(host.endpoint) as front:
        assert front.get("/v2/health/ready")[0] == 200
        host.stop()
        status, headers, _ = front.get("/v2/health/ready")
        assert (status, headers["retry-after"]) == (503, "1")
        assert front.get("/v2/health/live")[0] == 200
