"""Outputs of models that are drained into their logs."""

import os

CAP_BYTES = 256 * 1024


def piped(drain, model_id="m"):
    """Return the output of a model, and the descriptor that its worker would write to."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    return drain.add(model_id, read), write
