"""The host's side of a comparison, through the public API only: `hostd.Host`, its client, and lanes over a handle."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import hostd
from benchmarks.models import digits_row, model_directory, write_echo
from benchmarks.runner import (
    ASYNC,
    MAP,
    MIN_CALLS,
    ROUTED_ASYNC,
    ROUTED_MAP,
    ROUTED_SYNC,
    SPINNING,
    SYNC,
    Round,
    Side,
    in_flight,
)
from hostd.client.arguments import MAP_WINDOW

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from benchmarks.floors.lane import Shape
    from benchmarks.runner import Effort

ECHO_ID = "echo"
DIGITS_ID = "digits"


class Asked(NamedTuple):
    """What is called, and with what."""

    model_id: str
    method: str
    payload: Any


def echoed(shape: Shape) -> Asked:
    """Return a call of the echo model."""
    return Asked(ECHO_ID, "echo" if shape.is_echo else "size_of", shape.payload())


def classified() -> Asked:
    """Return a call of the digits model."""
    return Asked(DIGITS_ID, "predict", digits_row())


class HandleLane:
    """A retrieved model as a lane; pipelined through `model.submit`."""

    def __init__(self, client: hostd.Client, asked: Asked) -> None:
        model = client.retrieve_model(asked.model_id)
        self._method = getattr(model, asked.method)
        self._submit = getattr(model.submit, asked.method)
        self._map = getattr(model.map, asked.method)
        self._payload = asked.payload
        self._pending: deque[hostd.PendingCall] = deque()

    def call(self) -> None:
        """Send one request and wait for its answer."""
        self._method(self._payload)

    def send(self) -> None:
        """Send one request."""
        self._pending.append(self._submit(self._payload))

    def receive(self) -> None:
        """Wait for the oldest answer."""
        self._pending.popleft().result()

    def map(self, duration_s: float) -> Round:
        """Pass one input after the other through `model.map`, which keeps a window of them in flight."""
        clock, latencies, sent_at = time.perf_counter, list[float](), deque[float]()
        start = clock()
        end = start + duration_s

        def inputs() -> Iterator[Any]:
            while (now := clock()) < end or len(latencies) < MIN_CALLS:
                sent_at.append(now)
                yield self._payload

        for _ in self._map(inputs()):
            latencies.append(clock() - sent_at.popleft())
        return Round(latencies, clock() - start)


class AsyncHandle:
    """A retrieved model of an `AsyncClient`, on an event loop that runs only while it is measured."""

    def __init__(self, endpoint: str, asked: Asked) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._run(hostd.AsyncClient.connect(endpoint))
        model = self._run(self._client.retrieve_model(asked.model_id))
        self._method = getattr(model, asked.method)
        self._payload = asked.payload

    def measure(self, depth: int, duration_s: float) -> Round:
        """Run `depth` tasks that call again and again."""
        result: Round = self._run(self._gather(depth, duration_s))
        return result

    def close(self) -> None:
        """Disconnect and end the loop."""
        self._run(self._client.close())
        self._loop.close()

    async def _gather(self, depth: int, duration_s: float) -> Round:
        latencies: list[float] = []
        clock, method, payload = time.perf_counter, self._method, self._payload
        start = clock()
        end = start + duration_s

        async def caller() -> None:
            now = clock()
            while now < end or len(latencies) < MIN_CALLS:
                await method(payload)
                after = clock()
                latencies.append(after - now)
                now = after

        await asyncio.gather(*(caller() for _ in range(depth)))
        return Round(latencies, clock() - start)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)


class Hosts(NamedTuple):
    """Hosts with the same model: clients call its worker directly, or with short looks before they sleep, or routed."""

    direct: hostd.Host
    spinning: hostd.Host
    routed: hostd.Host


SETTINGS: tuple[dict[str, Any], ...] = ({"lanes": True}, {"spin_s": 0.001}, {"lanes": False})
"""Of workers, in the order of `Hosts`."""


@contextmanager
def started() -> Iterator[Hosts]:
    """Start the hosts with the echo model."""
    with model_directory() as directory, ExitStack() as stack:
        hosts = Hosts(*(stack.enter_context(hostd.Host(workers=settings)) for settings in SETTINGS))
        load_into(hosts, ECHO_ID, write_echo(directory))
        yield hosts


def load_into(hosts: Hosts, model_id: str, path: Path) -> None:
    """Load a model into all hosts."""
    for host in hosts:
        with host.client() as client:
            client.load_model(model_id, str(path))


@contextmanager
def call_sides(
    hosts: Hosts, asked: Asked, depth: int, effort: Effort, *, is_brief: bool = False
) -> Iterator[list[Side]]:
    """Make our sides of a call: both clients and `map`, directly and routed (`is_brief`: with one client)."""
    with ExitStack() as stack:
        sides = _synchronous(stack, hosts.direct, asked, depth, effort, (SYNC, MAP))
        if depth == 1:
            sides += _synchronous(stack, hosts.spinning, asked, depth, effort, (SPINNING, MAP))
        sides.append(_asynchronous(stack, hosts.direct, asked, depth, effort, ASYNC))
        sides += _synchronous(stack, hosts.routed, asked, depth, effort, (ROUTED_SYNC, ROUTED_MAP))
        if not is_brief:
            sides.append(_asynchronous(stack, hosts.routed, asked, depth, effort, ROUTED_ASYNC))
        yield sides


def _synchronous(
    stack: ExitStack, host: hostd.Host, asked: Asked, depth: int, effort: Effort, names: tuple[str, str]
) -> list[Side]:
    lane = HandleLane(stack.enter_context(host.client()), asked)
    name, map_name = names
    sides = [Side(name, partial(in_flight, lane, depth, effort.round_s), is_ours=True)]
    if depth == MAP_WINDOW:
        sides.append(Side(map_name, partial(lane.map, effort.round_s), is_ours=True))
    return sides


def _asynchronous(stack: ExitStack, host: hostd.Host, asked: Asked, depth: int, effort: Effort, name: str) -> Side:
    handle = AsyncHandle(host.endpoint, asked)
    stack.callback(handle.close)
    return Side(name, partial(handle.measure, depth, effort.round_s), is_ours=True)
