"""The ModelMesh front of real hosts, asked as ModelMesh asks: over gRPC, by a client that knows nothing else of them."""

import contextlib
import json
import os
import signal
import socket
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="inference is asked as its clients do")

import tritonclient.grpc as triton
from front_process_rig import kill_front
from grpc_rig import given
from helpers import PATIENCE_S, eventually, is_there
from tritonclient.utils import InferenceServerException

import hostd
from hostd.fronts.modelmesh.messages import RUNTIME, StatusResponse
from hostd.fronts.modelmesh.parameters import FORWARDED
from hostd.fronts.oip.grpc.messages import INFERENCE, POOL, rpcs_of

MIB = 2**20
BUDGET = 2 * 2**30

WAITING = """
    import os, pathlib

    class Model:
        def predict(self, x):
            return x

    def load(path, **options):
        pid = pathlib.Path(path, str(os.getpid()))
        pid.with_suffix(".written").touch()
        pid.with_suffix(".written").rename(pid.with_suffix(".pid"))
        open(pathlib.Path(path, "go")).close()
        return Model()
"""
"""Says who loads it, and waits until the test opens `go`."""

FAILING = """
    def load(path, **options):
        raise ValueError("no such weights")
"""

REFUSING = """
    from hostd_workers.wire.errors import FailedPreconditionError

    def load(path, **options):
        raise FailedPreconditionError("this library is missing")
"""


class Mesh:
    """What ModelMesh can ask of a runtime: each method by its name, with fields as keywords."""

    def __init__(self, target):
        self.target = target
        self.channel = grpc.insecure_channel(target)
        self._rpcs = {rpc.name: rpc for rpc in rpcs_of(RUNTIME)}

    def begin(self, name, *, timeout=PATIENCE_S, **fields):
        """Begin a call, and return it."""
        rpc = self._rpcs[name]
        method = self.channel.unary_unary(
            f"/{RUNTIME}/{name}",
            request_serializer=rpc.request.SerializeToString,
            response_deserializer=rpc.response.FromString,
        )
        return method.future(rpc.request(**fields), timeout=timeout, wait_for_ready=True)

    def ask(self, name, **fields):
        """Return the answer of a call."""
        return self.begin(name, **fields).result()

    def load(self, model_id, path, **fields):
        """Load a model, and return its size."""
        return self.ask("loadModel", modelId=model_id, modelPath=path, **fields).sizeInBytes

    def status(self):
        """Return the status once it is not STARTING."""
        return eventually(lambda: (found := self.ask("runtimeStatus")).status and found, "it is not STARTING")


@pytest.fixture
def meshed():
    """Start hosts with this front, and what asks each."""
    with contextlib.ExitStack() as stack:

        def start(*, fronts=None, **settings):
            settings = {"memory": {"budget": BUDGET, "remember": "host"}, "workers": {"templates": "off"}, **settings}
            host = stack.enter_context(hostd.Host(fronts={"modelmesh": 0, **(fronts or {})}, **settings))
            mesh = Mesh(host.client().host_info().fronts["modelmesh"].partition("://")[2])
            stack.enter_context(mesh.channel)
            return host, mesh

        yield start


@pytest.fixture
def waiting_model(model_dir):
    """Write models whose load waits."""

    def write():
        path = model_dir(WAITING)
        os.mkfifo(Path(path, "go"))
        return path

    return write


def loaders_of(path):
    """Return the processes that have begun to load a model that waits."""
    return [int(file.stem) for file in Path(path).glob("*.pid")]


def loader_of(path):
    """Return the process that loads a model that waits, once there is one."""
    return eventually(lambda: loaders_of(path), "it is being loaded")[0]


def let_go(path):
    """Let the load of a model go on."""
    with open(Path(path, "go"), "w"):
        pass


def error_of(call):
    """Return the code of the error that a call ends with, and its words."""
    with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)) as caught:
        call.result()
    return caught.value.code().name, caught.value.details()


def infer(mesh, model_id):
    with triton.InferenceServerClient(mesh.target) as client:
        return client.infer(model_id, [given("x", np.arange(3), "INT64")]).as_numpy("output_0").tolist()


# The messages


PUBLISHED = {
    "LoadModelRequest": {"modelId": 1, "modelType": 2, "modelPath": 3, "modelKey": 4},
    "LoadModelResponse": {"sizeInBytes": 1, "maxConcurrency": 2},
    "UnloadModelRequest": {"modelId": 1},
    "UnloadModelResponse": {},
    "PredictModelSizeRequest": {"modelId": 1, "modelType": 2, "modelPath": 3, "modelKey": 4},
    "PredictModelSizeResponse": {"sizeInBytes": 1},
    "ModelSizeRequest": {"modelId": 1},
    "ModelSizeResponse": {"sizeInBytes": 1},
    "RuntimeStatusRequest": {},
    "RuntimeStatusResponse": {
        "status": 1,
        "capacityInBytes": 2,
        "maxLoadingConcurrency": 3,
        "modelLoadingTimeoutMs": 4,
        "defaultModelSizeInBytes": 5,
        "runtimeVersion": 6,
        "numericRuntimeVersion": 7,
        "methodInfos": 8,
        "limitModelConcurrency": 9,
        "allowAnyMethod": 10,
    },
}


def test_messages_have_the_names_and_numbers_of_the_published_interface():
    ours = POOL.FindFileByName("model_runtime.proto").message_types_by_name
    assert {name: {f.name: f.number for f in found.fields} for name, found in ours.items()} == PUBLISHED
    assert {rpc.name for rpc in rpcs_of(RUNTIME)} == {
        "loadModel",
        "unloadModel",
        "predictModelSize",
        "modelSize",
        "runtimeStatus",
    }


def test_the_first_field_of_what_is_forwarded_is_the_id_of_the_model():
    rpcs = {f"{INFERENCE}/{rpc.name}": rpc for rpc in rpcs_of(INFERENCE)}
    for name in FORWARDED:
        assert rpcs[name].request.DESCRIPTOR.fields_by_number[1].name in ("name", "model_name")


# The conversation


def test_a_model_is_loaded_called_by_its_id_and_unloaded(meshed, model_dir):
    host, mesh = meshed(workers={"templates": "off", "load_timeout_s": 90})
    client, path = host.client(), model_dir()
    status = mesh.status()
    assert status.status == StatusResponse.READY
    assert status.capacityInBytes == BUDGET
    assert (status.modelLoadingTimeoutMs, status.defaultModelSizeInBytes) == (90_000, 256 * MIB)
    assert status.maxLoadingConcurrency >= 1
    assert status.runtimeVersion == f"hostd {hostd.__version__}"
    assert {(name, *info.idInjectionPath) for name, info in status.methodInfos.items()} == {
        (name, 1) for name in FORWARDED
    }
    key = '{"model_type": {"name": "sklearn"}, "disk_size_bytes": 123}'
    size_bytes = mesh.load("m", path, modelType="sklearn", modelKey=key)
    info = client.get_model("m")
    assert (info.type, info.size_source) == ("modelmesh", "measured")
    assert size_bytes == info.charge_bytes > 0
    assert mesh.ask("modelSize", modelId="m").sizeInBytes == client.get_model("m").charge_bytes
    assert infer(mesh, "m") == [0, 1, 2]
    (worker,) = info.workers
    mesh.ask("unloadModel", modelId="m")
    assert not is_there(worker.pid)
    assert client.list_models(all=True) == []
    assert error_of(mesh.begin("modelSize", modelId="m"))[0] == "NOT_FOUND"
    with pytest.raises(InferenceServerException) as caught:
        infer(mesh, "m")
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    mesh.ask("unloadModel", modelId="m")  # as if it were there


def test_what_the_environment_says_wins(meshed, monkeypatch):
    said = {
        "CONTAINER_MEM_REQ_BYTES": str(900 * MIB),
        "MEM_BUFFER_BYTES": str(100 * MIB),
        "LOADTIME_TIMEOUT": "45000",
        "LOADING_CONCURRENCY": "7",
        "DEFAULT_MODELSIZE": str(3 * MIB),
        "RUNTIME_VERSION": "2026-11",
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    status = meshed(memory={"budget": "none"})[1].status()
    assert (status.capacityInBytes, status.defaultModelSizeInBytes) == (800 * MIB, 3 * MIB)
    assert (status.modelLoadingTimeoutMs, status.maxLoadingConcurrency) == (45_000, 7)
    assert status.runtimeVersion == "2026-11"


def test_a_host_that_cannot_say_its_capacity_does_not_start(meshed, monkeypatch):
    with pytest.raises(hostd.FailedPreconditionError, match=r"this host has no budget: set memory\.budget, or CONTAIN"):
        meshed(memory={"budget": "none"})
    monkeypatch.setenv("LOADING_CONCURRENCY", "many")
    with pytest.raises(hostd.HostError, match=r"LOADING_CONCURRENCY .* must be a number from 1 to \d+, not 'many'"):
        meshed()


def test_it_is_starting_until_the_initial_loads_are_done(waiting_model, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.rename(waiting_model(), models / "first")
    settings = {
        "models": {"dir": models, "wait_for_initial_loads": True, "write_quiet_period_s": 0},
        "workers": {"templates": "off"},
    }
    with contextlib.ExitStack() as stack:
        host = hostd.Host(fronts={"modelmesh": port}, **settings)
        starting = threading.Thread(target=host.start)
        starting.start()
        stack.callback(host.stop)
        stack.callback(starting.join, PATIENCE_S)
        mesh = Mesh(f"127.0.0.1:{port}")
        stack.enter_context(mesh.channel)
        loader_of(models / "first")
        assert mesh.ask("runtimeStatus").status == StatusResponse.STARTING
        let_go(models / "first")
        assert mesh.status().status == StatusResponse.READY
        starting.join(PATIENCE_S)
        assert [info.state for info in host.client().list_models()] == ["READY"], "it is not ModelMesh's"


# Loads


def test_as_many_loads_run_at_once_as_it_says(meshed, waiting_model, monkeypatch):
    monkeypatch.setenv("LOADING_CONCURRENCY", "3")
    host, mesh = meshed()
    paths = {f"m{number}": waiting_model() for number in range(mesh.status().maxLoadingConcurrency)}
    begun = {name: mesh.begin("loadModel", modelId=name, modelPath=path) for name, path in paths.items()}
    for path in paths.values():
        loader_of(path)
    for path in paths.values():
        let_go(path)
    sizes = {name: call.result().sizeInBytes for name, call in begun.items()}
    assert sizes == {info.id: info.charge_bytes for info in host.client().list_models()}


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
def test_a_load_that_nobody_waits_for_is_gone_after_the_unload(meshed, waiting_model, how):
    host, mesh = meshed()
    path = waiting_model()
    call = mesh.begin("loadModel", modelId="m", modelPath=path, timeout=PATIENCE_S if how == "cancelled" else 3)
    # On a machine that is busy the time may pass before there is a process.
    eventually(lambda: loaders_of(path) or call.done(), "it is being loaded")
    if how == "cancelled":
        call.cancel()
    else:
        assert error_of(call)[0] == "DEADLINE_EXCEEDED"
    mesh.ask("unloadModel", modelId="m")
    assert not any(map(is_there, loaders_of(path)))
    assert host.client().list_models(all=True) == []


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
def test_a_load_that_nobody_waits_for_ends_by_itself(meshed, waiting_model, how):
    host, mesh = meshed()
    path = waiting_model()
    call = mesh.begin("loadModel", modelId="m", modelPath=path, timeout=PATIENCE_S if how == "cancelled" else 3)
    eventually(lambda: loaders_of(path) or call.done(), "it is being loaded")
    if how == "cancelled":
        call.cancel()
    eventually(lambda: host.client().list_models(all=True) == [], "the load has ended")
    assert not any(map(is_there, loaders_of(path)))


def test_a_load_that_is_cancelled_at_once_is_not_begun_after_the_unload(meshed, model_dir):
    host, mesh = meshed()
    path = model_dir()
    for _ in range(20):
        mesh.begin("loadModel", modelId="m", modelPath=path).cancel()
        mesh.ask("unloadModel", modelId="m")
        assert host.client().list_models(all=True) == []


def test_an_unload_ends_a_load_that_is_waited_for(meshed, waiting_model):
    host, mesh = meshed()
    path = waiting_model()
    call = mesh.begin("loadModel", modelId="m", modelPath=path)
    pid = loader_of(path)
    mesh.ask("unloadModel", modelId="m")
    assert error_of(call) == ("ABORTED", "the load of model 'm' was overtaken: an unload was requested")
    assert not is_there(pid)
    assert host.client().list_models(all=True) == []


def test_loads_of_the_same_id_are_one(meshed, waiting_model):
    host, mesh = meshed()
    path = waiting_model()
    first = mesh.begin("loadModel", modelId="m", modelPath=path)
    loader_of(path)
    second = mesh.begin("loadModel", modelId="m", modelPath=path)
    mesh.ask("predictModelSize", modelId="m")  # by now the front has the second one
    let_go(path)
    assert first.result().sizeInBytes == second.result().sizeInBytes == host.client().get_model("m").charge_bytes
    assert len(loaders_of(path)) == 1


@pytest.mark.parametrize(
    ("source", "code"),
    [(FAILING, "UNKNOWN"), (REFUSING, "UNKNOWN"), (None, "INVALID_ARGUMENT")],
    ids=["raises", "refuses", "nothing there"],
)
def test_codes_say_whether_a_load_was_attempted(meshed, model_dir, tmp_path, source, code):
    host, mesh = meshed()
    path = str(tmp_path / "nothing") if source is None else model_dir(source)
    assert error_of(mesh.begin("loadModel", modelId="m", modelPath=path))[0] == code
    mesh.ask("unloadModel", modelId="m")
    assert host.client().list_models(all=True) == []


def test_a_load_without_a_path_is_refused(meshed):
    code, words = error_of(meshed()[1].begin("loadModel", modelId="m"))
    assert (code, words) == ("INVALID_ARGUMENT", "the load of model 'm' has no modelPath")


# What others have loaded


def test_what_others_have_loaded_is_not_touched(meshed, model_dir):
    host, mesh = meshed()
    path = model_dir()
    host.client().load_model("theirs", path)
    code, words = error_of(mesh.begin("loadModel", modelId="theirs", modelPath=path))
    assert code == "FAILED_PRECONDITION"
    assert words == "model 'theirs' was loaded by somebody else and is READY: unload it, or use another id"
    mesh.ask("unloadModel", modelId="theirs")
    assert mesh.status().capacityInBytes == BUDGET - host.client().get_model("theirs").charge_bytes
    assert infer(mesh, "theirs") == [0, 1, 2]


def test_a_status_unloads_what_was_loaded_before_the_front_ended_and_nothing_else(meshed, model_dir, waiting_model):
    host, mesh = meshed()
    client, loading = host.client(), waiting_model()
    mesh.load("ours", model_dir())
    theirs = client.load_model("theirs", model_dir()).info.workers[0].pid
    begun = mesh.begin("loadModel", modelId="begun", modelPath=loading)  # gRPC cancels a call that nobody refers to
    pids = [loader_of(loading), client.get_model("ours").workers[0].pid]
    kill_front(host)
    assert error_of(begun)[0] == "UNAVAILABLE"
    mesh.status()
    assert [info.id for info in client.list_models(all=True)] == ["theirs"]
    assert [is_there(pid) for pid in (*pids, theirs)] == [False, False, True]


def test_without_a_token_modelmesh_may_load_unless_the_configuration_says_otherwise(meshed):
    code, words = error_of(meshed(fronts={"anonymous": "call"})[1].begin("runtimeStatus"))
    assert (code, words.startswith("this needs the role load")) == ("UNAUTHENTICATED", True)
    with pytest.raises(hostd.InvalidArgumentError, match=r"fronts\.modelmesh listens at 0\.0\.0\.0:0, which other"):
        meshed(fronts={"modelmesh": "0.0.0.0:0"})


# Sizes of what is not loaded


def test_the_size_of_a_model_is_what_it_took_before(meshed, model_dir):
    host, mesh = meshed()
    path = model_dir()
    mesh.load("m", path)
    mesh.ask("unloadModel", modelId="m")
    expected = host.client().estimate_model_size("m", path)
    assert expected.source == "remembered"
    assert mesh.ask("predictModelSize", modelId="m", modelPath=path).sizeInBytes == expected.bytes


def test_a_host_that_hangs_keeps_nobody_from_a_size(meshed, model_dir):
    host, mesh = meshed()
    mesh.status()
    path = model_dir(files={"weights": ""})
    os.truncate(Path(path, "weights"), 100 * MIB)
    os.kill(host.pid, signal.SIGSTOP)
    try:
        key = json.dumps({"disk_size_bytes": 200 * MIB})
        by_key = mesh.ask("predictModelSize", modelId="m", modelPath=path, modelKey=key).sizeInBytes
        by_files = mesh.ask("predictModelSize", modelId="m", modelPath=path, modelKey="no JSON").sizeInBytes
        by_nothing = mesh.ask("predictModelSize", modelId="m", modelPath="/nowhere").sizeInBytes
    finally:
        os.kill(host.pid, signal.SIGCONT)
    assert by_key == 400 * MIB
    assert 200 * MIB < by_files < 201 * MIB
    assert by_nothing == 256 * MIB
