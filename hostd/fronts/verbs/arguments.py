"""The arguments of a request, checked by the parameters of its route.

Every refusal is an `InvalidArgumentError` that says which parameter, what was got and what was expected. A name that
the route does not have is refused with the nearest one that it has: a misspelt option must not be left out in silence.
"""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import orjson

import hostd
from hostd.fronts.verbs.route import NEEDED, Parameter, Place, Route, variable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "a map"}
_INTEGER = re.compile(r"-?\d{1,18}")
_BROKEN_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_WORDS = {"true": True, "1": True, "false": False, "0": False}


def of_path(route: Route, segments: Iterable[bytes]) -> dict[str, Any]:
    """Return the variable segments of a path, decoded; what is encoded in a segment, a slash too, is part of it.

    Refused are a percent sign that encodes nothing, and what is not UTF-8.
    """
    found = {}
    for known, segment in zip(route.segments, segments, strict=True):
        name = variable(known)
        if name is not None:
            found[name] = _decoded(name, segment)
    return found


def _decoded(name: str, segment: bytes) -> str:
    got, wanted = segment.decode("ascii", "backslashreplace"), "UTF-8, percent-encoded"
    if _BROKEN_PERCENT.search(segment):
        raise _wrong(name, Place.PATH, got, wanted)
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise _wrong(name, Place.PATH, got, wanted) from None


def of_query(route: Route, items: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the parameters in a query, read as what they are."""
    known = {parameter.name: parameter for parameter in route.parameters if parameter.place is Place.QUERY}
    found: dict[str, Any] = {}
    for name, text in items:
        if name in found:
            raise _wrong(name, Place.QUERY, f"{found[name]!r} and {text!r}", "one value")
        found[name] = _read(known[name], text) if name in known else text
    return _checked(route, Place.QUERY, found)


def of_body(route: Route, body: Any) -> dict[str, Any]:
    """Return the parameters in a body; None is one without any."""
    if body is not None and not isinstance(body, dict):
        raise hostd.InvalidArgumentError(
            f"the body must be a map of names to values, got {_named(body)}",
            details={"parameter": "body", "got": _named(body), "expected": "a map"},
        )
    return _checked(route, Place.BODY, body or {})


def _checked(route: Route, place: Place, given: Mapping[Any, Any]) -> dict[str, Any]:
    known = {parameter.name: parameter for parameter in route.parameters if parameter.place is place}
    for name in given:
        if name not in known:
            raise _unknown(name, place, list(known))
    return {name: _value(parameter, given) for name, parameter in known.items()}


def _value(parameter: Parameter, given: Mapping[str, Any]) -> Any:
    value = given.get(parameter.name)
    if value is None:
        if parameter.default is NEEDED:
            raise _wrong(parameter.name, parameter.place, "nothing", expected(parameter))
        return parameter.default
    if not _fits(parameter, value):
        raise _wrong(parameter.name, parameter.place, _shown(value), expected(parameter))
    return float(value) if parameter.kind is float else value


def _fits(parameter: Parameter, value: object) -> bool:
    kind, least = parameter.kind, parameter.least
    if kind in (int, float):
        # bool is an int for Python, but not for a client; JSON does not tell 1 from 1.0.
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            return False
        return math.isfinite(value) and (least is None or value >= least)
    if kind is dict:
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)
    return isinstance(value, kind)


def _read(parameter: Parameter, text: str) -> Any:
    """Return what the text of a query says, the text itself if that is not what it should be."""
    try:
        if parameter.kind is bool:
            return _WORDS.get(text.lower(), text)
        if parameter.kind is int:
            return int(text) if _INTEGER.fullmatch(text) else text
        if parameter.kind is float:
            return float(text)
        return orjson.loads(text) if parameter.kind in (dict, list) else text
    except ValueError:  # orjson's are, too
        return text


def expected(parameter: Parameter) -> str:
    """Return in words what a parameter must be."""
    least = "" if parameter.least is None else f", at least {parameter.least}"
    return f"{_NAMES[parameter.kind]}{least}"


def _named(value: object) -> str:
    return "nothing" if value is None else _NAMES.get(type(value), type(value).__name__)


def _shown(value: object) -> str:
    return reprlib.repr(value)


def _wrong(name: str, place: Place, got: str, expected: str) -> hostd.InvalidArgumentError:
    return hostd.InvalidArgumentError(
        f"{name!r} in the {place.value} must be {expected}, got {got}",
        details={"parameter": name, "place": place.value, "got": got, "expected": expected},
    )


def _unknown(name: object, place: Place, known: list[str]) -> hostd.InvalidArgumentError:
    shown = reprlib.repr(name)
    nearest = difflib.get_close_matches(str(name), known, 1, 0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are: {', '.join(known) or 'none'}"
    return hostd.InvalidArgumentError(
        f"there is no {shown} in the {place.value}; {hint}",
        details={"parameter": shown, "place": place.value, "got": shown, "expected": nearest[0] if nearest else known},
    )


def absolute(path: str) -> str:
    """Return a path on the host's machine. Raises `InvalidArgumentError` for one that is not whole."""
    # This front's directory, and the home of its user, are nothing that a client could mean.
    if not path.startswith("/"):
        raise _wrong("path", Place.BODY, _shown(path), "an absolute path on the host's machine")
    return path
