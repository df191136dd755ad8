"""Requests and answers as messages of gRPC, and errors as trailers: what needs no host."""

from urllib.parse import quote

import numpy as np
import pytest

pytest.importorskip("google.protobuf", reason="the extra `grpc`")
pytest.importorskip("grpc", reason="whose statuses the host's are")

import grpc

import hostd
from hostd.fronts.datatypes import DTYPES
from hostd.fronts.grpc import heads
from hostd.fronts.oip import describing
from hostd.fronts.oip.grpc import conversion
from hostd.fronts.oip.grpc.messages import InferRequestMessage, message
from hostd.fronts.oip.requests import InferRequest, Place, RequestedOutput
from hostd.fronts.tensors import Tensor
from hostd_workers.wire.errors import HostError, Status


def no_memory(*_):
    raise AssertionError("nothing is in shared memory")


def asked(**parameters):
    request = InferRequestMessage(model_name="m")
    for name, (kind, value) in parameters.items():
        setattr(request.parameters[name], kind, value)
    return request


def test_parameters_are_plain_values():
    request = asked(a=("bool_param", False), b=("int64_param", -1), c=("string_param", "x"), d=("double_param", 0.5))
    request.parameters["none"].SetInParent()
    found = conversion.request_of(request, no_memory).parameters
    assert found == {"a": False, "b": -1, "c": "x", "d": 0.5, "none": None}


@pytest.mark.parametrize("parameter", [("string_param", "predict"), ("int64_param", 3)])
def test_a_method_is_a_string(parameter):
    request = conversion.request_of(asked(method=parameter), no_memory)
    if parameter[0] == "string_param":
        assert request.method == "predict"
    else:
        with pytest.raises(hostd.InvalidArgumentError, match="the parameter 'method': got 3, expected str"):
            assert request.method


def test_classification_is_refused():
    request = asked()
    request.outputs.add(name="y").parameters["classification"].int64_param = 3
    with pytest.raises(hostd.UnimplementedError, match="output 'y': the extension 'classification'"):
        conversion.request_of(request, no_memory)


def test_shared_memory_needs_a_size_and_no_contents():
    request = asked()
    tensor = request.inputs.add(name="x", datatype="FP64", shape=[1])
    tensor.parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(
        hostd.InvalidArgumentError, match="input 'x' is in shared memory, and has no shared_memory_byte"
    ):
        conversion.request_of(request, no_memory)
    tensor.parameters["shared_memory_byte_size"].int64_param = 8
    request.inputs.add(name="y", datatype="FP32", shape=[1])
    request.raw_input_contents.append(np.float32(2).tobytes())  # of y alone
    found = conversion.request_of(request, lambda place, _: np.float64(place.byte_size).tobytes())
    assert [tensor.data.tolist() for tensor in found.inputs] == [[8.0], [2.0]]
    tensor.contents.fp64_contents.append(1.0)
    with pytest.raises(hostd.InvalidArgumentError, match="in shared memory, and has contents, too"):
        conversion.request_of(request, no_memory)


def test_an_output_in_shared_memory_has_an_empty_place_among_the_raw_ones():
    request = InferRequest((), id="7", outputs=(RequestedOutput("a", place=Place("r", 8, 64)), RequestedOutput("b")))
    tensors = [Tensor(name, "INT64", (2,), np.array([1, 2])) for name in "ab"]
    answer = conversion.response_of("m", request, tensors, lambda place, data, _: Place(place.region, 8, len(data)))
    assert list(answer.raw_output_contents) == [b"", np.array([1, 2]).tobytes()]
    assert conversion.parameters_of(answer.outputs[0].parameters) == {
        "shared_memory_region": "r",
        "shared_memory_byte_size": 16,
        "shared_memory_offset": 8,
    }


def test_a_configuration_names_every_datatype_as_triton_does():
    known = message("inference.ModelConfig")
    inputs = tuple(hostd.TensorInfo(name, name, (-1,)) for name in (*DTYPES, "BYTES", "NEW"))
    method = hostd.MethodInfo(name="predict", inputs=inputs)
    info = hostd.ModelInfo(id="m", state="READY", path=None, type="local", methods={"predict": method})
    config = known(**describing.model_config(info, method))
    assert 0 not in [given.data_type for given in config.input[:-1]]
    assert (config.input[-2].data_type, config.input[-1].data_type) == (13, 0)


def test_every_status_is_one_of_grpc():
    assert {(status.name, int(status)) for status in Status} == {(code.name, code.value[0]) for code in grpc.StatusCode}


@pytest.mark.parametrize("words", ["x" * 100_000, "ü" * 100_000, "\ud800", "short"])
def test_the_words_of_an_error_fit_a_trailer(words):
    told = heads.words_of(HostError(words))
    assert len(quote(told, safe=" ")) <= heads.MAX_WORDS_BYTES + len(" ...")
    assert told == "short" or len(words) == 1 or told.endswith(" ...")
