"""Named tuples and patterns that cost little before they are used: a process uses few of those that it imports.

They are as the standard library's in all else. That compiles a constructor for each named tuple, in 0.08 ms, and
`typing` the annotation of each field besides; here the constructor is compiled when it has been used a few times. A
module with a named tuple has its annotations as text (`from __future__ import annotations`). A `pattern`, 0.2 ms, is
compiled when it is first matched. What is light about dataclasses is in `light_dataclass`, because `dataclasses` takes
long to import.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FEW = 16
"""Uses of a constructor that take less together than to compile it."""


class StandIn:
    """Stands for what is compiled when it is used, or used often; made twice, by two threads, it is the same."""

    uses = 0

    def compiled(self, owner: type) -> Any:
        """Return it; a constructor takes the place of this in the class that `owner` has it from."""


def finish(names: Mapping[str, object]) -> None:
    """Compile what is left to be compiled in a module, for children that would do it each for itself."""
    for thing in [*names.values()]:
        for each in [thing, *vars(thing).values()] if isinstance(thing, type) else [thing]:
            if isinstance(each, StandIn):
                each.compiled(thing if isinstance(thing, type) else type(thing))


if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414 - for those that import it from here

    pattern = re.compile
else:
    from _collections import _tuplegetter

    class pattern(StandIn):  # noqa: N801 - stands for a function
        """A compiled regular expression, as `re.compile` returns it."""

        def __init__(self, text: str | bytes, flags: int = 0) -> None:
            self._text, self._flags = text, flags

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # what copies and pickles ask for, of one that has nothing yet
                raise AttributeError(name)
            found = getattr(self.compiled(type(self)), name)
            setattr(self, name, found)
            return found

        def compiled(self, owner: type) -> re.Pattern[Any]:  # noqa: ARG002 - it is in no class
            """Return the pattern."""
            return re.compile(self._text, self._flags)  # which remembers it

    class _OfNamedTuples(type):
        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace[field] for field in fields if field in namespace}
            members = {
                **namespace,
                **{field: _tuplegetter(place, None) for place, field in enumerate(fields)},
                "__slots__": (),
                "__match_args__": fields,
                "_fields": fields,
                "_field_defaults": defaults,
            }
            members.setdefault("__new__", _New())
            return type(name, (_Tuple,), members)

    class NamedTuple(metaclass=_OfNamedTuples):
        """The base of named tuples, as `typing.NamedTuple` is."""

    class _Tuple(tuple):
        """What named tuples have in common."""

        __slots__ = ()

        @classmethod
        def _make(cls, values: Any) -> Any:
            """Return one of these values."""
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
            return made

        def _replace(self, /, **values: Any) -> Any:
            """Return one that differs in these fields."""
            made = self._make(map(values.pop, self._fields, self))
            if values:
                raise ValueError(f"Got unexpected field names: {[*values]!r}")
            return made

        __replace__ = _replace  # of copy.replace, since Python 3.13

        def _asdict(self) -> dict[str, Any]:
            """Return the values by their fields."""
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self) -> str:
            values = ", ".join(f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({values})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)

    class _New(StandIn):
        def __get__(self, instance: object, owner: type) -> Any:
            self.uses += 1
            return _plain_new if self.uses <= FEW else self.compiled(owner)

        def compiled(self, owner: type) -> Any:
            for cls in owner.__mro__:
                if vars(cls).get("__new__") is self:
                    cls.__new__ = staticmethod(_constructor_of(cls))
            return owner.__new__

    def _plain_new(cls: Any, /, *values: Any, **named: Any) -> Any:
        fields = cls._fields
        if named or len(values) != len(fields):
            known = {**cls._field_defaults, **dict(zip(fields, values)), **named}  # noqa: B905 - see below
            is_right = len(values) <= len(fields) and named.keys().isdisjoint(fields[: len(values)])
            if not is_right or known.keys() != {*fields}:
                return _constructor_of(cls)(cls, *values, **named)  # raises what Python does
            values = map(known.__getitem__, fields)
        return tuple.__new__(cls, values)

    def _constructor_of(cls: Any) -> Any:
        parameters = ", ".join(("_cls", *cls._fields))
        known = {"_new": tuple.__new__, "__builtins__": {}, "__name__": f"namedtuple_{cls.__name__}"}
        made = eval(f"lambda {parameters}: _new(_cls, ({''.join(f'{field}, ' for field in cls._fields)}))", known)  # noqa: S307 - names
        made.__defaults__ = tuple(cls._field_defaults.values()) or None
        made.__name__, made.__qualname__, made.__module__ = "__new__", f"{cls.__name__}.__new__", cls.__module__
        return made
