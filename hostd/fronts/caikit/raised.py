"""Exceptions that cross between the serving process and a worker, with their type and their status code.

An exception travels as a map: the names of its classes from its own to its most general one, its text, and what caikit
reads of it. It is made again as the first of these classes that both sides know: those of caikit and gRPC by their own
constructors, those built into Python with their arguments. So a subclass of ValueError that a model defines arrives as
a ValueError, for which caikit answers as it would have for the subclass. Nothing of it is pickled or imported.
"""

from __future__ import annotations

import builtins
import traceback
from typing import TYPE_CHECKING, Any

import grpc
from caikit.core.exceptions.caikit_core_exception import CaikitCoreException, CaikitCoreStatusCode
from caikit.runtime.types.aborted_exception import AbortedException
from caikit.runtime.types.caikit_runtime_exception import CaikitRuntimeException

if TYPE_CHECKING:
    from collections.abc import Callable

    import hostd

_PLAIN = (str, int, float, bool, bytes, type(None))


class WorkerTraceback(Exception):  # noqa: N818 - it is the cause of an error, and none itself
    """Where in the worker an exception was raised; the cause of the one that arrives, so that a log shows both."""


class WorkerRpcError(grpc.RpcError):  # type: ignore[misc]
    """An error of a gRPC call that a model made; has its code and details."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        """Return the status code, as the error of a call does."""
        return self._code

    def details(self) -> str:
        """Return what the server said, as the error of a call does."""
        return self._details


def described(error: BaseException) -> dict[str, Any]:
    """Return an exception as plain values."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind not in (BaseException, object)]
    answer: dict[str, Any] = {"kinds": kinds, "text": str(error), "traceback": _traceback(error)}
    if isinstance(error, (CaikitCoreException, CaikitRuntimeException)):
        answer |= {"code": error.status_code.name, "text": str(error.message), "id": str(error.id)}
    if isinstance(error, CaikitRuntimeException):
        answer["metadata"] = {str(key): str(value) for key, value in error.metadata.items()}
    if isinstance(error, grpc.RpcError) and callable(getattr(error, "code", None)):
        answer |= {"kinds": ["RpcError", *kinds], "code": error.code().name, "text": str(error.details())}
    args = error.args
    if isinstance(error, OSError) and error.filename is not None:
        args = (*args[:2], error.filename)  # which OSError itself leaves out of them
    if all(isinstance(argument, _PLAIN) for argument in args):
        answer["args"] = list(args)
    return answer


def again(answer: dict[str, Any]) -> BaseException:
    """Return the exception that was described, with its traceback in the worker as its cause."""
    error = next(made for kind in [*answer["kinds"], "Exception"] if (made := _made(kind, answer)) is not None)
    if "id" in answer:
        error.id = answer["id"]  # type: ignore[attr-defined]
    error.__cause__ = WorkerTraceback(f"\n{answer['traceback']}")
    return error


def of_host(error: hostd.HostError) -> BaseException:
    """Return what caikit is told of an error of the host's: what the worker raised, or a status of the same name."""
    answer = error.details.get("caikit")
    if answer is not None:
        return again(answer)
    made = CaikitRuntimeException(grpc.StatusCode[error.status.name], error.message)
    made.__cause__ = error
    return made  # type: ignore[no-any-return]


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).strip()


def _made(kind: str, answer: dict[str, Any]) -> BaseException | None:
    if kind in _OURS:
        return _OURS[kind](answer)
    built_in = getattr(builtins, kind, None)
    if not (isinstance(built_in, type) and issubclass(built_in, Exception)):
        return None
    try:
        # A subclass may have had other arguments than its base takes.
        whole = "args" in answer and kind == answer["kinds"][0]
        made = built_in(*answer["args"]) if whole else built_in(answer["text"])
    except TypeError:  # UnicodeDecodeError and the like; its base takes a text
        return None
    return made


_OURS: dict[str, Callable[[dict[str, Any]], BaseException]] = {
    "CaikitCoreException": lambda it: CaikitCoreException(CaikitCoreStatusCode[it["code"]], it["text"]),
    "AbortedException": lambda it: AbortedException(it["text"]),
    "CaikitRuntimeException": lambda it: CaikitRuntimeException(
        grpc.StatusCode[it["code"]], it["text"], dict(it["metadata"])
    ),
    "RpcError": lambda it: WorkerRpcError(grpc.StatusCode[it.get("code", "UNKNOWN")], it["text"]),
}
