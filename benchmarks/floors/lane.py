"""The shape of a call, the lane that carries it, and the child processes at a lane's far end.

Imports the standard library only: a floor's child should start as fast as its own floor allows.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1

# From this size on an array is a frame of its own, and copying frames costs more than tracking them (pyzmq's own
# threshold for zero copy, `zmq.COPY_THRESHOLD`, is the same).
BIG_BYTES = 65536

# What our envelope puts in front of a big array: kind, header and body in one frame.
HEAD_BYTES = 64

SIZE_ANSWER = b"12345678"


@dataclass(frozen=True)
class Shape:
    """One request and its answer.

    `payload_bytes` goes in; the same comes back when `is_echo`, else 8 bytes. `frames` is the number of ZeroMQ frames
    after the identity, as our protocol sends them: one when the payload is small, one more for a big array.
    """

    payload_bytes: int
    is_echo: bool = True

    @property
    def is_big(self) -> bool:
        """Return whether the payload travels as a frame of its own."""
        return self.payload_bytes >= BIG_BYTES

    @property
    def frames(self) -> int:
        """Return the number of frames of a request."""
        return 2 if self.is_big else 1

    @property
    def answer_bytes(self) -> int:
        """Return the size of the answer's payload."""
        return self.payload_bytes if self.is_echo else len(SIZE_ANSWER)

    def payload(self) -> Any:
        """Return what a caller passes: bytes when small, a uint8 array when big."""
        if not self.is_big:
            return os.urandom(self.payload_bytes)
        import numpy as np  # noqa: PLC0415 - the children of this module must not pay for it

        return np.random.default_rng(0).integers(0, 255, self.payload_bytes, dtype=np.uint8)

    def message(self) -> list[Any]:
        """Return the frames of a request; a big payload is a view, not a copy."""
        payload = self.payload()
        return [bytes(HEAD_BYTES), memoryview(payload)] if self.is_big else [payload]


class Lane(Protocol):
    """A way to a worker and back. `call` is one round trip; `send` and `receive` are its halves, for pipelines."""

    def call(self) -> None:
        """Send one request and wait for its answer."""

    def send(self) -> None:
        """Send one request."""

    def receive(self) -> None:
        """Wait for the oldest answer."""


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def child(module: str, *arguments: object, stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m module arguments...`; killed and reaped at the end of the block."""
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=stdout) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def socket_directory() -> Iterator[Path]:
    """Make a private directory with a short path: a UNIX socket's path holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hb-", dir="/tmp") as name:
        yield Path(name)
