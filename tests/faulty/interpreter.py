"""Stands in for a model's interpreter and goes wrong before a line of the worker has run.

It is run as `python interpreter.py bootstrap.py`, with the fault in the environment, and becomes the worker afterwards if
it still can.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import faults


def flood() -> None:
    """Leave a child behind that writes for ever: a thread would end with what follows."""
    if os.fork() == 0:
        while True:
            os.write(1, b"x" * 65536)


if __name__ == "__main__":
    death, evidence = os.environ["FAULT_DEATH"], os.environ["FAULT_EVIDENCE"]
    if death == "flood":
        open(evidence, "w").close()
        flood()
    else:
        faults.commit(death, evidence)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
