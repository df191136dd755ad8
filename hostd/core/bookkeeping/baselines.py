"""What workers hold before they load their models, by interpreter, as the host has measured it.

The least that was seen of an interpreter counts: a model's own environment may have it hold more, and what one model's
worker holds is charged to no other model. What a worker says of itself is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.bookkeeping.recent import Recent
from hostd.core.values import Need

if TYPE_CHECKING:
    from hostd.core.values import Prediction

MAX_INTERPRETERS = 256
"""Interpreters with a remembered baseline, those that were used last; a machine has a handful."""


class Baselines:
    """The baselines of one host; `python` is an interpreter, None for the default one."""

    def __init__(self) -> None:
        self._least: Recent[str | None, int] = Recent(MAX_INTERPRETERS)

    def note(self, python: str | None, baseline_bytes: int) -> None:
        """Take what a worker of an interpreter holds."""
        self._least[python] = min(baseline_bytes, self._least.get(python, baseline_bytes))

    def need_of(self, prediction: Prediction, usual_bytes: int) -> Need:
        """Return the bytes to reserve for a load, and how they are known.

        What is estimated from files lacks the interpreter, which was measured with other models, or is as usual.
        """
        baseline_bytes = 0
        if prediction.source == "estimated":
            baseline_bytes = self._least.get(prediction.python, usual_bytes)
        return Need(prediction.peak_bytes + baseline_bytes, prediction.source)
