"""The digits model without a host: in this process, behind a bare UNIX socket, and in a `ProcessPoolExecutor`.

Run as a program it is the worker behind the socket: `python -m benchmarks.floors.digits PATH MODEL_FILE`. Request and
answer are the bare bytes of their arrays.
"""

from __future__ import annotations

import multiprocessing
import socket
import sys
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from benchmarks.floors.lane import die_with_parent
from benchmarks.floors.unix_socket import SocketLane, connected, read_exactly
from benchmarks.models import DIGITS_FEATURES, digits_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IN_PROCESS = "in-process call"
UNIX_CALL = "UNIX socket + call"
POOL = "ProcessPoolExecutor"

_REQUEST_BYTES = 8 * DIGITS_FEATURES
_ANSWER_BYTES = 8


class _Here:
    """The model in this process; `send` does the work and `receive` has nothing left to do."""

    def __init__(self, path: Path) -> None:
        self._model = _load(path)
        self._row = digits_row()

    def call(self) -> None:
        """Call the model."""
        self._model.predict(self._row)

    def send(self) -> None:
        """Call the model."""
        self.call()

    def receive(self) -> None:
        """Do nothing."""


class _Pool:
    """The model in a pool's process; futures in the order of their submission."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self._row = digits_row()
        self._pending: deque[Future[Any]] = deque()

    def call(self) -> None:
        """Send one request and wait for its answer."""
        self._pool.submit(_predict, self._row).result()

    def send(self) -> None:
        """Send one request."""
        self._pending.append(self._pool.submit(_predict, self._row))

    def receive(self) -> None:
        """Wait for the oldest answer."""
        self._pending.popleft().result()


@contextmanager
def open_here(path: Path) -> Iterator[_Here]:
    """Load the model here."""
    yield _Here(path)


@contextmanager
def open_socket(path: Path) -> Iterator[SocketLane]:
    """Open client -> worker."""
    with connected(__name__, path) as stream:
        yield SocketLane(stream, digits_row().tobytes(), _ANSWER_BYTES)


@contextmanager
def open_pool(path: Path) -> Iterator[_Pool]:
    """Open a pool of one; a spawned worker, because forking a process with threads is not sound."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(path,)) as pool:
        yield _Pool(pool)


FLOORS = {IN_PROCESS: open_here, UNIX_CALL: open_socket, POOL: open_pool}


_model: Any = None


def _begin(path: Path) -> None:
    global _model  # noqa: PLW0603 - an initializer of a pool has no other way to leave something to the calls
    die_with_parent()
    _model = _load(path)


def _predict(rows: Any) -> Any:
    return _model.predict(rows)


def _load(path: Path | str) -> Any:
    import joblib  # noqa: PLC0415 - only these floors need it

    return joblib.load(path)


def main() -> None:
    """Answer every row with its class."""
    import numpy as np  # noqa: PLC0415 - as above

    die_with_parent()
    model = _load(sys.argv[2])
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(sys.argv[1])
        request = memoryview(bytearray(_REQUEST_BYTES))
        rows = np.frombuffer(request).reshape(1, DIGITS_FEATURES)
        with suppress(EOFError):  # the client is done
            while True:
                read_exactly(stream, request)
                stream.sendall(model.predict(rows).tobytes())


if __name__ == "__main__":
    main()
