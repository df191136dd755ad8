"""What the built-in loaders share: finding a model's file, importing a library or a named function, calling a `load`.

Covers the ways in which these go wrong before any model code runs, each a typed error. Does not cover what a framework
does with the file.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from workers.api import MissingDependencyError
from workers.wire.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


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

    Raises InvalidArgumentError if that is not exactly one file with one of `suffixes`, NotFoundError if nothing is
    there, FailedPreconditionError if this process may not read it.
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


def call_load(load: object, path: str | None, options: Mapping[str, Any], *, name: str) -> object:
    """Return `load(path, **options)`; `name` says in errors which `load` that is.

    Raises InvalidArgumentError if it is not callable, does not take these options, is a coroutine function or returns
    None. What it raises itself passes through untouched, a TypeError too.
    """
    if not callable(load):
        raise InvalidArgumentError(f"{name} must be a function load(path, **options), got {type(load).__name__}")
    if inspect.iscoroutinefunction(load):
        raise InvalidArgumentError(f"{name} is an async function; load must be a plain one (its methods may be async)")
    check_binding(load, (path,), options, name=name)
    model = load(path, **options)
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
            f"there is no module {error.name!r} for {reference!r}; it must be installed in the worker's interpreter or "
            "lie in the model's directory"
        ) from None
    try:
        return functools.reduce(getattr, (attribute or default or "").split("."), module)
    except AttributeError as error:
        raise InvalidArgumentError(f"{reference!r} names nothing: {error}") from None
