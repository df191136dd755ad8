"""The `hostd` command: a client of the public API, one file per group of commands.

Nothing is imported here or at the top of `root` that `hostd --help` and tab completion do not need.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

_ALLOCATIONS = 100_000
"""After how many new objects garbage is looked for: what is imported is none, and to look takes 10 ms of a short
command."""


def main() -> None:
    """Run the command line of this process and exit: 0, 1 (the host said no), 2 (usage), 130 (interrupted)."""
    gc.set_threshold(_ALLOCATIONS)
    try:
        from hostd.cli.root import root  # noqa: PLC0415 - a program that imports the package must not pay for click

        _open_standard_streams()
        root.main(prog_name="hostd")
    except KeyboardInterrupt:  # while modules are imported; what comes later is told by the root
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def _open_standard_streams() -> None:
    """Have streams that were closed (`>&-`) lead to nowhere: the next socket would get the number, and the output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - open to the end
