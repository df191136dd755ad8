"""Answers: values and errors as HTTP has them, in the form that the client asks for.

Covers one whole answer; those that come bit by bit are in `streams`. Nothing may be stored on the way, and no page of
another origin may read it: there are no headers that would let it.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from hostd.fronts.errors import body_of, headers_of, http_status_of
from hostd.fronts.verbs.route import JSON, MSGPACK
from hostd.fronts.verbs.values import to_json, to_msgpack

if TYPE_CHECKING:
    from collections.abc import Mapping

    import hostd

HEADERS: Mapping[str, str] = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Of every answer."""

_ALSO_MSGPACK = "application/x-msgpack"


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
    response = _response(body_of(error), form, http_status_of(error))
    response.headers.update(headers_of(error))
    return response


def _response(value: Any, form: str, status: int) -> Response:
    content = to_msgpack(value) if form == MSGPACK else to_json(value)
    return Response(content, status, HEADERS, media_type=form)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value
