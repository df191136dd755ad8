"""What this front says of itself: the OpenAPI document, and a page for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.responses import HTMLResponse, Response

from hostd.fronts.verbs.answers import HEADERS
from hostd.fronts.verbs.openapi import document
from hostd.fronts.verbs.page import POLICY, page

if TYPE_CHECKING:
    from hostd.fronts.verbs.route import Asked


async def openapi(asked: Asked) -> dict[str, Any]:
    """Return the OpenAPI document."""
    return {**document(asked.routes), "servers": [{"url": quote(asked.root_path) or "/"}]}


async def docs(asked: Asked) -> Response:
    """Return the page for people."""
    return HTMLResponse(page(asked.routes), headers={**HEADERS, "Content-Security-Policy": POLICY})
