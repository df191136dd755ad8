"""The end of a history: what was begun is finished, and nothing is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outside import Stage

from hostd.core import events as ev

if TYPE_CHECKING:
    from outside import Outside


def finish(host: Outside) -> None:
    """Let the disk do what it was told, and every process end that was told to, until there is nothing of either."""
    while True:
        before = len(host.history)
        for operation in host.files.in_work():
            while operation.pending:
                host.feed(host.files.next_event(operation))
        for process in host.processes.values():
            if process.is_killed and process.is_alive():
                process.stage = Stage.GONE
                host.feed(ev.WorkerGone(process.id, 10, 2))
        if len(host.history) == before:
            return


def is_clean(host: Outside) -> bool:
    """Say whether neither the core nor the disk has anything to do with files any more."""
    registry, core = host.core._registry, host.core
    books = (registry.reserved, registry.files_in_work, core._deploying.deploys, core._undeploying.undeploys)
    return not any(books) and not host.files.in_work()
