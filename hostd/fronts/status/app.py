"""The application that serves the page's files, to everybody: there are no data in them.

Rules
1. Every answer, also one that refuses, forbids what the page does not need: scripts and styles of other origins or
   inline, frames, forms, being guessed as another type.
2. An answer may be kept and must be asked for again (`no-cache`): a page never runs with files of another version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hostd.fronts import asgi
from hostd.fronts.asgi import Headers, error_response, header_of
from hostd.fronts.errors import MethodNotAllowedError, NoSuchRouteError

if TYPE_CHECKING:
    from hostd.fronts.asgi import App, Receive, Response, Scope, Send

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_GUARDS: Final[Headers] = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_ASSETS: Final = Path(__file__).with_name("assets")
_FOLDER: Final = "/assets/"
_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_METHODS: Final = ("GET", "HEAD")


@dataclass(frozen=True)
class _Asset:
    """A file as it is sent."""

    body: bytes
    content_type: bytes
    etag: bytes


def status_app() -> App:
    """Return the application; its files are read now, so that a package that is replaced meanwhile changes nothing."""
    files = {path.name: _asset(path) for path in _ASSETS.iterdir() if path.suffix in _TYPES}
    known = {_FOLDER + name: asset for name, asset in files.items()}
    known |= {"/": files["index.html"], "/favicon.ico": files["icon.svg"]}

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await asgi.lifespan(receive, send)
            return
        path = path_of(scope)
        asset = known.get(path)
        if asset is None:
            await _refuse(send, error_response(NoSuchRouteError(f"the page has no file {path[:100]!r}")))
        elif scope["method"] not in _METHODS:
            allowed = {"allow": list(_METHODS)}
            await _refuse(send, error_response(MethodNotAllowedError("the page is only read", details=allowed)))
        else:
            await _send(scope, send, asset)

    return serve


def path_of(scope: Scope) -> str:
    """Return the path of a request below where the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_of_page(path: str) -> bool:
    """Whether a path is the page's."""
    return path in ("/", "/favicon.ico") or path.startswith(_FOLDER)


def _asset(path: Path) -> _Asset:
    body = path.read_bytes()
    return _Asset(body, _TYPES[path.suffix], b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode())


async def _send(scope: Scope, send: Send, asset: _Asset) -> None:
    headers = [*_GUARDS, (b"etag", asset.etag), (b"cache-control", b"no-cache")]
    if asset.etag in _named(header_of(scope, b"if-none-match")):
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    headers += [(b"content-type", asset.content_type), (b"content-length", b"%d" % len(asset.body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else asset.body})


def _named(if_none_match: bytes | None) -> list[bytes]:
    """Return the entity tags of a header; a weak one is as good for a GET (RFC 9110, 13.1.2)."""
    return [tag.strip().removeprefix(b"W/") for tag in (if_none_match or b"").split(b",")]


async def _refuse(send: Send, response: Response) -> None:
    await asgi.send_response(
        send, asgi.Response(response.body, response.status, response.content_type, (*response.headers, *_GUARDS))
    )
