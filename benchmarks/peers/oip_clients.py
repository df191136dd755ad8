"""Clients of the Open Inference Protocol that people use, each as a function that has a model called.

It takes a server's addresses, a model's id and the inputs by name, and returns the outputs in their order. All are
arrays; those of text have the dtype object and `str` elements. It raises what the client raises, and `Failed` if a
program fails. `benchmarks.peers.clients` calls several servers with them, `tests/fronts/test_oip_clients.py` models of
each kind.

Those of kserve and MLServer run under interpreters of their own: their packages conflict with those that are used here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import queue
import subprocess
import tempfile
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor, shared_memory, triton_to_np_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Inputs = dict[str, np.ndarray[Any, Any]]
    Outputs = list[np.ndarray[Any, Any]]
    Client = Callable[["Addresses", str, Inputs], Outputs]

ANSWER_S = 60.0
"""How long an answer may take; a program that imports its library first may take twice as long."""

PLACE_BYTES = 4096
"""The shared memory of one tensor, at most."""

REGION_BYTES = 16 * PLACE_BYTES


class Addresses(NamedTuple):
    """Where a server answers, each as HOST:PORT."""

    http: str
    grpc: str


class Failed(Exception):  # noqa: N818 - what becomes of a call
    """A call that did not give the right answer."""


def _datatype(array: Any) -> str:
    return str(np_to_triton_dtype(array.dtype))


def _told(array: Any) -> Any:
    """Return an array with text where it has bytes; of JSON it has text already."""
    if array.dtype != np.object_:
        return array
    texts = [value.decode() if isinstance(value, bytes) else value for value in array.ravel()]
    return np.array(texts, np.object_).reshape(array.shape)


# tritonclient


def _given(library: Any, inputs: Inputs, **form: bool) -> list[Any]:
    tensors = {name: library.InferInput(name, list(array.shape), _datatype(array)) for name, array in inputs.items()}
    return [tensor.set_data_from_numpy(inputs[name], **form) for name, tensor in tensors.items()]


def _names(result: Any) -> list[str]:
    answer = result.get_response()
    is_json = isinstance(answer, dict)
    return [output["name"] for output in answer["outputs"]] if is_json else [output.name for output in answer.outputs]


def _outputs(result: Any) -> Outputs:
    return [_told(result.as_numpy(name)) for name in _names(result)]


def _triton(library: Any, at: Addresses) -> Any:
    return library.InferenceServerClient(at.http if library in (over_http, over_http_aio) else at.grpc)


def _triton_plain(library: Any, at: Addresses, model_id: str, inputs: Inputs) -> Outputs:
    with _triton(library, at) as client:
        return _outputs(client.infer(model_id, _given(library, inputs)))


def _triton_json(at: Addresses, model_id: str, inputs: Inputs) -> Outputs:
    with _triton(over_http, at) as client:
        given = _given(over_http, inputs, binary_data=False)
        # Without names it asks for binary outputs.
        names = _names(client.infer(model_id, given))
        wanted = [over_http.InferRequestedOutput(name, binary_data=False) for name in names]
        return _outputs(client.infer(model_id, given, outputs=wanted))


def _triton_asyncio(library: Any, at: Addresses, model_id: str, inputs: Inputs) -> Outputs:
    async def ask() -> Outputs:
        async with _triton(library, at) as client:
            return _outputs(await client.infer(model_id, _given(library, inputs)))

    return asyncio.run(ask())


def _triton_stream(at: Addresses, model_id: str, inputs: Inputs) -> Outputs:
    answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
    with _triton(over_grpc, at) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(model_id, _given(over_grpc, inputs))
        result, error = answers.get(timeout=ANSWER_S)
        client.stop_stream()
    if error is not None:
        raise error
    return _outputs(result)


@contextlib.contextmanager
def _shared(client: Any) -> Iterator[tuple[str, Any]]:
    key = f"oip-{uuid.uuid4().hex}"
    handle = shared_memory.create_shared_memory_region(key, key, REGION_BYTES)
    try:
        client.register_system_shared_memory(key, f"/{key}", REGION_BYTES)
        yield key, handle
        client.unregister_system_shared_memory(key)
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def _triton_shared(library: Any, at: Addresses, model_id: str, inputs: Inputs) -> Outputs:
    with _triton(library, at) as client, _shared(client) as (region, handle):
        offsets = itertools.count(step=PLACE_BYTES)
        given = []
        for (name, array), offset in zip(inputs.items(), offsets, strict=False):
            content = serialize_byte_tensor(array) if array.dtype == np.object_ else array
            shared_memory.set_shared_memory_region(handle, [content], offset)
            given.append(library.InferInput(name, list(array.shape), _datatype(array)))
            byte_size = len(content.item()) if content.dtype == np.object_ else content.nbytes
            given[-1].set_shared_memory(region, byte_size, offset)
        places = dict(zip(_names(client.infer(model_id, given)), offsets, strict=False))
        wanted = [library.InferRequestedOutput(name) for name in places]
        for output in wanted:
            output.set_shared_memory(region, PLACE_BYTES, places[output.name()])
        result = client.infer(model_id, given, outputs=wanted)
        return [_read(handle, result.get_output(name), offset) for name, offset in places.items()]


def _read(handle: Any, output: Any, offset: int) -> Any:
    is_json = isinstance(output, dict)
    datatype, shape = (output["datatype"], output["shape"]) if is_json else (output.datatype, list(output.shape))
    found = shared_memory.get_contents_as_numpy(handle, triton_to_np_dtype(datatype), shape, offset)
    return _told(found.copy())  # a view would keep the memory from being closed


# Programs: requests and answers are JSON


def _asked(inputs: Inputs, *, is_flat: bool = True) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "datatype": _datatype(array),
            "shape": list(array.shape),
            "data": (array.ravel() if is_flat else array).tolist(),
        }
        for name, array in inputs.items()
    ]


def _answered(outputs: list[dict[str, Any]]) -> Outputs:
    return [np.array(o["data"], triton_to_np_dtype(o["datatype"])).reshape(o["shape"]) for o in outputs]


def _said(command: list[str], given: object = None) -> str:
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, timeout=2 * ANSWER_S, check=False
    )
    if done.returncode != 0:
        raise Failed((done.stdout or done.stderr).strip().rpartition("\n")[2][:200])
    return done.stdout


def _curl(at: Addresses, model_id: str, inputs: Inputs) -> Outputs:
    command = ["curl", "-sS", "--fail-with-body", "-H", "Content-Type: application/json", "--data-binary", "@-"]
    url = f"http://{at.http}/v2/models/{model_id}/infer"
    return _answered(json.loads(_said([*command, url], {"inputs": _asked(inputs, is_flat=False)}))["outputs"])


_KSERVE = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.utils.numpy_codec import to_np_dtype

kind, http, grpc, model = sys.argv[1:]

async def main():
    inputs = []
    for asked in json.load(sys.stdin):
        array = np.array(asked["data"], to_np_dtype(asked["datatype"])).reshape(asked["shape"])
        inputs.append(InferInput(asked["name"], asked["shape"], asked["datatype"]))
        inputs[-1].set_data_from_numpy(array, binary_data=kind != "JSON")
    parameters = {"binary_data_output": True} if kind == "binary" else None
    request = InferRequest(model_name=model, infer_inputs=inputs, parameters=parameters)
    if kind == "gRPC":
        answer = await InferenceGRPCClient(grpc).infer(request)
    else:
        client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
        answer = await client.infer(f"http://{http}", request, model_name=model)
    found = [(output, output.as_numpy()) for output in answer.outputs]
    text = lambda value: value.decode() if isinstance(value, bytes) else value
    print(json.dumps([
        {"datatype": output.datatype, "shape": array.shape, "data": [text(value) for value in array.ravel().tolist()]}
        for output, array in found
    ]))

asyncio.run(main())
"""


def _kserve(python: str, kind: str, at: Addresses, model_id: str, inputs: Inputs) -> Outputs:
    found = _said([python, "-W", "ignore", "-c", _KSERVE, kind, *at, model_id], _asked(inputs))
    return _answered(json.loads(found.splitlines()[-1]))


def _mlserver(python: str, flags: tuple[str, ...], at: Addresses, model_id: str, inputs: Inputs) -> Outputs:
    with tempfile.TemporaryDirectory() as directory:
        given, got = Path(directory, "in"), Path(directory, "out")
        given.write_text(json.dumps({"inputs": _asked(inputs)}) + "\n")
        command = [str(Path(python).with_name("mlserver")), "infer", "-u", at.http, "-m", model_id, "-w", "1"]
        _said([*command, "-i", str(given), "-o", str(got), *flags])
        answer = json.loads(got.read_text())
    if "outputs" not in answer:
        raise Failed(str(answer)[:200])
    # It writes a vector as a column.
    return [array.ravel() if array.shape[1:] == (1,) else array for array in _answered(answer["outputs"])]


HERE: dict[str, Client] = {
    "curl: nested lists": _curl,
    "tritonclient HTTP: JSON": _triton_json,
    "tritonclient HTTP: binary": partial(_triton_plain, over_http),
    "tritonclient HTTP: asyncio": partial(_triton_asyncio, over_http_aio),
    "tritonclient HTTP: shared memory": partial(_triton_shared, over_http),
    "tritonclient gRPC": partial(_triton_plain, over_grpc),
    "tritonclient gRPC: asyncio": partial(_triton_asyncio, over_grpc_aio),
    "tritonclient gRPC: stream": _triton_stream,
    "tritonclient gRPC: shared memory": partial(_triton_shared, over_grpc),
}
"""curl, and those that this interpreter has."""


def of_kserve(python: str) -> dict[str, Client]:
    """Return kserve's clients, which an interpreter has."""
    return {f"kserve: {kind}": partial(_kserve, python, kind) for kind in ("JSON", "binary", "gRPC")}


def of_mlserver(python: str) -> dict[str, Client]:
    """Return MLServer's client, which lies beside an interpreter."""
    forms = {"mlserver infer": (), "mlserver infer: binary": ("--binary-data",)}
    return {name: partial(_mlserver, python, flags) for name, flags in forms.items()}
