"""A model that goes wrong when and how its options say; see `faults` for the ways."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faults

if TYPE_CHECKING:
    from collections.abc import Iterator


class Faulty:
    """Echoes, until it is told to go wrong."""

    def __init__(self, stage: str, death: str, evidence: str) -> None:
        self._stage, self._death, self._evidence = stage, death, evidence
        # For the stages in which no method of the model is being called, or one that never ends.
        signal.signal(signal.SIGUSR1, self._on_signal)
        self._woken = threading.Event()

    def _on_signal(self, _number: int, _frame: object) -> None:
        faults.commit(self._death, self._evidence)
        self._woken.set()

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
        self._woken.wait()
        return "woken"


def load(path: str, *, stage: str = "", death: str = "", evidence: str = "") -> Faulty:
    if stage == "load":
        faults.commit(death, evidence)
    return Faulty(stage, death, evidence)
