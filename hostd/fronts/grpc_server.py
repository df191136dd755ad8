"""The gRPC fronts: services, served by gRPC's asyncio server at an address that the host keeps.

gRPC's Python interface takes no socket, so this binds one of its own beside that of the host (SO_REUSEPORT), and
connections are refused while no front runs; gRPC's clients then connect again by themselves. gRPC takes 0.0.0.0, too,
for all addresses of IPv6 and IPv4.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import grpc.aio

from hostd import AsyncClient
from hostd.fronts.access import Access, Role, read_tokens
from hostd.fronts.bodies import Bodies
from hostd.fronts.certificate import check_certificate
from hostd.fronts.oip.grpc.services import handlers
from hostd.fronts.places import Places
from hostd.fronts.process import SERVES
from hostd_workers.wire.errors import FailedPreconditionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from hostd.fronts.process import Words

    Services: TypeAlias = Callable[[AsyncClient, Access, int, Bodies], Awaitable[list[grpc.GenericRpcHandler]]]

MAX_MESSAGE_BYTES: Final = 2**31 - 1
"""gRPC and protobuf count the bytes of a message in 32 bits."""

KEEPALIVE_S: Final = 60
"""After so long without a byte a client whose call runs is asked whether it is there, and its calls are cancelled if it
does not say so in `KEEPALIVE_TIMEOUT_S`: of a machine that has lost its power nothing tells."""

KEEPALIVE_TIMEOUT_S: Final = 20

MAX_STREAMS: Final = 1024
"""Calls of one connection at a time; its client lets more wait. As many as a model takes by default."""

_GRACE_S: Final = 2


async def _inference(
    client: AsyncClient, access: Access, max_body_bytes: int, bodies: Bodies
) -> list[grpc.GenericRpcHandler]:
    return handlers(client, access, max_body_bytes, bodies)


def serve(order: Mapping[str, Any], words: Words, services: Services = _inference) -> None:
    """Serve what `services` returns, by default the Open Inference Protocol, until a signal ends it.

    Raises `HostError` if tokens or certificate cannot be read, or the address cannot be bound.
    """
    with socket.socket(fileno=order["listen_fd"]) as kept:
        host, port = kept.getsockname()[:2]
    access = Access(Role.named(order["anonymous"]), _tokens(order["tokens"]), places=Places(order["max_in_flight"]))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    asyncio.run(_serve(order, address, access, words, services))


async def _serve(order: Mapping[str, Any], address: str, access: Access, words: Words, services: Services) -> None:
    words.beat()
    is_ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, is_ended.set)
    async with AsyncClient(order["endpoint"]) as client:
        options = (
            ("grpc.max_receive_message_length", min(order["max_body_bytes"], MAX_MESSAGE_BYTES)),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.so_reuseport", 1),
        )
        server = grpc.aio.server(options=options)
        bodies = Bodies(order["max_bodies_bytes"])
        server.add_generic_rpc_handlers(await services(client, access, order["max_body_bytes"], bodies))
        credentials = _credentials(order["certificate"], order["key"])
        try:
            if credentials is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, credentials)
        except RuntimeError as error:  # all that gRPC says
            raise FailedPreconditionError(f"{address} cannot be bound: {error}") from None
        await server.start()
        words.say(SERVES)
        await is_ended.wait()
        await server.stop(_GRACE_S)


def _tokens(file: str | None) -> dict[bytes, Role]:
    return {} if file is None else read_tokens(Path(file))


def _credentials(certificate: str | None, key: str | None) -> grpc.ServerCredentials | None:
    if certificate is None:
        return None
    # gRPC tells of a pair that does not fit in its log alone, and only when somebody connects.
    check_certificate(certificate, key)
    pair = Path(key or certificate).read_bytes(), Path(certificate).read_bytes()
    return grpc.ssl_server_credentials([pair])
