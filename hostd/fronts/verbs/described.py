"""What this front says of itself and of whoever asks: the OpenAPI document, a page for people, the caller's role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.responses import HTMLResponse, Response

from hostd.fronts.verbs.answers import HEADERS
from hostd.fronts.verbs.openapi import document
from hostd.fronts.verbs.page import POLICY, page
from hostd.fronts.verbs.shapes import Caller

if TYPE_CHECKING:
    from hostd.fronts.verbs.route import Asked


async def openapi(asked: Asked) -> dict[str, Any]:
    """Return the OpenAPI document."""
    return {**document(asked.routes), "servers": [{"url": quote(asked.root_path) or "/"}]}


async def docs(asked: Asked) -> Response:
    """Return the page for people."""
    return HTMLResponse(page(asked.routes), headers={**HEADERS, "Content-Security-Policy": POLICY})


async def me(asked: Asked) -> Caller:
    """Return the role of whoever asks."""
    return Caller(asked.role.name.lower())
