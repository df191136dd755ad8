"""Requests and answers of calls as messages: typed contents, raw contents, parameters. Does no I/O.

Rules
1. An input is raw (`raw_input_contents`), typed (`contents`), or in shared memory; raw and typed ones do not mix.
2. Outputs are raw, as Triton's always are; but typed if the inputs were, and every output has such a form.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from hostd.fronts import texts
from hostd.fronts.datatypes import BYTES, check_datatype
from hostd.fronts.oip import describing
from hostd.fronts.oip.grpc.messages import InferResponseMessage
from hostd.fronts.oip.requests import InferRequest, RequestedOutput, place_of
from hostd.fronts.tensors import from_elements, from_json, from_raw, to_raw
from hostd_workers.wire.errors import InvalidArgumentError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hostd.fronts.oip.requests import Place
    from hostd.fronts.tensors import Tensor
    from hostd_workers.wire.frames import Buffer

_CONTENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BOOL": "bool_contents",
        **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
        "INT64": "int64_contents",
        **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
        "UINT64": "uint64_contents",
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
        BYTES: "bytes_contents",
    }
)
"""The field of typed contents of each datatype; the others have none."""

_PARAMETERS: Final = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}


def request_of(message: Any, read: Callable[[Place, str], bytes]) -> InferRequest:
    """Return the request in a message; `read` reads shared memory.

    Raises `InvalidArgumentError` that says what is wrong where, and what `read` raises.
    """
    is_raw = bool(message.raw_input_contents)
    raw = iter(message.raw_input_contents) if is_raw else None
    inputs = tuple(_input(given, raw, read) for given in message.inputs)
    if raw is not None and next(raw, None) is not None:
        raise InvalidArgumentError(
            f"got {len(message.raw_input_contents)} raw_input_contents, expected one for each of the inputs"
        )
    return InferRequest(
        inputs,
        message.id,
        parameters_of(message.parameters),
        tuple(map(_requested, message.outputs)),
        is_raw or not any(given.HasField("contents") for given in message.inputs),
    )


def parameters_of(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as plain values; None for one that has none."""
    found = {}
    for name, value in entries.items():
        choice = value.WhichOneof("parameter_choice")
        found[name] = None if choice is None else getattr(value, choice)
    return found


def response_of(
    model_id: str, request: InferRequest, tensors: Sequence[Tensor], write: Callable[[Place, Buffer, str], Place]
) -> Any:
    """Return the answer to a request; `write` writes shared memory.

    `tensors` are the wanted outputs, in the request's order where it names them.
    """
    places = [asked.place for asked in request.outputs] or [None] * len(tensors)
    answer = InferResponseMessage(model_name=model_id, model_version=describing.VERSION, id=request.id)
    is_raw = request.is_binary or any(places) or any(tensor.datatype not in _CONTENTS for tensor in tensors)
    for tensor, place in zip(tensors, places, strict=True):
        output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _add(output.parameters, tensor.parameters)
        if place is not None:
            _add(output.parameters, write(place, to_raw(tensor), f"output {tensor.name!r}").parameters)
            answer.raw_output_contents.append(b"")  # clients count these as they count the outputs
        elif is_raw:
            answer.raw_output_contents.append(bytes(to_raw(tensor)))
        else:
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(_elements(tensor))
    return answer


def _add(entries: Any, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        setattr(entries[name], _PARAMETERS[type(value)], value)


def _input(given: Any, raw: Iterator[bytes] | None, read: Callable[[Place, str], bytes]) -> Tensor:
    where = f"input {given.name!r}"
    described = given.name, given.datatype, tuple(given.shape)
    place = place_of(parameters_of(given.parameters), where) if given.parameters else None
    if place is not None:
        if given.HasField("contents"):
            raise InvalidArgumentError(f"{where} is in shared memory, and has contents, too: send one of them")
        return from_raw(*described, read(place, where))
    if raw is None:
        return _typed(given, where)
    if given.HasField("contents"):
        raise InvalidArgumentError(f"{where} has contents, and the request has raw_input_contents: send one of them")
    data = next(raw, None)
    if data is None:
        raise InvalidArgumentError(f"{where}: there are no raw_input_contents for it, expected one for each input")
    return from_raw(*described, data)


def _typed(given: Any, where: str) -> Tensor:
    field = _CONTENTS.get(check_datatype(given.datatype, where))
    if field is None:
        raise InvalidArgumentError(f"{where}: {given.datatype} has no typed contents: send it as raw_input_contents")
    others = [found.name for found, _ in given.contents.ListFields() if found.name != field]
    if others:
        raise InvalidArgumentError(f"{where}: got {' and '.join(others)}, expected {field}, by its datatype")
    elements = list(getattr(given.contents, field))
    make = from_elements if given.datatype == BYTES else from_json
    return make(given.name, given.datatype, tuple(given.shape), elements)


def _requested(given: Any) -> RequestedOutput:
    where = f"output {given.name!r}"
    if "classification" in given.parameters:
        raise UnimplementedError(f"{where}: the extension 'classification' is not here")
    return RequestedOutput(given.name, place=place_of(parameters_of(given.parameters), where))


def _elements(tensor: Tensor) -> list[Any]:
    if tensor.datatype == BYTES:
        return [text.encode() if isinstance(text, str) else text for text in texts.flattened(tensor.data)]
    elements: list[Any] = tensor.data.reshape(-1).tolist()
    return elements
