"""Answers: values and errors as HTTP has them, in the form that the client asks for.

Covers one whole answer; those that come bit by bit are in `streams`. Nothing may be stored on the way, and no page of
another origin may read it: there are no headers that would let it.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

import hostd
from hostd.fronts.verbs.route import JSON, MSGPACK
from hostd.fronts.verbs.values import to_json, to_msgpack

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADERS: Mapping[str, str] = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Of every answer."""

_ALSO_MSGPACK = "application/x-msgpack"

# As google/rpc/code.proto maps them, but for what is HTTP's own matter.
_HTTP_STATUS = {
    hostd.Status.CANCELLED: 499,
    hostd.Status.INVALID_ARGUMENT: 400,
    hostd.Status.DEADLINE_EXCEEDED: 504,
    hostd.Status.NOT_FOUND: 404,
    hostd.Status.ALREADY_EXISTS: 409,
    hostd.Status.PERMISSION_DENIED: 403,
    hostd.Status.RESOURCE_EXHAUSTED: 429,
    hostd.Status.FAILED_PRECONDITION: 400,
    hostd.Status.ABORTED: 409,
    hostd.Status.OUT_OF_RANGE: 400,
    hostd.Status.UNIMPLEMENTED: 501,
    hostd.Status.UNAVAILABLE: 503,
    hostd.Status.UNAUTHENTICATED: 401,
}


class UnsupportedMediaTypeError(hostd.InvalidArgumentError):
    """The body is of a type that is not read here."""


class MethodNotAllowedError(hostd.UnimplementedError):
    """There is such a path, but not with this method; `details["allow"]` has those that there are."""


_OF_CLASS: Mapping[type[hostd.HostError], int] = {
    hostd.MessageTooLargeError: 413,
    UnsupportedMediaTypeError: 415,
    MethodNotAllowedError: 405,
}


def form_of(accept: str) -> str:
    """Return the media type that an answer has for a client that accepts this; JSON unless msgpack is preferred."""
    wanted = {JSON: 0.0, MSGPACK: 0.0}
    for item in accept.lower().split(","):
        kind, *options = (part.strip() for part in item.split(";"))
        kind = MSGPACK if kind == _ALSO_MSGPACK else kind
        if kind in wanted:
            wanted[kind] = max(wanted[kind], _weight(options))
    return MSGPACK if wanted[MSGPACK] > wanted[JSON] else JSON


def _weight(options: list[str]) -> float:
    for option in options:
        if option.startswith("q="):
            try:
                return float(option[2:])
            except ValueError:
                return 0.0
    return 1.0


def answered(value: Any, form: str) -> Response:
    """Return the answer that has a value, records included, in a form."""
    return _response(_plain(value), form, 200)


def failed(error: hostd.HostError, form: str) -> Response:
    """Return the answer that says an error."""
    status, body = failure_of(error)
    response = _response(body, form, status)
    if isinstance(error, MethodNotAllowedError):
        response.headers["Allow"] = ", ".join(error.details["allow"])
    return response


def failure_of(error: hostd.HostError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status of an error, and its body."""
    status = next((_OF_CLASS[kind] for kind in type(error).__mro__ if kind in _OF_CLASS), None)
    body = {
        "error": error.message,
        "status": error.status.name,
        "kind": type(error).__name__,
        "details": error.details,
    }
    return status or _HTTP_STATUS.get(error.status, 500), body


def _response(value: Any, form: str, status: int) -> Response:
    content = to_msgpack(value) if form == MSGPACK else to_json(value)
    return Response(content, status, HEADERS, media_type=form)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return value
