"""The `hostd` command: a client of the public API, one file per group of commands.

Nothing is imported here or at the top of `root` that `hostd --help` and tab completion do not need.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process and exit: 0, 1 (the host said no), 2 (usage), 130 (interrupted)."""
    from hostd.cli.root import root  # noqa: PLC0415 - a program that imports the package must not pay for click

    root.main(prog_name="hostd")
