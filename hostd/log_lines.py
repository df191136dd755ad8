"""The lines of a model's log: what a worker printed and when, and the host's own notes between them.

Covers the format of the file, which the host writes and clients read. Does not cover the file itself
(`shell/processes/logs`).

Whatever a model prints, time stamps of its own included, is told from what the host adds:

    2026-11-29T13:40:21.123Z first line      a line that was read at this instant
    second line                              one that was read together with the line before
     2 lines                                 (a space) the same, of one that begins with a space or with "2"
    2026-11-29T13:40:25.001Z* worker 3 ...   a note of the host: the start or the end of a worker
    2026-11-29T13:40:25.001Z@524288          the file's first line: the log's bytes before this file

A line that a model began and did not end is ended where a note, another worker or a new file follows. A position in the
log counts its bytes from the first that was ever written.
"""

from __future__ import annotations

import re
import time
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hostd.record import Record
from hostd_workers.wire.light import pattern
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLLOW_PERIOD_S = 0.2
"""How often a client that follows a log asks for what is new: as soon as a person notices. An answer without news
costs the host a tenth of a millisecond."""

# How much to ask for: lines are longer than this only where nobody reads them, and the host keeps no more than its
# `workers.log_bytes` anyway.
_BYTES_PER_LINE = 1024
_LEAST_BYTES = 64 * 2**10
_EVERYTHING_BYTES = 2**40

_STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_LINE = pattern(rf"({_STAMP})([ *@])(.*)".encode(), re.DOTALL)
_MARKS = pattern(rf"^(?:{_STAMP}[*@].*\n?|{_STAMP} | )".encode(), re.MULTILINE)
_SPACE = b" "
_SECONDS = "%Y-%m-%dT%H:%M:%S"


@dataclass(frozen=True)
class LogLine(Record):
    """A line of a model's log: `time_s` is when the host read it, None if that is not known.

    `is_note` says that the model did not print it: the host notes the start and the end of each worker.
    """

    time_s: float | None
    text: str
    is_note: bool = False


def stamp(time_s: float) -> bytes:
    """Return an instant as the log shows it, in UTC and milliseconds."""
    ms = round(time_s * 1000)
    return f"{time.strftime(_SECONDS, time.gmtime(ms // 1000))}.{ms % 1000:03}Z".encode()


def printed(time_s: float, data: bytes, *, is_new_line: bool) -> bytes:
    """Return output as it is written to the log; `is_new_line` says that no line is begun there."""
    mark = stamp(time_s) + _SPACE
    is_ended = data.endswith(b"\n")
    body = data[:-1] if is_ended else data
    if is_new_line:
        head, rest = mark, body
    else:
        first, feed, rest = body.partition(b"\n")
        head = first + feed + (mark if feed else b"")
    return b"".join((head, _escaped(rest), b"\n" if is_ended else b""))


def _escaped(lines: bytes) -> bytes:
    # Two searches for what is rare, not a mark for every line: a model may print nothing but line feeds.
    return lines.replace(b"\n ", b"\n  ").replace(b"\n2", b"\n 2")


def note(time_s: float, text: str) -> bytes:
    """Return a note of the host as it is written to the log."""
    line = " ".join(text.split())  # one line, whatever a reason quotes
    return b"%s* %s\n" % (stamp(time_s), line.encode(errors="replace"))


def head(time_s: float, position: int) -> bytes:
    """Return the first line of a file."""
    return b"%s@%d\n" % (stamp(time_s), position)


def position_of(head_line: bytes) -> int | None:
    """Return the position of a file by its first line, None for a line that is no such one."""
    match = _LINE.fullmatch(head_line.rstrip(b"\n"))
    return int(match[3]) if match is not None and match[2] == b"@" and match[3].isdigit() else None


def without_marks(data: bytes) -> bytes:
    """Return of a part of a log what models printed."""
    return _MARKS.sub(b"", data)


class Reader:
    """Turns a log, which comes piece by piece, into lines; one without its beginning has no time."""

    def __init__(self) -> None:
        self._rest = b""
        self._time_s: float | None = None

    def feed(self, data: bytes) -> list[LogLine]:
        """Return the lines that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line for each in lines for line in self._lines_of(each)]

    def end(self) -> list[LogLine]:
        """Return what is left: a line that has no end yet, if there is one."""
        rest, self._rest = self._rest, b""
        return self._lines_of(rest) if rest else []

    def _lines_of(self, line: bytes) -> list[LogLine]:
        match = _LINE.fullmatch(line)
        if match is not None:
            self._time_s = datetime.fromisoformat(f"{match[1][:-1].decode()}+00:00").timestamp()
            mark, text = match[2], match[3].decode(errors="replace")
            if mark == b"@":
                return []
            if mark == b"*":
                return [LogLine(self._time_s, text[1:], is_note=True)]
        else:
            text = line.removeprefix(_SPACE).decode(errors="replace")
        # A progress bar returns to the start of its line; each of its pictures is a line of the log.
        return [LogLine(self._time_s, part) for part in text.splitlines() or [""]]


class Follower:
    """What to ask the host for to see a log, and the lines of its answers; without I/O, for both clients."""

    def __init__(self, model_id: str, tail: int | None, *, follow: bool) -> None:
        """Take how many lines of what there is are wanted (None: all), and whether those to come are."""
        self._model_id = model_id
        self._tail_bytes = _EVERYTHING_BYTES if tail is None else max(_LEAST_BYTES, tail * _BYTES_PER_LINE)
        self._kept: deque[LogLine] | None = None if tail is None else deque(maxlen=tail)
        self._follow = follow
        self._reader: Reader | None = None
        self._after: int | None = None
        self._backlog_end: int | None = None
        self.is_over = False
        """Whether everything that was asked for has come."""
        self.is_waiting = False
        """Whether there is no more at present."""

    def arguments(self) -> dict[str, object]:
        """Return the arguments of the next `read_log`."""
        return {"model_id": self._model_id, "after": self._after, "tail_bytes": self._tail_bytes}

    def take(self, answer: Mapping[str, Any]) -> list[LogLine]:
        """Return the lines that are known since this answer."""
        start, end, newest = answer["start"], answer["end"], answer["newest"]
        lines: list[LogLine] = []
        if self._reader is None or start != self._after:
            if self._after is not None:
                lines.append(LogLine(None, _lost(self._after, start), is_note=True))
            self._reader = Reader()
        if self._backlog_end is None:
            self._backlog_end = newest
        lines += self._reader.feed(answer["data"])
        self._after, self.is_waiting = end, end >= newest
        has_backlog = end >= self._backlog_end
        self.is_over = has_backlog and not self._follow
        if self.is_over:
            lines += self._reader.end()
        if self._kept is not None:
            self._kept.extend(lines)
            lines = list(self._kept) if has_backlog else []
            self._kept = None if has_backlog else self._kept
        return lines


def _lost(after: int, start: int) -> str:
    if start < after:
        return "the log was removed; a new one begins"
    return f"{start - after} bytes were overwritten before they were read (workers.log_bytes keeps more)"
