"""The base of the public records: conversion to and from maps of plain values, fast.

What the records say is in `hostd.records`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping  # noqa: TC003 - `typing.get_type_hints` of a record needs them
from dataclasses import MISSING, fields
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from hostd_workers.wire.light_dataclass import dataclass

_ATOMS: Final = frozenset((str, int, float, bool, type(None)))

_R = TypeVar("_R", bound="Record")


class _Shape(NamedTuple):
    """What is the same for all records of a class: `blank` has all fields in order, None where there is no default.

    `made` are the fields that get a new default for each record, `omissible` the defaults that are nil, false, 0 or
    empty.
    """

    blank: dict[str, Any]
    required: frozenset[str]
    made: dict[str, Callable[[], Any]]
    omissible: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """The base of the records: conversion to and from maps of plain values.

    A host with 200 models lists them within milliseconds, so this does without what `dataclasses` does for each field
    of each record: `asdict` copies deeply, and a frozen class calls a method for every field.
    """

    _revived: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    """How fields that are tuples, or have records in them, are made of plain values."""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values, ready for JSON."""
        return {
            name: value if type(value) in _ATOMS else _converted(value, Record.to_dict)
            for name, value in vars(self).items()
        }

    def to_brief_dict(self) -> dict[str, Any]:
        """Return the record as plain values without what is nil, false, 0 or empty and is so by default.

        `from_dict` makes the same record.
        """
        omissible = _shape_of(type(self)).omissible
        return {
            name: value if type(value) in _ATOMS else _converted(value, Record.to_brief_dict)
            for name, value in vars(self).items()
            if value or name not in omissible or value != omissible[name]
        }

    @classmethod
    def from_dict(cls: type[_R], values: dict[str, Any]) -> _R:
        """Return the record of a map; keys that a newer host added are left out."""
        shape = _shape_of(cls)
        if not shape.required <= values.keys():
            return cls(
                **{name: value for name, value in values.items() if name in shape.blank}
            )  # it says what is missing
        known = {**shape.blank, **values}
        if len(known) > len(shape.blank):
            known = {name: known[name] for name in shape.blank}
        for name, revive in cls._revived.items():
            if name in values:
                known[name] = revive(known[name])
        for name, make in shape.made.items():
            if name not in values:
                known[name] = make()
        record = object.__new__(cls)
        object.__setattr__(record, "__dict__", known)
        return record


_shapes: dict[type, _Shape] = {}


def _shape_of(kind: type[Record]) -> _Shape:
    return _shapes.get(kind) or _shapes.setdefault(kind, _look_at(kind))


def _look_at(kind: type[Record]) -> _Shape:
    blank = {f.name: None if f.default is MISSING else f.default for f in fields(kind)}
    made = {f.name: f.default_factory for f in fields(kind) if f.default_factory is not MISSING}
    required = frozenset(f.name for f in fields(kind) if f.default is MISSING) - made.keys()
    defaults = {name: made[name]() if name in made else value for name, value in blank.items() if name not in required}
    omissible = {name: value for name, value in defaults.items() if not value}
    return _Shape(blank, required, made, omissible)


def _converted(value: Any, convert: Callable[[Record], dict[str, Any]]) -> Any:
    if isinstance(value, Record):
        return convert(value)
    if isinstance(value, tuple):
        return tuple(_converted(item, convert) for item in value)
    if isinstance(value, dict):
        return {key: _converted(item, convert) for key, item in value.items()}
    return value
