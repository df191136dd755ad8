"""What the built-in loaders share: finding a model's file, reading it, importing a library or a function, calling it.

Covers the ways in which these go wrong, each a typed error. Does not cover what a framework does with the file.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hostd_workers.wire.errors import FailedPreconditionError, HostError, InvalidArgumentError, NotFoundError
from hostd_workers.wire.installing import MissingDependencyError, install_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_REASON_CHARS = 1000
"""Of a library's message within ours: some quote the whole file."""


def import_library(name: str, extra: str) -> Any:
    """Return the module `name`; MissingDependencyError names it, or what it needs, and the `extra` to install."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(library=error.name or name, extra=extra) from error


def existing(path: str | None, *, needs: str) -> Path:
    """Return `path` as an absolute path; InvalidArgumentError if there is none, NotFoundError if nothing is there."""
    if not path:
        raise InvalidArgumentError(f"the model has no path; this loader needs {needs}")
    # Not resolved: in a cache of symbolic links the target's name says nothing about the model.
    found = Path(path).absolute()
    if not found.exists():
        raise NotFoundError(f"there is nothing at {path}; expected {needs}", details={"path": path})
    return found


def model_file(path: str | None, file: str | None, suffixes: Sequence[str]) -> Path:
    """Return the one file to load: `path` itself, `file` in the directory `path`, or the only one with a known suffix.

    Raises InvalidArgumentError if that is not exactly one file with one of `suffixes`, or is no model whatever loads it
    (`_flaws`), NotFoundError if nothing is there, FailedPreconditionError if this process may not read it.
    """
    wanted = " or ".join(f"*{suffix}" for suffix in suffixes)
    place = existing(path, needs=f"a file {wanted}, or a directory with one")
    if not place.is_dir():
        if file is not None:
            raise InvalidArgumentError(f"the option file={file!r} needs a directory, but {place} is a file")
        found = place
    elif file is not None:
        found = _named(place, file)
    else:
        found = _only(place, suffixes, wanted)
    if found.suffix.lower() not in suffixes:
        raise InvalidArgumentError(f"this loader reads {wanted}, not {found}")
    from hostd_workers.loaders._common.flaws import refuse_flawed  # noqa: PLC0415 - 6 ms that a model.py does not pay

    refuse_flawed(readable(found))
    return found


def readable(found: Path) -> Path:
    """Return a file. Raises FailedPreconditionError if this process may not read it."""
    if not os.access(found, os.R_OK):
        raise FailedPreconditionError(f"the worker may not read {found}; allow it for user id {os.geteuid()}")
    return found


def _named(directory: Path, file: object) -> Path:
    if not isinstance(file, str) or not file or ".." in PurePosixPath(file).parts or file.startswith("/"):
        raise InvalidArgumentError(f"the option file must name a file inside {directory}, got {file!r}")
    found = directory / file
    if not found.is_file():
        raise NotFoundError(f"there is no file {file} in {directory}", details={"path": str(found)})
    return found


def _only(directory: Path, suffixes: Sequence[str], wanted: str) -> Path:
    found = sorted(
        entry
        for entry in directory.iterdir()
        if entry.suffix.lower() in suffixes and not entry.name.startswith(".") and entry.is_file()
    )
    if not found:
        raise InvalidArgumentError(f"there is no {wanted} in {directory}")
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found)
        raise InvalidArgumentError(f"{directory} has more than one model file: {names}; name one with the option file")
    return found[0]


def read_model(found: Path, read: Callable[[Path], Any], extras: Mapping[str, str]) -> Any:
    """Return `read(found)`; `extras` names the extra of this package that brings each library a model file may need.

    Raises MissingDependencyError or FailedPreconditionError for a module that is not there, InvalidArgumentError for
    anything else that `read` raises: a damaged file raises whatever its bytes spell. Typed errors pass through.
    """
    try:
        return read(found)
    except (HostError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in extras:
            raise MissingDependencyError(library, extras[library]) from error
        raise FailedPreconditionError(
            f"{found} needs the Python module {error.name!r}, which {sys.executable} does not have: "
            f"{install_modules(library)}, or name an interpreter that has it with python: in model.yaml; if it is your "
            "own, write a model.py that brings it",
            details={"library": error.name},
        ) from error
    except Exception as error:  # the border with what the file holds
        raise InvalidArgumentError(f"{found} cannot be loaded: {type(error).__name__}: {first_lines(error)}") from error


def first_lines(error: BaseException) -> str:
    """Return what a library's error says, without the stack trace of its native part that some append."""
    return str(error).partition("\nStack trace:")[0][:MAX_REASON_CHARS]


def call_load(load: object, path: str | None, options: Mapping[str, Any], *, name: str) -> object:
    """Return `load(path, **options)`, as `call_plugin` does."""
    return call_plugin(load, path, options, name=name, shape="load(path, **options)")


def call_plugin(function: object, subject: object, keywords: Mapping[str, Any], *, name: str, shape: str) -> object:
    """Return `function(subject, **keywords)`; `name` says in errors which function that is, `shape` what it should be.

    Raises InvalidArgumentError if it is not callable, does not take these keywords, is a coroutine function or returns
    None. What it raises itself passes through untouched, a TypeError too.
    """
    if not callable(function):
        raise InvalidArgumentError(f"{name} must be a function {shape}, got {type(function).__name__}")
    if inspect.iscoroutinefunction(function):
        raise InvalidArgumentError(
            f"{name} is an async function; it must be a plain one, {shape} (the model's methods may be async)"
        )
    check_binding(function, (subject,), keywords, name=name)
    model = function(subject, **keywords)
    if model is None:
        raise InvalidArgumentError(f"{name} returned None; it must return the model object")
    return model


def check_binding(
    function: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any], *, name: str
) -> None:
    """Raise InvalidArgumentError, with the signature, if `function` cannot be called with these arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some functions written in C have no signature to check against
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidArgumentError(
            f"{name} has the signature {signature}: {error}",
            details={"signature": str(signature), "keywords": list(kwargs)},
        ) from None


def resolve(reference: str, default: str | None = None) -> object:
    """Return what `package.module:attribute` names; without an attribute, the module's `default`.

    Raises InvalidArgumentError if it is not written so, or if there is no such module or attribute. What the module
    raises while it is imported passes through untouched.
    """
    name, _, attribute = reference.partition(":")
    if not re.fullmatch(r"[^\W\d]\w*(\.\w+)*", name) or not re.fullmatch(r"\w+(\.\w+)*", attribute or default or ""):
        raise InvalidArgumentError(f"{reference!r} must look like 'package.module:function'")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the named module's own absence is the caller's mistake; one that it imports is the module's.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise InvalidArgumentError(
            f"there is no module {error.name!r} for {reference!r}; it must be installed in the worker's interpreter, "
            f"{sys.executable}, or lie in the model's directory; python: in the model.yaml names another interpreter"
        ) from None
    try:
        return functools.reduce(getattr, (attribute or default or "").split("."), module)
    except AttributeError as error:
        raise InvalidArgumentError(f"{reference!r} names nothing: {error}") from None
