"""`ls`: all models, also those that are not loaded, each with its state and why it is in it."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import click

from hostd.cli.output import console, plain, print_json, printable, say, table
from hostd.cli.session import HostCommand, Session, labels_option, shared_options
from hostd.cli.styles import STATE_STYLES
from hostd.records import SERVING
from hostd.units import counted, format_age, format_size_short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hostd.records import ModelInfo

_LEAST_WHY = 20
"""How many characters of a reason are shown on the narrowest terminal; ids are folded before."""


@click.command(cls=HostCommand)
@labels_option("Only the models that have this label.")
@shared_options
@click.pass_obj
def ls(session: Session, labels: dict[str, str] | None) -> None:
    """List all models: loaded, evicted, failed, and those in the models directory that are not loaded, and why."""
    show_all(session, labels)


def show_all(session: Session, labels: dict[str, str] | None) -> None:
    """Print the list of all models, or of those that have these labels."""
    from hostd.cli.tables import print_table  # noqa: PLC0415 - JSON output does without rich

    with session.client() as client:
        models, host = client.list_models(all=True, labels=labels), client.host_info()
    if session.json:
        print_json([model.to_dict() for model in models])
        return
    out, now_s = console(), time.time()
    rows = inventory_table(models, now_s, out.width if out.is_terminal else None)
    if models:
        print_table(rows)
    if out.is_terminal and any(str(cell).endswith("…") for cell in rows.columns[-1].cells):
        say("[dim]… is cut: hostd explain ID has the rest[/]", stderr=True)
    states = Counter(model.state for model in models)
    by_state = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    say(f"[dim]{counted(len(models), 'model')}{f': {by_state}' if models else ''}[/]", stderr=True)
    for reason in host.degraded:
        say(f"[yellow]the host is degraded[/]: {plain(reason)}", stderr=True)


def inventory_table(models: Sequence[ModelInfo], now_s: float, width: int | None) -> Table:
    """Return the table of all models, a line each; `now_s` is the present in unix seconds, None a pipe's width."""
    from rich.cells import cell_len  # noqa: PLC0415 - as above
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    rows = table("MODEL", "STATE", "SIZE", "WHY", right=("SIZE",))
    known = [(printable(model.id), model.state, format_size_short(model.size)) for model in models]
    columns = zip(("MODEL", "STATE", "SIZE"), *known, strict=True)
    used = sum(max(map(cell_len, column)) + rows.padding[1] for column in columns) + rows.padding[1]
    for model, (name, state, size) in zip(models, known, strict=True):
        reason = Text(printable(why(model, now_s)))
        if width is not None:
            reason.truncate(max(_LEAST_WHY, width - used), overflow="ellipsis")
        rows.add_row(plain(name), f"[{STATE_STYLES.get(state, 'default')}]{state}[/]", size, escape(reason.plain))
    return rows


def why(model: ModelInfo, now_s: float) -> str:
    """Return in one line what there is to say of a model's state."""
    if model.state in SERVING:
        used = f", last {format_age(now_s - model.last_used_s)} ago" if model.last_used_s else ""
        pinned = "; pinned" if model.pinned else ""
        changed = f"; its files have changed since: hostd load {model.id} --reload" if model.files == "changed" else ""
        gone = "; its files are gone since" if model.files == "gone" else ""
        return f"{counted(model.calls, 'call')}{used}{pinned}; from {model.path or 'no path'}{changed}{gone}"
    return model.reason.partition("\n")[0] or f"from {model.path or 'no path'}"
