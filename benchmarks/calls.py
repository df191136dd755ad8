"""`latency` and `throughput`: the same calls through every floor and through the host, 1 and 64 in flight."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.floors import c_proxy, dealer_router, in_process, poller, pool, router_router, unix_socket
from benchmarks.floors.lane import Shape
from benchmarks.runner import ASYNC, MAP, SYNC, Effort, Side, alternate, one_at_a_time, pipelined
from benchmarks.verdicts import Against, By, Comparison, Target, compare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import hostd

KIB = 1 << 10
MIB = 1 << 20
SMALL = Shape(64)
SHAPES = (SMALL, Shape(64 * KIB), Shape(MIB), Shape(16 * MIB))
ARRAY_IN = Shape(16 * MIB, is_echo=False)
DEPTH = 64
FLOORS = (in_process, unix_socket, dealer_router, c_proxy, poller, router_router, pool)

# A ratio of unequal message counts: without joining hostd was 15 % slower (sync), 30 % (async).
BATCH_NOTE = (
    "the floors send every request and every answer as a message of its own; hostd joins small ones that leave "
    "together into one, at every hop, so part of its rate is fewer messages and not cheaper ones"
)

# A pipeline over a plain stream dead-locks once both directions' buffers (208 KiB each) are full.
UNIX_PIPELINE_BYTES = 128 * KIB


def latency(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """One request in flight: every payload echoed, then a big array in and a small answer out."""
    with _host(with_host=with_host) as host:
        for shape in (*SHAPES, ARRAY_IN):
            targets = []
            if shape == SMALL:
                targets = [Target(SYNC, c_proxy.NAME, Against.RATIO, 2.0)]
            elif shape == ARRAY_IN:
                targets = [Target(SYNC, router_router.NAME, Against.RATIO, 1.2)]
            yield _calls("latency", shape, 1, effort, host, targets)


def throughput(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Calls per second: one in flight, and 64."""
    with _host(with_host=with_host) as host:
        for depth in (DEPTH,) if effort.is_quick else (1, DEPTH):
            # 64 times 16 MiB both ways is 2 GiB in flight in each of three processes: not for a quick look.
            for shape in SHAPES[:-1] if effort.is_quick else SHAPES:
                targets = []
                if shape == SMALL and depth == DEPTH:
                    targets = [
                        Target(ours, poller.NAME, Against.RATIO, 0.7, is_ceiling=False) for ours in (SYNC, ASYNC, MAP)
                    ]
                yield _calls("throughput", shape, depth, effort, host, targets)


@contextmanager
def _host(*, with_host: bool) -> Iterator[hostd.Host | None]:
    if not with_host:
        yield None
        return
    from benchmarks.ours import echo_host  # noqa: PLC0415 - the floors can be measured without the host

    with echo_host() as host:
        yield host


def _calls(
    group: str, shape: Shape, depth: int, effort: Effort, host: hostd.Host | None, targets: list[Target]
) -> Comparison:
    with ExitStack() as stack:
        sides = [_floor_side(stack, floor, shape, depth, effort) for floor in _floors_for(shape, depth)]
        if host is not None:
            from benchmarks.ours import call_sides  # noqa: PLC0415 - as above

            sides += stack.enter_context(call_sides(host, shape, depth, effort))
        rounds = alternate(sides, effort.rounds, effort.patience_s)
    by = By.LATENCY if group == "latency" else By.RATE
    notes = [BATCH_NOTE] if host is not None and depth > 1 and not shape.is_big else []
    return compare(group, _title(shape, depth), by, sides, rounds, targets, notes)


def _floors_for(shape: Shape, depth: int) -> list[ModuleType]:
    fits = depth * shape.payload_bytes <= UNIX_PIPELINE_BYTES
    return [floor for floor in FLOORS if floor is not unix_socket or depth == 1 or fits]


def _floor_side(stack: ExitStack, floor: ModuleType, shape: Shape, depth: int, effort: Effort) -> Side:
    lane = stack.enter_context(floor.open_lane(shape))
    if depth == 1:
        return Side(floor.NAME, partial(one_at_a_time, lane, effort.round_s))
    return Side(floor.NAME, partial(pipelined, lane, depth, effort.round_s))


def _title(shape: Shape, depth: int) -> str:
    what = f"{_size(shape.payload_bytes)} {'echoed' if shape.is_echo else 'array in, small answer out'}"
    frames = f"{shape.frames} frame{'s' if shape.frames > 1 else ''}"
    return f"{what}, {depth} in flight (floors: {frames} per request)"


def _size(count: int) -> str:
    for unit, factor in (("MiB", MIB), ("KiB", KIB)):
        if count >= factor:
            return f"{count // factor} {unit}"
    return f"{count} B"
