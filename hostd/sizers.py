"""Sizers: how much memory a model may take, said before it is loaded.

Covers the built-in sizers. Does not cover sizes that were measured: those are remembered elsewhere and count for more.
"""

from __future__ import annotations

import math
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hostd.config.spec import NAME as SETTINGS
from hostd.hints import looking_at
from hostd_workers.wire.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_MULTIPLIER = 2.0
"""While a model is loaded, the bytes of its file and what is made of them are mostly in memory at once."""

MAX_ENTRIES = 1_000_000
"""Files and directories that are looked at for one estimate: seconds of work, and far more than any model has. Behind a
link to the root of a disk there are more."""


class Sizer(Protocol):
    """Says how many bytes a model may take.

    Made once, when the host starts, and called in a thread of it: it may look at a disk, but must not hang.
    """

    def estimate(self, model_id: str, path: str, model_type: str) -> int | None:
        """Return bytes of memory, or None if it cannot tell.

        Raises NotFoundError if nothing is at `path`, and other `HostError`s.
        """
        ...


class DeclaredSizer:
    """The `size` that a model's own `model.yaml` says; None without one."""

    def estimate(self, model_id: str, path: str, model_type: str) -> int | None:  # noqa: ARG002 - the protocol's
        """Return the declared bytes. Raises InvalidArgumentError for a wrong `model.yaml`."""
        file = Path(path) / SETTINGS
        # os.path, unlike pathlib before 3.14, does not raise for names that cannot be.
        if not os.path.isfile(file):  # noqa: PTH113
            return None
        from hostd.config.model_yaml import read_settings  # noqa: PLC0415 - as in `finders.settings`

        return read_settings(file).size_bytes


class DirectorySizer:
    """The bytes of all files of a model, times a factor that may differ by the model's type."""

    def __init__(self, multiplier: float = DEFAULT_MULTIPLIER, multipliers: Mapping[str, float] | None = None) -> None:
        self._multiplier = _factor("multiplier", multiplier)
        if multipliers is not None and not isinstance(multipliers, dict):
            raise InvalidArgumentError(
                f"multipliers must be a map from a model's type to a factor, not {multipliers!r}"
            )
        self._multipliers = {name: _factor(f"multipliers.{name}", value) for name, value in (multipliers or {}).items()}

    def estimate(self, model_id: str, path: str, model_type: str) -> int:  # noqa: ARG002 - the protocol's
        """Return bytes. A file that is there under several names counts once; what vanishes meanwhile not at all.

        Raises NotFoundError if nothing is at `path`, FailedPreconditionError for what the host may not read, and
        ResourceExhaustedError for more than `MAX_ENTRIES` entries.
        """
        return math.ceil(size_on_disk(path) * self._multipliers.get(model_type, self._multiplier))


def size_on_disk(path: str) -> int:
    """Return the bytes of a file, or of all files in a directory, links followed; raises as `DirectorySizer`."""
    with looking_at(path):
        info = os.stat(path)  # noqa: PTH116 - as PathLike a path with a null byte would read as absent
    if stat.S_ISREG(info.st_mode):
        return info.st_size
    if not stat.S_ISDIR(info.st_mode):
        raise InvalidArgumentError(f"{path} is neither a file nor a directory", details={"path": path})
    return _size_below(path, info)


def _size_below(path: str, info: os.stat_result) -> int:
    seen = {(info.st_dev, info.st_ino)}
    pending, total, looked_at = [path], 0, 0
    while pending:
        for entry_path, found in _entries(pending.pop()):
            looked_at += 1
            if looked_at > MAX_ENTRIES:
                raise ResourceExhaustedError(
                    f"{path} has more than {MAX_ENTRIES} entries: say its size with 'size' in a {SETTINGS}"
                )
            key = (found.st_dev, found.st_ino)
            if key in seen:
                continue
            seen.add(key)
            if stat.S_ISDIR(found.st_mode):
                pending.append(entry_path)
            elif stat.S_ISREG(found.st_mode):
                total += found.st_size
    return total


def _entries(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    with looking_at(directory), suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in entries:
            info = _info(entry)
            if info is not None:
                yield entry.path, info


def _info(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:  # it has gone since, or is a link that leads nowhere, or in a circle
        return None


def _factor(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InvalidArgumentError(f"{name} must be a number above 0, not {value!r}")
    return float(value)
