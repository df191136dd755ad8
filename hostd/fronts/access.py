"""Who may ask what of a front over HTTP: bearer tokens with roles, and what a browser must not be made to do.

Rules
1. A role allows all that those before it allow. Without a token somebody has the anonymous role; a token that is not
   known is refused, and never taken for none.
2. Tokens come in the header `Authorization` alone. There are no cookies and no CORS headers, so no other page can read
   an answer; and a request that a browser says comes from another page (`Origin`, `Sec-Fetch-Site`) is refused before
   anything is done, because it could call a model all the same. Only a link may
   lead here: who follows it sees the answer, and the other page does not.
3. At an address of this machine alone, only its names are taken as `Host`: a page of a name that was made to point here
   (DNS rebinding) would be of the same origin.

Does not cover which role a request needs: applications know that, and call `require`.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from hostd.fronts import asgi
from hostd.fronts.asgi import error_response, header_of
from hostd.fronts.errors import IS_TRUSTED, FrontEndsError, UnauthenticatedError
from hostd.fronts.places import Places
from hostd_workers.wire.errors import (
    FailedPreconditionError,
    HostError,
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.fronts.asgi import App, Message, Receive, Scope, Send
    from hostd.fronts.process import Order

_log = logging.getLogger(__name__)

_KEY: Final = "hostd.role"
"""Under which the role of a request is in its scope."""

_LOCAL_NAMES: Final = frozenset(("localhost", "127.0.0.1", "::1"))
_GUARDS: Final = ((b"content-security-policy", b"default-src 'none'"), (b"x-content-type-options", b"nosniff"))
"""Headers of each answer that has not its own: what a browser takes for a page may load and run nothing."""

_GUARDED: Final = frozenset(name for name, _ in _GUARDS)

_MAX_FILE_BYTES: Final = 1 << 20
_MIN_TOKEN_CHARS: Final = 16
"""Shorter ones can be guessed."""


class Role(enum.IntEnum):
    """What somebody may do, each more than the one before."""

    NONE = 0
    READ = 1
    CALL = 2
    LOAD = 3
    DEPLOY = 4
    ADMIN = 5

    @classmethod
    def named(cls, name: str) -> Role:
        """Return the role of that name in lower case. Raises `InvalidArgumentError` if there is none."""
        try:
            return cls[name.upper()]
        except KeyError:
            names = ", ".join(role.name.lower() for role in cls)
            raise InvalidArgumentError(f"there is no role {name!r}; the roles are {names}") from None


@dataclass(frozen=True)
class Access:
    """What is allowed: `tokens` are roles by the SHA-256 of each token.

    `hosts` are the names that a request may have as its `Host`, without ports; None takes any. `places` are what those
    who call share; None bounds nobody.
    """

    anonymous: Role = Role.ADMIN
    tokens: Mapping[bytes, Role] | None = None
    hosts: frozenset[str] | None = None
    places: Places | None = None

    def role_of(self, authorization: bytes | None) -> Role:
        """Return the role of a request with this header; `UnauthenticatedError` for a token that is not known."""
        if authorization is None:
            return self.anonymous
        if authorization.partition(b" ")[0].lower() != b"bearer":
            raise UnauthenticatedError("the header Authorization must be `Bearer TOKEN`")
        # Looked up by its digest: how long that takes tells nothing of a token.
        role = (self.tokens or {}).get(_digest_of(authorization))
        if role is None:
            raise UnauthenticatedError("this token is not known; fronts.tokens names the file of those that are")
        return role


def caller_of(authorization: bytes | None, address: str) -> bytes | str:
    """Return by what a caller is known who shares places with others: the token, however written, or an address."""
    return address if authorization is None else _digest_of(authorization)


def _digest_of(authorization: bytes) -> bytes:
    return hashlib.sha256(authorization.partition(b" ")[2].strip()).digest()


def local_hosts(host: str) -> frozenset[str]:
    """Return the names under which a front at an address of this machine alone is asked for."""
    return _LOCAL_NAMES | {host.strip("[]").lower()}


def read_tokens(file: Path) -> dict[bytes, Role]:
    """Return what a file of tokens says: a role and a token a line, and comments that begin with #.

    Raises `FailedPreconditionError` if others than its owner can read it, or nobody, `InvalidArgumentError` for a line
    that is wrong.
    """
    try:
        # Not blocking, because opening a FIFO waits for somebody to write.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123 - as said
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read(_MAX_FILE_BYTES).decode("utf-8", "replace") if stat.S_ISREG(mode) else ""
    except OSError as error:
        raise FailedPreconditionError(f"the tokens in {file} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise InvalidArgumentError(f"the tokens must be in a file, and {file} is none")
    if stat.S_IMODE(mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise FailedPreconditionError(f"others can read the tokens in {file}: chmod 600 {file}")
    found: dict[bytes, Role] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            name, token = words
            role = Role.named(name)
        except (ValueError, HostError):
            raise InvalidArgumentError(
                f"{file} line {number} must be a role and a token, such as: call SECRET"
            ) from None
        if len(token) < _MIN_TOKEN_CHARS:
            raise InvalidArgumentError(
                f"{file} line {number}: a token has at least {_MIN_TOKEN_CHARS} characters, such as those of: "
                "python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        found[hashlib.sha256(token.encode()).digest()] = role
    return found


def access_of(order: Order, hosts: frozenset[str] | None = None) -> Access:
    """Return who may do what at a front, by what its host has told it. Raises as `read_tokens`."""
    tokens = {} if order["tokens"] is None else read_tokens(Path(order["tokens"]))
    return Access(Role.named(order["anonymous"]), tokens, hosts, Places(order["max_in_flight"]))


def guarded(app: App, access: Access) -> App:
    """Return an application that lets nobody in whom `access` does not, and knows the role of who is."""

    async def let_in(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                _check_origin(scope, access)
                authorization = header_of(scope, b"authorization")
                role = scope[_KEY] = access.role_of(authorization)
                if access.places is not None:
                    access.places.set_caller(caller_of(authorization, (scope.get("client") or ("",))[0]))
                IS_TRUSTED.set(role >= Role.LOAD)
            except HostError as error:
                await asgi.send_response(send, error_response(error))
                return
        await app(scope, receive, send)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await _answered(let_in, scope, receive, send)

    return serve


async def _answered(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Have an application answer; a defect of ours, and an end of the server, are told as the errors are.

    If nothing was sent yet.
    """
    has_begun = False

    async def sent(message: Message) -> None:
        nonlocal has_begun
        has_begun = True
        if message["type"] == "http.response.start":
            headers = message["headers"]
            own = [name for name, _ in headers if name in _GUARDED]
            guards = [guard for guard in _GUARDS if guard[0] not in own] if own else _GUARDS
            message["headers"] = [*headers, *guards]
        await send(message)

    try:
        await app(scope, receive, sent)
    except asyncio.CancelledError:  # by the server, which ends
        if has_begun or scope["type"] != "http":
            raise
        await asgi.send_response(sent, error_response(FrontEndsError()))
    except Exception:
        if scope["type"] != "http":  # an application without a beginning and an end of its own
            raise
        _log.exception("a defect; please report it")
        if has_begun:
            raise
        await asgi.send_response(sent, error_response(InternalError("a defect of the front; its log says more")))


def role_of(scope: Mapping[str, Any]) -> Role:
    """Return the role of a request; where nobody guards an application, everybody may do everything."""
    role: Role = scope.get(_KEY, Role.ADMIN)
    return role


def require(scope: Mapping[str, Any], role: Role) -> None:
    """Raise as `check_role` unless a request has a role."""
    check_role(role_of(scope), role, has_token=header_of(scope, b"authorization") is not None)


def check_role(has: Role, role: Role, *, has_token: bool) -> None:
    """Raise `PermissionDeniedError` unless somebody has a role, `UnauthenticatedError` if there is no token either."""
    if has >= role:
        return
    needed = f"this needs the role {role.name.lower()}"
    if not has_token:
        raise UnauthenticatedError(f"{needed}: send `Authorization: Bearer TOKEN` with a token that has it")
    raise PermissionDeniedError(f"{needed}, and this token has {has.name.lower()}")


def _check_origin(scope: Scope, access: Access) -> None:
    host = (header_of(scope, b"host") or b"").decode("latin-1").lower()
    if access.hosts is not None and _name_of(f"//{host}") not in access.hosts:
        raise PermissionDeniedError(
            f"this front is asked for as {', '.join(sorted(access.hosts))}, not as {host[:100]!r}: a name that leads "
            "here may be somebody's who has a browser ask"
        )
    origin = header_of(scope, b"origin")
    is_foreign = origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host
    is_link = scope["method"] == "GET" and header_of(scope, b"sec-fetch-dest") == b"document"
    if is_foreign or (_is_of_another_site(scope) and not is_link):
        raise PermissionDeniedError("a page of another origin may not ask this front")


def _is_of_another_site(scope: Scope) -> bool:
    return (header_of(scope, b"sec-fetch-site") or b"").lower() in (b"cross-site", b"same-site")


def _name_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
