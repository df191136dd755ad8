"""The command line of the long runs; each prints what it did, and ends with 1 if anything was wrong.

python tests/endurance chaos [--seconds 600] [--seed 1]
python tests/endurance kills [--count 200] [--seed 1]
python tests/endurance mutations [--count 120000] [--seed 1]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from endurance import chaos, kills, mutations


@click.group()
def main() -> None:
    """Run a host through what takes long."""


def _finish(report: dict[str, object], wrong: list[str]) -> None:
    click.echo(json.dumps(report, indent=1))
    for problem in wrong:
        click.echo(f"WRONG: {problem}", err=True)
    sys.exit(1 if wrong else 0)


@main.command("chaos")
@click.option("--seconds", default=600.0, help="How long.")
@click.option("--seed", default=1, help="Of the order of requests and faults.")
def chaos_command(seconds: float, seed: int) -> None:
    """Requests of all kinds, while models, clients and processes fail."""
    _finish(*chaos.run(seconds, seed))


@main.command("kills")
@click.option("--count", default=200, help="How many hosts.")
@click.option("--seed", default=1, help="Of who is killed when.")
def kills_command(count: int, seed: int) -> None:
    """SIGKILL of supervisor, keeper, embedding program, or two of them, at any moment of a host's life."""
    _finish(*kills.run(count, seed))


@main.command("mutations")
@click.option("--count", default=120_000, help="How many messages.")
@click.option("--seed", default=1, help="Of what is changed.")
def mutations_command(count: int, seed: int) -> None:
    """Valid messages with a few things changed, from clients, from a worker, and below the messages."""
    _finish(*mutations.run(count, seed))


if __name__ == "__main__":
    main()
