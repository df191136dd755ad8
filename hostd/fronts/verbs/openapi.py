"""The OpenAPI 3.1 document, made from a table of routes and the types of their answers.

The schemas are those that pydantic makes of the records; https://spec.openapis.org/oas/v3.1.0 has the rest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

import hostd
from hostd.fronts.verbs.route import (
    EVENTS,
    FORM,
    HTML,
    JSON,
    MSGPACK,
    TAR,
    TEXT,
    Body,
    Parameter,
    Place,
    Route,
    variable,
)
from hostd.fronts.verbs.shapes import Failure

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}

_INTRODUCTION = """What a model host does, over HTTP.

A segment of a path is percent-encoded UTF-8; a slash in a model's id is written `%2F`. Instants end in `_s` and are
seconds since the epoch, sizes are bytes. `Accept: application/msgpack` gives msgpack; bodies may be msgpack, too."""

_FORM_SCHEMA = {
    "type": "object",
    "description": "The filename of each part is the relative path of the file in the model.",
    "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
}


@lru_cache(maxsize=4)
def document(routes: tuple[Route, ...]) -> dict[str, Any]:
    """Return the document of a table."""
    answers, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, answers)
    return {
        "openapi": "3.1.0",
        "info": {"title": "hostd", "version": hostd.__version__, "description": _INTRODUCTION},
        "paths": paths,
        "components": {"schemas": components},
    }


def _schemas(routes: tuple[Route, ...]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return the schema of each type of an answer, and those that they refer to."""
    types = dict.fromkeys([*(route.answer for route in routes), Failure])
    inputs = [(kind, "serialization", TypeAdapter[Any](kind)) for kind in types]
    found, rest = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    return {kind: schema for (kind, _), schema in found.items()}, dict(rest.get("$defs", {}))


def _operation(route: Route, answers: dict[Any, Any]) -> dict[str, Any]:
    failure = {form: {"schema": answers[Failure]} for form in (JSON, MSGPACK)}
    operation = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"{route.text}\n\nNeeds the role `{route.role.name.lower()}`.".strip(),
        "tags": [route.segments[1].partition(".")[0]],
        "parameters": [*map(_variable, filter(None, map(variable, route.segments)))]
        + [_parameter(parameter) for parameter in route.parameters if parameter.place is Place.QUERY],
        "responses": {
            "200": {"description": "It is done.", "content": _contents(route, answers[route.answer])},
            "default": {"description": "It failed; `details` says more.", "content": failure},
        },
    }
    body = _body(route)
    return operation if body is None else {**operation, "requestBody": body}


def _contents(route: Route, schema: dict[str, Any]) -> dict[str, Any]:
    as_text = {"schema": {"type": "string"}}
    return {form: as_text if form in (TEXT, HTML, EVENTS) else {"schema": schema} for form in route.forms}


def _variable(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = _schema_of(parameter)
    about = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.text,
        "required": parameter.is_needed,
    }
    # A map or a list in a query is JSON there.
    return {
        **about,
        **({"content": {JSON: {"schema": schema}}} if parameter.kind in (dict, list) else {"schema": schema}),
    }


def _schema_of(parameter: Parameter) -> dict[str, Any]:
    kind: Any = _TYPES[parameter.kind]
    schema: dict[str, Any] = {"type": [kind, "null"] if parameter.default is None else kind}
    if parameter.kind is list:
        schema["items"] = {}
    if parameter.least is not None:
        schema["minimum"] = parameter.least
    if not parameter.is_needed:
        schema["default"] = parameter.default
    return schema


def _body(route: Route) -> dict[str, Any] | None:
    if route.body is Body.NONE:
        return None
    if route.body is Body.FILES:
        tar = {"schema": {"type": "string", "contentMediaType": TAR}}
        return {"required": True, "content": {FORM: {"schema": _FORM_SCHEMA}, TAR: tar}}
    parameters = [parameter for parameter in route.parameters if parameter.place is Place.BODY]
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            parameter.name: {**_schema_of(parameter), "description": parameter.text} for parameter in parameters
        },
    }
    needed = [parameter.name for parameter in parameters if parameter.is_needed]
    if needed:
        schema["required"] = needed
    return {"required": bool(needed), "content": {form: {"schema": schema} for form in (JSON, MSGPACK)}}
