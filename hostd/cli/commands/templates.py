"""`templates`: which libraries are kept imported in processes that fork workers, and what does without."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hostd.cli.output import console, plain, print_json, say, table
from hostd.cli.session import HostCommand, Session, shared_options
from hostd.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hostd.records import TemplatesInfo

_LIBRARIES_SHOWN = 6


@click.command(cls=HostCommand)
@shared_options
@click.pass_obj
def templates(session: Session) -> None:
    """Show what is kept imported, in processes that fork workers, and which models do without.

    A load that is forked from a template takes milliseconds, and its model shares the libraries' memory. What to import
    is learned from loads (workers.templates in the configuration; isolation: fresh in a model.yaml keeps one out).
    """
    with session.client() as client:
        found = client.templates_info()
    if session.json:
        print_json(found.to_dict())
        return
    if found.templates:
        console().print(templates_table(found))
    else:
        say("there are no templates: none was needed yet, or workers.templates is off")
    for name, reason in found.left_out.items():
        say(f"[yellow]{plain(name)}[/] is left out of templates: {plain(reason)}")
    for name, reason in found.fresh.items():
        say(f"[yellow]{plain(name)}[/] is loaded by fresh workers; in a forked one: {plain(reason)}")


def templates_table(found: TemplatesInfo) -> Table:
    """Return the table of templates."""
    columns = ("ID", "STATE", "PID", "LIBRARIES", "MEMORY", "IMPORTS", "FORKS", "WORKERS", "USED")
    rows = table(*columns, right=("ID", "PID", "MEMORY", "IMPORTS", "FORKS", "WORKERS"))
    for each in found.templates:
        rows.add_row(
            str(each.id),
            plain(each.state),
            str(each.pid or "-"),
            plain(some_of(each.libraries)),
            format_size(each.held_bytes) if each.pid else "-",
            format_duration(each.import_s) if each.pid else "-",
            str(each.forks),
            str(each.workers),
            f"{format_duration(max(0.0, time.time() - each.used_s))} ago",
        )
    return rows


def some_of(libraries: Sequence[str]) -> str:
    """Return the first of the packages that a template has imported, in words."""
    if not libraries:
        return "what every worker needs"
    more = f" and {len(libraries) - _LIBRARIES_SHOWN} more" if len(libraries) > _LIBRARIES_SHOWN else ""
    return ", ".join(libraries[:_LIBRARIES_SHOWN]) + more
