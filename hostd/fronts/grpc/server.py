"""A server of gRPC at a socket that listens already."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final

from hostd.fronts.grpc.protocol import LOOK_S, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from hostd.fronts.grpc.exchange import Served

_BACKLOG: Final = 4096
_READ_BYTES: Final = 64 << 10
_POLL_S: Final = 0.02
_LAST_WORDS_S: Final = 0.5
"""With a grace of 2 s it is less than the host gives a front to end."""


class Server:
    """Connections of one address, served until `end`; for one event loop."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._protocols: set[Protocol] = set()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._listening: asyncio.Server
        self._looking: asyncio.TimerHandle

    def __repr__(self) -> str:
        return f"<Server connections={len(self._protocols)}>"

    async def start(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        """Serve who connects; encrypted, if there is a context."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._protocol, sock=listener, ssl=context, backlog=_BACKLOG)
        self._looking = loop.call_later(LOOK_S, self._look)

    async def end(self, grace_s: float) -> None:
        """Take nothing new; calls that are not through in `grace_s` say that they end."""
        loop = asyncio.get_running_loop()
        self._listening.close()
        self._looking.cancel()
        for protocol in list(self._protocols):
            protocol.leave()
        await self._wait(self._are_idle, loop.time() + grace_s)
        for protocol in list(self._protocols):
            protocol.cancel()
        end_s = loop.time() + _LAST_WORDS_S
        await self._wait(self._are_idle, end_s)
        for protocol in list(self._protocols):
            protocol.close()
        await self._wait(lambda: not self._protocols, end_s)
        for protocol in list(self._protocols):
            protocol.abort()

    async def _wait(self, is_so: Callable[[], bool], end_s: float) -> None:
        while not is_so() and asyncio.get_running_loop().time() < end_s:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_POLL_S)

    def _are_idle(self) -> bool:
        return all(protocol.is_idle for protocol in self._protocols)

    def _protocol(self) -> Protocol:
        return Protocol(self._served, self._protocols, self._buffer)

    def _look(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        for protocol in list(self._protocols):
            protocol.look()


def context_of(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return what encrypts the connections of a server with this certificate, checked before."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return context
