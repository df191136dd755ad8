"""What workers print: drained from their pipes into one capped file per model.

One thread does it for all, because it writes to a disk. A model that floods its output is slowed down by its own full
pipe: the thread takes a bounded amount from each pipe in each pass, and rests after a pass in which one had more.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import selectors
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from hostd.shell.crashes import CrashReport

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
_NAME_CHARS = 200
"""Of the 255 bytes that NAME_MAX allows; a digest and a suffix follow."""

_LAST_BYTES = 2048
"""A page of text: the end of a traceback, or what a program says that cannot start."""

_REST_S = 0.005
"""64 KiB each 5 ms are 13 MB/s for a model that floods: more than any log needs, little enough for one thread."""


class ModelLog:
    """The log of one model: a file of at most half the cap, and the one before it."""

    def __init__(self, directory: Path, model_id: str, cap_bytes: int) -> None:
        self._path = directory / f"{_file_name(model_id)}.log"
        self._older = self._path.with_suffix(".log.1")
        self._half_bytes = max(cap_bytes // 2, _READ_BYTES)

    def append(self, data: bytes) -> None:
        """Add output; when the file is full it becomes the older one. A full disk loses output, not the host."""
        try:
            with self._path.open("ab") as file:
                file.write(data)
                is_full = file.tell() > self._half_bytes
            if is_full:
                self._path.replace(self._older)
        except OSError as error:
            _log.warning("cannot write %s: %s", self._path, error)

    def tail(self, max_bytes: int) -> bytes:
        """Return the end of the output, of at most `max_bytes` bytes."""
        data = b""
        for path in (self._older, self._path):
            with contextlib.suppress(FileNotFoundError):
                data += path.read_bytes()
        return data[-max_bytes:] if max_bytes > 0 else b""


def _file_name(model_id: str) -> str:
    # An id is harmless as a file name but for its slashes; quoting keeps names apart, and a digest those that it makes
    # longer than a file name may be.
    name = quote(model_id, safe="")
    if len(name) <= _NAME_CHARS:
        return name
    return f"{name[:_NAME_CHARS]}~{hashlib.blake2b(model_id.encode(), digest_size=8).hexdigest()}"


class Output:
    """What one worker has printed last; written by the thread that drains, read by others."""

    def __init__(self, log: ModelLog) -> None:
        self.log = log
        self.ended = threading.Event()
        """Set when the last writer is gone and everything has been read."""
        self._last = b""
        self._crash = CrashReport()

    def __repr__(self) -> str:
        return f"<Output {'ended' if self.ended.is_set() else 'open'} {self._last[-40:]!r}>"

    def append(self, data: bytes) -> None:
        """Add output."""
        self.log.append(data)
        self._crash.add(data)
        self._last = (self._last + data[-_LAST_BYTES:])[-_LAST_BYTES:]

    def last(self, within_s: float) -> str:
        """Return the end of the output as text, once it has ended or `within_s` seconds are over. Blocks."""
        self.ended.wait(within_s)
        return self._last.decode(errors="replace")

    def crash(self, within_s: float) -> str:
        """Return the first lines of faulthandler's report of a crash, as `last` does; "" if there is none."""
        self.ended.wait(within_s)
        return self._crash.lines()


class LogDrain:
    """The thread that empties the pipes of all workers."""

    def __init__(self, directory: Path, cap_bytes: int) -> None:
        self._directory = directory
        self._cap_bytes = cap_bytes
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._arriving: list[tuple[int, Output]] = []
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="hostd-logs", daemon=True)

    def __enter__(self) -> LogDrain:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._is_stopping = True
        self._wake()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        os.close(self._wake_write)
        self._selector.close()

    def log_of(self, model_id: str) -> ModelLog:
        """Return the log of a model, which may be empty."""
        return ModelLog(self._directory, model_id, self._cap_bytes)

    def add(self, model_id: str, pipe_fd: int) -> Output:
        """Take over the reading end of a worker's output; it is closed when the last writer is gone."""
        output = Output(self.log_of(model_id))
        self._arriving.append((pipe_fd, output))
        self._wake()
        return output

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._wake_write, b"\0")

    def _run(self) -> None:
        while not self._is_stopping:
            is_flooded = False
            for key, _ in self._selector.select():
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                    while self._arriving:
                        fd, output = self._arriving.pop()
                        self._selector.register(fd, selectors.EVENT_READ, output)
                else:
                    is_flooded |= self._drain(key.fd, key.data) == _READ_BYTES
            if is_flooded:
                time.sleep(_REST_S)

    def _drain(self, fd: int, output: Output) -> int:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return 0
        if data:
            output.append(data)
        else:
            self._selector.unregister(fd)
            os.close(fd)
            output.ended.set()
        return len(data)
