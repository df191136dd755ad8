"""Server reflection of gRPC: what tools such as grpcurl need to make requests without .proto files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hostd.fronts.oip.grpc.messages import HEALTH, INFERENCE, POOL, REFLECTION, message
from hostd_workers.wire.errors import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hostd.fronts.grpc.serving import Context

V1: Final = "grpc.reflection.v1.ServerReflection"
"""Its newer name; the messages are the same."""

SERVICES: Final = (HEALTH, V1, REFLECTION, INFERENCE)

_Response: Final = message("grpc.reflection.v1alpha.ServerReflectionResponse")


async def reflect(requests: AsyncIterator[Any], context: Context) -> None:
    """Answer each question of a stream."""
    async for request in requests:
        await context.write(_answer(request))


def _answer(request: Any) -> Any:
    answer = _Response(valid_host=request.host, original_request=request)
    asked = request.WhichOneof("message_request")
    try:
        match asked:
            case "list_services":
                for name in SERVICES:
                    answer.list_services_response.service.add(name=name)
            case "file_by_filename":
                _add_file(answer, POOL.FindFileByName(request.file_by_filename))
            case "file_containing_symbol":
                symbol = request.file_containing_symbol.replace(V1, REFLECTION, 1)
                _add_file(answer, POOL.FindFileContainingSymbol(symbol))
            case _:
                answer.error_response.error_code = Status.UNIMPLEMENTED
                answer.error_response.error_message = "extensions are not known here"
    except KeyError:
        answer.error_response.error_code = Status.NOT_FOUND
        answer.error_response.error_message = f"there is no {getattr(request, asked)!r} here"
    return answer


def _add_file(answer: Any, file: Any) -> None:
    answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
