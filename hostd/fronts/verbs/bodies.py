"""The body of a request, as what its type says.

A body must say its type, and one of those that are read here: a page of another origin can have a browser send text and
forms without asking first, but not these.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hostd.fronts.errors import UnsupportedMediaTypeError
from hostd.fronts.verbs import arguments
from hostd.fronts.verbs.bounds import media_type, whole
from hostd.fronts.verbs.route import JSON, MSGPACK, Asked, Body, Limits, Route
from hostd.fronts.verbs.uploads import received_files
from hostd.fronts.verbs.values import from_json, from_msgpack, with_arrays

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

_READERS = {JSON: from_json, MSGPACK: from_msgpack, "application/x-msgpack": from_msgpack}


@asynccontextmanager
async def with_body(route: Route, request: Request, asked: Asked, limits: Limits) -> AsyncIterator[Asked]:
    """Give a request with what is in its body; its files are there for the length of the block."""
    if route.body is Body.FILES:
        async with received_files(request, limits) as directory:
            yield replace(asked, files=directory)
    elif route.body is Body.NONE:
        yield asked
    else:
        most_bytes = limits.call_bytes if route.body is Body.CALL else limits.map_bytes
        data = await whole(request, most_bytes)
        given = arguments.of_body(route, _parsed(request, data) if data else None)
        if route.body is Body.CALL and media_type(request) != JSON:
            given = {name: _revived(value) for name, value in given.items()}
        yield replace(asked, arguments={**asked.arguments, **given})


def _revived(value: Any) -> Any:
    # One level down: a map of keyword arguments is no array, whatever their names are.
    if isinstance(value, dict):
        return {name: with_arrays(item) for name, item in value.items()}
    return with_arrays(value)


def _parsed(request: Request, data: bytes) -> Any:
    kind = media_type(request)
    if kind not in _READERS:
        raise UnsupportedMediaTypeError(
            f"the body must be {JSON} or {MSGPACK}, and say so in Content-Type, got {kind or 'no Content-Type'}",
            details={"parameter": "Content-Type", "got": kind, "expected": [JSON, MSGPACK]},
        )
    return _READERS[kind](data)
