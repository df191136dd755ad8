"""Traces: the spans of a module in a worker arrive, below the span of the request."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from caikit_rig import caikit, grpc, sample
from helpers import eventually

trace = pytest.importorskip("opentelemetry.trace", reason="caikit's extra `runtime-trace`")
pytest.importorskip("opentelemetry.propagate")
messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
services = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")

pytestmark = [pytest.mark.caikit, pytest.mark.filterwarnings("ignore")]


class Collector(services.TraceServiceServicer):
    """Collects spans as OpenTelemetry's collector does."""

    def __init__(self):
        self.spans = []

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return messages.ExportTraceServiceResponse()


@pytest.fixture
def spans(manager):
    """The spans that have arrived at a collector, which caikit's configuration names."""
    server, collector = grpc.server(ThreadPoolExecutor(1)), Collector()
    services.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    caikit.configure(config_dict={"runtime": {"trace": {"enabled": True, "endpoint": f"127.0.0.1:{port}"}}})
    yield collector.spans
    caikit.configure(config_dict={"runtime": {"trace": {"enabled": False}}})
    server.stop(None).wait()


def request(number):
    """Return a span of the serving process."""
    sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    return trace.NonRecordingSpan(trace.SpanContext(number, number, is_remote=False, trace_flags=sampled))


def test_spans_of_a_module_belong_to_the_span_of_the_request(manager, path, spans):
    model = manager.load_model("traced", path, "any").model()
    for number in (1, 2):
        with trace.use_span(request(number)):
            model.run(sample.Question("Ada"))
    model.run(sample.Question("Ada"))
    eventually(lambda: len(spans) == 3, "three spans have arrived")
    assert {span.name for span in spans} == {"answer"}
    traces, parents = ([int.from_bytes(getattr(it, name)) for it in spans] for name in ("trace_id", "parent_span_id"))
    assert parents == [1, 2, 0]
    assert traces[:2] == [1, 2]
