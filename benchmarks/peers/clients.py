"""Which clients of the Open Inference Protocol which server satisfies: `python -m benchmarks.peers.clients`.

Each call is made with a client that people use, against each server with the digits model, and its answer is compared.
`--kserve` and `--mlserver` name the interpreters of environments that have these clients; without them their rows are
left out. It needs tritonclient here, and the peers in environments of their own (`python -m benchmarks peers`).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import joblib
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from rich.console import Console
from rich.table import Table

import hostd
from benchmarks.models import digits_row, model_directory, write_digits
from benchmarks.peers.rig import PeerError, find, serving
from benchmarks.peers.servers import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = "digits"
SERVERS = ("triton", "mlserver")
"""Those of the peers that say that they speak the protocol."""


class Served(NamedTuple):
    """A server: its name, where it answers, and the classes that are right."""

    name: str
    http: str
    grpc: str
    expected: list[int]


class Failed(Exception):  # noqa: N818 - what becomes of a call
    """A call that did not give the right answer."""


def _infer(client: Any, library: Any, served: Served, **form: bool) -> None:
    rows = digits_row()
    given = library.InferInput("x", list(rows.shape), "FP64")
    if form:
        given.set_data_from_numpy(rows, binary_data=form["is_binary"])
    else:
        given.set_data_from_numpy(rows)
    answer = client.infer(MODEL, [given])
    (output,) = answer.get_response()["outputs"] if form else answer.get_response().outputs
    name = output["name"] if form else output.name
    if answer.as_numpy(name).ravel().tolist() != served.expected:
        raise Failed(f"got {answer.as_numpy(name)!r}")


def _triton_json(served: Served) -> None:
    with over_http.InferenceServerClient(served.http) as client:
        _infer(client, over_http, served, is_binary=False)


def _triton_binary(served: Served) -> None:
    with over_http.InferenceServerClient(served.http) as client:
        _infer(client, over_http, served, is_binary=True)


def _triton_index(served: Served) -> None:
    with over_http.InferenceServerClient(served.http) as client:
        names = [model["name"] for model in client.get_model_repository_index()]
    if MODEL not in names:
        raise Failed(f"got {names}")


def _triton_metadata(served: Served) -> None:
    with over_http.InferenceServerClient(served.http) as client:
        inputs = client.get_model_metadata(MODEL).get("inputs")
    if not inputs:
        raise Failed("it names no inputs")


def _triton_statistics(served: Served) -> None:
    with over_http.InferenceServerClient(served.http) as client:
        client.get_inference_statistics(MODEL)


def _triton_grpc(served: Served) -> None:
    with over_grpc.InferenceServerClient(served.grpc) as client:
        _infer(client, over_grpc, served)


def _triton_grpc_index(served: Served) -> None:
    with over_grpc.InferenceServerClient(served.grpc) as client:
        names = [model.name for model in client.get_model_repository_index().models]
    if MODEL not in names:
        raise Failed(f"got {names}")


def _curl(served: Served) -> None:
    rows = digits_row()
    tensor = {"name": "x", "datatype": "FP64", "shape": list(rows.shape), "data": rows.tolist()}
    request = urllib.request.Request(
        f"http://{served.http}/v2/models/{MODEL}/infer",
        json.dumps({"inputs": [tensor]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.load(answer)["outputs"][0]["data"]
    if [value for row in found for value in (row if isinstance(row, list) else [row])] != served.expected:
        raise Failed(f"got {found}")


CALLS: dict[str, Callable[[Served], None]] = {
    "curl: nested lists": _curl,
    "tritonclient HTTP: JSON": _triton_json,
    "tritonclient HTTP: binary": _triton_binary,
    "tritonclient HTTP: inputs in the metadata": _triton_metadata,
    "tritonclient HTTP: repository index": _triton_index,
    "tritonclient HTTP: statistics": _triton_statistics,
    "tritonclient gRPC": _triton_grpc,
    "tritonclient gRPC: repository index": _triton_grpc_index,
}

_KSERVE = """
import asyncio, json, sys, numpy as np
from kserve import InferenceRESTClient, RESTConfig, InferRequest, InferInput, InferenceGRPCClient
http, grpc, kind, rows = sys.argv[1:]
rows = np.array(json.loads(rows))
async def main():
    given = InferInput("x", list(rows.shape), "FP64")
    given.set_data_from_numpy(rows, binary_data=kind != "json")
    if kind == "grpc":
        answer = await InferenceGRPCClient(grpc).infer(InferRequest(model_name="digits", infer_inputs=[given]))
    else:
        client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
        asked = InferRequest(model_name="digits", infer_inputs=[given])
        answer = await client.infer(f"http://{http}", asked, model_name="digits")
    print(json.dumps(answer.outputs[0].as_numpy().ravel().tolist()))
asyncio.run(main())
"""


def _kserve(python: str, kind: str) -> Callable[[Served], None]:
    def call(served: Served) -> None:
        arguments = [served.http, served.grpc, kind, json.dumps(digits_row().tolist())]
        found = _said([python, "-W", "ignore", "-c", _KSERVE, *arguments])
        if json.loads(found.splitlines()[-1]) != served.expected:
            raise Failed(f"got {found}")

    return call


def _mlserver(python: str, *flags: str) -> Callable[[Served], None]:
    def call(served: Served) -> None:
        rows = digits_row()
        tensor = {"name": "x", "datatype": "FP64", "shape": list(rows.shape), "data": rows.ravel().tolist()}
        with tempfile.TemporaryDirectory() as directory:
            given, got = Path(directory, "in"), Path(directory, "out")
            given.write_text(json.dumps({"inputs": [tensor]}) + "\n")
            command = [str(Path(python).with_name("mlserver")), "infer", "-u", served.http, "-m", MODEL, "-w", "1"]
            _said([*command, "-i", str(given), "-o", str(got), *flags])
            answer = json.loads(got.read_text())
        if "outputs" not in answer or answer["outputs"][0]["data"] != served.expected:
            raise Failed(f"got {str(answer)[:200]}")

    return call


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise Failed(done.stderr.strip().rpartition("\n")[2][:200])
    return done.stdout


def _told(call: Callable[[Served], None], served: Served) -> str:
    try:
        call(served)
    except Exception as error:  # noqa: BLE001 - whatever a client raises is its answer
        return f"no: {str(error).partition(chr(10))[0][:60]}"
    return "yes"


@contextlib.contextmanager
def _ours(expected: list[int], model: Path) -> Iterator[Served]:
    with hostd.Host(fronts={"http": 0, "grpc": 0}) as host:
        client = host.client()
        client.load_model(MODEL, model)
        fronts = {name: url.partition("//")[2] for name, url in client.host_info().fronts.items()}
        yield Served("hostd", fronts["http"], fronts["grpc"], expected)


@click.command()
@click.option("--peers", type=click.Path(path_type=Path, file_okay=False, exists=True), required=True)
@click.option("--kserve", help="An interpreter that has kserve.")
@click.option("--mlserver", help="An interpreter that has mlserver.")
def main(peers: Path, kserve: str | None, mlserver: str | None) -> None:
    """Make each call against each server."""
    calls = dict(CALLS)
    if kserve:
        calls |= {f"kserve: {kind}": _kserve(kserve, kind) for kind in ("json", "binary", "grpc")}
    if mlserver:
        calls |= {"mlserver infer": _mlserver(mlserver), "mlserver infer, binary": _mlserver(mlserver, "--binary-data")}
    found: dict[str, dict[str, str]] = {name: {} for name in calls}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(model_directory())
        model = write_digits(scratch)
        expected = joblib.load(model).predict(digits_row()).tolist()
        servers = []
        for peer in PEERS:
            place = find(peer, peers, scratch) if peer.folder in SERVERS else None
            if place is not None:
                try:
                    stack.enter_context(serving(peer, place, expected))
                except PeerError as error:
                    print(error, file=sys.stderr)
                    continue
                address = [f"127.0.0.1:{port}" for port in place.ports]
                servers.append(Served(f"{peer.folder} {place.version}", address[0], address[1], expected))
        servers.append(stack.enter_context(_ours(expected, model)))
        for served in servers:
            for name, call in calls.items():
                found[name][served.name] = _told(call, served)
    table = Table("client", *(served.name for served in servers))
    for name, row in found.items():
        table.add_row(name, *(row[served.name] for served in servers))
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
