"""The host's own log on standard error: text for people, or one JSON object a line for programs.

Every record may say what it is about (`about`): a model, a worker, a process. Text has that in front of the message,
JSON under keys of its own. What models print is in `logs`.

A warning that the same line of code gives again and again is shown `BURST` times in `PERIOD_S`, then counted: whatever
causes it (a client, a model, a disk) may do so thousands of times a second, and must not fill the log's disk with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
import threading
from typing import TYPE_CHECKING, Any

from hostd.log_lines import stamp
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from types import TracebackType

_log = logging.getLogger(__name__)

BURST = 20
"""Enough to see what recurs, and for which client."""

PERIOD_S = 60.0

_STDERR = 2

_SUBJECTS = ("model", "worker", "pid")


def about(*, model: str | None = None, worker: int | None = None, pid: int | None = None) -> dict[str, Any]:
    """Return the `extra` of a record about these; what is None is left out."""
    return {name: value for name, value in zip(_SUBJECTS, (model, worker, pid), strict=True) if value is not None}


def configure(level: str, log_format: str) -> None:
    """Let everything that is logged from now on, warnings and errors that nobody handles too, have this shape."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler(sys.stderr))
        root.handlers[0].addFilter(Flood())
    for handler in root.handlers:  # kept at a reload: other threads may be logging
        handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    sys.excepthook = _on_unhandled
    threading.excepthook = lambda args: _on_unhandled(args.exc_type, args.exc_value, args.exc_traceback)


def write_at_once(message: str) -> None:
    """Write a record past all locks and buffers, from a signal handler that ends the process; if it can be at once."""
    record = logging.LogRecord(__name__, logging.CRITICAL, __file__, 0, message, None, None)
    poller = select.poll()
    poller.register(_STDERR, select.POLLOUT)
    for handler in logging.getLogger().handlers:
        if poller.poll(0):  # of a pipe that is full nobody reads
            with contextlib.suppress(OSError):
                os.write(_STDERR, f"{handler.format(record)}\n".encode())


def _on_unhandled(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is not None:
        _log.critical("an error that nobody handled; please report it", exc_info=(kind, error, traceback))


def _subjects_of(record: logging.LogRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _SUBJECTS if hasattr(record, name)}


class Flood(logging.Filter):
    """Lets the first warnings of each place in the code pass, and says how many others there were."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int], _Recent] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is shown; one that is may get some words on those that are not."""
        if record.levelno < logging.WARNING:
            return True
        with self._lock:
            place = record.pathname, record.lineno
            recent = self._seen.get(place, _NOTHING)
            words = ""
            if record.created - recent.began_s >= PERIOD_S or record.created < recent.began_s:
                if recent.times > BURST:
                    words = f" ({recent.times - BURST} more like this were not shown)"
                recent = _Recent(record.created, 0)
            recent = self._seen[place] = recent._replace(times=recent.times + 1)
        if recent.times == BURST:
            words = f" (the {BURST}th like this within {PERIOD_S:g} s; more are counted, and not shown until then)"
        if words:
            record.msg, record.args = f"{record.getMessage()}{words}", None
        return recent.times <= BURST


class _Recent(NamedTuple):
    began_s: float
    times: int


_NOTHING = _Recent(-PERIOD_S, 0)


class TextFormatter(logging.Formatter):
    """A line for people: time, level, logger, what it is about, the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the line of a record."""
        subjects = "".join(f"{name}={value} " for name, value in _subjects_of(record).items())
        record.message = f"{subjects}{record.message}"
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """A line for programs: `time` (UTC), `level`, `logger`, `message`; `model`, `worker`, `pid`, `exception` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        told = {
            "time": stamp(record.created).decode(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_subjects_of(record),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)
