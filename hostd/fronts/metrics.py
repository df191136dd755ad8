"""`/metrics`: the host's page for Prometheus, passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.fronts import asgi
from hostd.fronts.access import Role, require
from hostd.fronts.asgi import Response, error_response, header_of
from hostd.fronts.errors import MethodNotAllowedError
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from hostd import AsyncClient
    from hostd.fronts.asgi import App, Receive, Scope, Send

PATH = "/metrics"


def metrics_app(client: AsyncClient) -> App:
    """Return the application that answers at `PATH`; who may read may ask."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's shape
        try:
            require(scope, Role.READ)
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodNotAllowedError("this is asked for with GET", details={"allow": ["GET", "HEAD"]})
            content_type, page = await client.metrics_page((header_of(scope, b"accept") or b"").decode("latin-1"))
            response = Response(page, content_type=content_type.encode(), headers=((b"cache-control", b"no-store"),))
        except HostError as error:
            response = error_response(error)
        await asgi.send_response(send, response)

    return serve
