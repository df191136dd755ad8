"""The processes of workers as this machine sees them, for `ps --tree`: beside what the host says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psutil

from hostd.cli.commands.templates import some_of
from hostd.cli.output import plain, printable
from hostd.cli.styles import STATE_STYLES, format_share
from hostd.units import counted, format_size, format_size_short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.tree import Tree

    from hostd.records import HostInfo, ModelInfo, TemplateInfo, WorkerInfo


_SHOWN_WORDS = 12
"""Words of a command line that are shown: the terminal cuts the rest anyway, and there are some with thousands."""


@dataclass(frozen=True)
class Seen:
    """A process and its descendants as they are now; bytes are None where the system does not permit to look."""

    pid: int
    name: str
    command: tuple[str, ...]
    rss_bytes: int | None
    uss_bytes: int | None
    children: tuple[Seen, ...]


def processes_of(models: Sequence[ModelInfo], host: HostInfo) -> dict[str, list[Seen]]:
    """Return the workers' processes by model, those that have just gone left out.

    Raises click.UsageError if they are not on this machine: the pids of another mean nothing here.
    """
    if not psutil.pid_exists(host.pid):
        raise _elsewhere(host)
    return {model.id: [seen for worker in model.workers if (seen := _worker(worker, host))] for model in models}


def _worker(worker: WorkerInfo, host: HostInfo) -> Seen | None:
    try:
        process = psutil.Process(worker.pid or 0)
        is_of_host = host.pid in [parent.pid for parent in process.parents()]
    except psutil.NoSuchProcess:
        return None
    if not is_of_host and process.is_running():
        raise _elsewhere(host)
    return look_at(process.pid)


def _elsewhere(host: HostInfo) -> click.UsageError:
    return click.UsageError(
        f"--tree looks at the processes of this machine, and those of the host at {host.endpoint} (pid {host.pid}) are "
        f"not to be seen from here: run it where the host runs"
    )


def look_at(pid: int) -> Seen | None:
    """Return a process with all of its descendants, None if it is gone."""
    try:
        process = psutil.Process(pid)
        members = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    children: dict[int, list[psutil.Process]] = {}
    for member in members[1:]:
        try:
            children.setdefault(member.ppid(), []).append(member)
        except psutil.NoSuchProcess:  # noqa: PERF203 - each may go at any time
            continue
    return _seen(process, children)


def _seen(process: psutil.Process, children: dict[int, list[psutil.Process]]) -> Seen | None:
    try:
        with process.oneshot():
            name, command, rss_bytes = process.name(), tuple(process.cmdline()), process.memory_info().rss
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        name, command, rss_bytes = "?", (), None
    try:
        uss_bytes = process.memory_full_info().uss
    except psutil.Error:
        uss_bytes = None
    below = (_seen(child, children) for child in children.get(process.pid, ()))
    return Seen(process.pid, name, command, rss_bytes, uss_bytes, tuple(seen for seen in below if seen is not None))


def model_tree(model: ModelInfo, workers: Sequence[Seen], budget_bytes: int | None) -> Tree:
    """Return a model's processes as a tree; lines are meant to be cut at the width of the terminal."""
    from rich.tree import Tree  # noqa: PLC0415 - JSON output does without rich

    share = f" ({format_share(model.charge_bytes, budget_bytes)} of the budget)" if budget_bytes else ""
    state = f"[{STATE_STYLES.get(model.state, 'default')}]{model.state}[/]"
    pinned = "  pinned" if model.pinned else ""
    made = Tree(f"[bold]{plain(model.id)}[/]  {state}  {format_size(model.charge_bytes)}{share}{pinned}")
    made.guide_style = "dim"
    origins = {worker.pid: f"of template {worker.template}: " for worker in model.workers if worker.template}
    for worker in workers:
        _grow(made, worker, origins.get(worker.pid, "") + shortened(worker))
    return made


def templates_tree(templates: Sequence[TemplateInfo]) -> Tree:
    """Return the processes that fork workers as a tree."""
    from rich.tree import Tree  # noqa: PLC0415 - as above

    made = Tree(f"[bold]templates[/]  {format_size(sum(each.held_bytes for each in templates))}", guide_style="dim")
    for each in templates:
        seen = look_at(each.pid or 0)
        if seen is not None:
            held = format_size(each.held_bytes)
            what = f"{each.id}, {held}: {some_of(each.libraries)}; {counted(each.workers, 'worker')} of {each.forks}"
            _grow(made, seen, printable(what))
    return made


def _grow(tree: Tree, process: Seen, what: str = "") -> None:
    from rich.text import Text  # noqa: PLC0415 - as above

    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{process.pid:<7}", "cyan")
    line.append(f" RSS {format_size_short(process.rss_bytes):>5}  USS {format_size_short(process.uss_bytes):>5}  ")
    line.append(what or shortened(process), "dim")
    branch = tree.add(line)
    for child in process.children:
        _grow(branch, child)


def shortened(process: Seen) -> str:
    """Return a command line for a person: the program without its directory, and what tells it from others."""
    if not process.command:
        return printable(f"[{process.name}]")
    words = [Path(process.command[0]).name, *process.command[1:_SHOWN_WORDS]]
    return printable(" ".join(words)).replace("\n", " ").replace("\t", " ")
