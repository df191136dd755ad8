"""`model.yaml`: a model's own settings, beside its files.

Covers its keys, their types, and errors that say where it is wrong. Does not cover recognising models (`finders`). The
file comes from whoever made the model, so it is read with limits and never trusted to be sane.
"""

from __future__ import annotations

import keyword
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from hostd.naming import nearest
from workers.wire.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "model.yaml"
MAX_BYTES = 64 << 10
"""Settings are a few lines. PyYAML takes up to 8 s for 1 MiB, measured, in which the whole host is slower."""
MAX_DEPTH = 32
"""Of `options`; half of what a message to a worker may have."""

# PyYAML's constructors raise these, not YAMLError, for scalars such as 2024-99-99, !!int "" and !!bool x.
_YAML_BUGS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class ModelSpec:
    """What a worker has to load, and how: the answer of every finder.

    `loader` is a built-in's name or `package.module:attribute`; `options` are its keywords. `python` is the interpreter
    of the worker (absolute; None: the host's own), `env` is added to its environment. `methods` and `default_method`
    say what to serve; None leaves it to the loader.
    """

    loader: str
    options: dict[str, Any] = field(default_factory=dict)
    python: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] | None = None
    default_method: str | None = None


def read_settings(file: Path) -> ModelSpec:
    """Return what `file` says; `loader` is empty if it does not name one.

    Raises InvalidArgumentError with the line for bad YAML and with the key for a bad value, FailedPreconditionError if
    the file cannot be read.
    """
    settings = _parse(file)
    if settings is None:
        return ModelSpec("")
    if not isinstance(settings, dict):
        raise InvalidArgumentError(f"{file} must be a map with the keys {', '.join(_KEYS)}, got {_shown(settings)}")
    values = {}
    for key, value in settings.items():
        if key not in _KEYS:
            raise InvalidArgumentError(f"{file}: unknown key {key!r}; {nearest(str(key), _KEYS)}")
        if value is not None:
            values[key] = _KEYS[key](_Place(file, key), value)
    methods, default = values.get("methods"), values.get("default_method")
    if methods is not None and default is not None and default not in methods:
        raise InvalidArgumentError(f"{file}: default_method {default!r} is not one of methods ({', '.join(methods)})")
    return ModelSpec(**{"loader": "", **values})


def _parse(file: Path) -> object:
    content = _read(file)
    try:
        return yaml.load(content, _Loader)  # noqa: S506 - a SafeLoader that accepts less
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise InvalidArgumentError(
            f"{file}{line}: {words}", details={"line": mark.line + 1 if mark else None}
        ) from None
    except yaml.reader.ReaderError as error:
        before = content[: error.position] if isinstance(error.position, int) else b""
        line_number = before.count(b"\n") + 1
        raise InvalidArgumentError(
            f"{file} line {line_number}: {error.reason}", details={"line": line_number}
        ) from None
    except _YAML_BUGS as error:
        raise InvalidArgumentError(
            f"{file} has a value that is not valid YAML: {type(error).__name__}: {error}"
        ) from None


class _Loader(yaml.SafeLoader):
    """Refuses aliases, with which a small file stands for an endless value, and keys given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call] # not in the stubs
            raise yaml.MarkedYAMLError(problem="aliases are not read here", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(file: Path) -> bytes:
    try:
        # Not blocking, because opening a FIFO waits for somebody to write.
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FailedPreconditionError(f"cannot read {file}: {error.strerror}") from error
    with open(handle, "rb") as stream:  # noqa: PTH123 - from a descriptor
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InvalidArgumentError(f"{file} must be a regular file")
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InvalidArgumentError(f"{file} is larger than {MAX_BYTES} bytes: that is no settings file")
    return content


@dataclass(frozen=True)
class _Place:
    """A key of a file, for errors."""

    file: Path
    key: str

    def wrong(self, expected: str, got: object) -> NoReturn:
        raise InvalidArgumentError(f"{self.file}: {self.key} must be {expected}, got {_shown(got)}")

    def of(self, name: object) -> _Place:
        return _Place(self.file, f"{self.key}.{name}")


def _shown(value: object) -> str:
    # No container: it can be as long as the file.
    if isinstance(value, (str, int, float)):
        text = repr(value)
        return f"{text if len(text) < 80 else text[:77] + '...'} ({type(value).__name__})"
    return f"a {type(value).__name__}"


def _loader(place: _Place, value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?", value):
        place.wrong("a loader's name or package.module:attribute", value)
    return value


def _options(place: _Place, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        place.wrong("a map of options", value)
    _check_plain(place, value, MAX_DEPTH)
    return value


def _check_plain(place: _Place, value: object, depth: int) -> None:
    if depth == 0:
        raise InvalidArgumentError(f"{place.file}: {place.key} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise InvalidArgumentError(f"{place.file}: {place.key} has the name {_shown(name)}: put it in quotes")
            _check_plain(place.of(name), item, depth - 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(place.of(index), item, depth - 1)
    elif value is not None and not isinstance(value, (str, int, float)):
        place.wrong("text, a number, true, false, null, a list or a map (a date goes in quotes)", value)
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        place.wrong("a number of at most 64 bits; write it as text", value)
    elif isinstance(value, str) and not value.isascii() and value != value.encode(errors="replace").decode():
        place.wrong("valid Unicode, which a lone surrogate is not", value)


def _python(place: _Place, value: object) -> str:
    if not isinstance(value, str) or not value:
        place.wrong("the path of a Python interpreter", value)
    # Joined and not resolved: a virtual environment's interpreter is a link, and works only under its own name.
    found = place.file.parent / Path(value).expanduser()
    if not found.is_file() or not os.access(found, os.X_OK):
        place.wrong(
            f"a Python interpreter, relative to {place.file.parent} or absolute, such as venv/bin/python", value
        )
    return str(found)


def _env(place: _Place, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        place.wrong("a map of environment variables", value)
    return {_variable(place, name): _text(place.of(name), text) for name, text in value.items()}


def _variable(place: _Place, name: object) -> str:
    if not isinstance(name, str) or not name or "=" in name or "\0" in name:
        raise InvalidArgumentError(f"{place.file}: {place.key} has {_shown(name)}, which is no variable's name")
    return name


def _text(place: _Place, value: object) -> str:
    # An integer reads the same in YAML and in a shell; true, 1.10 and null do not.
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        place.wrong("text (put it in quotes)", value)
    if "\0" in str(value):
        place.wrong("text without null characters", value)
    return str(value)


def _methods(place: _Place, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, dict)) or not value:
        place.wrong("a list of method names, or a map with them as keys", value)
    if isinstance(value, dict):
        for name, settings in value.items():
            if settings:
                place.of(name).wrong("empty: a method has no settings yet", settings)
    names = tuple(_method(place, name) for name in value)
    if len(set(names)) < len(names):
        place.wrong("a list of different names", value)
    return names


def _method(place: _Place, value: object) -> str:
    # A leading underscore is private to the model, except for the one that makes it callable.
    is_public = isinstance(value, str) and (not value.startswith("_") or value == "__call__")
    if not isinstance(value, str) or not is_public or not value.isidentifier() or keyword.iskeyword(value):
        place.wrong("made of names of public methods", value)
    return value


_KEYS: dict[str, Callable[[_Place, object], Any]] = {
    "loader": _loader,
    "options": _options,
    "python": _python,
    "env": _env,
    "methods": _methods,
    "default_method": _method,
}
