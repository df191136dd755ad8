"""What a call is made with: JSON, text, .npy files or standard input, turned into arguments.

Covers reading and the options for it, which `infer` and `bench` share. Nothing here unpickles: an .npy file of objects
is refused.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hostd.paths import expanded
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from types import ModuleType

    from hostd.records import ModelInfo

_F = TypeVar("_F", bound=Callable[..., Any])
_NPY_MAGIC = b"\x93NUMPY"  # https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None


def data_options(function: _F) -> _F:
    """Add the options `--method`, `--kwargs`, `--text`, `--array` and `--dtype`."""
    options = (
        click.option("--method", "-m", metavar="NAME", help="The method to call.  [default: the model's own]"),
        click.option("--kwargs", metavar="JSON", help="Arguments by name: a JSON object, or @FILE with one."),
        click.option("--text", is_flag=True, help="DATA is text, taken as it is."),
        click.option("--array", is_flag=True, help="Turn JSON lists into NumPy arrays."),
        click.option("--dtype", metavar="TYPE", help="The arrays' type, such as float32; implies --array."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def read_arguments(data: str | None, kwargs: str | None, *, text: bool, array: bool, dtype: str | None) -> Arguments:
    """Return the arguments that the options mean. Raises click.UsageError for what cannot be read."""
    convert = _to_arrays(dtype) if array or dtype else _unchanged
    args = () if data is None else (_read_text(data) if text else convert(_read(data)),)
    named = {} if kwargs is None else _read(kwargs)
    if not isinstance(named, dict):
        raise click.UsageError(f"--kwargs must be a JSON object of arguments by name, not {type(named).__name__}")
    return Arguments(args, {name: convert(value) for name, value in named.items()})


def choose_method(info: ModelInfo, method: str | None) -> str | None:
    """Return the method that a call without a name means; None leaves the choice to the model."""
    return method or info.default_method


def streams(info: ModelInfo, method: str | None) -> bool:
    """Say whether a method of the model yields items."""
    known = info.methods.get(method or "")
    return known is not None and known.streams


def _unchanged(value: Any) -> Any:
    return value


def _read_text(data: str) -> str:
    if data == "-":
        return sys.stdin.read()
    return _bytes_of(Path(data[1:])).decode("utf-8", "replace") if data.startswith("@") else data


def _read(data: str) -> Any:
    if data == "-":
        return _parse(sys.stdin.buffer.read(), "standard input")
    if data.startswith("@"):
        return _parse(_bytes_of(Path(data[1:])), data[1:])
    if data.endswith(".npy"):
        return _parse(_bytes_of(Path(data)), data)
    try:
        return json.loads(data)
    except ValueError as error:
        if Path(data).is_file():
            raise click.UsageError(f"{data!r} is a file; say @{data} to send what is in it") from None
        raise click.UsageError(
            f"DATA is not JSON ({error}); send text with --text, a file with @FILE, standard input with -"
        ) from None


def _bytes_of(file: Path) -> bytes:
    try:
        return expanded(file).read_bytes()
    except HostError as error:
        raise click.UsageError(error.message) from None
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}") from None


def _parse(content: bytes, name: str) -> Any:
    if content.startswith(_NPY_MAGIC):
        return _load_npy(content, name)
    try:
        return json.loads(content)
    except ValueError as error:  # UnicodeDecodeError is one too
        raise click.UsageError(f"{name} holds neither JSON nor a NumPy array: {error}") from None


def _load_npy(content: bytes, name: str) -> Any:
    try:
        return _numpy().load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise click.UsageError(f"{name} cannot be read as a NumPy array: {error}") from None


def _to_arrays(dtype: str | None) -> Callable[[Any], Any]:
    numpy = _numpy()
    try:
        wanted = None if dtype is None else numpy.dtype(dtype)
    except TypeError as error:
        raise click.UsageError(f"--dtype {dtype}: {error}") from None

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: convert(item) for name, item in value.items()}
        if not isinstance(value, list | numpy.ndarray):
            return value
        try:
            made = numpy.asarray(value, dtype=wanted)
        except ValueError as error:
            raise click.UsageError(f"the lists do not make an array: {error}") from None
        if made.dtype.hasobject:
            raise click.UsageError("the lists do not make an array of numbers or text")
        return made

    return convert


def _numpy() -> ModuleType:
    try:
        import numpy  # noqa: ICN001, PLC0415 - optional: JSON needs none
    except ImportError:
        from hostd_workers.wire.installing import pip_install  # noqa: PLC0415 - where something is missing only

        raise click.UsageError(f"arrays need NumPy here: {pip_install('numpy')}") from None
    return numpy
