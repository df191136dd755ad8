"""`ps`, `size` and `explain`: what there is, how big it is, and why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hostd.cli.session import HostCommand, Session, complete_models, shared_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hostd.records import Event, HostInfo, ModelInfo, UnloadReport

STATE_STYLES = {
    "READY": "green",
    "LOADING": "yellow",
    "DEGRADED": "yellow",
    "UNLOADING": "yellow",
    "FAILED": "red",
    "QUARANTINED": "red",
}


@click.command(cls=HostCommand)
@shared_options
@click.pass_obj
def ps(session: Session) -> None:
    """Show the models: state, process, memory, age and use.

    RSS is the memory that a model's processes hold, pages shared with others included; USS is what only they hold,
    which is what an unload gives back.
    """
    from hostd.cli.output import console, plain, print_json, say  # noqa: PLC0415 - `--help` does not need it

    with session.client() as client:
        models, host = client.list_models(), client.host_info()
    if session.json:
        print_json([model.to_dict() for model in models])
        return
    if models:
        console().print(models_table(models, time.time()))
    for model in models:
        if model.state in ("FAILED", "QUARANTINED", "DEGRADED") and model.reason:
            say(f"[red]{plain(model.id)}[/]: {plain(model.reason)}")
    say(f"[dim]{_host_line(models, host)}[/]", stderr=True)
    for reason in host.degraded:
        say(f"[yellow]the host is degraded[/]: {plain(reason)}", stderr=True)


def models_table(models: Sequence[ModelInfo], now_s: float) -> Table:
    """Return the table of models, which fits 80 columns; `now_s` is the present in unix seconds."""
    from hostd.cli.output import plain, table  # noqa: PLC0415 - as above
    from hostd.units import format_age, format_size_short  # noqa: PLC0415 - as above

    headings = ("MODEL", "STATE", "PID", "LOADER", "RSS", "USS", "UP", "CALLS", "USED")
    rows = table(*headings, right=("PID", "RSS", "USS", "UP", "CALLS", "USED"))

    def age(since_s: float | None) -> str:
        return format_age(None if since_s is None else now_s - since_s)

    for model in models:
        state = f"[{STATE_STYLES.get(model.state, 'default')}]{model.state}[/]"
        shared = (plain(model.id), state), (str(model.calls), age(model.last_used_s))
        loader = plain(model.loader or "-")
        if not model.workers:
            rows.add_row(*shared[0], "-", loader, "-", "-", "-", *shared[1])
        for index, worker in enumerate(model.workers):
            known = (
                str(worker.pid or "-"),
                loader,
                format_size_short(worker.rss_bytes),
                format_size_short(worker.uss_bytes),
                age(worker.started_s),
            )
            rows.add_row(*(shared[0] if not index else ("", "")), *known, *(shared[1] if not index else ("", "")))
    return rows


def unloads_table(reports: Sequence[UnloadReport]) -> Table:
    """Return the table of what unloads gave back."""
    from hostd.cli.output import plain, table  # noqa: PLC0415 - as above
    from hostd.units import format_duration, format_size  # noqa: PLC0415 - as above

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
    from hostd.cli.output import counted, plain  # noqa: PLC0415 - as above
    from hostd.units import format_duration, format_size  # noqa: PLC0415 - as above

    count = counted(len(models), "model")
    held = sum(model.size or 0 for model in models)
    total = f", {format_size(held)}" if models else ""
    up = format_duration(time.time() - host.started_s)
    return f"{count}{total}; host pid {host.pid} ({format_size(host.rss_bytes)}), up {up}, at {plain(host.endpoint)}"


@click.command(cls=HostCommand)
@click.argument("models", metavar="[ID]...", nargs=-1, shell_complete=complete_models)
@click.option(
    "--estimate", type=(str, click.Path()), metavar="ID PATH", help="Say what the model at PATH would take, unloaded."
)
@click.option("--type", "model_type", help="The type of the model to estimate.  [default: standalone-model]")
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
    from hostd.cli.output import console, plain, print_json, table  # noqa: PLC0415 - `--help` does not need it
    from hostd.units import format_size  # noqa: PLC0415 - as above

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


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID", shell_complete=complete_models)
@shared_options
@click.pass_obj
def explain(session: Session, model: str) -> None:
    """Say why a model is in its state, with the story of its last transitions."""
    from hostd.cli.output import plain, print_json, say  # noqa: PLC0415 - `--help` does not need it
    from hostd.records import Event  # noqa: PLC0415 - as above

    with session.client() as client:
        found = client.explain_model(model)
    if session.json:
        print_json(found)
        return
    state = str(found.get("state", "unknown"))
    reason = str(found.get("reason") or "no reason given")
    say(f"[bold]{plain(model)}[/] is [{STATE_STYLES.get(state, 'default')}]{plain(state)}[/]: {plain(reason)}")
    for told in found.get("story", ()):
        say(f"  {event_line(Event.from_dict(told), with_model=False)}")


def event_line(event: Event, *, with_model: bool = True) -> str:
    """Return a transition as one line of rich markup."""
    from hostd.cli.output import plain  # noqa: PLC0415 - as above

    clock = time.strftime("%H:%M:%S", time.localtime(event.time_s))
    who = f"worker {event.worker_id}" if event.subject == "worker" else event.subject
    pid = f" pid {event.pid}" if event.pid else ""
    new = f"[{STATE_STYLES.get(event.new, 'default')}]{plain(event.new)}[/]"
    reason = f"  [dim]{plain(event.reason)}[/]" if event.reason else ""
    model = f"[bold]{plain(event.model_id)}[/]  " if with_model else ""
    return f"[dim]{clock}[/]  {model}{who}{pid}  {plain(event.old)} -> {new}{reason}"
