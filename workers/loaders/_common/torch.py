"""PyTorch as the loaders use it: its import with a number of threads, and the device that a model runs on."""

from __future__ import annotations

from typing import Any

from hostd_workers.loaders._common.opening import import_library
from hostd_workers.loaders._common.threads import announce_threads, openmp_threads
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError


def import_torch(threads: object, extra: str) -> Any:
    """Return the module torch, told to use so many threads (None: those that the host allots)."""
    count = openmp_threads(threads)
    if count is None:
        return import_library("torch", extra)
    announce_threads(count)
    torch = import_library("torch", extra)
    torch.set_num_threads(count)
    return torch


def checked_device(torch: Any, device: object) -> Any:
    """Return the torch.device of this name.

    Raises InvalidArgumentError if there is no such name, FailedPreconditionError if this machine, or this build of
    PyTorch, has no such device.
    """
    if not isinstance(device, str):
        raise InvalidArgumentError(f"the option device must be a name such as cpu or cuda:0, got {device!r}")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise InvalidArgumentError(f"there is no device {device!r}: {_first_line(error)}") from error
    try:
        torch.zeros(1, device=wanted).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        message = f"the device {device!r} cannot be used here: {_first_line(error)}"
        # It may be busy, so another try may help.
        raise FailedPreconditionError(message, details={"permanent": False}) from error
    return wanted


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
