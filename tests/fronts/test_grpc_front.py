"""The gRPC front as a process of its host: its address, its end, who may ask it; and gRPC's own services."""

import contextlib
import os
import re
import signal
import socket
import subprocess

import grpc
import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="asked as its clients do")

import tritonclient.grpc as triton
from front_process_rig import HELD, front_of, go_on, has_calls, kill_front, shared_by, starting, two_tokens
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_rig import given, stub_of, target_of
from helpers import PATIENCE_S, eventually
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

import hostd
from hostd.fronts.oip.grpc.messages import INFERENCE, POOL

SECRET = "s3cret-s3cret-s3cret"


@pytest.fixture
def fronted():
    """Start hosts with a gRPC front."""
    with starting(grpc=0) as start:
        yield start


@pytest.fixture
def asking():
    """Make clients of Triton's."""
    clients = []

    def connect(host, **options):
        clients.append(triton.InferenceServerClient(target_of(host), **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def is_live(client):
    try:
        return client.is_server_live()
    except InferenceServerException:
        return False


def has_ended(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(") ")[2][0] == "Z"


# Its address, and its end


def test_a_host_says_where_its_front_is_and_ends_it(fronted, asking):
    host = fronted()
    assert re.fullmatch(r"grpc://127\.0\.0\.1:\d+", host.client().host_info().fronts["grpc"])
    client, pid = asking(host), front_of(host)
    assert client.is_server_ready()
    host.stop()
    assert not os.path.exists(f"/proc/{pid}")
    assert not is_live(client)


def test_both_fronts_serve_beside_each_other(fronted, asking):
    host = fronted(http=0)
    assert set(host.client().host_info().fronts) == {"http", "grpc"}
    assert asking(host).is_server_ready()


def test_a_front_that_was_killed_comes_back_where_it_was_and_clients_connect_again(fronted, asking, model_dir):
    host = fronted()
    host.client().load_model("m", model_dir())
    client, inputs = asking(host), [given("x", np.arange(3), "INT64")]
    for _ in range(2):
        assert client.infer("m", inputs).as_numpy("output_0").tolist() == [0, 1, 2]
        kill_front(host)
        eventually(lambda: is_live(client), "it is connected again")
    assert client.infer("m", inputs).as_numpy("output_0").tolist() == [0, 1, 2]


@pytest.mark.parametrize("is_running", [True, False], ids=["front", "no front"])
def test_nobody_else_gets_the_address_of_a_front(fronted, is_running):
    host = fronted()
    port = int(target_of(host).rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        if not is_running:
            pid = front_of(host)
            os.kill(host.pid, signal.SIGSTOP)  # or it would start another one
            stack.callback(os.kill, host.pid, signal.SIGCONT)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: has_ended(pid), "it has ended")
        with pytest.raises(hostd.FailedPreconditionError, match=f"cannot listen at 127.0.0.1:{port}: Address already"):
            fronted(grpc=port)
        with pytest.raises(OSError, match="Address already in use"):
            socket.create_server(("127.0.0.1", port))


def test_an_address_that_listens_already_ends_the_start(fronted):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(hostd.FailedPreconditionError, match="cannot listen at"):
            fronted(grpc=port)


def test_a_port_is_free_again_for_the_next_host(fronted, asking):
    host = fronted()
    port = int(target_of(host).rpartition(":")[2])
    assert asking(host).is_server_live()
    host.stop()
    assert asking(fronted(grpc=port)).is_server_live()


def test_what_a_front_that_ends_has_not_answered_is_to_be_asked_again(fronted, model_dir):
    host, path = fronted(), model_dir(HELD)
    host.client().load_model("m", path)
    with stub_of(target_of(host)) as stub:
        tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="INT64", shape=[1])
        tensor.contents.int64_contents.append(1)
        waiting = stub.ModelInfer.future(service_pb2.ModelInferRequest(model_name="m", inputs=[tensor]))
        has_calls(host)
        os.kill(front_of(host), signal.SIGTERM)
        error = waiting.exception(PATIENCE_S)
        go_on(path)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_messages_that_are_over_what_a_front_may_hold_are_refused_until_others_are_answered(fronted, model_dir):
    host, path = fronted(max_body_bytes=2**20, max_bodies_bytes=2 * 2**20), model_dir(HELD)
    host.client().load_model("m", path)
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="UINT8", shape=[900_000])
    request = service_pb2.ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[bytes(900_000)])
    with stub_of(target_of(host)) as stub:
        waiting = [stub.ModelInfer.future(request) for _ in range(2)]
        has_calls(host, 2)
        with pytest.raises(grpc.RpcError, match=r"fronts\.max_bodies_bytes") as caught:
            stub.ModelInfer(request, timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError, match=r"fronts\.max_bodies_bytes"):
            list(stub.ModelStreamInfer(iter([request]), timeout=PATIENCE_S))
        go_on(path)
        assert [one.exception(PATIENCE_S) for one in waiting] == [None, None]
        stub.ModelInfer(request, timeout=PATIENCE_S)


def test_one_caller_does_not_take_all_places_of_a_model(fronted, model_dir, tmp_path):
    first, second = ([("authorization", bearer)] for bearer in two_tokens(tmp_path / "tokens"))
    host, path = fronted(max_in_flight=24, tokens=str(tmp_path / "tokens")), model_dir(HELD)
    host.client().load_model("m", path)
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="UINT8", shape=[1])
    request = service_pb2.ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[b"1"])
    with stub_of(target_of(host)) as stub:

        def ask(metadata):
            return stub.ModelInfer.future(request, metadata=metadata).code()

        with shared_by(ask, first, second, refused=grpc.StatusCode.RESOURCE_EXHAUSTED):
            go_on(path)
        assert ask(first) is grpc.StatusCode.OK


# Who may


def test_an_address_of_other_machines_needs_tokens(fronted):
    with pytest.raises(hostd.InvalidArgumentError, match=r"fronts\.grpc listens at 0\.0\.0\.0:0, which other machines"):
        fronted(grpc="0.0.0.0:0")


def test_who_asks_without_a_token_may_call_and_not_load(fronted, asking):
    client = asking(fronted())
    assert client.get_model_repository_index().models == []
    with pytest.raises(InferenceServerException, match="needs the role load: send `Authorization: Bearer") as caught:
        client.load_model("m")
    assert caught.value.status() == "StatusCode.UNAUTHENTICATED"


def test_tokens_have_roles(fronted, asking, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"read {SECRET}\n")
    tokens.chmod(0o600)
    client = asking(fronted(tokens=str(tokens), anonymous="none"))
    bearer = {"authorization": f"Bearer {SECRET}"}

    def status_of(method, *arguments, **headers):
        with pytest.raises(InferenceServerException) as caught:
            method(*arguments, headers=headers)
        return caught.value.status().removeprefix("StatusCode.")

    assert client.is_server_ready(), "whoever watches over a host needs no token"
    assert client.get_model_repository_index(headers=bearer).models == []
    assert status_of(client.get_model_repository_index) == "UNAUTHENTICATED"
    assert status_of(client.get_model_repository_index, authorization="Bearer unknown-unknown") == "UNAUTHENTICATED"
    assert status_of(client.get_model_repository_index, authorization="Basic abc") == "UNAUTHENTICATED"
    assert status_of(client.unload_model, "m", **bearer) == "PERMISSION_DENIED"
    assert status_of(client.infer, "m", [given("x", np.ones(1), "FP64")], **bearer) == "PERMISSION_DENIED"


def test_a_front_with_a_certificate_speaks_tls(fronted, tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *[
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ],
            *["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    host = fronted(certificate=str(certificate), key=str(key))
    assert host.client().host_info().fronts["grpc"].startswith("grpcs://")
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with stub_of(target_of(host), credentials) as stub:
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=PATIENCE_S, wait_for_ready=True).live
    certificate.write_text("nothing")
    with pytest.raises(hostd.FailedPreconditionError, match="the grpc front does not start"):
        fronted(certificate=str(certificate), key=str(key))


# gRPC's own services


def test_the_health_of_a_host_is_checked_and_watched(fronted):
    with grpc.insecure_channel(target_of(fronted())) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def asked(service):
            return health_pb2.HealthCheckRequest(service=service)

        for service in ("", INFERENCE):
            assert stub.Check(asked(service), timeout=PATIENCE_S).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(asked("nobody"), timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        for service, status in (("", "SERVING"), ("nobody", "SERVICE_UNKNOWN")):
            watching = stub.Watch(asked(service), timeout=PATIENCE_S)
            assert next(watching).status == health_pb2.HealthCheckResponse.ServingStatus.Value(status)
            watching.cancel()


def test_tools_learn_by_reflection_what_is_served(fronted):
    with grpc.insecure_channel(target_of(fronted())) as channel:
        described = ProtoReflectionDescriptorDatabase(channel)
        assert {INFERENCE, "grpc.health.v1.Health"} <= set(described.get_services())
        file = described.FindFileContainingSymbol(INFERENCE)
        assert "ModelInfer" in [method.name for method in file.service[0].method]
        assert described.FindFileByName("health.proto").package == "grpc.health.v1"
        with pytest.raises(KeyError):
            described.FindFileContainingSymbol("inference.Nothing")


# Its messages


def test_messages_have_the_names_and_numbers_of_the_published_protocol():
    def fields_of(message):
        return {
            (f.name, f.number, f.type, f.is_repeated, getattr(f.message_type or f.enum_type, "full_name", ""))
            for f in message.fields
        }

    def rpcs_of(service):
        return {(rpc.name, rpc.input_type.name, rpc.output_type.name) for rpc in service.methods}

    def compare(ours, theirs):
        assert fields_of(ours) <= fields_of(theirs), ours.full_name
        for name, nested in ours.nested_types_by_name.items():
            compare(nested, theirs.nested_types_by_name[name])

    published = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
    ours = POOL.FindFileByName("open_inference.proto")
    for name, message in ours.message_types_by_name.items():
        compare(message, published[name])
    served = ours.services_by_name["GRPCInferenceService"]
    assert rpcs_of(served) == rpcs_of(service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"])
    data_types = {value.name: value.number for value in ours.enum_types_by_name["DataType"].values}
    assert data_types == dict(model_config_pb2.DataType.items())
