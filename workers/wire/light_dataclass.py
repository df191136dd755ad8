"""Dataclasses that cost little before they are used: a process uses few of those that it imports.

They are the standard library's in all else. `dataclasses` compiles up to six methods of each class, in 0.75 ms; here
only `__init__` is compiled, when it is looked up in the class, or has been used a few times. With the named tuples of
`light` that was a third of a supervisor's imports. A dataclass must have a docstring, and may have
neither `__post_init__`, slots nor a `__setattr__` of its own; every field is an argument.
"""

from __future__ import annotations

import dataclasses
import reprlib
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from hostd_workers.wire.light import FEW, StandIn

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - for those that import it from here
else:

    def dataclass(cls: type | None = None, /, *, frozen: bool = False, eq: bool = True) -> Any:
        """Make a dataclass, as `dataclasses.dataclass` does."""
        if cls is None:
            return lambda cls: dataclass(cls, frozen=frozen, eq=eq)
        dataclasses.dataclass(init=False, repr=False, eq=False)(cls)  # takes note of the fields, in 0.04 ms
        methods = {"__init__": _Init(cls, is_frozen=frozen), "__repr__": _repr(cls)}
        if eq:
            values_of = _values_of(cls)
            methods["__eq__"] = _eq(values_of)
            methods["__hash__"] = _hash(values_of) if frozen else None
        if frozen:
            methods |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete}
        own = vars(cls).copy()
        for name, method in methods.items():
            if name not in own:
                setattr(cls, name, method)
        return cls


class _Given:
    """Stands for an argument that was not given where each object gets a default of its own."""

    def __repr__(self) -> str:
        return "<factory>"


_OF_FACTORY = _Given()


class _Init(StandIn):
    def __init__(self, cls: type, *, is_frozen: bool) -> None:
        self._cls, self._is_frozen = cls, is_frozen

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        self.uses += 1
        if isinstance(instance, self._cls) and self.uses <= FEW:  # and not the class, in which `inspect` looks
            return partial(self._fill, instance)
        return self.compiled(self._cls).__get__(instance, owner)

    def _fill(self, instance: object, /, *values: Any, **named: Any) -> None:
        given = self._given(values, dict(named))
        if given is None:
            self.compiled(self._cls)(instance, *values, **named)  # raises what Python does
        else:
            vars(instance).update(given)

    def _given(self, values: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any] | None:
        """Return the value of each field; None if these arguments are not right."""
        given: dict[str, Any] = {}
        fields = dataclasses.fields(self._cls)
        for field, value in zip(fields, values):  # noqa: B905 - the others follow
            given[field.name] = value
        for field in fields[len(values) :]:
            value = named.pop(field.name, field.default)
            if value is dataclasses.MISSING:
                make: Any = field.default_factory
                if make is dataclasses.MISSING:
                    return None
                value = make()
            given[field.name] = value
        return None if named or len(values) > len(fields) else given

    def compiled(self, owner: type) -> Any:  # noqa: ARG002 - it is noted
        fields = dataclasses.fields(self._cls)
        known: dict[str, Any] = {"_set": object.__setattr__, "_OF_FACTORY": _OF_FACTORY}
        parameters, lines = [], []
        for name, default, factory in ((field.name, field.default, field.default_factory) for field in fields):
            known |= {f"_default_{name}": default, f"_make_{name}": factory}
            has_factory = factory is not dataclasses.MISSING
            is_optional = has_factory or default is not dataclasses.MISSING
            parameters.append(f"{name}={'_OF_FACTORY' if has_factory else f'_default_{name}'}" if is_optional else name)
            value = f"_make_{name}() if {name} is _OF_FACTORY else {name}" if has_factory else name
            lines.append(f" _set(self, {name!r}, {value})" if self._is_frozen else f" self.{name} = {value}")
        exec(f"def __init__(self, {', '.join(parameters)}):\n" + "\n".join(lines or [" pass"]), known)  # noqa: S102 - names
        made = known["__init__"]
        made.__annotations__ = {**{field.name: field.type for field in fields}, "return": None}
        made.__qualname__, made.__module__ = f"{self._cls.__qualname__}.__init__", self._cls.__module__
        self._cls.__init__ = made  # type: ignore[misc] # what this stands for
        return made


def _repr(cls: type) -> Callable[[Any], str]:
    names = [field.name for field in dataclasses.fields(cls) if field.repr]

    @reprlib.recursive_repr()
    def __repr__(self: object) -> str:  # noqa: N807 - it becomes one
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _values_of(cls: type) -> Callable[[Any], Any]:
    names = [field.name for field in dataclasses.fields(cls) if field.compare]
    return attrgetter(*names) if names else type


def _eq(values_of: Callable[[Any], Any]) -> Callable[[Any, object], Any]:
    def __eq__(self: object, other: object) -> Any:  # noqa: N807 - as above
        return values_of(self) == values_of(other) if type(self) is type(other) else NotImplemented

    return __eq__


def _hash(values_of: Callable[[Any], Any]) -> Callable[[Any], int]:
    def __hash__(self: object) -> int:  # noqa: N807 - as above
        return hash(values_of(self))

    return __hash__


def _refuse_to_set(_self: object, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
