"""From a route and a request to an answer: the one place that every request gets through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

import hostd
from hostd.fronts.access import require, role_of
from hostd.fronts.verbs import arguments
from hostd.fronts.verbs.answers import answered, failed, form_of
from hostd.fronts.verbs.bodies import with_body
from hostd.fronts.verbs.leaving import unless_gone
from hostd.fronts.verbs.route import Asked, Following, Limits, Route
from hostd.fronts.verbs.streams import EventStream

if TYPE_CHECKING:
    from collections.abc import Iterable

_CLIENT_HAS_GONE = 499
"""nginx' number for it; nobody reads it but a log."""


@dataclass(frozen=True)
class Served:
    """What all requests have in common."""

    client: hostd.AsyncClient
    limits: Limits
    routes: tuple[Route, ...]


async def dispatch(route: Route, request: Request, segments: Iterable[bytes], served: Served) -> Response | EventStream:
    """Return the answer to a request; `segments` are those of its path, still encoded.

    Whether the caller has the role that the route needs is checked before anything is read.
    """
    form = form_of(request.headers.get("accept", ""))
    try:
        require(request.scope, route.role)
        given = {
            **arguments.of_path(route, segments),
            **arguments.of_query(route, request.query_params.multi_items()),
        }
        asked = Asked(
            served.client,
            given,
            served.routes,
            str(request.scope.get("root_path", "")),
            request.headers.get("last-event-id"),
            role=role_of(request.scope),
        )
        async with with_body(route, request, asked, served.limits) as whole:
            value = await unless_gone(request.receive, route.handler(whole))
        if isinstance(value, Following):
            return EventStream(value.blocks, served.limits.keepalive_s, form)
        return value if isinstance(value, Response) else answered(value, form)
    except hostd.HostError as error:
        return failed(error, form)
    except ClientDisconnect:
        return Response(status_code=_CLIENT_HAS_GONE)
