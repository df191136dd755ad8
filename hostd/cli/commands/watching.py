"""`events` and `logs`: what happens, and what models say about it."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING

import click

from hostd.cli.commands.explaining import event_line
from hostd.cli.output import print_json, printable, say
from hostd.cli.session import HostCommand, Session, complete_models, shared_options

if TYPE_CHECKING:
    from hostd.log_lines import LogLine


@click.command(cls=HostCommand)
@click.argument("model", metavar="[ID]", required=False, shell_complete=complete_models)
@shared_options
@click.pass_obj
def events(session: Session, model: str | None) -> None:
    """Follow what happens to models and workers, or to one model, until Ctrl-C."""
    with session.client() as client:
        for event in client.events(model):
            if session.json:
                print_json(event.to_dict())
            else:
                say(event_line(event))


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID", shell_complete=complete_models)
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C; reloads do not end it.")
@click.option(
    "--lines",
    "-n",
    "--tail",
    "tail",
    type=click.IntRange(min=1),
    metavar="N",
    help="The last N lines only.  [default: all that is kept]",
)
@click.option("--raw", is_flag=True, help="Only what the model printed: no times, no notes of the host.")
@shared_options
@click.pass_obj
def logs(session: Session, model: str, tail: int | None, *, follow: bool, raw: bool) -> None:
    """Show what a model printed, on standard output and error together, and when its workers started and ended.

    Times are those at which the host read a line. The exit code is 1 for an id under which no model was ever loaded.
    """
    with session.client() as client:
        found = (line for line in client.log_lines(model, tail=tail, follow=follow) if not (raw and line.is_note))
        if session.json and not follow:
            print_json({"model": model, "lines": [line.to_dict() for line in found]})
            return
        count = 0
        for count, line in enumerate(found, 1):  # noqa: B007 - it is asked for below
            if session.json:
                print_json(line.to_dict())
            else:
                click.echo(line.text if raw else _shown(line), color=raw or None)
    if not count:
        click.echo(f"nothing that {model} printed is kept", err=True)


def _shown(line: LogLine) -> str:
    is_terminal = sys.stdout.isatty()
    clock = "-" if line.time_s is None else datetime.fromtimestamp(line.time_s).isoformat(" ", "milliseconds")
    text = f"-- {line.text} --" if line.is_note else line.text
    shown = f"{clock:23}  {printable(text) if is_terminal else text}"
    return click.style(shown, dim=True) if is_terminal and line.is_note else shown
