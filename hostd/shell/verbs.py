"""The control plane's verbs: their arguments, checked, and the role that each needs.

Covers reading requests and turning those that change something into events of the core. What answers is in `control`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, TypeVar

from hostd.core import events as ev
from hostd.core.standing import standing_of
from hostd.labels import labels_of
from hostd.shell.repository.kept import packed
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.core.events import Caller
    from hostd_workers.wire.frames import Envelope

T = TypeVar("T")


class Role(enum.Enum):
    """What a caller must be allowed to do; on a private socket everybody may do everything."""

    USE = "use"
    MANAGE = "manage"
    ADMINISTER = "administer"


@dataclass(frozen=True)
class Request:
    """A request of the control plane: the caller, the arguments, and until when an answer is of use."""

    caller: Caller
    arguments: dict[str, Any]
    deadline_s: float | None

    def get(self, name: str, kind: type[T] | tuple[type[T], ...], default: T | None = None) -> T:
        """Return an argument of a given type. Raises `InvalidArgumentError` that names it and what was expected."""
        value = self.arguments.get(name, default)
        # bool is an int for Python, but not for somebody who wrote the request.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            expected = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
            raise InvalidArgumentError(f"{name} must be a {expected}, got {type(value).__name__}")
        return value

    def get_optional(self, name: str, kind: type[T]) -> T | None:
        """Return an argument of a given type, or None."""
        return None if self.arguments.get(name) is None else self.get(name, kind)

    def only(self, *names: str) -> None:
        """Raise `InvalidArgumentError` if there are arguments of other names."""
        unknown = sorted(set(self.arguments) - set(names))
        if unknown:
            raise InvalidArgumentError(f"unknown argument {unknown[0]!r}; known are: {', '.join(names) or 'none'}")


@dataclass(frozen=True)
class Verb:
    """One thing that clients may ask for, and the role that they need."""

    role: Role
    handle: Callable[[Request], None]


class Verbs:
    """The table of verbs."""

    def __init__(self, table: dict[str, Verb]) -> None:
        self._table = table

    def __call__(self, caller: Caller, name: str, envelope: Envelope, deadline_s: float | None) -> None:
        """Check a request and hand it to its verb. Raises `HostError` for a request that is refused."""
        verb = self._table.get(name)
        if verb is None:
            raise UnimplementedError(f"there is no verb {name!r}; known are: {', '.join(sorted(self._table))}")
        verb.handle(Request(caller, msg.unpack_map(envelope, msg.limits_of(name)), deadline_s))


_LOAD_ARGUMENTS = ("model_id", "type", "wait", "retries", "finder", "loader", "initializer", "options", "labels")


def load_requested(request: Request) -> ev.LoadRequested:
    """Return the event of a `load_model` request."""
    request.only(*_LOAD_ARGUMENTS, "path", "reload", "cancel_on_timeout")
    return ev.LoadRequested(
        request.caller,
        ev.ModelId(request.get("model_id", str)),
        _source_of(request),
        request.get("wait", bool, True),
        request.deadline_s,
        request.get_optional("retries", int),
        request.get("reload", bool, False),
        given_labels(request),
        request.get("cancel_on_timeout", bool, False),
    )


def plan_requested(request: Request) -> tuple[ev.ModelId, ev.LoadSource]:
    """Return what a `plan_load` request is about; its arguments are those of a load that say what is loaded."""
    request.only("model_id", "type", "finder", "loader", "initializer", "options", "path")
    return ev.ModelId(request.get("model_id", str)), _source_of(request)


def deploy_requested(request: Request) -> ev.DeployRequested:
    """Return the event of a `deploy_begin` request."""
    request.only(*_LOAD_ARGUMENTS, "files", "folders", "executables", "replace", "keep")
    files = request.get("files", list)
    if not all(_is_file(file) for file in files):
        raise InvalidArgumentError("files must be a list of [relative name, size in bytes]")
    folders = request.get("folders", list, [])
    if not all(isinstance(name, str) for name in folders):
        raise InvalidArgumentError("folders must be a list of relative names")
    source, retries, labels = _source_of(request), request.get_optional("retries", int), given_labels(request)
    packed(standing_of(source, retries, labels))  # refused before anything is sent
    return ev.DeployRequested(
        request.caller,
        ev.ModelId(request.get("model_id", str)),
        tuple((name, size_bytes) for name, size_bytes in files),
        source,
        retries,
        replace=request.get("replace", bool, False),
        keep=request.get("keep", bool, False),
        wait=request.get("wait", bool, True),
        folders=tuple(folders),
        executables=tuple(files[index][0] for index in _indexes_of(request, "executables", len(files))),
        labels=labels,
    )


def unload_all_requested(request: Request) -> ev.UnloadAllRequested:
    """Return the event of an `unload_all_models` request."""
    request.only("now", "labels")
    labels = given_labels(request)
    if labels == {}:  # every model has all of no labels, and whoever made this map meant some of them
        raise InvalidArgumentError("labels is empty, and would unload all models: leave it out if you mean that")
    return ev.UnloadAllRequested(request.caller, request.deadline_s, request.get("now", bool, False), labels or {})


def given_labels(request: Request) -> dict[str, str] | None:
    """Return the labels of a request, None if it has none. Raises `InvalidArgumentError` for what cannot be labels."""
    given = request.get_optional("labels", dict)
    return None if given is None else labels_of(given)


def _indexes_of(request: Request, argument: str, count: int) -> list[int]:
    indexes = request.get(argument, list, [])
    if not all(isinstance(index, int) and not isinstance(index, bool) and 0 <= index < count for index in indexes):
        raise InvalidArgumentError(f"{argument} must be a list of indexes of files, from 0 to {count - 1}")
    return indexes


def path_of(request: Request) -> str:
    """Return the path that a request is about. Raises `NotFoundError` for one that is not absolute."""
    path = request.get("path", str)
    if not path.startswith("/"):
        raise NotFoundError(
            f"there is nothing at {path!r}: a path must be absolute, on the host's machine", details={"path": path}
        )
    return path


def files_id_of(request: Request) -> ev.FilesId:
    """Return the upload that a request is about."""
    return ev.FilesId(request.get("upload", int))


def _is_file(file: object) -> bool:
    match file:
        case [str(), int(size_bytes)]:
            return not isinstance(size_bytes, bool) and size_bytes >= 0
        case _:
            return False


def _source_of(request: Request) -> ev.LoadSource:
    options = request.get("options", dict, {})
    if not all(isinstance(name, str) for name in options):
        raise InvalidArgumentError("options must be a map with names as keys")
    for name, value in options.items():
        _check_comparable(name, value)
    return ev.LoadSource(
        path=None if request.get_optional("path", str) is None else path_of(request),
        type=request.get("type", str, ev.STANDALONE),
        finder=request.get_optional("finder", str),
        initializer=request.get_optional("initializer", str),
        options=options,
        loader=request.get_optional("loader", str),
    )


def _check_comparable(option: str, value: object) -> None:
    # Options are compared when a model is loaded again, and to compare arrays is no yes or no.
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_comparable(option, item)
    elif getattr(value, "shape", ()):
        raise InvalidArgumentError(
            f"the option {option!r} has an array: options are plain values; put the array into a file beside the model"
        )
