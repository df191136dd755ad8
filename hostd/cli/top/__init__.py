"""`top`: the models and their memory, live.

Here is only the command. `look` is what is known at one moment, `state` what the keys have chosen, `view` makes a
picture of both; these three are pure. `watch` asks the host, `screen` owns the terminal.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from hostd.cli.output import console, print_json
from hostd.cli.session import HostCommand, Session, shared_options
from hostd.cli.top.look import Scene, as_object, look
from hostd.cli.top.state import Sort, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostd import Client
    from hostd.cli.top.look import Look

_LEAST_INTERVAL_S = 0.1
"""More looks than ten in a second nobody can read, and each is work for the host."""

_PIPE_COLUMNS = 200
"""How wide a picture is that goes to no terminal: all columns fit, and its bars end somewhere."""


@click.command(cls=HostCommand)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=_LEAST_INTERVAL_S),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two looks.",
)
@click.option(
    "--sort",
    type=click.Choice([sort.value for sort in Sort]),
    default=Sort.MEMORY.value,
    show_default=True,
    help="What the models are sorted by.",
)
@click.option("--filter", "text", default="", metavar="TEXT", help="Only models with TEXT in id, state or loader.")
@click.option("--once", is_flag=True, help="Print what there is after one interval, and end.")
@shared_options
@click.pass_obj
@click.pass_context
def top(ctx: click.Context, session: Session, interval_s: float, sort: str, text: str, *, once: bool) -> None:
    """Watch the models, live: memory against the budget, state, calls per second, latency, and what happened last.

    Keys: s sorts by something else, r reverses, / filters (Enter keeps, Esc clears), arrows scroll, q quits. Without a
    terminal it is as with --once. With --json there is one object per interval.
    """
    state = State(sort=Sort(sort), filter=text)
    if session.json:
        _print_objects(session, interval_s, state, once=once)
        return

    out = console(pipe_columns=_PIPE_COLUMNS)
    if once or not out.is_terminal or out.is_dumb_terminal:
        from hostd.cli.top.view import frame  # noqa: PLC0415 - JSON output does without rich

        with session.client() as client:
            previous, latest = next(pairwise(_looks(client, interval_s)))
        scene = Scene(latest, previous)
        out.print(frame(scene, state, out.width, None, is_ascii=out.options.ascii_only).picture())
        return
    from hostd.cli.top.screen import show  # noqa: PLC0415 - as above

    if ended_by := show(session, out, state, interval_s):
        ctx.exit(128 + ended_by)  # as shells report a process that a signal ended


def _print_objects(session: Session, interval_s: float, state: State, *, once: bool) -> None:
    with session.client() as client:
        for previous, latest in pairwise(_looks(client, interval_s)):
            print_json(as_object(latest, previous, state))
            if once:
                return


def _looks(client: Client, interval_s: float) -> Iterator[Look]:
    """Look again and again; figures per second need two looks."""
    while True:
        began_s = time.monotonic()
        yield look(client)
        time.sleep(max(0.0, began_s + interval_s - time.monotonic()))
