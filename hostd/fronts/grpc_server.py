"""The gRPC fronts: services, served at a socket that the host has bound."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import TYPE_CHECKING, Final, TypeAlias

from hostd import AsyncClient
from hostd.fronts.access import access_of
from hostd.fronts.bodies import Bodies
from hostd.fronts.certificate import check_certificate
from hostd.fronts.grpc.exchange import Served
from hostd.fronts.grpc.server import Server, context_of
from hostd.fronts.oip.grpc.services import methods
from hostd.fronts.process import SERVES, run_loop

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from hostd.fronts.access import Access
    from hostd.fronts.grpc.serving import Methods
    from hostd.fronts.process import Order, Words

    Services: TypeAlias = Callable[[AsyncClient, int, Bodies], Awaitable[Methods]]

_GRACE_S: Final = 2


async def _inference(client: AsyncClient, max_body_bytes: int, bodies: Bodies) -> Methods:
    return methods(client, max_body_bytes, bodies)


def serve(order: Order, words: Words, services: Services = _inference) -> None:
    """Serve what `services` returns, by default the Open Inference Protocol, until a signal ends it.

    Raises `HostError` if tokens or certificate cannot be read.
    """
    access = access_of(order)
    context = None
    if order["certificate"] is not None:
        check_certificate(order["certificate"], order["key"])
        context = context_of(order["certificate"], order["key"])
    run_loop(_serve(order, context, access, words, services))


async def _serve(
    order: Order, context: ssl.SSLContext | None, access: Access, words: Words, services: Services
) -> None:
    words.beat()
    is_ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, is_ended.set)
    async with AsyncClient(order["endpoint"]) as client:
        bodies = Bodies(order["max_bodies_bytes"])
        served = Served(
            await services(client, order["max_body_bytes"], bodies), access, bodies, order["max_body_bytes"]
        )
        server = Server(served)
        await server.start(socket.socket(fileno=order["listen_fd"]), context)
        words.say(SERVES)
        await is_ended.wait()
        await server.end(_GRACE_S)
