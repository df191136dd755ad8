"""The host's side of a comparison, through the public API only: `hostd.Host`, its client, and lanes over a handle."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import hostd
from benchmarks.models import model_directory, write_echo
from benchmarks.runner import ASYNC, MAP, MIN_CALLS, SYNC, Round, Side, one_at_a_time, pipelined
from hostd.client._sync.client import MAP_WINDOW

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from benchmarks.floors.lane import Shape
    from benchmarks.runner import Effort

MODEL_ID = "echo"


class HandleLane:
    """A retrieved model as a lane; pipelined through `model.submit`."""

    def __init__(self, model: hostd.Model, shape: Shape) -> None:
        self._method = model.echo if shape.is_echo else model.size_of
        self._submit = model.submit.echo if shape.is_echo else model.submit.size_of
        self._map = model.map.echo if shape.is_echo else model.map.size_of
        self._payload = shape.payload()
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

    def __init__(self, endpoint: str, shape: Shape) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._run(hostd.AsyncClient.connect(endpoint))
        model = self._run(self._client.retrieve_model(MODEL_ID))
        self._method = model.echo if shape.is_echo else model.size_of
        self._payload = shape.payload()

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


@contextmanager
def echo_host() -> Iterator[hostd.Host]:
    """Start a host with the echo model loaded."""
    with model_directory() as directory, hostd.Host() as host:
        with host.client() as client:
            client.load_model(MODEL_ID, str(write_echo(directory)))
        yield host


@contextmanager
def call_sides(host: hostd.Host, shape: Shape, depth: int, effort: Effort) -> Iterator[list[Side]]:
    """Make our sides for a shape: the synchronous client and the asynchronous one, `depth` requests in flight."""
    with host.client() as client:
        lane = HandleLane(client.retrieve_model(MODEL_ID), shape)

        def synchronous() -> Round:
            if depth == 1:
                return one_at_a_time(lane, effort.round_s)
            return pipelined(lane, depth, effort.round_s)

        handle = AsyncHandle(host.endpoint, shape)
        try:
            sides = [
                Side(SYNC, synchronous, is_ours=True),
                Side(ASYNC, lambda: handle.measure(depth, effort.round_s), is_ours=True),
            ]
            if depth == MAP_WINDOW:
                sides.append(Side(MAP, lambda: lane.map(effort.round_s), is_ours=True))
            yield sides
        finally:
            handle.close()
