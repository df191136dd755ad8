"""The messages that the gRPC fronts speak: classes made from sets of descriptors, in a pool of their own.

Not in protobuf's default pool: there each name may be defined once in a process, and clients of Triton define
`inference.ModelInferRequest`, too. And not as generated modules: those refuse to run with another major version of
protobuf than the one that they were made for, while a set of descriptors (`.ci/protos.py` makes it) is read by all.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from hostd.fronts.grpc.serving import Rpc

INFERENCE: Final = "inference.GRPCInferenceService"
HEALTH: Final = "grpc.health.v1.Health"
REFLECTION: Final = "grpc.reflection.v1alpha.ServerReflection"

_FILE: Final = "descriptors.binpb"


POOL: Final = descriptor_pool.DescriptorPool()


def add_messages(folder: Path) -> None:
    """Add the messages of a folder of `.proto` files to the pool."""
    files = descriptor_pb2.FileDescriptorSet.FromString((folder / _FILE).read_bytes())
    for file in files.file:
        POOL.AddSerializedFile(file.SerializeToString())


add_messages(Path(__file__).parent)


@cache
def message(name: str) -> Any:
    """Return the class of a message by its full name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


def rpcs_of(service: str) -> tuple[Rpc, ...]:
    """Return the methods of a service by its full name."""
    methods = descriptor_pb2.ServiceDescriptorProto()
    described = POOL.FindServiceByName(service)
    described.CopyToProto(methods)
    return tuple(
        Rpc(
            method.name,
            message(method.input_type.lstrip(".")),
            message(method.output_type.lstrip(".")),
            method.client_streaming,
            method.server_streaming,
        )
        for method in methods.method
    )


InferRequestMessage: Final = message("inference.ModelInferRequest")
InferResponseMessage: Final = message("inference.ModelInferResponse")
StreamResponseMessage: Final = message("inference.ModelStreamInferResponse")
