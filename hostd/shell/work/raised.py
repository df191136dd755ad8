"""Exceptions of somebody else's code, made harmless: finders and sizers run in threads of the supervisor.

An exception of a class of theirs runs their code when it is read, and may raise anything then, on the loop. It may be
as large as they like, and would be kept in the story of a model. So it is read once, in the thread that raised it.
"""

from __future__ import annotations

import sys

from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import PUBLIC_MODULE, HostError, UnavailableError, from_wire, sayable

MAX_CHARS = 8 * 1024
"""Of what an exception says: some quote a whole file."""

_OURS = ("builtins", PUBLIC_MODULE)
_SHELL = "hostd.shell."
_PLAIN = (str, bytes, int, float, bool, type(None))
"""Modules of exceptions, and types of their arguments, that run nothing of anybody else's when they are read."""


class ForeignError(Exception):
    """Stands for an exception that cannot be passed on; says what can be said of it."""


def tamed(error: BaseException) -> Exception:
    """Return an exception that can be read, kept, and raised in a coroutine: the same, or one that stands for it.

    Raises nothing. What a coroutine takes for the end of itself, of another or of the program stands for nothing else.
    """
    try:
        if type(error) is ForeignError:
            return error
        if isinstance(error, HostError):
            return _typed(error)
        if not isinstance(error, Exception) or isinstance(error, (StopIteration, StopAsyncIteration)):
            return ForeignError(_said_by(error))
        is_plain = _is_ours(type(error)) and all(type(argument) in _PLAIN for argument in error.args)
        return error if is_plain and len(sayable(error)) <= MAX_CHARS else ForeignError(_said_by(error))
    except BaseException:  # noqa: BLE001 - see above
        return ForeignError(f"{_name_of(error)}, which cannot say why")


def _is_ours(cls: type[BaseException]) -> bool:
    module = cls.__module__
    if module in _OURS:
        return True
    # A class may say that it is of any module; only one of ours is really there.
    return module.startswith(_SHELL) and getattr(sys.modules.get(module), cls.__name__, None) is cls


def as_host_error(error: BaseException, what: str) -> HostError:
    """Return the error of a piece of work that failed, as the core may keep it: without frames, which know the work."""
    error = tamed(error)
    if isinstance(error, HostError):
        error.__context__ = None
        return error.with_traceback(None)
    # What the system and Python say is a sentence; others may say no more than a name.
    said = str(error) if isinstance(error, (OSError, RuntimeError)) else ""
    return UnavailableError(f"{what}: {said or _summary_of(error)}")


def _summary_of(error: Exception) -> str:
    """Return what a tamed exception says, with what it is."""
    return str(error) if isinstance(error, ForeignError) else _said_by(error)


def _typed(error: HostError) -> HostError:
    """Return a typed error of a class of ours, with what of it can be sent."""
    cls = next(cls for cls in type(error).__mro__ if cls.__module__ == PUBLIC_MODULE and issubclass(cls, HostError))
    status, _, message, details = msg.sendable(error)
    is_whole = type(error) is cls and details is error.details and isinstance(details, dict)
    if is_whole and message == error.message and len(message) <= MAX_CHARS:
        return error
    return from_wire((status, cls.__name__, message[:MAX_CHARS], details if isinstance(details, dict) else {}))


def _said_by(error: BaseException) -> str:
    return ": ".join(filter(None, (_name_of(error), sayable(error)[:MAX_CHARS])))


def _name_of(error: BaseException) -> str:
    return str(type.__dict__["__name__"].__get__(type(error)))  # whatever a metaclass makes of it
