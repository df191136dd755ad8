"""Triton's generate extension: JSON to the arguments of a call, results to JSON, streams to server-sent events."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hostd.fronts.calling import method_of
from hostd.fronts.json_text import json_of, parsed
from hostd.fronts.oip.requests import timeout_of
from hostd.fronts.signatures import parameters_of
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd import HostError, MethodInfo, ModelInfo
    from hostd.fronts.calling import ArgumentsOfCall

TEXT_INPUT: Final = "text_input"
TEXT_OUTPUT: Final = "text_output"
GENERATE: Final = "generate"
"""The method that is called if the request names none and the model has it."""

EVENTS: Final = b"text/event-stream; charset=utf-8"

_OF_FRONT: Final = frozenset(("method", "timeout"))
_STREAM: Final = "stream"
"""What Triton's clients say beside choosing the path; a method gets it only if it has such a parameter."""


@dataclass(frozen=True)
class GenerateRequest:
    """A request; `arguments` are its JSON keys, with those of its `parameters`."""

    arguments: Mapping[str, Any]
    id: str = ""
    method: str | None = None
    timeout_s: float | None = None


def parse(body: bytes) -> GenerateRequest:
    """Return the request in a body. Raises `InvalidArgumentError`."""
    request = parsed(body, "the request")
    parameters = request.pop("parameters", None) or {} if isinstance(request, dict) else None
    if not isinstance(parameters, dict):
        raise InvalidArgumentError('the request must be a JSON object, and so must its "parameters"')
    method = parameters.get("method")
    if not isinstance(method, (str, type(None))):
        raise InvalidArgumentError(f"the parameter 'method': got {reprlib.repr(method)}, expected str")
    own = {name: value for name, value in parameters.items() if name not in _OF_FRONT}
    request_id = request.pop("id", "")
    if not isinstance(request_id, (str, int)):
        raise InvalidArgumentError(f"the id: got {reprlib.repr(request_id)}, expected text")
    return GenerateRequest({**own, **request}, str(request_id), method, timeout_of(parameters))


def method_for(info: ModelInfo, request: GenerateRequest) -> MethodInfo:
    """Return the method to call: the one that is asked for, `generate`, or the model's default."""
    return method_of(info, request.method or (GENERATE if GENERATE in info.methods else None))


def arguments_of(method: MethodInfo, request: GenerateRequest) -> ArgumentsOfCall:
    """Return the positional and the keyword arguments of a call."""
    parameters = parameters_of(method.signature)
    named = dict(request.arguments)
    if _STREAM not in parameters.named:
        named.pop(_STREAM, None)
    if TEXT_INPUT in named and TEXT_INPUT not in parameters.named and parameters.takes_a_place:
        return (named.pop(TEXT_INPUT),), named
    return (), named


def answer(info: ModelInfo, version: str, request: GenerateRequest, result: object) -> bytes:
    """Return the JSON of a result, or of an item of a stream: the keys of a map, else it is the `text_output`."""
    outputs = result if isinstance(result, dict) else {TEXT_OUTPUT: result}
    named = {"id": request.id} if request.id else {}
    return json_of({"model_name": info.id, "model_version": version, **named, **outputs})


def collected(items: list[Any]) -> object:
    """Return the items of a stream as one result: pieces of text joined, anything else as a list."""
    return "".join(items) if items and all(isinstance(item, str) for item in items) else items


def event(data: bytes) -> bytes:
    """Return a server-sent event."""
    return b"data: %b\n\n" % data


def error_event(error: HostError) -> bytes:
    """Return the event that ends a stream which has begun and cannot go on."""
    return event(json_of({"error": error.message, "status": error.status.name}))
