"""Handlers of gRPC made of plain ones: who may ask, errors as statuses, deadlines.

A handler takes a message, or the messages of a stream, and the context of the call; it raises `HostError`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

import grpc

from hostd.fronts.access import Role, caller_of, check_role
from hostd.fronts.errors import IS_TRUSTED
from hostd_workers.wire.errors import HostError, sayable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from hostd.fronts.access import Access
    from hostd.fronts.oip.grpc.messages import Rpc

Context: TypeAlias = Any
"""A `grpc.aio.ServicerContext`."""

Handler: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"
"""What answers; a handler that answers with many messages writes them itself, and returns nothing."""

CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
"""By number, and the numbers of a host's statuses are gRPC's."""

MAX_MESSAGE_BYTES: Final = 4096
"""Of the words of an error, which travel percent-encoded in a trailer: clients take 8 KiB of trailers and no more."""

_CUT: Final = " ..."


def served(
    service: str, rpcs: tuple[Rpc, ...], handlers: Mapping[str, tuple[Role, Handler]], access: Access
) -> grpc.GenericRpcHandler:
    """Return what a server serves for a service: by the name of a method the role that it needs, and its handler."""
    return grpc.method_handlers_generic_handler(
        service, {rpc.name: _made(rpc, *handlers[rpc.name], access) for rpc in rpcs if rpc.name in handlers}
    )


def left_s(context: Context, timeout_s: float | None) -> float | None:
    """Return what a call may take: what its client waits, or less if the request says so."""
    waits_s: float | None = context.time_remaining()
    found = [limit_s for limit_s in (waits_s, timeout_s) if limit_s is not None]
    return min(found, default=None)


def words_of(error: HostError) -> str:
    """Return what is told of an error, cut to what a trailer holds."""
    words = sayable(error.message)
    if len(quote(words, safe=" ")) <= MAX_MESSAGE_BYTES:
        return words
    end = MAX_MESSAGE_BYTES
    while len(quote(words[:end], safe=" ")) > MAX_MESSAGE_BYTES:
        end //= 2
    return words[:end] + _CUT


def _made(rpc: Rpc, role: Role, handler: Handler, access: Access) -> grpc.RpcMethodHandler:
    async def serve(asked: Any, context: Context) -> Any:
        async with _told(context):
            _check(context, access, role)
            return await handler(asked, context)

    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = kinds[rpc.is_of_many_requests, rpc.is_of_many_responses]
    return make(serve, request_deserializer=rpc.request.FromString, response_serializer=rpc.response.SerializeToString)


@asynccontextmanager
async def _told(context: Context) -> AsyncIterator[None]:
    try:
        yield
    except HostError as error:
        await context.abort(CODES[error.status], words_of(error))


def _check(context: Context, access: Access, role: Role) -> None:
    metadata = context.invocation_metadata()
    authorization = next((value.encode() for key, value in metadata if key == "authorization"), None)
    has = access.role_of(authorization)
    check_role(has, role, has_token=authorization is not None)
    IS_TRUSTED.set(has >= Role.LOAD)
    if access.places is not None:
        access.places.set_caller(caller_of(authorization, context.peer().rpartition(":")[0]))
