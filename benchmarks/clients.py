"""Many clients that call models at once, each from a thread with a connection of its own; through the public API only.

Every call is written down, with when it was sent, what it took and how it failed if it did. Nothing is tried again.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import hostd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


CLIENTS_MAX = 64


class Call(NamedTuple):
    """A call of a model: `sent_s` is of `time.monotonic`, `error` is "" if it was answered."""

    model_id: str
    sent_s: float
    latency_s: float
    error: str = ""


class Shared:
    """One sequence from which many threads take."""

    def __init__(self, items: Iterable[str]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        with self._lock:
            return next(self._items)


def lazily(directory: Path) -> dict[str, Any]:
    """Return the settings of a host that loads a model of the directory when it is used, and looks at it only then."""
    return {
        "dir": str(directory),
        "lazy_load": True,
        "load_on_start": False,
        "poll_period_s": 0,
        "write_quiet_period_s": 0,
    }


def call_all(host: hostd.Host, sequences: Iterable[Iterable[str]], method: str = "look") -> list[Call]:
    """Call the models of each sequence one after the other, all sequences at once; returns all calls."""
    is_over = threading.Event()
    with ThreadPoolExecutor(CLIENTS_MAX) as threads:
        running = [threads.submit(_call_each, host, sequence, method, is_over) for sequence in sequences]
        try:
            calls = [call for future in running for call in future.result()]
        finally:
            is_over.set()
    return sorted(calls, key=lambda call: call.sent_s)


def _call_each(host: hostd.Host, sequence: Iterable[str], method: str, is_over: threading.Event) -> list[Call]:
    calls = []
    with host.client() as client:
        for number, model_id in enumerate(sequence):
            calls.append(call_once(client, model_id, method, number))
            if is_over.is_set():
                break
    return calls


def call_once(client: hostd.Client, model_id: str, method: str, *arguments: Any) -> Call:
    """Call a method and write down what became of it."""
    sent_s, error = time.monotonic(), ""
    try:
        client.call(model_id, method, arguments, {}, client.timeout_s)
    except hostd.HostError as failed:
        error = f"{type(failed).__name__}: {failed.message}"
    return Call(model_id, sent_s, time.monotonic() - sent_s, error)


class Steady:
    """The calls of threads that call at a steady pace, so far."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.has_ended = threading.Event()

    def latencies_s(self, from_s: float, until_s: float) -> list[float]:
        """Return what the calls took that were sent between two instants of `time.monotonic`."""
        return [call.latency_s for call in self.calls[:] if from_s <= call.sent_s < until_s]

    def keep_calling(self, host: hostd.Host, model_id: str, pace_s: float) -> None:
        """Call a model every `pace_s` seconds until the end; a call that is late is sent at once."""
        with host.client() as client:
            due_s = time.monotonic()
            while not self.has_ended.wait(max(0.0, due_s - time.monotonic())):
                self.calls.append(call_once(client, model_id, "echo", b"steady"))
                due_s = max(due_s + pace_s, time.monotonic())


@contextmanager
def steadily(host: hostd.Host, model_ids: Iterable[str], pace_s: float) -> Iterator[Steady]:
    """Call models while the block runs, each from a thread of its own."""
    steady = Steady()
    with ThreadPoolExecutor(CLIENTS_MAX) as threads:
        running = [threads.submit(steady.keep_calling, host, model_id, pace_s) for model_id in model_ids]
        try:
            yield steady
        finally:
            steady.has_ended.set()
    for future in running:
        future.result()
