"""Outputs of models that are drained into their logs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostd.shell.processes.logs import LogDrain, Output

CAP_BYTES = 256 * 1024


def piped(drain: LogDrain, model_id: str = "m") -> tuple[Output, int]:
    """Return the output of a model, and the descriptor that its worker would write to."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    return drain.add(model_id, read), write
