"""Which clients of the Open Inference Protocol which server satisfies: `python -m benchmarks.peers.clients`.

Each call is made with a client that people use, against each server with the digits model, and its answer is compared.
`--kserve` and `--mlserver` name the interpreters of environments that have these clients; without them their rows are
left out. It needs tritonclient here, and the peers in environments of their own (`python -m benchmarks peers`).
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import joblib
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from rich.console import Console
from rich.table import Table

import hostd
from benchmarks.models import digits_row, model_directory, write_digits
from benchmarks.peers import oip_clients
from benchmarks.peers.oip_clients import Addresses, Failed
from benchmarks.peers.rig import PeerError, find, serving
from benchmarks.peers.servers import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.peers.oip_clients import Client

MODEL = "digits"
SERVERS = ("triton", "mlserver")
"""Those of the peers that say that they speak the protocol."""


class Served(NamedTuple):
    """A server: its name, where it answers, and the classes that are right."""

    name: str
    at: Addresses
    expected: list[int]


def _infers(client: Client) -> Callable[[Served], None]:
    def call(served: Served) -> None:
        (found,) = client(served.at, MODEL, {"x": digits_row()})
        if found.ravel().tolist() != served.expected:
            raise Failed(f"got {found!r}")

    return call


def _triton_index(served: Served) -> None:
    with over_http.InferenceServerClient(served.at.http) as client:
        names = [model["name"] for model in client.get_model_repository_index()]
    if MODEL not in names:
        raise Failed(f"got {names}")


def _triton_metadata(served: Served) -> None:
    with over_http.InferenceServerClient(served.at.http) as client:
        inputs = client.get_model_metadata(MODEL).get("inputs")
    if not inputs:
        raise Failed("it names no inputs")


def _triton_statistics(served: Served) -> None:
    with over_http.InferenceServerClient(served.at.http) as client:
        client.get_inference_statistics(MODEL)


def _triton_grpc_index(served: Served) -> None:
    with over_grpc.InferenceServerClient(served.at.grpc) as client:
        names = [model.name for model in client.get_model_repository_index().models]
    if MODEL not in names:
        raise Failed(f"got {names}")


CALLS: dict[str, Callable[[Served], None]] = {
    "tritonclient HTTP: inputs in the metadata": _triton_metadata,
    "tritonclient HTTP: repository index": _triton_index,
    "tritonclient HTTP: statistics": _triton_statistics,
    "tritonclient gRPC: repository index": _triton_grpc_index,
}


def _told(call: Callable[[Served], None], served: Served) -> str:
    try:
        call(served)
    except Exception as error:  # noqa: BLE001 - whatever a client raises is its answer
        return f"no: {str(error).partition(chr(10))[0][:60]}"
    return "yes"


@contextlib.contextmanager
def _ours(expected: list[int], model: Path) -> Iterator[Served]:
    with hostd.Host(fronts={"http": 0, "grpc": 0, "anonymous": "load"}) as host:
        client = host.client()
        client.load_model(MODEL, model)
        fronts = {name: url.partition("//")[2] for name, url in client.host_info().fronts.items()}
        yield Served("hostd", Addresses(fronts["http"], fronts["grpc"]), expected)


@click.command()
@click.option("--peers", type=click.Path(path_type=Path, file_okay=False, exists=True), required=True)
@click.option("--kserve", help="An interpreter that has kserve.")
@click.option("--mlserver", help="An interpreter that has mlserver.")
def main(peers: Path, kserve: str | None, mlserver: str | None) -> None:
    """Make each call against each server."""
    clients = dict(oip_clients.HERE)
    if kserve:
        clients |= oip_clients.of_kserve(kserve)
    if mlserver:
        clients |= oip_clients.of_mlserver(mlserver)
    calls = {name: _infers(client) for name, client in clients.items()} | CALLS
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
                at = Addresses(*(f"127.0.0.1:{port}" for port in place.ports[:2]))
                servers.append(Served(f"{peer.folder} {place.version}", at, expected))
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
