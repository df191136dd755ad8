"""Statuses and typed errors, and their form on the wire.

Covers what can go wrong as a caller sees it. An error travels as `(status, kind, message, details)`, never as an
object: `to_wire` makes that tuple and `from_wire` finds the class that registered itself for the kind, or else for
the status.
"""

from __future__ import annotations

import enum
import reprlib
from typing import Any, ClassVar

MAX_MESSAGE_CHARS = 64 * 1024

WireError = tuple[int, str, str, dict[str, Any]]

_BY_KIND: dict[str, type[HostError]] = {}
_BY_STATUS: dict[int, type[HostError]] = {}


class Status(enum.IntEnum):
    """The status numbers of gRPC (https://grpc.io/docs/guides/status-codes/), so that every front can map them."""

    __module__ = "hostd"

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


PUBLIC_MODULE = "hostd"
"""Where users import these errors from, and what tracebacks therefore name."""


class HostError(Exception):
    """The base of every error of this package.

    `status` says what kind of failure it is, `message` what was wrong and what to do, `details` holds what a program
    may want to know (msgpack-able values by name).
    """

    __module__ = PUBLIC_MODULE
    status: ClassVar[Status] = Status.UNKNOWN

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ == __name__:
            cls.__module__ = PUBLIC_MODULE
        # The first of a name stays: an application's subclass of the same name must not replace what callers catch.
        _BY_KIND.setdefault(cls.__name__, cls)
        # The first class that declares a status of its own is the general one; later subclasses only refine it.
        if "status" in cls.__dict__:
            _BY_STATUS.setdefault(int(cls.status), cls)

    def __init__(self, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        return self.message


class CancelledError(HostError):
    """The caller cancelled the call."""

    status = Status.CANCELLED


class ModelError(HostError):
    """The model's own code raised; `traceback` is its text as the worker saw it."""

    status = Status.UNKNOWN

    @property
    def traceback(self) -> str:
        """The model's own traceback, or the empty string if there was none."""
        return str(self.details.get("traceback", ""))


class InvalidArgumentError(HostError):
    """The request can never succeed as it was made."""

    status = Status.INVALID_ARGUMENT


class DeadlineExceededError(HostError):
    """The deadline passed before there was an answer."""

    status = Status.DEADLINE_EXCEEDED


class NotFoundError(HostError):
    """There is no such model, file or path."""

    status = Status.NOT_FOUND


class AlreadyExistsError(HostError):
    """The id is taken by a model with another specification."""

    status = Status.ALREADY_EXISTS


class PermissionDeniedError(HostError):
    """The caller may not do this."""

    status = Status.PERMISSION_DENIED


class ResourceExhaustedError(HostError):
    """A queue, a budget or a limit is full."""

    status = Status.RESOURCE_EXHAUSTED


class FailedPreconditionError(HostError):
    """The model or the machine is not in a state that allows this."""

    status = Status.FAILED_PRECONDITION


class AbortedError(HostError):
    """The request was overtaken, for example by an unload."""

    status = Status.ABORTED


class UnimplementedError(HostError):
    """There is no such method or verb."""

    status = Status.UNIMPLEMENTED


class InternalError(HostError):
    """A broken invariant of ours; please report it."""

    status = Status.INTERNAL


class UnavailableError(HostError):
    """The host or the worker is not there, or died; the call may be tried again."""

    status = Status.UNAVAILABLE


class MessageTooLargeError(ResourceExhaustedError):
    """A message or one of its parts is over a limit of the wire."""


class ProtocolError(InvalidArgumentError):
    """A message is not one of this protocol."""


class VersionMismatchError(FailedPreconditionError):
    """The peers share no protocol version; `details["supported"]` lists those of the host."""


def to_wire(error: HostError) -> WireError:
    """Return the `(status, kind, message, details)` of an error; the message is cut and escaped so that it travels."""
    return (int(error.status), type(error).__name__, sayable(error.message)[:MAX_MESSAGE_CHARS], error.details)


def sayable(text: object) -> str:
    """Return a text with what UTF-8 cannot hold escaped: names of files may carry lone surrogates (PEP 383)."""
    return str(text).encode(errors="backslashreplace").decode()


def from_wire(wire: object) -> HostError:
    """Return the error that a peer sent; a malformed one becomes an `InternalError` that shows it."""
    match wire:
        case [int(status), str(kind), str(message), dict(details)]:
            cls = _BY_KIND.get(kind)
            if cls is None or cls.status != status:
                cls = _BY_STATUS.get(status, HostError)
            error = cls.__new__(cls)
            # A refining class may have a constructor of its own; the wire carries what the base needs.
            HostError.__init__(error, message, details=details)
            return error
        case _:
            return InternalError(f"the peer sent an error that is not one of this protocol: {reprlib.repr(wire)}")
