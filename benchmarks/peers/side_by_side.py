"""`peers`: the digits model in other model servers and in the host, with 1, 8 and 64 requests in flight.

It installs nothing. A peer is found in an environment of its own, `DIR/<peer>` with `--peers DIR`, or in this one; for
those that are missing it says how to get them. Servers are started one after the other, stay for the whole comparison,
and are measured in turn. Over HTTP they are called from a socket with hardly any client, which favours them: with the
clients that people use the figures are higher. Over gRPC Triton and the host are called with Triton's own client.
"""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import joblib

from benchmarks.callers import callers
from benchmarks.digits import open_floors
from benchmarks.models import digits_row, model_directory, write_digits
from benchmarks.peers.http import HttpLane
from benchmarks.peers.rig import PeerError, Started, StartTimer, find, serving
from benchmarks.peers.servers import PEERS, ask_openly, open_answer
from benchmarks.runner import HOST, Effort, Side, alternate, in_flight
from benchmarks.verdicts import Against, By, Comparison, Figure, Target, Verdict, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.peers.servers import Peer
    from benchmarks.runner import Round

DEPTHS = (8, 64)
OVER_HTTP = f"{HOST}, HTTP"
OVER_GRPC = f"{HOST}, gRPC"
OURS = (HOST, OVER_HTTP, OVER_GRPC)
TRITON_CLIENT = "benchmarks.peers.triton_client"
DEFAULT_DIRECTORY = Path("peers")
LIMIT = 1.0


def peers(effort: Effort, *, with_host: bool, directory: Path | None = None) -> Iterator[Comparison]:
    """Compare calls, then starts and memory."""
    with ExitStack() as stack:
        rig = _Rig(stack, effort)
        for peer in PEERS:
            rig.add_peer(peer, directory)
        if with_host:
            rig.add_host()
        yield rig.calls(1, By.LATENCY, rig.targets if with_host else [])
        for depth in DEPTHS:
            yield rig.calls(depth, By.RATE, [])
        if rig.started:
            yield rig.seen("from the start to the first answer", By.LATENCY, lambda started: started.start_s)
            yield rig.seen("memory of all processes (PSS)", By.BYTES, lambda started: started.memory_bytes)


class _Rig:
    """The servers that run, and how each is measured, by name."""

    def __init__(self, stack: ExitStack, effort: Effort) -> None:
        self._stack = stack
        self._effort = effort
        self._scratch = stack.enter_context(model_directory())
        self._model = write_digits(self._scratch)
        self._expected = joblib.load(self._model).predict(digits_row()).tolist()
        self._notes: list[str] = []
        self._measures: dict[str, Callable[[int, float], Round]] = {}
        for name, lane in open_floors(stack, self._model).items():
            self._measures[name] = partial(in_flight, lane)
        self.started: dict[str, Started] = {}
        self.targets: list[Target] = []

    def add_peer(self, peer: Peer, directory: Path | None) -> None:
        """Start a peer with its clients, or note why there is none."""
        place = find(peer, directory, self._scratch)
        if place is None:
            self._notes.append(f"{peer.folder} is missing: {peer.how_to_get(directory or DEFAULT_DIRECTORY)}")
            return
        try:
            lane, started = self._stack.enter_context(serving(peer, place, self._expected))
        except PeerError as failed:
            self._notes.append(str(failed))
            return
        self._notes.append(f"{peer.folder}: {peer.package} {place.version}, Python {place.python_version}")
        self.started[peer.name] = started
        measures = {peer.name: partial(in_flight, lane)}
        for name, module in peer.clients.items():
            own = callers(1, module, place.ports[1], python=place.python)
            measures[name] = self._stack.enter_context(own).measure
        self._measures |= measures
        self.targets += [Target(HOST, name, Against.RATIO, LIMIT) for name in measures]
        self.targets += [Target(OVER_GRPC, name, Against.RATIO, LIMIT) for name in peer.clients]
        self.targets.append(Target(OVER_HTTP, peer.name, Against.RATIO, peer.limit_over_http))

    def add_host(self) -> None:
        """Start a host, with its client in this process."""
        import hostd  # noqa: PLC0415 - the floors can be measured without the host
        from benchmarks.ours import DIGITS_ID, HandleLane, classified  # noqa: PLC0415 - as above

        timer = StartTimer()
        has_client = importlib.util.find_spec("tritonclient") is not None
        fronts = {"http": 0, **({"grpc": 0} if has_client else {})}
        client = self._stack.enter_context(self._stack.enter_context(hostd.Host(fronts=fronts)).client())
        answer = client.load_model(DIGITS_ID, str(self._model)).predict(digits_row())
        self.started[HOST] = timer.started()
        if answer.tolist() != self._expected:
            raise PeerError(f"the host answers {answer!r} in place of {self._expected!r}")
        self._measures[HOST] = partial(in_flight, HandleLane(client, classified()))
        ports = {name: int(url.rpartition(":")[2]) for name, url in client.host_info().fronts.items()}
        lane = HttpLane(ports["http"], f"/v2/models/{DIGITS_ID}/infer", ask_openly, open_answer)
        if lane.call() != self._expected:
            raise PeerError("the host answers something else over HTTP")
        self._stack.callback(lane.close)
        self._measures[OVER_HTTP] = partial(in_flight, lane)
        if has_client:
            self._measures[OVER_GRPC] = self._stack.enter_context(callers(1, TRITON_CLIENT, ports["grpc"])).measure
        else:
            self._notes.append("the host is not called over gRPC: pip install 'tritonclient[grpc]'")

    def calls(self, depth: int, by: By, targets: Sequence[Target]) -> Comparison:
        """Measure all sides in turn."""
        effort = self._effort
        sides = [
            Side(name, partial(measure, depth, effort.round_s), is_ours=name in OURS)
            for name, measure in self._measures.items()
        ]
        rounds = alternate(sides, effort.rounds, effort.patience_s)
        notes = self._notes if depth == 1 else []
        return compare("peers", f"digits model, {depth} in flight", by, sides, rounds, targets, notes)

    def seen(self, title: str, by: By, value_of: Callable[[Started], float]) -> Comparison:
        """Compare what was seen of the servers from outside."""
        values = {name: value_of(started) for name, started in self.started.items()}
        figures = [Figure(name, by, value, None, 1, is_ours=name == HOST) for name, value in values.items()]
        verdicts = []
        for name, value in values.items():
            if name != HOST and HOST in values:
                ratio = values[HOST] / value
                verdicts.append(Verdict(HOST, name, by, Against.RATIO, ratio, ratio, ratio))
        return Comparison("peers", title, figures, verdicts)
