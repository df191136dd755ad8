"""What the model's code raised, as the typed error that its caller gets."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import HostError, InvalidArgumentError, ModelError, sayable
from hostd_workers.wire.installing import install_modules

if TYPE_CHECKING:
    from types import TracebackType

    from hostd_workers.methods import Method

_OURS = os.path.join(os.path.dirname(__file__), "")  # noqa: PTH118, PTH120 - compared with names of files, as text
"""The directory of this package; its frames are of no interest to the author of a model."""


def error_of(
    error: BaseException,
    method: Method | None = None,
    args: list[Any] | None = None,
    kwargs: dict[str, Any] | None = None,
) -> HostError:
    """Return the typed error for what the model's code raised, with its own traceback as text.

    A TypeError that was raised by the call itself, before any line of the model ran, means wrong arguments. Raises
    nothing: an exception of the model's own class runs its code when it is read.
    """
    try:
        if isinstance(error, HostError) and _is_whole(error):
            return error
        return _described(error, method, args, kwargs)
    except BaseException as second:  # noqa: BLE001 - see above
        return ModelError(f"{_name_of(error)} was raised, and {_name_of(second)} when it was to be described")


def _described(
    error: BaseException, method: Method | None, args: list[Any] | None, kwargs: dict[str, Any] | None
) -> HostError:
    own = _own_part(error)
    if isinstance(error, TypeError) and method is not None and own is None and not _binds(method, args, kwargs):
        signature = method.describe()["signature"]
        return InvalidArgumentError(
            f"wrong arguments for method {method.name!r}: {error}; it is {method.name}{signature}"
        )
    # An error of a loader's own has no frame of the model's; then every frame helps.
    text = traceback_text(error, own if own is not None or method is not None else error.__traceback__)
    summary = _summary(error)[:2000] + _advice(error)
    return ModelError(summary, details={"traceback": text, "type": _name_of(error)})


def _is_whole(error: HostError) -> bool:
    """Say whether an error can be read and sent: its class may be the model's, and have left out the base's part."""
    is_plain = isinstance(getattr(error, "message", None), str) and isinstance(getattr(error, "details", None), dict)
    return is_plain and bool(msg.sendable(error))


def _name_of(error: BaseException) -> str:
    return str(type.__dict__["__name__"].__get__(type(error)))  # whatever a metaclass makes of it


def _summary(error: BaseException) -> str:
    """Return what was raised in one line, if that can be."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    return "".join(traceback.format_exception_only(type(error), error)).strip()


def _advice(error: BaseException) -> str:
    """Return what to do about an error that says too little itself, as the rest of its message."""
    match error:
        # Where the package itself is there, and only a module of it is not, another package is of no help.
        case ModuleNotFoundError(name=str(name)) if sys.modules.get(name.partition(".")[0]) is None:
            return (
                f". The worker runs {sys.executable}; if {name} is a package, install it there: "
                f"{install_modules(name.partition('.')[0])}, or name an interpreter that has it with 'python:' in "
                "model.yaml; if it is your own, put it into the model's directory"
            )
        case FileNotFoundError(filename=str(name)) if not os.path.isabs(name):  # noqa: PTH117 - as text
            return (
                f". The worker's current directory is {_current_directory()}, not the model's: build the path from the "
                "one that load(path) is given, or from Path(__file__).parent"
            )
    return ""


def _current_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - as text
    except OSError:
        return "gone"


def _own_part(error: BaseException) -> TracebackType | None:
    """Return the model's own part of a traceback: what is below the last frame of this package."""
    own = frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename.startswith(_OURS):
            own = frame.tb_next
        frame = frame.tb_next
    return own


def traceback_text(error: BaseException, begin: TracebackType | None) -> str:
    """Return the text of a traceback from a frame on, its end if it is very long."""
    text = sayable("".join(traceback.format_exception(type(error), error, begin)))
    return text if len(text) <= msg.MAX_TRACEBACK_CHARS else "…" + text[-msg.MAX_TRACEBACK_CHARS :]


def _binds(method: Method, args: list[Any] | None, kwargs: dict[str, Any] | None) -> bool:
    try:
        inspect.signature(method.function).bind(*(args or ()), **(kwargs or {}))
    except TypeError:
        return False
    except ValueError:  # no signature to compare with: whatever it complained of was what it was given
        return False
    return True
