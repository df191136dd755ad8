"""The application: a Starlette one that serves the table of routes for a client of a host.

Matches paths as they were sent, because what is decoded before does not tell the slash of an id from one between
segments. A path that a proxy has decoded has more segments, and is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import BaseRoute, Match

from hostd.fronts.errors import MethodNotAllowedError, NoSuchRouteError
from hostd.fronts.verbs.answers import failed, form_of
from hostd.fronts.verbs.dispatch import Served, dispatch
from hostd.fronts.verbs.route import Limits, Route, variable
from hostd.fronts.verbs.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    import hostd

MAX_MAP_BYTES = 2**20
"""Of a request that is no call: options are small."""

MAX_BODY_BYTES = 64 * 2**20
"""Of a call: it is held whole, and takes several times as much while it is read."""

MAX_DEPLOY_BYTES = 64 * 2**30
"""Of a deploy: big models have tens of gigabytes."""

MAX_DEPLOY_FILES = 10_000
"""As many as a host takes."""

KEEPALIVE_S = 15.0
"""Proxies end a connection that is silent for a minute, some after half of it."""


def verbs_app(
    client: hostd.AsyncClient,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_deploy_bytes: int = MAX_DEPLOY_BYTES,
    files_dir: Path | None = None,
    keepalive_s: float = KEEPALIVE_S,
) -> Starlette:
    """Return the application, which does not close the client.

    `max_body_bytes` bounds the body of a call, `max_deploy_bytes` that of a deploy, whose files wait below `files_dir`
    (by default where the system has its temporary files) until the host has them.
    """
    limits = Limits(MAX_MAP_BYTES, max_body_bytes, max_deploy_bytes, MAX_DEPLOY_FILES, keepalive_s, files_dir)
    app = Starlette(
        routes=[Table(Served(client, limits, ROUTES))],
        exception_handlers={404: _nothing_there},
    )
    app.router.redirect_slashes = False  # a path with one more is another one, and perhaps somebody else's
    return app


class Table(BaseRoute):
    """The table of routes as one route of Starlette's, which any application may have beside others."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Say whether there is such a path, and with this method."""
        if scope["type"] != "http":
            return Match.NONE, {}
        found = self._found(_segments(scope))
        if not found:
            return Match.NONE, {}
        return (Match.FULL if _method(scope) in found else Match.PARTIAL), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path there is."""
        request, segments = Request(scope, receive), _segments(scope)
        found = self._found(segments)
        route = found.get(_method(scope))
        response = (
            failed(_no_method(scope["method"], found), form_of(request.headers.get("accept", "")))
            if route is None
            else await dispatch(route, request, segments, self._served)
        )
        await response(scope, receive, send)

    def _found(self, segments: list[bytes]) -> dict[str, Route]:
        """Return the routes that have this path, by method."""
        return {route.method: route for route in self._served.routes if _fits(route, segments)}


def _fits(route: Route, segments: list[bytes]) -> bool:
    known = route.segments
    return len(known) == len(segments) and all(
        segment != b"" if variable(name) else unquote(segment) == name
        for name, segment in zip(known, segments, strict=True)
    )


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return "GET" if method == "HEAD" else method


def _segments(scope: Scope) -> list[bytes]:
    """Return the segments of a path below where the application is mounted, as they were sent."""
    # ASGI leaves it to servers whether they tell the path as it was sent.
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    segments = raw.partition(b"?")[0].split(b"/")[1:]
    root = scope.get("root_path", "").rstrip("/")
    mounted = root.count("/")
    return segments[mounted:] if root and unquote(b"/".join([b"", *segments[:mounted]])) == root else segments


def _no_method(method: str, found: Iterable[str]) -> MethodNotAllowedError:
    allowed = sorted({*found, *(("HEAD",) if "GET" in found else ())})
    return MethodNotAllowedError(
        f"there is no {_shown(method)} of this path, only {', '.join(allowed)}", details={"allow": allowed}
    )


async def _nothing_there(request: Request, _: Exception) -> Response:
    error = NoSuchRouteError(
        f"there is nothing at {_shown(request.url.path)}; GET /v1/docs lists what there is. A slash in a model's id is "
        f"written %2F"
    )
    return failed(error, form_of(request.headers.get("accept", "")))


def _shown(text: str) -> str:
    return re.sub(r"[^ -~]", "?", text[:100])
