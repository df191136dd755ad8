"""Dataclasses and named tuples that cost little before they are used: a process uses few of those that it imports.

They are the standard library's in all else. `dataclasses` compiles up to six methods of each class, here it does so
when one of them is first looked up; `typing` compiles the annotation of each field of a named tuple, which is left out
here. Together that was a third of a supervisor's imports. A dataclass must have a docstring, and may have neither
`__post_init__` nor slots.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - for those that import it from here
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414 - as above
else:
    from collections import namedtuple

    def dataclass(cls: type | None = None, /, *, frozen: bool = False, eq: bool = True) -> Any:
        """Make a dataclass, as `dataclasses.dataclass` does."""
        if cls is None:
            return lambda cls: dataclass(cls, frozen=frozen, eq=eq)
        dataclasses.dataclass(init=False, repr=False, eq=False)(cls)  # takes note of the fields, in 0.04 ms
        wanted = ["__init__", "__repr__", *(["__eq__"] if eq else []), *(["__hash__"] if eq and frozen else [])]
        names = [name for name in wanted if name not in vars(cls)]  # the others are the class's own
        for name in names:
            setattr(cls, name, _Method(cls, name, names, frozen=frozen, eq=eq))
        if frozen:
            cls.__setattr__, cls.__delattr__ = _refuse_to_set, _refuse_to_delete
        elif eq:
            cls.__hash__ = None
        return cls

    class _OfNamedTuples(type):
        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            fields = namespace.get("__annotations__", {})
            defaults = [namespace[field] for field in fields if field in namespace]
            made = namedtuple(name, fields, defaults=defaults, module=namespace["__module__"])
            for key, value in namespace.items():
                if key not in fields:
                    setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_OfNamedTuples):
        """The base of named tuples, as `typing.NamedTuple` is."""


class _Method:
    """Stands for the methods of a dataclass until one is looked up; made twice, by two threads, they are the same."""

    def __init__(self, cls: type, name: str, names: list[str], **options: bool) -> None:
        self._cls, self._name, self._names, self._options = cls, name, names, options

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]:
        cls, fields = self._cls, dataclasses.fields(self._cls)
        namespace: dict[str, Any] = {field.name: field for field in fields}
        namespace["__annotations__"] = {field.name: field.type for field in fields}
        namespace |= {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        alike: type = dataclasses.dataclass(**self._options)(type(cls.__name__, (), namespace))
        for name in self._names:
            setattr(cls, name, vars(alike)[name])
        made: Callable[..., Any] = vars(alike)[self._name].__get__(instance, owner)
        return made


def _refuse_to_set(_self: object, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
