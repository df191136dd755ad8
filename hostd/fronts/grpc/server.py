"""A server of gRPC at a socket that listens already."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final

from hostd.fronts.grpc.protocol import LOOK_S, Protocol

if TYPE_CHECKING:
    import socket

    from hostd.fronts.grpc.exchange import Served

_BACKLOG: Final = 4096
_POLL_S: Final = 0.05
_LAST_WORDS_S: Final = 0.5
"""With a grace of 2 s it is less than the host gives a front to end."""


class Server:
    """Connections of one address, served until `end`; for one event loop."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._protocols: set[Protocol] = set()
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
        self._listening.close()
        self._looking.cancel()
        for protocol in list(self._protocols):
            protocol.leave()
        await self._wait(grace_s)
        for protocol in list(self._protocols):
            protocol.cancel()
        await self._wait(_LAST_WORDS_S)
        for protocol in list(self._protocols):
            protocol.close()
        await asyncio.sleep(0)  # to close is done in the next turn of the loop

    async def _wait(self, within_s: float) -> None:
        end_s = asyncio.get_running_loop().time() + within_s
        while not all(protocol.is_idle for protocol in self._protocols):
            if asyncio.get_running_loop().time() >= end_s:
                return
            await asyncio.sleep(_POLL_S)

    def _protocol(self) -> Protocol:
        return Protocol(self._served, self._protocols)

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
