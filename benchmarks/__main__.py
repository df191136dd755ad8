"""The command line: `python -m benchmarks COMMAND [--json F] [--plot F]`; `all` is every command.

Every command measures the floors and the host in the same run, in alternation, and prints the ratios and targets last.
Figures depend on the machine: only ratios and differences of one run carry over. `--floors` measures the floors alone.
A full `all` takes three quarters of an hour, a quick one five minutes. `--patience` is for shared machines.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.console import Console

from benchmarks import report
from benchmarks.machine import machine_facts
from benchmarks.runner import FULL, QUICK, Effort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.verdicts import Comparison

# A pipe has no width; rich would fold the tables at 80.
PIPE_WIDTH = 120
COMMANDS = (
    "latency",
    "throughput",
    "load",
    "templates",
    "unload",
    "idle",
    "scale",
    "death",
    "sync",
    "deploy",
    "sampling",
    "budget",
    "first",
    "turns",
    "proof",
    "limit",
    "leaks",
    "attack",
    "fronts",
    "peers",
)


class Chosen(NamedTuple):
    """What of a command is to be run: all of it, if these are empty; and where the peers are installed."""

    tables: Sequence[str] = ()
    attacks: Sequence[str] = ()
    peers: Path | None = None


def run_one(
    command: str,
    effort: Effort,
    console: Console,
    *,
    with_host: bool,
    chosen: Chosen,
) -> list[Comparison]:
    """Run one command and print its comparisons as they come."""
    from benchmarks import (  # noqa: PLC0415 - so that --help needs none of their packages
        attack,
        budget,
        calls,
        death,
        deploy,
        first,
        fronts,
        idle,
        leaks,
        limit,
        load,
        proof,
        sampling,
        scale,
        sync,
        templates,
        turns,
        unload,
    )
    from benchmarks.peers import side_by_side  # noqa: PLC0415 - as above

    measure = {
        "latency": partial(calls.latency, tables=chosen.tables),
        "throughput": partial(calls.throughput, tables=chosen.tables),
        "load": load.load,
        "templates": templates.templates,
        "unload": unload.unload,
        "idle": idle.idle,
        "scale": scale.scale,
        "death": death.death,
        "sync": sync.sync,
        "deploy": deploy.deploy,
        "sampling": sampling.sampling,
        "budget": budget.budget,
        "first": first.first,
        "turns": turns.turns,
        "proof": proof.proof,
        "limit": limit.limit,
        "leaks": leaks.leaks,
        "fronts": fronts.fronts,
        "peers": partial(side_by_side.peers, directory=chosen.peers),
        "attack": partial(attack.attack, names=chosen.attacks),
    }[command]
    comparisons = []
    for comparison in measure(effort, with_host=with_host):
        # That nobody fails, and the host lives, is no matter of precision.
        report.show(console, comparison, with_targets=not effort.is_quick or command == "attack")
        comparisons.append(comparison)
    return comparisons


@click.command()
@click.argument("command", type=click.Choice([*COMMANDS, "all"]))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures to this file.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Draw the figures into this PNG file.")
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds: a look, not a measurement.")
@click.option("--patience", type=float, default=0.0, help="Seconds to wait, per table, for other programs to be quiet.")
@click.option("--floors", is_flag=True, help="Measure the floors alone, without the host.")
@click.option("--attack", "attacks", multiple=True, metavar="NAME", help="With `attack`: only this one; repeatable.")
@click.option(
    "--peers",
    "peers_dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="With `peers`: the directory of their environments, each named as its peer.",
)
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table of the command; repeatable.")
def main(
    command: str,
    json_path: Path | None,
    plot_path: Path | None,
    *,
    quick: bool,
    patience: float,
    floors: bool,
    attacks: tuple[str, ...],
    tables: tuple[str, ...],
    peers_dir: Path | None,
) -> None:
    """Measure the host against its floors."""
    _check_outputs(json_path, plot_path)
    _check_attacks(attacks)
    _check_tables(command, tables)
    # What the hosts of earlier runs, and of other commands, have measured must not change what these do.
    os.environ.setdefault("HOSTD_MEMORY__REMEMBER", "host")
    # As an exception, so that processes and directories are cleaned up on the way out.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    facts = machine_facts()
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores, load {facts['load_average'][0]}, kernel {facts['kernel']}, "
        f"Python {facts['python']}, libzmq {facts['libzmq']}, {facts['packages']}",
        style="dim",
    )
    effort = replace(QUICK if quick else FULL, patience_s=patience)
    chosen = Chosen(tables, attacks, peers_dir)
    comparisons: list[Comparison] = []
    for name in COMMANDS if command == "all" else (command,):
        comparisons += run_one(name, effort, console, with_host=not floors, chosen=chosen)
    if json_path is not None:
        report.write_json(json_path, facts, comparisons, is_quick=quick)
    if plot_path is not None:
        _plot(plot_path, facts, comparisons, console, is_quick=quick)
    if quick:
        console.print("\na quick look says nothing of targets", style="dim")
    elif len(comparisons) > 1:
        console.print("\ntargets", style="bold")
        report.show_targets(console, comparisons)


def _check_attacks(attacks: Sequence[str]) -> None:
    """Refuse the name of an attack that there is not."""
    if attacks:
        from benchmarks.attack import attack_names  # noqa: PLC0415 - as above

        unknown = sorted(set(attacks) - set(known := attack_names()))
        if unknown:
            raise click.UsageError(f"there is no attack {unknown[0]!r}; there are: {', '.join(known)}")


def _check_tables(command: str, tables: Sequence[str]) -> None:
    """Refuse the name of a table that the command has not."""
    if tables:
        from benchmarks.calls import LATENCY, THROUGHPUT  # noqa: PLC0415 - as above

        known = {"latency": LATENCY, "throughput": THROUGHPUT}.get(command)
        if known is None:
            raise click.UsageError("only latency and throughput consist of tables that have names")
        unknown = sorted(set(tables) - set(known))
        if unknown:
            raise click.UsageError(f"{command} has no table {unknown[0]!r}; it has: {', '.join(known)}")


def _check_outputs(json_path: Path | None, plot_path: Path | None) -> None:
    """Refuse what could not be written or drawn half an hour later."""
    for path in filter(None, (json_path, plot_path)):
        if not os.access(path.absolute().parent, os.W_OK):
            raise click.UsageError(f"{path} cannot be written: {path.absolute().parent} is no directory to write into")
    if plot_path is not None and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib, which is not installed here: pip install '.[bench]'")


def _plot(
    path: Path, facts: dict[str, Any], comparisons: list[Comparison], console: Console, *, is_quick: bool
) -> None:
    if any(map(report.is_drawable, comparisons)):
        report.write_plot(path, facts, comparisons, is_quick=is_quick)
    else:
        console.print(f"{path} is not drawn: there are no two sides to compare", style="yellow")


if __name__ == "__main__":
    main()
