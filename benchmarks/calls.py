"""`latency` and `throughput`: the same calls through every floor and through the host, 1 and 64 in flight.

Ours are measured twice: directly, as clients on the same machine call a worker, and routed, through a host that has
no lanes (`workers.lanes`). Each command consists of tables, which can be measured alone with `--table`.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.busy import all_but_half, busy
from benchmarks.crowd import crowd
from benchmarks.digits import digits_latency, digits_throughput
from benchmarks.floors import (
    c_proxy,
    dealer_router,
    in_process,
    memcpy,
    memfd,
    poller,
    pool,
    router_router,
    unix_socket,
)
from benchmarks.floors.lane import Shape
from benchmarks.runner import (
    ASYNC,
    MAP,
    ROUTED_ASYNC,
    ROUTED_MAP,
    ROUTED_SYNC,
    SPINNING,
    SYNC,
    Effort,
    Side,
    alternate,
    in_flight,
)
from benchmarks.verdicts import Against, By, Comparison, Target, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from benchmarks.ours import Hosts

KIB = 1 << 10
MIB = 1 << 20
SMALL = Shape(64)
DEPTH = 64
HOPS = (dealer_router, c_proxy, poller, router_router)
FLOORS = (in_process, unix_socket, *HOPS, pool)

# A ratio of unequal message counts: without joining hostd was 15 % slower (sync), 30 % (async).
BATCH_NOTE = (
    "the floors send every request and every answer as a message of its own; hostd joins small ones that leave "
    "together into one, at every hop, so part of its rate is fewer messages and not cheaper ones"
)

# A pipeline over a plain stream dead-locks once both directions' buffers (208 KiB each) are full.
UNIX_PIPELINE_BYTES = 128 * KIB


def latency(effort: Effort, *, with_host: bool, tables: Sequence[str] = ()) -> Iterator[Comparison]:
    """One request in flight."""
    with _hosts(with_host=with_host) as hosts:
        for name in tables or LATENCY:
            yield from LATENCY[name](effort, hosts)


def throughput(effort: Effort, *, with_host: bool, tables: Sequence[str] = ()) -> Iterator[Comparison]:
    """Calls per second with 64 in flight, and of many clients with one each."""
    with _hosts(with_host=with_host) as hosts:
        for name in tables or THROUGHPUT:
            yield from THROUGHPUT[name](effort, hosts)


def _echo(effort: Effort, hosts: Hosts | None) -> Iterator[Comparison]:
    targets = [
        Target(SYNC, unix_socket.NAME, Against.RATIO, 3.5),
        Target(SPINNING, unix_socket.NAME, Against.RATIO, 1.5),
        Target(ASYNC, unix_socket.NAME, Against.RATIO, 5.0),
        Target(ROUTED_SYNC, c_proxy.NAME, Against.RATIO, 2.0),
        Target(ROUTED_ASYNC, c_proxy.NAME, Against.RATIO, 2.0),
    ]
    yield _calls(hosts, SMALL, 1, effort, FLOORS, targets, (unix_socket, c_proxy))


def _busy(effort: Effort, hosts: Hosts | None) -> Iterator[Comparison]:
    cores = all_but_half()
    targets = [Target(SYNC, c_proxy.NAME, Against.RATIO, 1.5, by=By.TAIL)]
    with busy(cores):
        title = f"64 B echoed, 1 in flight, beside another program on {cores:g} cores"
        floors = (unix_socket, c_proxy)
        yield _calls(hosts, SMALL, 1, effort, floors, targets, floors, title)


def _arrays(effort: Effort, hosts: Hosts | None) -> Iterator[Comparison]:
    floors = (memcpy, memfd, unix_socket, c_proxy, router_router)
    cases = [
        (Shape(16 * MIB, is_echo=False), memcpy, 1.4),
        (Shape(16 * MIB), memcpy, 2.8),
        (Shape(MIB, is_echo=False), memfd, 2.5),
    ]
    for shape, against, limit in cases:
        targets = [Target(SYNC, against.NAME, Against.RATIO, limit)]
        yield _calls(hosts, shape, 1, effort, floors, targets, (memcpy, memfd, c_proxy))


def _sizes(effort: Effort, hosts: Hosts | None) -> Iterator[Comparison]:
    yield _calls(hosts, Shape(64 * KIB), 1, effort, (unix_socket, c_proxy, pool), [], (unix_socket, c_proxy))


def _echo_rate(effort: Effort, hosts: Hosts | None) -> Iterator[Comparison]:
    targets = [Target(ours, c_proxy.NAME, Against.RATIO, 1.1, is_ceiling=False) for ours in (SYNC, MAP)]
    routed = (ROUTED_SYNC, ROUTED_ASYNC, ROUTED_MAP)
    targets += [Target(ours, poller.NAME, Against.RATIO, 0.7, is_ceiling=False) for ours in routed]
    floors = (unix_socket, *HOPS, pool)
    yield _calls(hosts, SMALL, DEPTH, effort, floors, targets, (c_proxy, poller))


def _sizes_rate(effort: Effort, hosts: Hosts | None) -> Iterator[Comparison]:
    for shape in (Shape(64 * KIB), *(() if effort.is_quick else (Shape(MIB),))):
        yield _calls(hosts, shape, DEPTH, effort, (c_proxy, router_router, pool), [], (c_proxy, router_router))


LATENCY: dict[str, Callable[[Effort, Hosts | None], Iterator[Comparison]]] = {
    "echo": _echo,
    "busy": _busy,
    "digits": digits_latency,
    "arrays": _arrays,
    "sizes": _sizes,
}
THROUGHPUT: dict[str, Callable[[Effort, Hosts | None], Iterator[Comparison]]] = {
    "echo": _echo_rate,
    "digits": digits_throughput,
    "clients": crowd,
    "sizes": _sizes_rate,
}


@contextmanager
def _hosts(*, with_host: bool) -> Iterator[Hosts | None]:
    if not with_host:
        yield None
        return
    from benchmarks.ours import started  # noqa: PLC0415 - the floors can be measured without the host

    with started() as hosts:
        yield hosts


def _calls(
    hosts: Hosts | None,
    shape: Shape,
    depth: int,
    effort: Effort,
    floors: Sequence[ModuleType],
    targets: Sequence[Target],
    references: Sequence[ModuleType],
    title: str = "",
) -> Comparison:
    with ExitStack() as stack:
        sides = [_floor_side(stack, floor, shape, depth, effort) for floor in floors]
        if hosts is not None:
            from benchmarks.ours import call_sides, echoed  # noqa: PLC0415 - as above

            ours = call_sides(hosts, echoed(shape), depth, effort, is_brief=shape.is_big)
            sides += stack.enter_context(ours)
        rounds = alternate(sides, effort.rounds, effort.patience_s)
    group, by = ("latency", By.LATENCY) if depth == 1 else ("throughput", By.RATE)
    notes = [BATCH_NOTE] if hosts is not None and depth > 1 and not shape.is_big else []
    shown = [floor.NAME for floor in references]
    return compare(group, title or _title(shape, depth), by, sides, rounds, targets, notes, shown)


def _floor_side(stack: ExitStack, floor: ModuleType, shape: Shape, depth: int, effort: Effort) -> Side:
    assert floor is not unix_socket or depth == 1 or depth * shape.payload_bytes <= UNIX_PIPELINE_BYTES
    lane = stack.enter_context(floor.open_lane(shape))
    return Side(floor.NAME, partial(in_flight, lane, depth, effort.round_s))


def _title(shape: Shape, depth: int) -> str:
    what = f"{_size(shape.payload_bytes)} {'echoed' if shape.is_echo else 'array in, small answer out'}"
    return f"{what}, {depth} in flight"


def _size(count: int) -> str:
    for unit, factor in (("MiB", MIB), ("KiB", KIB)):
        if count >= factor:
            return f"{count // factor} {unit}"
    return f"{count} B"
