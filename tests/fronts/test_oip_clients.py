"""Each client of the Open Inference Protocol against each kind of model: it gets what a client of the host gets.

torch and the clients of kserve and MLServer have environments of their own, which variables name (`.ci/clients.sh`).
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="asked as its clients do")

from oip_rig import write_onnx, write_python, write_sklearn
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

import hostd
from benchmarks.peers import oip_clients

# Read before the tests begin: they run without variables of this prefix.
TORCH = os.environ.get("HOSTD_TORCH_PYTHON") or (sys.executable if importlib.util.find_spec("torch") else "")
KSERVE, MLSERVER = (os.environ.get(f"HOSTD_{name}_PYTHON", "") for name in ("KSERVE", "MLSERVER"))

TEXTS = """
    import numpy as np

    class Texts:
        def predict(self, texts, times):
            return {"longer": [text * int(n) for text, n in zip(texts, times)], "length": np.array([len(t) for t in texts])}

    def load(path):
        return Texts()
"""

SCRIPT = """
import sys, torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
torch.jit.save(torch.jit.script(net), sys.argv[1])
"""


def write_converted(directory):
    """Write a classifier of scikit-learn as ONNX: text and probabilities come out."""
    directory.mkdir()
    x = np.array([[0, 0], [0, 1], [4, 4], [4, 5]], np.float32)
    model = LogisticRegression().fit(x, ["cold", "cold", "wärm", "wärm"])
    converted = to_onnx(model, x[:1], options={"zipmap": False})
    (directory / "model.onnx").write_bytes(converted.SerializeToString())
    return directory


def write_texts(directory):
    return write_python(directory, TEXTS)


def write_torchscript(directory):
    """Write a module as TorchScript, to be served by the interpreter that writes it."""
    directory.mkdir()
    subprocess.run([TORCH, "-W", "ignore", "-c", SCRIPT, directory / "net.pt"], check=True, timeout=120)
    (directory / "model.yaml").write_text(f"python: {Path(TORCH).absolute()}\n")
    return directory


class Kind(NamedTuple):
    """How a model is written, and what it is asked."""

    write: object
    inputs: dict


ROWS = np.array([[0.25, 0.5], [4.0, 4.5], [0.1, -1e-9]])
KINDS = {
    "scikit-learn": Kind(write_sklearn, {"X": ROWS}),
    "ONNX": Kind(write_onnx, {"a": ROWS[0].astype(np.float32), "b": ROWS[2].astype(np.float32)}),
    "ONNX of scikit-learn": Kind(write_converted, {"X": ROWS.astype(np.float32)}),
    "python": Kind(write_texts, {"texts": np.array(["Zoë", "", "a\nb"], object), "times": np.array([2, 0, 1])}),
}
TORCHSCRIPT = {"torch": Kind(write_torchscript, {"x": np.array([[0.1, -2.5, 1e9], [3, 4, 5]], np.float32)})}


def params(table, variable="", python=sys.executable):
    """Return the rows of a table as parameters; they are skipped if no interpreter is named for them."""
    reason = f"{variable} names no interpreter: .ci/clients.sh makes one that has what this needs"
    mark = pytest.mark.skipif(not python, reason=reason)
    return [pytest.param(row, id=name, marks=mark) for name, row in table.items()]


@pytest.fixture(scope="module")
def client():
    with hostd.Host(fronts={"http": 0, "grpc": 0, "anonymous": "load"}) as host:  # `load`: for shared memory
        yield host.client()


@pytest.fixture(scope="module")
def at(client):
    """Where the fronts are."""
    fronts = client.host_info().fronts
    return oip_clients.Addresses(*(fronts[name].partition("://")[2] for name in ("http", "grpc")))


@pytest.fixture(scope="module", params=params(KINDS) + params(TORCHSCRIPT, "HOSTD_TORCH_PYTHON", TORCH))
def model(request, client, tmp_path_factory):
    """A model of a kind: its id, what it is asked, and what it answers to a client of the host, as arrays."""
    path = request.param.write(tmp_path_factory.mktemp("kind") / "model")
    inputs, loaded = request.param.inputs, client.load_model(path.parent.name, path)
    answer = loaded.predict(*(array.tolist() if array.dtype == object else array for array in inputs.values()))
    parts = answer.values() if isinstance(answer, dict) else [answer]
    yield loaded.id, inputs, [arrays_of(part) for part in parts]
    client.unload_model(loaded.id)


def arrays_of(value):
    """Return a part of an answer as an array, with text as objects."""
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind == "U" else array


@pytest.mark.usefixtures("no_tracker")
@pytest.mark.parametrize(
    "call",
    params(oip_clients.HERE)
    + params(oip_clients.of_kserve(KSERVE), "HOSTD_KSERVE_PYTHON", KSERVE)
    + params(oip_clients.of_mlserver(MLSERVER), "HOSTD_MLSERVER_PYTHON", MLSERVER),
)
def test_a_client_gets_what_a_client_of_the_host_gets(at, model, call):
    model_id, inputs, answer = model
    found = call(at, model_id, inputs)
    assert [(array.dtype, array.tolist()) for array in found] == [(array.dtype, array.tolist()) for array in answer]
