"""`ps` and `size`: what there is, and how big it is."""

from __future__ import annotations

import time
from dataclasses import asdict
from itertools import accumulate
from typing import TYPE_CHECKING

import click

from hostd.cli.commands.inventory import show_all
from hostd.cli.output import console, plain, print_json, say, table
from hostd.cli.session import HostCommand, Session, complete_models, labels_option, shared_options
from hostd.cli.styles import STATE_STYLES, format_share
from hostd.records import STANDALONE, WorkerInfo
from hostd.units import counted, format_age, format_duration, format_size, format_size_short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hostd.cli.commands.processes import Seen
    from hostd.records import HostInfo, MemoryInfo, ModelInfo, TemplateInfo, UnloadReport


WIDE_COLUMNS = 100
"""From this width on the table of models has the columns that 80 have no room for."""

_WANTED = ("MODEL", "STATE", "RSS", "BUDGET", "PID", "CALLS", "USED", "GPU", "USS", "UP", "LOADER", "CHARGE")
"""Its columns, those first that stay longest when there is little room."""

_ENOUGH_OF_NAME = 18
"""How much of a name has to be seen in one line; longer ones are folded before a column goes."""

_NO_WORKER = WorkerInfo(id=0, pid=None, state="")


@click.command(cls=HostCommand)
@click.option("--all", "-a", "every", is_flag=True, help="Those that are not loaded, too, and why: as hostd ls.")
@click.option("--tree", is_flag=True, help="Show the processes of workers and templates, for a host on this machine.")
@labels_option("Only the models that have this label.")
@shared_options
@click.pass_obj
def ps(session: Session, *, every: bool, tree: bool, labels: dict[str, str] | None) -> None:
    """Show the models: state, process, memory, age and use.

    RSS is the memory that a model's processes hold, pages shared with others included; USS is what only they hold,
    which is what an unload gives back. BUDGET is the part of the memory budget that a model takes: what is private to
    its processes, or what is reserved for it while it loads. A narrow terminal gets fewer columns.
    """
    if every:
        if tree:
            raise click.UsageError("--tree shows processes, and --all models that have none: say one of them")

        show_all(session, labels)
        return
    with session.client() as client:
        models, host, memory = client.list_models(labels=labels), client.host_info(), client.memory_info()
        templates = client.templates_info().templates if tree else ()
    processes = None
    if tree:
        from hostd.cli.commands.processes import processes_of  # noqa: PLC0415 - psutil takes milliseconds

        processes = processes_of(models, host)
    if session.json:
        of_tree = {} if processes is None else {model: list(map(asdict, found)) for model, found in processes.items()}
        print_json([model.to_dict() | ({"processes": of_tree[model.id]} if tree else {}) for model in models])
        return
    _show(models, memory, processes, templates)
    _show_footer(models, host, memory)


def _show(
    models: Sequence[ModelInfo],
    memory: MemoryInfo,
    processes: dict[str, list[Seen]] | None,
    templates: Sequence[TemplateInfo],
) -> None:
    out = console()
    if processes is not None:
        from hostd.cli.commands.processes import model_tree, templates_tree  # noqa: PLC0415 - as above

        for model in models:
            out.print(model_tree(model, processes[model.id], memory.budget_bytes))
        if templates:
            out.print(templates_tree(templates))
    elif models:
        out.print(models_table(models, time.time(), budget_bytes=memory.budget_bytes, width=out.width))
    for model in models:
        if model.state in ("FAILED", "QUARANTINED", "DEGRADED") and model.reason:
            say(f"[red]{plain(model.id)}[/]: {plain(model.reason)}")
        elif model.id in (*memory.paused, *memory.waiting):
            say(f"[yellow]{plain(model.id)}[/]: {plain(model.reason)}")
    if pinned := [plain(model.id) for model in models if model.pinned]:
        say(f"[bold]pinned[/]: {', '.join(pinned)}")


def _show_footer(models: Sequence[ModelInfo], host: HostInfo, memory: MemoryInfo) -> None:
    for line in (_host_line(models, host), memory_line(memory), returned_line(memory)):
        say(f"[dim]{line}[/]", stderr=True)
    if memory.over_budget:
        say(f"[red]over the budget[/]: {plain(memory.over_budget)}", stderr=True)
    for reason in host.degraded:
        say(f"[yellow]the host is degraded[/]: {plain(reason)}", stderr=True)


def models_table(
    models: Sequence[ModelInfo], now_s: float, *, budget_bytes: int | None = None, width: int = 80
) -> Table:
    """Return the table of models, with the columns for which `width` has room; `now_s` is now in unix seconds."""
    is_wide = width >= WIDE_COLUMNS
    budgeted = ((("CHARGE",) if is_wide else ()) + ("BUDGET",)) if budget_bytes else ()
    on_devices = ("GPU",) if any(worker.gpu_bytes for model in models for worker in model.workers) else ()
    headings = ("MODEL", "STATE", "PID", "LOADER", "RSS", "USS", *on_devices, *budgeted, "UP", "CALLS", "USED")

    def age(since_s: float | None) -> str:
        return format_age(None if since_s is None else now_s - since_s)

    def of_model(model: ModelInfo) -> dict[str, str]:
        return {
            "MODEL": plain(model.id),
            "STATE": f"[{STATE_STYLES.get(model.state, 'default')}]{model.state}[/]",
            "CHARGE": format_size_short(model.charge_bytes or None),
            "BUDGET": format_share(model.charge_bytes, budget_bytes),
            "CALLS": str(model.calls),
            "USED": age(model.last_used_s),
        }

    def of_worker(worker: WorkerInfo) -> dict[str, str]:
        return {
            "PID": str(worker.pid or "-"),
            "RSS": format_size_short(worker.rss_bytes),
            "USS": format_size_short(worker.uss_bytes),
            "GPU": format_size_short(worker.gpu_bytes or None),
            "UP": age(worker.started_s),
        }

    lines: list[dict[str, str]] = []
    for model in models:
        shared = of_model(model)
        for worker in model.workers or (_NO_WORKER,):
            lines.append({**shared, **of_worker(worker), "LOADER": plain(model.loader or "-")})
            shared = {}
    gap = 1 if (budgeted or on_devices) and not is_wide else 2  # more columns, and names keep their room
    shown = _fitting(headings, lines, width, gap)
    rows = table(*shown, right=tuple(name for name in shown if name not in ("MODEL", "STATE", "LOADER")))
    rows.columns[shown.index("STATE")].no_wrap = True
    rows.padding = (0, gap, 0, 0)
    for line in lines:
        rows.add_row(*(line.get(name, "") for name in shown))
    return rows


def _fitting(headings: tuple[str, ...], lines: list[dict[str, str]], width: int, gap: int) -> tuple[str, ...]:
    """Return the headings of the columns that fit, in their order: the least wanted go first."""
    from rich.text import Text  # noqa: PLC0415 - JSON output does without rich

    def needed(name: str) -> int:
        longest = max(len(name), *(Text.from_markup(line.get(name, "")).cell_len for line in lines))
        return min(longest, _ENOUGH_OF_NAME) if name == "MODEL" else longest

    wanted = [name for name in _WANTED if name in headings]
    ends = accumulate(needed(name) + gap for name in wanted)
    fitting = {name for name, end in zip(wanted, ends, strict=True) if end - gap <= width} | {"MODEL", "STATE"}
    return tuple(name for name in headings if name in fitting)


def unloads_table(reports: Sequence[UnloadReport]) -> Table:
    """Return the table of what unloads gave back."""
    headings = ("MODEL", "GIVEN BACK", "WAS", "PROCESSES", "TOOK")
    rows = table(*headings, right=headings[1:])
    for report in reports:
        rows.add_row(
            plain(report.model_id),
            format_size(report.freed_bytes),
            format_size(report.size_bytes),
            str(report.processes),
            format_duration(report.duration_s),
        )
    return rows


def _host_line(models: Sequence[ModelInfo], host: HostInfo) -> str:
    count = counted(len(models), "model")
    held = sum(model.size or 0 for model in models)
    total = f", {format_size(held)}" if models else ""
    up = format_duration(time.time() - host.started_s)
    return f"{count}{total}; host pid {host.pid} ({format_size(host.rss_bytes)}), up {up}, at {plain(host.endpoint)}"


def memory_line(memory: MemoryInfo) -> str:
    """Return what all models take of the budget, as rich markup."""
    reserved = f" + {format_size(memory.reserved_bytes)} reserved" if memory.reserved_bytes else ""
    templates = f", {format_size(memory.templates_bytes)} held by templates" if memory.templates_bytes else ""
    used = f"memory: {format_size(memory.measured_bytes)} measured{reserved}"
    if memory.budget_bytes is None:
        return f"{used}{templates}, no budget"
    waiting = f"; waiting for memory: {', '.join(map(plain, memory.waiting))}" if memory.waiting else ""
    paused = f"; paused until there is room: {', '.join(map(plain, memory.paused))}" if memory.paused else ""
    evicted = counted(sum(memory.evictions.values()), "eviction")
    source = f"; the budget is {plain(memory.budget_source)}" if memory.budget_source else ""
    budget = f"{format_size(memory.budget_bytes)}, {format_size(memory.free_bytes)} free{templates}"
    return f"{used} of {budget}; {evicted}{paused}{waiting}{source}"


def returned_line(memory: MemoryInfo) -> str:
    """Return what unloads have given back since the host started, and what the last one proved, as rich markup."""
    if not memory.unloads:
        return "given back: nothing was unloaded yet"
    line = f"given back: {format_size(memory.freed_bytes)} by {counted(memory.unloads, 'unload')}"
    last = memory.last_unload
    if last is None:
        return line
    ended = counted(last.processes, "process", "processes")
    freed, took = format_size(last.freed_bytes), format_duration(last.duration_s)
    return f"{line}; last {plain(last.model_id)}: {freed}, {ended} proven gone in {took}"


@click.command(cls=HostCommand)
@click.argument("models", metavar="[ID]...", nargs=-1, shell_complete=complete_models)
@click.option(
    "--estimate", type=(str, click.Path()), metavar="ID PATH", help="Say what the model at PATH would take, unloaded."
)
@click.option("--type", "model_type", help=f"The type of the model to estimate.  [default: {STANDALONE}]")
@shared_options
@click.pass_obj
def size(session: Session, models: tuple[str, ...], estimate: tuple[str, str] | None, model_type: str | None) -> None:
    """Show how much memory models take, all of them if none is named, and how that is known.

    It is measured for a model that is loaded. For one that is not (--estimate) it is remembered from an earlier load of
    the same content, declared by its model.yaml, or estimated from the size of its files.
    """
    if estimate is None and model_type is not None:
        raise click.UsageError("--type goes with --estimate ID PATH")
    if estimate is not None and models:
        raise click.UsageError("name models that are loaded, or one to --estimate")

    known: list[tuple[str, int | None, str]] = []
    with session.client() as client:
        if estimate is not None:
            found = client.estimate_model_size(*estimate, *([model_type] if model_type else []))
            known.append((estimate[0], found.bytes, found.source))
        else:
            records = [client.get_model(model) for model in models] if models else client.list_models()
            known.extend((record.id, record.size, record.size_source) for record in records)
    if session.json:
        print_json({model: {"bytes": size_bytes, "source": source} for model, size_bytes, source in known})
        return
    rows = table("MODEL", "SIZE", "BYTES", "HOW", right=("SIZE", "BYTES"))
    for model, size_bytes, source in known:
        rows.add_row(
            plain(model), format_size(size_bytes), "-" if size_bytes is None else str(size_bytes), plain(source)
        )
    console().print(rows)
