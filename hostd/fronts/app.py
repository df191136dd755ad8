"""All that is served over HTTP, as one ASGI application that is a client of a host.

It can be mounted in an application of any ASGI framework. `app(client)` lets everybody do everything,
`guarded(app(client), access)` does not (`hostd.fronts.access`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.fronts import asgi
from hostd.fronts.bodies import Bodies
from hostd.fronts.metrics import PATH as METRICS_PATH
from hostd.fronts.metrics import metrics_app
from hostd.fronts.models import Models
from hostd.fronts.oip.http import MAX_BODY_BYTES, OpenInference
from hostd.fronts.openai.http import OpenAI
from hostd.fronts.status.app import is_of_page, path_of, status_app
from hostd.fronts.verbs.app import verbs_app

if TYPE_CHECKING:
    from hostd import AsyncClient
    from hostd.fronts.asgi import App, Receive, Scope, Send


def app(client: AsyncClient, *, max_body_bytes: int = MAX_BODY_BYTES, max_bodies_bytes: int | None = None) -> App:
    """Return the application, for one event loop; whoever made the client closes it.

    `max_body_bytes` bounds the body of a request for a model, as it comes and unpacked, `max_bodies_bytes` those of all
    requests together; None: four of the largest.
    """
    inference = OpenInference(client, max_body_bytes)
    openai = OpenAI(client, Models(client), max_body_bytes)
    metrics = metrics_app(client)
    verbs = verbs_app(client, max_body_bytes=max_body_bytes)
    page = status_app()
    bodies = Bodies(4 * max_body_bytes if max_bodies_bytes is None else max_bodies_bytes)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await asgi.lifespan(receive, send)
            return
        with bodies.holding():
            await answer(scope, receive, send)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope) if scope["type"] == "http" else ""
        if path in openai.paths:
            await openai(scope, receive, send)
        elif path == METRICS_PATH:
            await metrics(scope, receive, send)
        elif path.startswith("/v1/"):
            await verbs(scope, receive, send)
        elif is_of_page(path):
            await page(scope, receive, send)
        else:
            await inference(scope, receive, send)

    return serve
