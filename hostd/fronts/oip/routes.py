"""The paths of the protocol: what is asked, of which model.

Covers the text of a path alone. A model's id may have slashes, as they are or as %2F: what stands between `models/` and
the last word is the id. An id that ends in such a word (`team/ready`) is asked for with %2F.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from hostd.fronts.access import Role
from hostd.fronts.errors import MethodNotAllowedError, NoSuchRouteError
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Action(enum.Enum):
    """What may be asked; the value has the method of HTTP and the role that is needed."""

    LIVE = ("live", "GET", Role.NONE)
    READY = ("ready", "GET", Role.NONE)
    METADATA = ("metadata", "GET", Role.NONE)
    STATISTICS = ("statistics", "GET", Role.READ)
    MODEL_METADATA = ("model metadata", "GET", Role.READ)
    MODEL_READY = ("model ready", "GET", Role.READ)
    MODEL_STATISTICS = ("model statistics", "GET", Role.READ)
    INFER = ("infer", "POST", Role.CALL)
    GENERATE = ("generate", "POST", Role.CALL)
    GENERATE_STREAM = ("generate_stream", "POST", Role.CALL)
    INDEX = ("index", "POST", Role.READ)
    LOAD = ("load", "POST", Role.LOAD)
    UNLOAD = ("unload", "POST", Role.LOAD)
    REGION_STATUS = ("shared memory status", "GET", Role.LOAD)
    REGISTER = ("register shared memory", "POST", Role.LOAD)
    UNREGISTER = ("unregister shared memory", "POST", Role.LOAD)

    @property
    def verb(self) -> str:
        """The method of HTTP that asks for it."""
        return self.value[1]

    @property
    def role(self) -> Role:
        """What the caller must be allowed to do."""
        return self.value[2]


@dataclass(frozen=True)
class Route:
    """What a path asks for; `model_id`, `version` and `region` are "" where it names none."""

    action: Action
    model_id: str = ""
    version: str = ""
    region: str = ""


_OF_HOST: Final[Mapping[str, Action]] = MappingProxyType(
    {
        "v2": Action.METADATA,
        "v2/health/live": Action.LIVE,
        "v2/health/ready": Action.READY,
        "v2/models/stats": Action.STATISTICS,
        "v2/repository/index": Action.INDEX,
        "v2/systemsharedmemory/status": Action.REGION_STATUS,
        "v2/systemsharedmemory/unregister": Action.UNREGISTER,
    }
)
_OF_MODEL: Final[Mapping[str, Action]] = MappingProxyType(
    {
        "ready": Action.MODEL_READY,
        "stats": Action.MODEL_STATISTICS,
        "infer": Action.INFER,
        "generate": Action.GENERATE,
        "generate_stream": Action.GENERATE_STREAM,
    }
)
_OF_REPOSITORY: Final[Mapping[str, Action]] = MappingProxyType({"load": Action.LOAD, "unload": Action.UNLOAD})
_OF_REGION: Final[Mapping[str, Action]] = MappingProxyType(
    {"status": Action.REGION_STATUS, "register": Action.REGISTER, "unregister": Action.UNREGISTER}
)


def route_of(verb: str, path: str) -> Route:
    """Return what is asked by a method of HTTP and a path as it was sent, with its percent-escapes.

    Raises `NoSuchRouteError`, `MethodNotAllowedError` that says which method the path has, and `InvalidArgumentError`
    for escapes that are not UTF-8.
    """
    found = _found(path.strip("/"))
    if found is None:
        raise NoSuchRouteError(
            f"there is nothing at {path[:200]!r}; the Open Inference Protocol has its paths below /v2"
        )
    allowed = ["GET", "HEAD"] if found.action.verb == "GET" else [found.action.verb]
    if verb not in allowed:
        raise MethodNotAllowedError(
            f"{path[:200]!r} is asked for with {found.action.verb}, got {verb}", details={"allow": allowed}
        )
    return found


def _found(path: str) -> Route | None:
    action = _OF_HOST.get(path)
    if action is not None:
        return Route(action)
    match path.split("/"):
        case ["v2", "models", *segments]:
            return _of_model(segments)
        case ["v2", "repository", "models", *segments, word] if word in _OF_REPOSITORY:
            model_id = _id_of(segments)
            return Route(_OF_REPOSITORY[word], model_id) if model_id else None
        case ["v2", "systemsharedmemory", "region", segment, word] if word in _OF_REGION and segment:
            return Route(_OF_REGION[word], region=_decoded(segment))
        case _:
            return None


def _of_model(segments: Sequence[str]) -> Route | None:
    action = Action.MODEL_METADATA
    if len(segments) > 1 and segments[-1] in _OF_MODEL:
        action = _OF_MODEL[segments[-1]]
        segments = segments[:-1]
    version = ""
    if len(segments) > 2 and segments[-2] == "versions":
        version = _decoded(segments[-1])
        segments = segments[:-2]
    model_id = _id_of(segments)
    return Route(action, model_id, version) if model_id else None


def _id_of(segments: Sequence[str]) -> str:
    return "/".join(map(_decoded, segments))


def _decoded(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"the percent-escapes of {segment[:200]!r} are not UTF-8") from None
