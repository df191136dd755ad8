"""`model.yaml`: a model's own settings, beside its files.

Covers its keys, their types, and errors that say where it is wrong. Does not cover recognising models (`finders`). The
file comes from whoever made the model, so it is read with limits and never trusted to be sane.
"""

from __future__ import annotations

import keyword
import math
import os
import re
import stat
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from hostd.config.plain import check_plain, shown
from hostd.naming import nearest
from hostd.places import why_missing
from hostd.units import parse_size
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "model.yaml"
MAX_BYTES = 64 << 10
"""Settings are a few lines. PyYAML takes up to 8 s for 1 MiB, measured, in which the whole host is slower."""

MAX_THREADS = 4096
"""No machine has more cores; a larger number is a mistake."""

# PyYAML's constructors raise these, not YAMLError, for scalars such as 2024-99-99, !!int "" and !!bool x.
_YAML_BUGS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class ModelSpec:
    """What a worker has to load, and how: the answer of every finder.

    `loader` is a name or `package.module:attribute`; empty: the finder could not tell. `options` are its keywords.
    `python` is the interpreter of the worker (absolute; None: the host's own), `env` is added to its environment.
    `methods` and `default_method` say what to serve; None leaves it to the loader. `initializer` is written as `loader`
    is, None for none, and `initializer_config` are its keywords. `size_bytes` is what the model says that it takes.
    `memory_limit_bytes` is what it may take at most, `evictable` whether the host may unload it when it needs the
    memory, `idle_ttl_s` after how many seconds without a call it does, `cpu_threads` how many threads its libraries may
    use; None leaves it to the host's settings. `origins` may say in words where a setting was given, by its name in a
    `model.yaml` (an option as "options.NAME").
    """

    loader: str
    options: dict[str, Any] = field(default_factory=dict)
    python: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] | None = None
    default_method: str | None = None
    initializer: str | None = None
    initializer_config: dict[str, Any] = field(default_factory=dict)
    size_bytes: int | None = None
    memory_limit_bytes: int | None = None
    evictable: bool = True
    idle_ttl_s: float | None = None
    cpu_threads: int | None = None
    origins: dict[str, str] = field(default_factory=dict, compare=False, repr=False)


def read_settings(file: Path) -> ModelSpec:
    """Return what `file` says; `loader` is empty if it does not name one.

    Raises InvalidArgumentError with the line for bad YAML and with the key for a bad value, FailedPreconditionError if
    the file cannot be read.
    """
    settings = _parse(file)
    if settings is None:
        return ModelSpec("")
    if not isinstance(settings, dict):
        raise InvalidArgumentError(f"{file} must be a map with the keys {', '.join(_KEYS)}, got {shown(settings)}")
    values = {}
    for key, value in settings.items():
        if key not in _KEYS:
            raise InvalidArgumentError(f"{file}: unknown key {key!r}; {nearest(str(key), _KEYS)}")
        if value is not None:
            values.update(_KEYS[key](_Place(file, key), value))
    methods, default = values.get("methods"), values.get("default_method")
    if methods is not None and default is not None and default not in methods:
        raise InvalidArgumentError(f"{file}: default_method {default!r} is not one of methods ({', '.join(methods)})")
    options = [f"options.{name}" for name in values.get("options", ())]
    origins = dict.fromkeys([*(key for key, value in settings.items() if value is not None), *options], str(file))
    return ModelSpec(**{"loader": "", **values}, origins=origins)


def _parse(file: Path) -> object:
    content = _read(file)
    try:
        return yaml.load(content, _Loader)  # noqa: S506 - a SafeLoader that accepts less
    except yaml.YAMLError as error:
        line, column, words = described(error, content)
        raise InvalidArgumentError(f"{file} line {line}, column {column}: {words}", details={"line": line}) from None
    except _YAML_BUGS as error:
        raise InvalidArgumentError(
            f"{file} has a value that is not valid YAML: {type(error).__name__}: {error}"
        ) from None


def described(error: yaml.YAMLError, content: str | bytes) -> tuple[int, int, str]:
    """Return the line and the column, from 1, at which a text is not YAML, and why in one line."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        words = ", ".join(part for part in (error.context, error.problem) if part)
        return (mark.line + 1, mark.column + 1, words) if mark else (1, 1, words)
    # A character that YAML has not, or bytes that are not UTF-8: the reader alone knows a position, and no mark.
    before = content[: getattr(error, "position", 0)]
    lines = (before if isinstance(before, str) else before.decode("utf-8", "replace")).split("\n")
    return len(lines), len(lines[-1]) + 1, str(getattr(error, "reason", error))


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
        raise InvalidArgumentError(f"{self.file}: {self.key} must be {expected}, got {shown(got)}")

    def of(self, name: object) -> _Place:
        return _Place(self.file, f"{self.key}.{name}")


def _plugin(what: str, place: _Place, value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?", value):
        place.wrong(f"{what}'s name or package.module:attribute", value)
    return value


def _initializer(place: _Place, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"initializer": _plugin("an initializer", place, value)}
    if extra := [name for name in value if name not in ("type", "config")]:
        raise InvalidArgumentError(f"{place.file}: {place.key} has {shown(extra[0])}; it takes type and config")
    named = _plugin("an initializer", place.of("type"), value.get("type"))
    config = value.get("config")
    return {"initializer": named, "initializer_config": {} if config is None else _options(place.of("config"), config)}


def _size(place: _Place, value: object) -> int:
    try:
        size_bytes = parse_size(value)
    except (ValueError, OverflowError):
        size_bytes = 0
    if not 0 < size_bytes < 2**63:
        place.wrong("bytes or a size with a unit, such as 400MB or 2GiB", value)
    return size_bytes


def _flag(place: _Place, value: object) -> bool:
    if not isinstance(value, bool):
        place.wrong("true or false", value)
    return value


def _seconds(place: _Place, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        place.wrong("seconds, 0 for never", value)
    return float(value)


def _threads(place: _Place, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_THREADS:
        place.wrong(f"a number of threads from 1 to {MAX_THREADS}", value)
    return value


def _options(place: _Place, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        place.wrong("a map of options", value)
    try:
        check_plain(value, place.key)
    except ValueError as error:
        raise InvalidArgumentError(f"{place.file}: {error}") from None
    return value


def _python(place: _Place, value: object) -> str:
    if not isinstance(value, str) or not value:
        place.wrong("the path of a Python interpreter", value)
    # Joined and not resolved: a virtual environment's interpreter is a link, and works only under its own name.
    found = place.file.parent / Path(os.path.expanduser(value))  # noqa: PTH111 - that of Path raises without a home
    if not found.exists():
        _no_interpreter(place, value, f"there is nothing at {found}: {why_missing(str(found.absolute()))}")
    if not found.is_file() or not os.access(found, os.X_OK):
        _no_interpreter(place, value, f"{found} is no program that user id {os.geteuid()} may run")
    return str(found)


def _no_interpreter(place: _Place, value: str, why: str) -> NoReturn:
    raise InvalidArgumentError(
        f"{place.file}: {place.key}: {value} is no Python interpreter: {why}. A relative path begins at "
        f"{place.file.parent}"
    )


def _env(place: _Place, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        place.wrong("a map of environment variables", value)
    return {_variable(place, name): _text(place.of(name), text) for name, text in value.items()}


def _variable(place: _Place, name: object) -> str:
    if not isinstance(name, str) or not name or "=" in name or "\0" in name:
        raise InvalidArgumentError(f"{place.file}: {place.key} has {shown(name)}, which is no variable's name")
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


def _one(field_name: str, check: Callable[[_Place, object], Any]) -> Callable[[_Place, object], dict[str, Any]]:
    """Return the reader of a key that sets one field."""
    return lambda place, value: {field_name: check(place, value)}


_KEYS: dict[str, Callable[[_Place, object], dict[str, Any]]] = {
    "loader": _one("loader", partial(_plugin, "a loader")),
    "initializer": _initializer,
    "options": _one("options", _options),
    "python": _one("python", _python),
    "env": _one("env", _env),
    "methods": _one("methods", _methods),
    "default_method": _one("default_method", _method),
    "size": _one("size_bytes", _size),
    "memory_limit": _one("memory_limit_bytes", _size),
    "evictable": _one("evictable", _flag),
    "idle_ttl_s": _one("idle_ttl_s", _seconds),
    "cpu_threads": _one("cpu_threads", _threads),
}
