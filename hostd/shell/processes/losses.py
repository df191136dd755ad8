"""Output of models that could not be written: told once when it begins to be lost, and once when it is kept again.

A full disk fails every write of every model, hundreds of times a second. So a trouble of the disk is one trouble,
whatever file showed it, and one of a file is that file's. It is over when nothing failed for a while: on a disk that is
nearly full, small writes still work between others that do not.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import TYPE_CHECKING

from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

OVER_AFTER_S = 10.0
"""Without a failure. A disk that fills again within that time is the same trouble."""

_OF_THE_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOENT))
"""What is not the fault of one file. The last is of the directory: files that are missing are made."""


class _Key(NamedTuple):
    code: int
    file: Path | None


class _Trouble(NamedTuple):
    last_s: float
    writes: int
    lost_bytes: int


class Losses:
    """What is lost at present; for the one thread that writes."""

    def __init__(self) -> None:
        self._troubles: dict[_Key, _Trouble] = {}

    def __repr__(self) -> str:
        return f"<Losses {self._troubles}>"

    def failed(self, path: Path, error: OSError, lost_bytes: int) -> None:
        """Note that so much could not be written, and say so if that is new."""
        code = error.errno or 0
        key = _Key(code, None if code in _OF_THE_DISK else path)
        known = self._troubles.get(key)
        if known is None:
            _log.warning(
                "what models print is being lost: cannot write %s: %s; more of that is not told before it is over",
                path,
                error.strerror or error,
            )
            known = _Trouble(0.0, 0, 0)
        self._troubles[key] = _Trouble(time.monotonic(), known.writes + 1, known.lost_bytes + lost_bytes)

    def worked(self) -> None:
        """Note that something was written, and say so if a trouble is over."""
        if not self._troubles:
            return
        now_s = time.monotonic()
        for key, trouble in list(self._troubles.items()):
            if now_s - trouble.last_s >= OVER_AFTER_S:
                del self._troubles[key]
                _log.warning(
                    "what models print is kept again; %d bytes in %d writes were lost (%s)",
                    trouble.lost_bytes,
                    trouble.writes,
                    f"{key.file}: {os.strerror(key.code)}" if key.file else os.strerror(key.code),
                )
