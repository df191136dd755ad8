"""A model that goes wrong when and how its options say; see `faults` for the ways."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults


class Faulty:
    """Echoes, until it is told to go wrong."""

    def __init__(self, stage: str, death: str, evidence: str) -> None:
        self._stage, self._death, self._evidence = stage, death, evidence
        # For the stages in which no method of the model is being called, or one that never ends.
        signal.signal(signal.SIGUSR1, lambda _number, _frame: faults.commit(death, evidence))

    def _reached(self, stage: str) -> None:
        if stage == self._stage:
            faults.commit(self._death, self._evidence)

    def predict(self, x: Any) -> Any:
        """Return what was given."""
        self._reached("infer")
        return x

    def generate(self, n: int) -> Iterator[int]:
        """Count, and go wrong after two."""
        for i in range(n):
            if i == 2:
                self._reached("stream")
            yield i

    def linger(self, marker: str) -> str:
        """Say in a file that the call has begun, and last until a signal ends it."""
        Path(marker).touch()
        time.sleep(3600)
        return "woken"


def load(path: str, *, stage: str = "", death: str = "", evidence: str = "") -> Faulty:
    if stage == "load":
        faults.commit(death, evidence)
    return Faulty(stage, death, evidence)
