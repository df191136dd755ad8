"""`model.yaml`: a model's own settings, beside its files.

Covers its keys, their types, and errors that say where it is wrong. Does not cover recognising models (`finders`). The
file comes from whoever made the model, so it is read with limits and never trusted to be sane.
"""

from __future__ import annotations

import keyword
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    model_validator,
)

from hostd.config.plain import check_plain, shown
from hostd.config.signature import MethodSignature, TensorSettings
from hostd.config.spec import ModelSpec
from hostd.config.types import IdleSeconds, Threads  # noqa: TC001 - pydantic reads the annotations
from hostd.config.values import MAX_THREADS
from hostd.hints import nearest, why_missing
from hostd.units import parse_size
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidatorFunctionWrapHandler
    from pydantic_core import ErrorDetails

MAX_BYTES = 64 << 10
"""Settings are a few lines. PyYAML takes up to 8 s for 1 MiB, measured, in which the whole host is slower."""

# PyYAML's constructors raise these, not YAMLError, for scalars such as 2024-99-99, !!int "" and !!bool x.
_YAML_BUGS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def read_settings(file: Path) -> ModelSpec:
    """Return what `file` says; `loader` is empty if it does not name one.

    Raises InvalidArgumentError with the line for bad YAML and with the key for a bad value, FailedPreconditionError if
    the file cannot be read.
    """
    content = _parse(file)
    if content is None:
        return ModelSpec("")
    known = _Settings.model_fields
    if not isinstance(content, dict):
        raise InvalidArgumentError(
            f"{file} must be a map with the keys {', '.join(known)}, got a {type(content).__name__}"
        )
    if unknown := [key for key in content if key not in known]:
        raise InvalidArgumentError(f"{file}: unknown key {unknown[0]!r}; {nearest(str(unknown[0]), known)}")
    given = {key: value for key, value in content.items() if value is not None}
    try:
        values = _Settings.model_validate(given, context=file).model_dump(by_alias=True, exclude_unset=True)
    except ValidationError as error:
        raise InvalidArgumentError(f"{file}: {_told(error.errors()[0])}") from None
    if initializer := values.pop("initializer", None):
        values |= {"initializer": initializer["type"], "initializer_config": initializer.get("config") or {}}
    options = [f"options.{name}" for name in values.get("options", ())]
    return ModelSpec(**{"loader": "", **values}, origins=dict.fromkeys([*given, *options], str(file)))


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


def _told(found: ErrorDetails) -> str:
    name = ".".join(str(part) for part in found["loc"] if part != "[key]")
    match found["type"]:
        case "value_error":  # one of the below, or a part that is not plain: the text continues the name
            return f"{name}{found['ctx']['error']}"
        case "dict_type":
            return f"{name} must be a map, got {shown(found['input'])}"
        case "extra_forbidden":
            return f"{name} is unknown; {nearest(str(found['loc'][-1]), _keys_at(found['loc']))}"
        case _:
            return f"{name}: {found['msg']}, got {shown(found['input'])}"


def _keys_at(place: tuple[int | str, ...]) -> Iterable[str]:
    match place:
        case ("signature", _, _):
            return MethodSignature.model_fields
        case ("signature", *_):
            return TensorSettings.model_fields
        case _:
            return _Initializer.model_fields


def _must_be(expected: str) -> WrapValidator:
    """Return what says of a wrong value which one was expected."""

    def check(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except (ValueError, OverflowError):
            raise ValueError(f" must be {expected}, got {shown(value)}") from None

    return WrapValidator(check)


def _plain(value: dict[Any, Any]) -> dict[Any, Any]:
    check_plain(value, "")
    return value


def _interpreter(value: str, info: ValidationInfo[Path]) -> str:
    folder = info.context.parent
    # Joined and not resolved: a virtual environment's interpreter is a link, and works only under its own name.
    found = folder / Path(os.path.expanduser(value))  # noqa: PTH111 - that of Path raises without a home
    if not found.exists():
        why = f"there is nothing at {found}: {why_missing(str(found.absolute()))}"
    elif not found.is_file() or not os.access(found, os.X_OK):
        why = f"{found} is no program that user id {os.geteuid()} may run"
    else:
        return str(found)
    raise ValueError(f": {value} is no Python interpreter: {why}. A relative path begins at {folder}")


def _names(value: object) -> tuple[object, ...]:
    if isinstance(value, dict):
        if settings := [name for name, given in value.items() if given]:
            raise ValueError(f".{settings[0]} must be empty: a method has no settings yet")
        value = list(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f" must be a list of method names, or a map with them as keys, got {shown(value)}")
    return tuple(value)


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError(" must be a list of different names")
    return names


def _public(name: str) -> str:
    # A leading underscore is private to the model, except for the one that makes it callable.
    if name != "__call__" and (name.startswith("_") or not name.isidentifier() or keyword.iskeyword(name)):
        raise ValueError
    return name


_Reference = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?$")]
_Options = Annotated[dict[Any, Any], AfterValidator(_plain)]
_Method = Annotated[str, AfterValidator(_public), _must_be("the name of a public method")]
_Variable = Annotated[str, Field(pattern=r"^[^=\x00]+$"), _must_be("named as a variable may be")]
_Text = Annotated[
    str,
    # An integer reads the same in YAML and in a shell; true, 1.10 and null do not.
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    Field(pattern=r"^[^\x00]*$"),
    _must_be("text (put it in quotes) without null characters"),
]
_Size = Annotated[
    int,
    Field(gt=0, le=2**63 - 1),
    BeforeValidator(parse_size),
    _must_be("bytes or a size with a unit, such as 400MB or 2GiB"),
]
_Python = Annotated[
    str, Field(min_length=1), _must_be("the path of a Python interpreter"), AfterValidator(_interpreter)
]


class _Initializer(BaseModel, extra="forbid", strict=True, defer_build=True):
    type: Annotated[_Reference, _must_be("an initializer's name or package.module:attribute")] = Field(
        "", validate_default=True
    )
    config: _Options | None = None


_Named = BeforeValidator(lambda value: value if isinstance(value, dict) else {"type": value})


class _Settings(BaseModel, strict=True, defer_build=True):
    """The keys of the file, each with its type; built when the first file is read, because that takes milliseconds."""

    loader: Annotated[_Reference, _must_be("a loader's name or package.module:attribute")] = ""
    initializer: Annotated[_Initializer, _Named] | None = None
    options: _Options = {}
    python: _Python | None = None
    env: dict[_Variable, _Text] = {}
    methods: Annotated[tuple[_Method, ...], BeforeValidator(_names), AfterValidator(_different)] | None = None
    default_method: _Method | None = None
    size: _Size | None = Field(None, serialization_alias="size_bytes")
    memory_limit: _Size | None = Field(None, serialization_alias="memory_limit_bytes")
    evictable: Annotated[bool, _must_be("true or false")] = True
    idle_ttl_s: Annotated[IdleSeconds, _must_be("seconds, 0 for never")] | None = None
    cpu_threads: Annotated[Threads, _must_be(f"a number of threads from 1 to {MAX_THREADS}")] | None = None
    isolation: Annotated[Literal["shared", "fresh"], _must_be("shared or fresh")] = "shared"
    signature: dict[_Method, MethodSignature] = {}

    @model_validator(mode="after")
    def _default_is_a_method(self) -> _Settings:
        if self.methods and self.default_method and self.default_method not in self.methods:
            raise ValueError(
                f"default_method {self.default_method!r} is not one of methods ({', '.join(self.methods)})"
            )
        return self
