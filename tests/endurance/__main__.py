"""The command line of the long runs; each prints what it did, and ends with 1 if anything was wrong.

python tests/endurance chaos [--seconds 600] [--seed 1]
python tests/endurance kills [--count 200] [--seed 1]
python tests/endurance mutations [--count 120000] [--seed 1]
python tests/endurance storm [--count 100000] [--seed 1]
python tests/endurance templates [--count 1000] [--seed 1]
python tests/endurance histories [--seeds 60:2000] [--game plain|settings|obstacles|connections]
"""

import json
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))

from endurance import chaos, histories, kills, mutations, storm, templates


@click.group()
def main():
    """Run a host through what takes long."""


def _finish(report, wrong):
    click.echo(json.dumps(report, indent=1))
    for problem in wrong:
        click.echo(f"WRONG: {problem}", err=True)
    sys.exit(1 if wrong else 0)


@main.command("chaos")
@click.option("--seconds", default=600.0, help="How long.")
@click.option("--seed", default=1, help="Of the order of requests and faults.")
def chaos_command(seconds, seed):
    """Requests of all kinds, while models, clients and processes fail."""
    _finish(*chaos.run(seconds, seed))


@main.command("kills")
@click.option("--count", default=200, help="How many hosts.")
@click.option("--seed", default=1, help="Of what is killed when.")
def kills_command(count, seed):
    """SIGKILL of supervisor, reaper, embedding program, or two of them, at any moment of a host's life."""
    _finish(*kills.run(count, seed))


@main.command("mutations")
@click.option("--count", default=120_000, help="How many messages.")
@click.option("--seed", default=1, help="Of what is changed.")
def mutations_command(count, seed):
    """Valid messages with a few things changed, from clients, from a worker, and below the messages."""
    _finish(*mutations.run(count, seed))


@main.command("storm")
@click.option("--count", default=100_000, help="How many calls.")
@click.option("--seed", default=1, help="Of what is called, and what is done to models and clients.")
def storm_command(count, seed):
    """Calls on lanes, while models are unloaded, evicted, replaced and killed, and clients are killed and cancel."""
    _finish(*storm.run(count, seed))


@main.command("templates")
@click.option("--count", default=1000, help="How many loads.")
@click.option("--seed", default=1, help="Of what is done to templates when.")
def templates_command(count, seed):
    """Loads that are forked, while their template is killed, stopped, and made stale."""
    _finish(*templates.run(count, seed))


def _range_of(_context, _option, text):
    first, colon, end = text.partition(":")
    try:
        return range(int(first), int(end) if colon else int(first) + 1)
    except ValueError:
        raise click.BadParameter(f"a number, or FIRST:END, such as 60:2000; got {text!r}") from None


@main.command("histories")
@click.option("--seeds", default="60:2000", callback=_range_of, help="One, or FIRST:END; the tests play 0:60.")
@click.option("--game", multiple=True, type=click.Choice(list(histories.GAMES)), help="Only this one; may be repeated.")
def histories_command(seeds, game):
    """The core against made-up histories; tells the shortest one of each fault."""
    _finish(*histories.run(seeds, game or tuple(histories.GAMES)))


if __name__ == "__main__":
    main()
