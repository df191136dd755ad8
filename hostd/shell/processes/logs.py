"""What workers print: drained from their pipes into one capped file per model.

One thread does it for all, because it writes to a disk. A model that floods its output is slowed down by its own full
pipe: the thread takes a bounded amount from each pipe in each pass, and rests after a pass in which one had something.

The directory is this user's alone, and nothing in it is reached through a link: somebody who could write there would
choose which file a model's output goes to.

The lines are stamped here (`hostd.log_lines` has the format): with the time at which they are read, which is a few
milliseconds after they were printed. One stamp serves all lines of one read, so a flood costs a byte per line.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import selectors
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import quote
from weakref import WeakValueDictionary

from hostd import log_lines
from hostd.paths import make_own
from hostd.shell.linux.syscalls import DIRECTORY
from hostd.shell.processes.crashes import CrashReport
from hostd.shell.processes.losses import Losses
from hostd.shell.work.closing import Closing
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
_NAME_CHARS = 200
"""Of the 255 bytes that NAME_MAX allows; a digest and a suffix follow."""

_LAST_BYTES = 2048
"""A page of text: the end of a traceback, or what a program says that cannot start."""

_REST_S = 0.005
"""64 KiB each 5 ms are 13 MB/s for a model that floods: more than any log needs, little enough for one thread. What
comes in small pieces is read 200 times a second at most."""

_REST_SHARE = 20
"""A rest is at least so many times what the pass has cost, so that no output, of whatever shape, takes more than a
twentieth of a core: a flood of nothing but line feeds costs three times as much to stamp as one of text."""

_AFTER_FAILURE_S = 1.0
"""What the system lacks (memory, room in its table of watched files) is there again when something else has ended."""

PAGE_BYTES = 256 * 1024
"""Of a log, in one answer: some thousand lines, and little enough to be read and sent in a millisecond."""

_HEAD_BYTES = 64
"""The first line of a file is shorter."""

_FULL_PIPE_READS = 16
"""What the largest pipe holds (1 MiB, pipe(7)): a process that writes on after its worker is dead is not waited for."""


class Page(NamedTuple):
    """A part of a log, from the position `start` to `end`; `newest` is the end of the log."""

    data: bytes = b""
    start: int = 0
    end: int = 0
    newest: int = 0


class ModelLog:
    """The log of one model: a file of at most half the cap, and the one before it.

    Only the thread that drains writes. What has begun a line is found in the file at the first write, because an
    earlier host may have been killed in the middle of a line.
    """

    def __init__(self, directory: Path, model_id: str, cap_bytes: int, losses: Losses | None = None) -> None:
        self._path = directory / f"{_file_name(model_id)}.log"
        self._older = self._path.with_suffix(".log.1")
        self._losses = losses or Losses()
        self._lost_bytes = 0
        self._half_bytes = max(cap_bytes // 2, 2 * _READ_BYTES)
        self._begun_by: object = _NOT_KNOWN
        """What has begun a line that has no end yet; None if nothing has."""

    def exists(self) -> bool:
        """Say whether anything of it is kept."""
        return self._path.is_file() or self._older.is_file()

    def append(self, data: bytes, writer: object = None) -> None:
        """Add output of a worker, which goes on with its line if nobody else has written since."""
        now_s = time.time()
        ending = None if data.endswith(b"\n") else writer
        self._write(lambda is_new: log_lines.printed(now_s, data, is_new_line=is_new), writer, ending)

    def note(self, text: str) -> None:
        """Add a note of the host."""
        entry = log_lines.note(time.time(), text)
        self._write(lambda _: entry, None, None)

    def _write(self, entry_of: Callable[[bool], bytes], writer: object, ending: object) -> None:
        """Write an entry; when the file is full it becomes the older one. A full disk loses output, not the host."""
        lost = (
            log_lines.note(time.time(), f"{self._lost_bytes} bytes before this are lost") if self._lost_bytes else b""
        )
        if lost:
            writer = _NOT_KNOWN  # nobody goes on with a line of which a part is lost
        try:
            with self._opened(self._path, "ab+") as file:
                size_bytes = file.tell()
                begun_by = _begun_in(file, size_bytes) if self._begun_by is _NOT_KNOWN else self._begun_by
                entry = lost + entry_of(bool(lost) or begun_by is None or begun_by is not writer)
                if begun_by is not None and (lost or begun_by is not writer):
                    entry = b"\n" + entry
                if size_bytes and size_bytes + len(entry) <= self._half_bytes:
                    file.write(entry)
                else:
                    if begun_by is not None:
                        file.write(b"\n")
                    file.close()
                    self._begin_file(lost + entry_of(True), is_first=not size_bytes)
        except OSError as error:
            self._begun_by = _NOT_KNOWN
            lost_bytes = len(entry_of(True))
            self._lost_bytes += lost_bytes
            self._losses.failed(self._path, error, lost_bytes)
        else:
            self._begun_by, self._lost_bytes = ending, 0
            self._losses.worked()

    def _begin_file(self, entry: bytes, *, is_first: bool) -> None:
        """Write an entry to a new file; its first line says how much was written before."""
        if not is_first:
            self._path.replace(self._older)
        position = 0
        with contextlib.suppress(FileNotFoundError), self._opened(self._older, "rb") as file:
            position = (log_lines.position_of(file.readline(_HEAD_BYTES)) or 0) + file.seek(0, os.SEEK_END)
        with self._opened(self._path, "wb") as file:
            file.write(log_lines.head(time.time(), position) + entry)

    @staticmethod
    def _opened(path: Path, mode: str) -> BinaryIO:
        """Open a file for this user alone, neither it nor its directory through a link."""

        def opener(_: str, flags: int) -> int:
            directory_fd = os.open(path.parent, DIRECTORY)
            try:
                return os.open(path.name, flags | os.O_NOFOLLOW, 0o600, dir_fd=directory_fd)
            finally:
                os.close(directory_fd)

        return cast("BinaryIO", open(path, mode, opener=opener))

    def tail(self, max_bytes: int) -> bytes:
        """Return the end of what was printed, of at most `max_bytes` bytes, without stamps and notes."""
        page = self.page(0, 0, None)
        return log_lines.without_marks(page.data)[-max_bytes:] if max_bytes > 0 else b""

    def page(self, after: int | None, tail_bytes: int, max_bytes: int | None = PAGE_BYTES) -> Page:
        """Return what follows a position, or with None the last `tail_bytes`, at most `max_bytes` of it."""
        with contextlib.ExitStack() as stack:
            files = self._open(stack)
            if not files:
                return Page()
            oldest = files[0][0]
            newest = files[-1][0] + files[-1][2]
            wanted = newest - max(0, tail_bytes) if after is None else after
            start = end = wanted if oldest <= wanted <= newest else oldest
            stop = newest if max_bytes is None else min(newest, start + max_bytes)
            data = b""
            for position, file, size_bytes in files:
                if end < min(stop, position + size_bytes):
                    file.seek(end - position)
                    data += file.read(min(stop, position + size_bytes) - end)
                    end = start + len(data)
            return Page(data, start, end, newest)

    def _open(self, stack: contextlib.ExitStack) -> list[tuple[int, BinaryIO, int]]:
        """Return the files with their positions and sizes, the older one first, as far as they are without a gap."""
        found: dict[int, tuple[int, BinaryIO, int]] = {}
        # The newer one first: if it becomes the older one between the two, it is the same file under both names.
        for path in (self._path, self._older):
            with contextlib.suppress(FileNotFoundError):
                file = stack.enter_context(self._opened(path, "rb"))
                position = log_lines.position_of(file.readline(_HEAD_BYTES)) or 0
                if size_bytes := file.seek(0, os.SEEK_END):
                    found.setdefault(position, (position, file, size_bytes))
        files = [found[position] for position in sorted(found)]
        is_whole = len(files) < 2 or files[0][0] + files[0][2] == files[1][0]
        return files if is_whole else files[1:]


_NOT_KNOWN = object()


def _begun_in(file: BinaryIO, size_bytes: int) -> object:
    if not size_bytes:
        return None
    file.seek(-1, os.SEEK_END)
    return None if file.read(1) == b"\n" else _NOT_KNOWN


def _file_name(model_id: str) -> str:
    # An id is harmless as a file name but for its slashes; quoting keeps names apart, and a digest those that it makes
    # longer than a file name may be.
    name = quote(model_id, safe="")
    if len(name) <= _NAME_CHARS:
        return name
    return f"{name[:_NAME_CHARS]}~{hashlib.blake2b(model_id.encode(), digest_size=8).hexdigest()}"


class Output:
    """What one worker has printed last; written by the thread that drains, read by others."""

    def __init__(self, log: ModelLog, pipe_fd: int) -> None:
        self.log = log
        self.pipe_fd = pipe_fd
        self.ended = threading.Event()
        """Set when the last writer is gone and everything has been read."""
        self._last = b""
        self._crash = CrashReport()

    def __repr__(self) -> str:
        return f"<Output {'ended' if self.ended.is_set() else 'open'} {self._last[-40:]!r}>"

    def append(self, data: bytes) -> None:
        """Add output."""
        self.log.append(data, self)
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


class _Note(NamedTuple):
    """Something to note in a log, after what is left in the pipe of `output`."""

    log: ModelLog
    text: str
    output: Output | None


class LogDrain(Closing):
    """The thread that empties the pipes of all workers."""

    def __init__(self, directory: Path, cap_bytes: int) -> None:
        self._directory = directory
        self.cap_bytes = cap_bytes
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._orders: deque[Output | _Note] = deque()
        self._logs: WeakValueDictionary[str, ModelLog] = WeakValueDictionary()
        self._losses = Losses()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="hostd-logs", daemon=True)

    def __enter__(self) -> LogDrain:
        make_own(self._directory)
        self._thread.start()
        return self

    def close(self) -> None:
        """Read what is left in the pipes, and end the thread."""
        self._is_stopping = True
        self._wake()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        os.close(self._wake_write)
        self._selector.close()

    def log_of(self, model_id: str) -> ModelLog:
        """Return the log of a model, which may be empty; always the same one while a worker writes to it."""
        log = self._logs.get(model_id)
        if log is None:
            log = self._logs[model_id] = ModelLog(self._directory, model_id, self.cap_bytes, self._losses)
        return log

    def add(self, model_id: str, pipe_fd: int) -> Output:
        """Take over the reading end of a worker's output; it is closed when the last writer is gone."""
        output = Output(self.log_of(model_id), pipe_fd)
        self._order(output)
        return output

    def note(self, model_id: str, text: str, output: Output | None = None) -> None:
        """Write a line of the host's own to the log of a model, after what was printed to `output` so far."""
        self._order(_Note(self.log_of(model_id), text, output))

    def _order(self, order: Output | _Note) -> None:
        self._orders.append(order)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._wake_write, b"\0")

    def _run(self) -> None:
        while not self._is_stopping:
            try:
                self._pass()
            except Exception:  # noqa: BLE001, PERF203 - without this thread all models stop at their full pipes
                _log.exception("what models print could not be read; trying again")
                time.sleep(_AFTER_FAILURE_S)
                self._wake()
        self._carry_out()

    def _pass(self) -> None:
        ready = self._selector.select()
        began_s, was_read = time.thread_time(), False
        for key, _ in ready:
            if key.fd == self._wake_read:
                os.read(self._wake_read, 4096)
            else:
                was_read |= self._drain(key.data) > 0
        self._carry_out()
        if was_read:
            time.sleep(max(_REST_S, _REST_SHARE * (time.thread_time() - began_s)))

    def _carry_out(self) -> None:
        while self._orders:
            order = self._orders[0]
            if isinstance(order, Output):
                self._selector.register(order.pipe_fd, selectors.EVENT_READ, order)
                self._orders.popleft()
                continue
            self._orders.popleft()
            if order.output is not None:
                for _ in range(_FULL_PIPE_READS):
                    if order.output.ended.is_set() or not self._drain(order.output):
                        break
            order.log.note(order.text)

    def _drain(self, output: Output) -> int:
        try:
            data = os.read(output.pipe_fd, _READ_BYTES)
        except BlockingIOError:
            return 0
        if data:
            output.append(data)
        else:
            self._selector.unregister(output.pipe_fd)
            os.close(output.pipe_fd)
            output.ended.set()
        return len(data)
