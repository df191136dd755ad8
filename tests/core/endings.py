"""The end of a history: what was begun is finished, and nothing is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outside import Stage

from hostd.core import events as ev

if TYPE_CHECKING:
    from outside import Outside, Process
    from world import World


def finish(host: Outside) -> None:
    """Let the disk do what it was told, and every process end that was told to, until there is nothing of either."""
    while True:
        before = len(host.history)
        for operation in host.files.in_work():
            while operation.pending:
                host.feed(host.files.next_event(operation))
        while host.pins:
            host.feed(ev.PinKept(host.pins.popleft().files_id, None))
        while host.comparisons:
            host.feed(ev.FilesCompared(*host.comparisons.pop()[:2], "as loaded"))
        for template_id in sorted(host.ending):
            host.end_template(template_id, "it was told to")
        for process in list(host.processes.values()):
            if process.is_killed and process.is_alive():
                process.stage = Stage.GONE
                host.feed(ev.WorkerGone(process.id, 10, 2))
        if len(host.history) == before:
            return


def is_clean(host: Outside) -> bool:
    """Say whether neither the core nor the disk has anything to do with files any more."""
    registry, core = host.registry, host.core
    books = (registry.reserved, registry.files_in_work, core._deploying.deploys, core._undeploying.undeploys)
    return not any(books) and not host.files.in_work()


SETTLED_S: Final = 1000
"""Longer than any of the core's own limits lets anybody wait."""


def settle(world: World) -> None:
    """Let all go well from now on, and see that every caller is answered in the end."""
    for _ in range(SETTLED_S):
        while world.finds:
            world.find(0, "found")
        while world.predictions:
            world.predict(0, 1000, "remembered")
        for process in list(world.processes.values()):
            while can_go_on(process) and (process.stage is Stage.ORDERED or _has_next(process)):
                world.advance(process)
        while any(process.calls for process in world.processes.values()):
            world.reply(0, final=True, failed=False)
        world.settle_lanes()
        world.scan(0, 0, is_readable=True)
        finish(world)
        if all(isinstance(world.asked[caller], ev.LaneRequested) for caller in +world.open):
            return  # these are answered when the lane is closed
        world.pass_time(1.0)
    raise AssertionError(f"{world.open} wait for ever: {world.registry.models}, {world.queries.memory()}")


def forget_what_is_over(world: World) -> None:
    """Forget most of the processes and operations that have ended, which long games have too many of."""
    gone = [id for id, process in world.processes.items() if not process.is_alive()]
    for id in gone[:-20]:
        del world.processes[id]
        world.taken.pop(id, None)
    over = [id for id, operation in world.files.operations.items() if operation.is_over]
    for files_id in over[:-20]:
        del world.files.operations[files_id]


def can_go_on(process: Process) -> bool:
    """Say whether a process may do what comes next in a good life."""
    if process.stage is Stage.ORDERED:
        return True
    is_idle = process.is_sampled or process.is_killed or process.is_paused
    return process.stage is Stage.RUNNING and not is_idle


def _has_next(process: Process) -> bool:
    """Say whether a running process has something to do without being told more."""
    return not process.has_greeted or (process.load is not None and not process.has_loaded) or process.samples_due > 0
