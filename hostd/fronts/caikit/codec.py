"""Values that cross between the serving process and a worker, as values that the host's wire carries.

    None, bool, int, float, str, bytes     as they are
    a data object of caikit's              ["object", its protobuf name, its protobuf bytes, its fields that are None]
    list, tuple, dict                      ["list", items], ["tuple", items], ["dict", [[key, value], ...]]
    an enum                                its value
    a request's context                    ["context", what `context` keeps of it]
    a stream                               ["stream", whether it is a DataStream, the key under which its end is kept]
    arrays, dates                          ["plain", the value]

Protobuf has no None for a text, a number or a list, but caikit's JSON has: so the names of such fields come along.
Nothing is pickled, and no name that arrives is imported: a data object's class must be registered on both sides.

Covers values. Does not cover exceptions (`raised`) or how the items of a stream travel (`proxy`, `worker`).
"""

from __future__ import annotations

import datetime as dt
import enum
import sys
from collections.abc import Callable, Iterator
from typing import Any

from caikit.core.data_model import DataBase, DataStream

from hostd.fronts.caikit import context

Keep = Callable[[Any], str]
"""Keeps a stream whose items will be asked for, and returns the key under which they are."""

Find = Callable[[str, bool], Any]
"""Returns the stream whose items are kept under a key; a DataStream, or an iterator."""

_AS_THEY_ARE = (type(None), bool, int, float, str, bytes)


def encode(value: Any, keep: Keep) -> Any:
    """Return a value as the wire carries it. Raises TypeError, naming the type, for what cannot cross."""
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, enum.Enum):
        return encode(value.value, keep)
    match value:
        case DataBase():
            coded = ["object", value.full_name, value.to_binary_buffer(), _absent(value)]
        case dict():
            coded = ["dict", [[encode(key, keep), encode(item, keep)] for key, item in value.items()]]
        case list() | tuple():
            coded = ["tuple" if isinstance(value, tuple) else "list", [encode(item, keep) for item in value]]
        case DataStream() | Iterator():
            coded = ["stream", isinstance(value, DataStream), keep(value)]
        case _ if (kept := context.kept_of(value)) is not None:
            coded = ["context", kept]
        case _ if isinstance(value, (dt.datetime, bytearray, memoryview, *_AS_THEY_ARE)) or _is_array(value):
            coded = ["plain", value]
        case _:
            raise TypeError(
                f"a {type(value).__module__}.{type(value).__qualname__} cannot cross between caikit and a model's "
                "process: data objects of caikit's, plain values, lists, maps and streams of them can"
            )
    return coded


def decode(value: Any, find: Find) -> Any:
    """Return the value that was encoded. Raises ValueError for a data object whose class is not registered here."""
    if type(value) is not list:
        return value
    match value:
        case ["object", name, data, absent]:
            decoded = _without(DataBase.get_class_for_name(name).from_binary_buffer(bytes(data)), absent)
        case ["list" | "tuple" as kind, items]:
            decoded = (tuple if kind == "tuple" else list)(decode(item, find) for item in items)
        case ["dict", items]:
            decoded = {decode(key, find): decode(item, find) for key, item in items}
        case ["stream", is_data_stream, key]:
            decoded = find(key, is_data_stream)
        case ["context", kept]:
            decoded = context.again(kept)
        case ["plain", plain]:
            decoded = plain
        case _:
            raise ValueError(f"this is no value of this protocol: {value!r:.200}")
    return decoded


def plain(value: Any) -> Any:
    """Return a configuration as plain maps and lists; what is neither of these nor a plain value, as its text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    return value if type(value) in _AS_THEY_ARE else str(value)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic))


def _absent(thing: DataBase) -> dict[str, Any]:
    """Return, by name, the fields of a data object that are None (with None), or have such fields (with these)."""
    absent: dict[str, Any] = {}
    for field in thing.fields:
        value = getattr(thing, field)
        if value is None:
            absent[field] = None
        elif isinstance(value, DataBase):
            if inside := _absent(value):
                absent[field] = inside
        elif isinstance(value, list):
            inside = {
                str(at): found
                for at, item in enumerate(value)
                if isinstance(item, DataBase) and (found := _absent(item))
            }
            if inside:
                absent[field] = inside
    return absent


def _without(thing: DataBase, absent: dict[str, Any]) -> DataBase:
    for field, inside in absent.items():
        value = getattr(thing, field)
        if value is None:
            continue
        if inside is None:
            setattr(thing, field, None)
        elif isinstance(value, list):
            for at, found in inside.items():
                _without(value[int(at)], found)
        elif isinstance(value, DataBase):
            _without(value, inside)
    return thing
