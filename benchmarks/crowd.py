"""Eight clients at one worker, 64 B and one in flight each: in processes of their own, and in threads of one.

The floor is a worker that serves raw UNIX sockets. The host's record of the model must count every call that its
clients made; calls on lanes are told through a page of shared memory, without a message.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.callers import SMALL, callers, together
from benchmarks.floors import unix_server
from benchmarks.runner import Effort, Round, Side, alternate, one_at_a_time
from benchmarks.verdicts import Against, By, Comparison, Target, alone, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import hostd
    from benchmarks.floors.lane import Lane
    from benchmarks.ours import Hosts

CLIENTS = 8
UNIX_PROCESSES = f"UNIX, {CLIENTS} processes"
UNIX_THREADS = f"UNIX, {CLIENTS} threads"
PROCESSES = f"hostd, {CLIENTS} processes"
THREADS = f"hostd, {CLIENTS} threads"
ROUTED_PROCESSES = f"routed, {CLIENTS} processes"

RATE_LIMIT = 0.25
SPREAD_LIMIT = 5.0
CLIENT = "benchmarks.callers"


def crowd(effort: Effort, hosts: Hosts | None) -> Iterator[Comparison]:
    """Have eight clients call at once."""
    targets = [
        Target(PROCESSES, UNIX_PROCESSES, Against.RATIO, RATE_LIMIT, is_ceiling=False),
        Target(PROCESSES, "", Against.ALONE, SPREAD_LIMIT, by=By.SPREAD),
    ]
    title = f"64 B echoed, {CLIENTS} clients with 1 in flight each; UNIX: raw sockets"
    references = (UNIX_PROCESSES, UNIX_THREADS)
    with ExitStack() as stack:
        path = stack.enter_context(unix_server.serving(SMALL))
        sides = [_processes(stack, UNIX_PROCESSES, effort, "unix", path)]
        lanes = [stack.enter_context(unix_server.open_lane(path, SMALL)) for _ in range(CLIENTS)]
        sides.append(Side(UNIX_THREADS, partial(_in_threads, lanes, effort.round_s)))
        if hosts is None:
            rounds = alternate(sides, effort.rounds, effort.patience_s)
            yield compare("throughput", title, By.RATE, sides, rounds)
            return
        from benchmarks.ours import HandleLane, echoed  # noqa: PLC0415 - the floors can be measured without the host

        client = stack.enter_context(hosts.direct.client())
        counted = _Counted(client)
        handles = [HandleLane(client, echoed(SMALL)) for _ in range(CLIENTS)]
        sides += [
            counted.all_of(_processes(stack, PROCESSES, effort, "hostd", hosts.direct.endpoint)),
            counted.all_of(Side(THREADS, partial(_in_threads, handles, effort.round_s), is_ours=True)),
            _processes(stack, ROUTED_PROCESSES, effort, "hostd", hosts.routed.endpoint),
        ]
        rounds = alternate(sides, effort.rounds, effort.patience_s)
        yield compare("throughput", title, By.RATE, sides, rounds, targets, references=references)
        yield counted.comparison()


def _processes(stack: ExitStack, name: str, effort: Effort, kind: str, address: str) -> Side:
    clients = stack.enter_context(callers(CLIENTS, CLIENT, kind, address))
    return Side(name, lambda: clients.measure(1, effort.round_s), is_ours=kind == "hostd")


def _in_threads(lanes: Sequence[Lane], duration_s: float) -> Round:
    barrier = threading.Barrier(len(lanes))

    def call(lane: Lane) -> Round:
        barrier.wait()
        return one_at_a_time(lane, duration_s)

    with ThreadPoolExecutor(len(lanes)) as threads:
        return together(list(threads.map(call, lanes)))


class _Counted:
    """The calls of sides, rounds that were repeated or not measured included."""

    def __init__(self, client: hostd.Client) -> None:
        self._client = client
        self._before = self._info()
        self._calls = 0

    def all_of(self, side: Side) -> Side:
        """Return a side whose calls are counted here."""
        return Side(side.name, partial(self._count, side.measure), side.is_ours)

    def _count(self, measure: Callable[[], Round]) -> Round:
        round_ = measure()
        self._calls += len(round_.latencies_s)
        return round_

    def comparison(self) -> Comparison:
        """Compare them with what the host says of the model."""
        info = self._info()
        calls, errors = info.calls - self._before.calls, info.errors - self._before.errors
        observed: list[tuple[str, By, float, float | None]] = [
            ("calls that the clients counted", By.COUNT, self._calls, None),
            ("calls in the model's record", By.COUNT, calls, None),
            ("difference", By.COUNT, abs(calls - self._calls), 0),
            ("errors in the model's record", By.COUNT, errors, 0),
        ]
        return alone("throughput", f"what the host counted of the calls of {2 * CLIENTS} clients", observed)

    def _info(self) -> hostd.ModelInfo:
        from benchmarks.ours import ECHO_ID  # noqa: PLC0415 - as above

        return self._client.get_model(ECHO_ID)
