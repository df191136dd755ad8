"""Inference requests and responses: JSON, and JSON followed by tensors in binary form. Does no I/O.

The binary form is Triton's extension: the header `Inference-Header-Content-Length` says how long the JSON is; behind it
are the tensors that have `binary_data_size`, one after the other. With a length of 0 the whole body is the only input.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import orjson

from hostd.fronts.datatypes import BYTES, item_bytes
from hostd.fronts.json_text import parsed
from hostd.fronts.oip.requests import InferRequest, RequestedOutput, of_type, place_of
from hostd.fronts.tensors import from_json, from_raw, to_json, to_raw
from hostd.fronts.texts import raw_of
from hostd_workers.wire.errors import InvalidArgumentError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hostd import MethodInfo
    from hostd.fronts.oip.requests import Place
    from hostd.fronts.tensors import Tensor
    from hostd_workers.wire.frames import Buffer

HEADER_LENGTH: Final = b"inference-header-content-length"
"""The header that says how many bytes of a body are JSON."""


_MAX_DIGITS: Final = 18


def header_length_of(header: bytes | None) -> int | None:
    """Return the value of the header `HEADER_LENGTH`; None if there is none."""
    if header is None:
        return None
    if not header.isdigit() or len(header) > _MAX_DIGITS:
        raise InvalidArgumentError(f"Inference-Header-Content-Length: got {header[:20]!r}, expected a number of bytes")
    return int(header)


def parse(body: bytes, header_length: int | None, read: Callable[[Place, str], bytes]) -> InferRequest:
    """Return the request in a body, of which `header_length` bytes are JSON (None: all); `read` reads shared memory.

    Arrays in binary form are views of the body. Raises `InvalidArgumentError` that says what is wrong where, and
    `UnimplementedError` for extensions that are not here.
    """
    view = memoryview(body)
    if header_length is not None and header_length > len(view):
        raise InvalidArgumentError(
            f"Inference-Header-Content-Length: got {header_length}, expected at most the {len(view)} bytes of the body"
        )
    request = parsed(view if header_length is None else view[:header_length], "the request")
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise InvalidArgumentError('the request must be a JSON object with a list "inputs"')
    parameters = _parameters(request, "the request")
    rest = None if header_length is None else view[header_length:]
    inputs = []
    for given in request["inputs"]:
        tensor, rest = _input(given, rest, read)
        inputs.append(tensor)
    if rest:
        raise InvalidArgumentError(
            f"{len(rest)} bytes are left behind the binary data of the inputs: their binary_data_size must add up"
        )
    return InferRequest(
        tuple(inputs),
        str(of_type(request.get("id"), (str, int), "the id") or ""),
        parameters,
        tuple(map(_requested, of_type(request.get("outputs"), (list,), "outputs") or ())),
        bool(of_type(parameters.get("binary_data_output"), (bool,), "the parameter 'binary_data_output'")),
    )


def parse_raw(body: bytes, method: MethodInfo) -> InferRequest:
    """Return the request of a body that is the only input of a method, which has to declare it; the answer is binary.

    One of the declared sizes may be any. Of strings the body is one, without its length before it, as in Triton.
    """
    if len(method.inputs) != 1 or not method.inputs[0].datatype or method.inputs[0].shape is None:
        raise InvalidArgumentError(
            f"a request without JSON needs a method with one input of a known datatype and shape, and method "
            f"{method.name!r} does not declare that: send the input's name, datatype and shape as JSON before it"
        )
    (info,) = method.inputs
    shape = list(info.shape or ())
    free = [axis for axis, size in enumerate(shape) if size == -1]
    data: Buffer = body
    if info.datatype == BYTES:
        data, units = raw_of([body]), 1
    else:
        units = len(body) // item_bytes(info.datatype)
    if len(free) > 1:
        raise InvalidArgumentError(
            f"input {info.name!r} has the shape {shape}, of which the size of a body tells only one: send it as JSON "
            f"before the data"
        )
    if free:
        shape[free[0]] = units // max(1, math.prod(size for size in shape if size != -1))
    return InferRequest((from_raw(info.name, info.datatype, shape, data),), is_binary=True)


def respond(
    model_name: str,
    version: str,
    request: InferRequest,
    tensors: Sequence[Tensor],
    write: Callable[[Place, Buffer, str], Place],
) -> tuple[bytes, int | None]:
    """Return the body of a response, and how much of it is JSON (None: all).

    `tensors` are the wanted outputs, in the order of the request's where it names them; `write` writes shared memory.
    """
    wanted = request.outputs or [RequestedOutput(tensor.name) for tensor in tensors]
    outputs, binary = [], []
    for tensor, asked in zip(tensors, wanted, strict=True):
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        parameters = dict(tensor.parameters)
        if asked.place is not None:
            parameters |= write(asked.place, to_raw(tensor), f"output {tensor.name!r}").parameters
        elif request.is_binary if asked.is_binary is None else asked.is_binary:
            binary.append(to_raw(tensor))
            parameters["binary_data_size"] = len(binary[-1])
        else:
            output["data"] = to_json(tensor)
        outputs.append({**output, "parameters": parameters} if parameters else output)
    response = {"model_name": model_name, "model_version": version, "outputs": outputs}
    if request.id:
        response["id"] = request.id
    header = orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((header, *binary)), len(header)) if binary else (header, None)


def _input(
    given: Any, rest: memoryview | None, read: Callable[[Place, str], bytes]
) -> tuple[Tensor, memoryview | None]:
    """Return the tensor of an input, and what is left of the binary data."""
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise InvalidArgumentError('each of the inputs must be a JSON object with a string "name"')
    name = given["name"]
    where = f"input {name!r}"
    parameters = _parameters(given, where)
    described = name, given.get("datatype"), given.get("shape")
    place = place_of(parameters, where)
    if place is not None:
        if "data" in given or "binary_data_size" in parameters:
            raise InvalidArgumentError(f"{where} is in shared memory, and has data, too: send one of them")
        return from_raw(*described, read(place, where)), rest
    size = of_type(parameters.get("binary_data_size"), (int,), f"{where}: binary_data_size")
    if size is None:
        if "data" not in given:
            raise InvalidArgumentError(f'{where} has neither "data" nor the parameter "binary_data_size"')
        return from_json(*described, given["data"]), rest
    if "data" in given:
        raise InvalidArgumentError(f'{where} has both "data" and the parameter "binary_data_size"')
    if rest is None:
        raise InvalidArgumentError(f"{where} has binary data: the header Inference-Header-Content-Length must be there")
    if not 0 <= size <= len(rest):
        raise InvalidArgumentError(
            f"{where}: got binary_data_size {size}, expected at most {len(rest)}, which are left"
        )
    return from_raw(*described, rest[:size]), rest[size:]


def _requested(given: Any) -> RequestedOutput:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise InvalidArgumentError('each of the outputs must be a JSON object with a string "name"')
    where = f"output {given['name']!r}"
    parameters = _parameters(given, where)
    if parameters.get("classification"):
        raise UnimplementedError(f"{where}: the extension 'classification' is not here")
    is_binary = of_type(parameters.get("binary_data"), (bool,), f"{where}: the parameter 'binary_data'")
    return RequestedOutput(given["name"], is_binary, place_of(parameters, where))


def _parameters(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    return of_type(given.get("parameters"), (dict,), f"{where}: parameters") or {}
