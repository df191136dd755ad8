"""The peers: what each is installed from, how it is started with the digits model, and what it is asked.

Every server has one worker for the model, a process of its own where the server can do that, and writes no access log.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.floors.lane import ROOT
from benchmarks.models import DIGITS_FEATURES, digits_row
from benchmarks.peers.http import HttpLane

if TYPE_CHECKING:
    from collections.abc import Callable


# For what is a module of this package.
_HERE = {"PYTHONPATH": str(ROOT)}


class Place(NamedTuple):
    """Where a peer is installed, and what it may use: `site` has its packages, `lib` its interpreter's library."""

    python: str
    version: str
    python_version: str
    site: Path
    lib: Path
    directory: Path
    model: Path
    ports: tuple[int, ...]


class Start(NamedTuple):
    """A server's command, and what its environment has beside this one's."""

    command: list[str]
    env: dict[str, str]


@dataclass(frozen=True)
class Peer:
    """A server; `package` is the distribution that says which version it is."""

    name: str
    folder: str
    package: str
    requirements: str
    start: Callable[[Place], Start]
    path: str
    ask: Callable[[], Any]
    answer_of: Callable[[Any], Any]
    clients: dict[str, str] = field(default_factory=dict)
    """Clients of its own that are measured too: their names, and the modules that they are."""
    limit_over_http: float = 1.0
    """What a call of the host over HTTP may cost of one of it."""

    def lane(self, place: Place) -> HttpLane:
        """Return a lane to its first port."""
        return HttpLane(place.ports[0], self.path, self.ask, self.answer_of)

    def how_to_get(self, directory: Path) -> str:
        """Return the command that makes its environment."""
        where = directory / self.folder
        return f"python3 -m venv {where} && {where}/bin/pip install {self.requirements}"


@cache
def _rows() -> Any:
    return digits_row()


def _ask_plainly() -> Any:
    return {"x": _rows().tolist()}


def ask_openly() -> Any:
    """Return a request of the Open Inference Protocol."""
    data = _rows().tolist()
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, DIGITS_FEATURES], "data": data}]}


def open_answer(document: Any) -> Any:
    """Return the classes in an answer of the Open Inference Protocol."""
    return document["outputs"][0]["data"]


def _litserve(place: Place) -> Start:
    return Start([place.python, "-m", "benchmarks.peers.litserve_app", str(place.model), str(place.ports[0])], _HERE)


def _bentoml(place: Place) -> Start:
    command = [place.python, "-m", "bentoml", "serve", "benchmarks.peers.bentoml_app:Digits"]
    command += ["--host", "127.0.0.1", "--port", str(place.ports[0])]
    env = {
        **_HERE,
        "MODEL_FILE": str(place.model),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(place.directory),
    }
    return Start(command, env)


def _mlserver(place: Place) -> Start:
    http_port, grpc_port, metrics_port = place.ports
    settings = {
        "host": "127.0.0.1",
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "metrics_dir": str(place.directory),
        "parallel_workers": 1,
        "debug": False,
    }
    model = {
        "name": "digits",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(place.model)},
    }
    (place.directory / "settings.json").write_text(json.dumps(settings))
    (place.directory / "model-settings.json").write_text(json.dumps(model))
    return Start([str(Path(place.python).with_name("mlserver")), "start", str(place.directory)], {})


_TRITON_CONFIG = """
name: "digits"
backend: "python"
max_batch_size: 0
input [{{ name: "x" data_type: TYPE_FP64 dims: [-1, {features}] }}]
output [{{ name: "y" data_type: TYPE_INT64 dims: [-1] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
parameters [{{ key: "file" value: {{ string_value: "{file}" }} }}]
"""


def _triton(place: Place) -> Start:
    """Start the server that is in the wheel of PyTriton, with its Python backend and the stub for this Python."""
    wheel = place.site / "pytriton" / "tritonserver"
    backend, model = place.directory / "backends" / "python", place.directory / "models" / "digits"
    shutil.copytree(wheel / "backends" / "python", backend)
    shutil.copytree(wheel / "python_backend_stubs" / place.python_version, backend, dirs_exist_ok=True)
    (model / "1").mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "peers" / "triton_model.py", model / "1" / "model.py")
    config = _TRITON_CONFIG.format(features=DIGITS_FEATURES, file=place.model)
    (model / "config.pbtxt").write_text(config)
    http_port, grpc_port = place.ports[:2]
    command = [str(wheel / "bin" / "tritonserver")]
    command += [f"--model-repository={model.parent}", f"--backend-directory={backend.parent}"]
    command += [f"--http-port={http_port}", f"--grpc-port={grpc_port}", "--allow-metrics=false"]
    command += ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1"]
    libraries = [str(place.site / "nvidia_pytriton.libs"), str(place.lib), os.environ.get("LD_LIBRARY_PATH", "")]
    env = {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)), "PYTHONPATH": str(place.site)}
    return Start(command, env)


PEERS = (
    Peer(
        "Triton, HTTP",
        "triton",
        "nvidia-pytriton",
        "nvidia-pytriton scikit-learn",
        _triton,
        "/v2/models/digits/infer",
        ask_openly,
        open_answer,
        {"Triton, gRPC": "benchmarks.peers.triton_client"},
    ),
    Peer(
        "LitServe",
        "litserve",
        "litserve",
        "litserve scikit-learn",
        _litserve,
        "/predict",
        _ask_plainly,
        lambda document: document["y"],
    ),
    Peer(
        "MLServer",
        "mlserver",
        "mlserver",
        "mlserver mlserver-sklearn 'uvloop<0.22'",  # the workers of 1.7 die with a newer one
        _mlserver,
        "/v2/models/digits/infer",
        ask_openly,
        open_answer,
        limit_over_http=0.5,
    ),
    Peer(
        "BentoML",
        "bentoml",
        "bentoml",
        "bentoml scikit-learn",
        _bentoml,
        "/predict",
        _ask_plainly,
        lambda document: document,
    ),
)
