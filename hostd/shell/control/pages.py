"""What machines ask for over HTTP: `/healthz`, `/readyz` and `/metrics`.

* `/healthz`: the process lives and its event loop turns. 503: it hangs, restart it.
* `/readyz`: models may be called. 503 while it starts (the initial loads too, if `models.wait_for_initial_loads`) and
  from the first moment of its end. A host that is degraded is ready, because what is loaded is served; it says so.
* `/metrics`: the Prometheus page.

The event loop answers each; the server waits for it `ANSWER_S` at most.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from hostd.shell.control.http import HttpServer, Page

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Awaitable, Callable, Mapping

    from hostd.records import HostInfo
    from hostd.shell.control.metrics import Metrics

T = TypeVar("T")

ANSWER_S = 3.0
"""A loop that turns answers in milliseconds, and on a machine that stalls in less than this."""


class HungError(Exception):
    """The event loop did not answer in time."""


class Pages:
    """The pages of one host. They are made in another thread than the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics, info: Callable[[], HostInfo]) -> None:
        self._loop = loop
        self._metrics = metrics
        self._info = info

    def by_path(self) -> Mapping[str, Callable[[str], Awaitable[Page]]]:
        """Return what makes which page."""
        return {"/metrics": self._metrics_page, "/healthz": self._health, "/readyz": self._readiness}

    async def _health(self, _accept: str) -> Page:
        try:
            await self._ask(lambda: None)
        except HungError as error:
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "hung", "reason": str(error)})
        return _json(HTTPStatus.OK, {"status": "alive"})

    async def _readiness(self, _accept: str) -> Page:
        try:
            info = await self._ask(self._info)
        except HungError as error:
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "hung", "reason": str(error)})
        said = {"status": info.state.lower(), "name": info.name, "degraded": list(info.degraded)}
        return _json(HTTPStatus.OK if info.state == "READY" else HTTPStatus.SERVICE_UNAVAILABLE, said)

    async def _metrics_page(self, accept: str) -> Page:
        try:
            snapshot = await self._ask(self._metrics.snapshot)
        except HungError as error:
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "hung", "reason": str(error)})
        return Page(HTTPStatus.OK, *self._metrics.page(snapshot, accept))

    async def _ask(self, question: Callable[[], T]) -> T:
        """Return what a function returns that runs on the host's event loop. Raises `HungError`."""

        async def answer() -> T:
            return question()

        coroutine = answer()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            return await asyncio.wait_for(asyncio.wrap_future(future), ANSWER_S)
        except RuntimeError:  # it is closed: the host has ended
            coroutine.close()
            raise HungError("the host has ended") from None
        except asyncio.TimeoutError:
            raise HungError(f"the host's event loop has not turned for {ANSWER_S:g} s") from None


def serve(
    host: str,
    port: int,
    loop: asyncio.AbstractEventLoop,
    metrics: Metrics,
    info: Callable[[], HostInfo],
    stack: contextlib.ExitStack,
) -> int:
    """Serve the pages of a host at an address until the end of the stack, and return the port."""
    return stack.enter_context(HttpServer(host, port, Pages(loop, metrics, info).by_path())).port


def _json(status: HTTPStatus, body: dict[str, Any]) -> Page:
    return Page(status, "application/json", json.dumps(body).encode() + b"\n")
