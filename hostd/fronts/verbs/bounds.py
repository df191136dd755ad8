"""How long a body may be, and what it says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hostd
from hostd.fronts.asgi import drain
from hostd.fronts.bodies import hold

if TYPE_CHECKING:
    from starlette.requests import Request


def media_type(request: Request) -> str:
    """Return the type of a request's body without its parameters, "" if it says none."""
    return str(request.headers.get("content-type", "")).partition(";")[0].strip().lower()


def check_announced(request: Request, most_bytes: int) -> None:
    """Refuse a body that says beforehand that it is too long. Raises `MessageTooLargeError`."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most_bytes:
        raise too_long(most_bytes)


def too_long(most_bytes: int) -> hostd.MessageTooLargeError:
    """Return the error of a body that is too long."""
    return hostd.MessageTooLargeError(
        f"the body is longer than {most_bytes} bytes, which is what this front takes of such a request",
        details={"parameter": "body", "expected": f"at most {most_bytes} bytes"},
    )


async def whole(request: Request, most_bytes: int) -> bytes:
    """Return the body of a request. Raises `MessageTooLargeError` if it is too long, and `FrontFullError`."""
    chunks: list[bytes] = []
    try:
        check_announced(request, most_bytes)
        size_bytes = 0
        async for chunk in request.stream():
            size_bytes += len(chunk)
            if size_bytes > most_bytes:
                raise too_long(most_bytes)
            hold(len(chunk))
            chunks.append(chunk)
    except hostd.ResourceExhaustedError:
        chunks.clear()
        await drain(request.receive)
        raise
    return b"".join(chunks)
