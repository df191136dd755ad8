"""`events` and `logs`: what happens, and what models say about it."""

from __future__ import annotations

import sys

import click

from hostd.cli.session import HostCommand, Session, complete_models, shared_options

# How much to ask for: lines are longer than this only where nobody reads them, and the host keeps no more than its
# `workers.log_bytes` anyway.
_BYTES_PER_LINE = 1024
_LEAST_BYTES = 64 * 2**10
_EVERYTHING_BYTES = 2**40


@click.command(cls=HostCommand)
@click.argument("model", metavar="[ID]", required=False, shell_complete=complete_models)
@shared_options
@click.pass_obj
def events(session: Session, model: str | None) -> None:
    """Follow what happens to models and workers, or to one model, until Ctrl-C."""
    from hostd.cli.explaining import event_line  # noqa: PLC0415 - `--help` does not need it
    from hostd.cli.output import print_json, say  # noqa: PLC0415 - `--help` does not need it

    with session.client() as client:
        for event in client.events(model):
            if session.json:
                print_json(event.to_dict())
            else:
                say(event_line(event))


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID", shell_complete=complete_models)
@click.option(
    "--tail", type=click.IntRange(min=1), metavar="N", help="The last N lines only.  [default: all that is kept]"
)
@shared_options
@click.pass_obj
def logs(session: Session, model: str, tail: int | None) -> None:
    """Show what a model printed, on standard output and error together."""
    from hostd.cli.output import print_json, printable  # noqa: PLC0415 - `--help` does not need it

    with session.client() as client:
        wanted = _EVERYTHING_BYTES if tail is None else max(_LEAST_BYTES, tail * _BYTES_PER_LINE)
        text = client.model_logs(model, tail_bytes=wanted)
    lines = text.splitlines()[-(tail or 0) :]
    if session.json:
        print_json({"model": model, "lines": lines})
        return
    if not lines:
        click.echo(f"nothing that {model} printed is kept", err=True)
    show = printable if sys.stdout.isatty() else str
    for line in lines:
        click.echo(show(line))
