"""What the table of routes is made of: a route, its parameters, the role that it needs; and what a handler gets.

Does not cover which routes there are (`routes`), nor how a request is checked (`arguments`).
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from hostd.fronts.access import Role

if TYPE_CHECKING:
    from pathlib import Path

    import hostd

JSON = "application/json"
MSGPACK = "application/msgpack"
TEXT = "text/plain"
HTML = "text/html"
EVENTS = "text/event-stream"
TAR = "application/x-tar"
FORM = "multipart/form-data"


class Place(enum.Enum):
    """Where a request has a parameter; BODY is a map of names to values."""

    PATH = "path"
    QUERY = "query"
    BODY = "body"


class Body(enum.Enum):
    """What a request has as its body: nothing, a map of parameters, the arguments of a call, or files."""

    NONE = "none"
    MAP = "map"
    CALL = "call"
    FILES = "files"


class Needed(enum.Enum):
    """What a parameter without a default has in its place."""

    NEEDED = "needed"


NEEDED = Needed.NEEDED
Default: TypeAlias = str | int | float | bool | Needed | None


@dataclass(frozen=True)
class Parameter:
    """A parameter: `kind` is str, bool, int, float, list or dict, `least` the smallest number that it may be."""

    name: str
    kind: type
    text: str
    place: Place = Place.BODY
    default: Default = None
    least: int | None = None

    @property
    def is_needed(self) -> bool:
        """Whether a request must have it."""
        return self.default is NEEDED


@dataclass(frozen=True)
class Limits:
    """What one request may take; `files_dir` is where the files of a deploy wait, None for the system's place."""

    map_bytes: int
    call_bytes: int
    deploy_bytes: int
    deploy_files: int
    keepalive_s: float
    files_dir: Path | None


@dataclass(frozen=True)
class Following:
    """What a handler returns that answers bit by bit: the blocks of a stream of server-sent events."""

    blocks: AsyncIterator[bytes]


@dataclass(frozen=True)
class Asked:
    """A request as a handler gets it: checked, and with its files, if there are any, in a directory that goes after it.

    `last_event_id` is what a client says that follows again, `role` is what it may do.
    """

    client: hostd.AsyncClient
    arguments: Mapping[str, Any]
    routes: tuple[Route, ...]
    root_path: str = ""
    last_event_id: str | None = None
    files: Path | None = None
    role: Role = Role.ADMIN

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def some(self, *names: str) -> dict[str, Any]:
        """Return the arguments of these names, to pass on under the same names."""
        return {name: self.arguments[name] for name in names}


Handler: TypeAlias = Callable[[Asked], Awaitable[Any]]
"""Returns a plain value, a response, or a `Following`."""


@dataclass(frozen=True)
class Route:
    """One thing that can be asked for.

    `path` has its variable segments in braces, `answer` is the type of what comes back, `forms` are its media types.
    `text` is for people, beside the `summary`.
    """

    method: str
    path: str
    handler: Handler
    role: Role
    summary: str
    answer: Any
    parameters: tuple[Parameter, ...] = ()
    body: Body = Body.NONE
    forms: tuple[str, ...] = (JSON, MSGPACK)
    text: str = ""

    @property
    def name(self) -> str:
        """The name of what it does, as the handler has it."""
        return self.handler.__name__

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments of its path; variable ones are in braces."""
        return tuple(self.path.split("/")[1:])


def variable(segment: str) -> str | None:
    """Return the name of a variable segment, None for a fixed one."""
    return segment[1:-1] if segment.startswith("{") else None
