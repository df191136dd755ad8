"""Errors as HTTP has them: the status code, the headers and the JSON body of a `HostError`.

Covers what all fronts share. How a message begins where a protocol's clients look for certain words is the front's.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import orjson

from hostd_workers.wire.errors import (
    HostError,
    InvalidArgumentError,
    MessageTooLargeError,
    NotFoundError,
    ResourceExhaustedError,
    Status,
    UnavailableError,
    UnimplementedError,
    sayable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

HTTP_STATUS: Final[Mapping[Status, int]] = MappingProxyType(
    {
        Status.OK: 200,
        Status.INVALID_ARGUMENT: 400,
        Status.OUT_OF_RANGE: 400,
        Status.UNAUTHENTICATED: 401,
        Status.PERMISSION_DENIED: 403,
        Status.NOT_FOUND: 404,
        Status.ALREADY_EXISTS: 409,
        # 412 is for the conditions that a request's own headers state (RFC 9110, 15.5.13); 409 is a conflict with the
        # state of the target.
        Status.FAILED_PRECONDITION: 409,
        Status.RESOURCE_EXHAUSTED: 429,
        # nginx's number for a client that has closed its connection; HTTP has none.
        Status.CANCELLED: 499,
        Status.UNKNOWN: 500,
        Status.INTERNAL: 500,
        Status.DATA_LOSS: 500,
        Status.UNIMPLEMENTED: 501,
        # Nothing was wrong with the request, what it ran in was taken away: a proxy may try another server. Without a
        # Retry-After, because an unloaded model need not come back.
        Status.ABORTED: 503,
        Status.UNAVAILABLE: 503,
        Status.DEADLINE_EXCEEDED: 504,
    }
)


class FrontEndsError(UnavailableError):
    """A front ends before it has answered."""

    def __init__(self) -> None:
        super().__init__("this front ends; another one starts: ask again")


class NoSuchRouteError(NotFoundError):
    """A front has nothing at this path."""


class MethodNotAllowedError(UnimplementedError):
    """A front has something at this path, but not for this method of HTTP; `details["allow"]` lists those it has."""


class UnsupportedMediaTypeError(InvalidArgumentError):
    """A body is of a type, or compressed in a way, that a front does not know."""


class FrontFullError(ResourceExhaustedError):
    """A front holds as much of requests as it may; another one would be taken later."""


class UnauthenticatedError(HostError):
    """The caller has not said who it is, or with a token that is not known."""

    status = Status.UNAUTHENTICATED


_OF_KIND: Final[Mapping[type[HostError], int]] = MappingProxyType(
    {MethodNotAllowedError: 405, MessageTooLargeError: 413, UnsupportedMediaTypeError: 415, FrontFullError: 503}
)
"""Kinds of error that HTTP has a status of its own for: what is too large stays so, however often it is tried,
and a front that is full has had enough of all its clients, not of this one."""

IS_TRUSTED: ContextVar[bool] = ContextVar("IS_TRUSTED", default=True)
"""Whether whoever made the request of this context may load models (`hostd.fronts.access`), and so see what is inside
of one, and have the front open files of its user."""

_TRACEBACK: Final = "traceback"

RETRY_AFTER_S: Final = 1
"""When to try again what is full or not there: a restart of a worker and the queue of a busy one take about that."""

_TRANSIENT: Final = (Status.RESOURCE_EXHAUSTED, Status.UNAVAILABLE)


def http_status_of(error: HostError) -> int:
    """Return the HTTP status of an error."""
    return _OF_KIND.get(type(error)) or HTTP_STATUS[error.status]


def retry_after_s(error: HostError) -> int | None:
    """Return when the request may be tried again; None if that would not help, or nobody knows when it would."""
    is_transient = error.status in _TRANSIENT and not isinstance(error, MessageTooLargeError)
    return RETRY_AFTER_S if is_transient else None


def headers_of(error: HostError) -> dict[str, str]:
    """Return the headers that go with an error."""
    headers = {}
    if (seconds := retry_after_s(error)) is not None:
        headers["retry-after"] = str(seconds)
    if isinstance(error, MethodNotAllowedError):
        headers["allow"] = ", ".join(error.details["allow"])
    if isinstance(error, UnauthenticatedError):
        headers["www-authenticate"] = 'Bearer realm="hostd"'
    if isinstance(error, MessageTooLargeError | FrontFullError):
        headers["connection"] = "close"  # or the server would read, and drop, all the rest of the body
    return headers


def body_of(error: HostError) -> dict[str, Any]:
    """Return what a front tells of an error; of its details those that JSON can hold.

    The traceback of a model, which shows code and paths, is for those who are trusted.
    """
    return {
        "error": sayable(error.message),
        "status": error.status.name,
        "kind": type(error).__name__,
        "details": {
            sayable(name): value
            for name, value in error.details.items()
            if _is_json(value) and (name != _TRACEBACK or IS_TRUSTED.get())
        },
    }


def _is_json(value: object) -> bool:
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True
