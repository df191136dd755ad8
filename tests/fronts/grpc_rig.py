"""A host's gRPC front as clients see it: Triton's own, and plain stubs."""

import queue
from contextlib import contextmanager

import grpc
import numpy as np
import tritonclient.grpc as triton
from helpers import PATIENCE_S
from tritonclient.grpc import service_pb2_grpc


def target_of(host):
    """Return where a host's front is, as gRPC's clients take it."""
    return host.client().host_info().fronts["grpc"].partition("://")[2]


@contextmanager
def stub_of(target, credentials=None):
    """Give the methods of the service, each as gRPC has it."""
    with grpc.insecure_channel(target) if credentials is None else grpc.secure_channel(target, credentials) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def given(name, array, datatype):
    """Return an input of Triton's client."""
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def text(name, element):
    """Return an input that is a single string."""
    return given(name, np.array(element, object), "BYTES")


def parameters_of(result):
    """Return the parameters of an answer, as plain values."""
    found = result.get_response().parameters
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in found.items()}


@contextmanager
def stream_of(client, **options):
    """Give what waits for the next answer of a stream, with its error, which the block fills."""
    answers = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)), **options)
    try:
        yield lambda: answers.get(timeout=PATIENCE_S)
    finally:
        client.stop_stream()
