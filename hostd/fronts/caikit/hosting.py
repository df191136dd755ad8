"""The host that a serving process has for its models, and how threads of caikit's wait for it.

When a client of caikit's goes away, caikit raises an exception in the thread that works for it, between any two
instructions (PyThreadState_SetAsyncExc). So no such thread ever does I/O with the host or holds one of its locks: that
is done by one thread with an event loop, and the others only wait, in a way that can be interrupted. If that happens
the call is cancelled, in the worker too.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import logging
import os
import threading
import time
from concurrent import futures
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import hostd
from hostd.fronts.caikit.finder import __name__ as finder_module

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from hostd import AsyncClient

FINDER = "caikit"

INTERRUPTED_WITHIN_S = 0.05
"""An exception is raised in a thread that waits when the wait returns to Python: after this at the latest."""

STOP_TIMEOUT_S = 5.0
"""How long the end of a process waits for the connection to close; the host itself ends with the process anyway."""

UNLOAD_TIMEOUT_S = 60.0
"""How long a thread that has dropped a model waits: the drain of the host's is over, and what hangs is killed."""

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)
_running: dict[str, Hosted] = {}
_starting = threading.Lock()
_collecting: set[int] = set()
"""The threads in which garbage is being collected."""


class Hosted:
    """A host of this process, and the thread that talks to it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Start a host; `settings` are the arguments of `hostd.Host`. Raises what that raises."""
        finders = {FINDER: {"type": f"{finder_module}:Finder"}, **settings.get("finders", {})}
        self._host = hostd.Host(**{**settings, "finders": finders})
        self._host.start()
        self._owner_pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hostd-caikit", daemon=True)
        self._thread.start()
        self.client: AsyncClient = self._host.async_client(timeout_s=None)
        atexit.register(self.stop)

    def __repr__(self) -> str:
        return f"<Hosted {self._host!r}>"

    @property
    def is_here(self) -> bool:
        """Whether this is the process that started the host, and no fork of it."""
        return os.getpid() == self._owner_pid and not self._loop.is_closed()

    @property
    def host(self) -> hostd.Host:
        """The host."""
        return self._host

    def wait(self, work: Coroutine[Any, Any, Answer], timeout_s: float | None = None) -> Answer:
        """Return what a coroutine returns, or raise what it raises; it is cancelled if this thread is interrupted.

        Raises `TimeoutError` after a time-out, and it goes on; FailedPreconditionError in a fork of this process.
        """
        if not self.is_here:
            work.close()
            raise hostd.FailedPreconditionError("this model is of the process that has loaded it, and not of its forks")
        done = threading.Event()
        future = None
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            future.add_done_callback(lambda _: done.set())
            while not done.wait(INTERRUPTED_WITHIN_S):
                if until_s is not None and time.monotonic() >= until_s:
                    break
        except BaseException:
            if future is not None:
                future.cancel()
            raise
        if not done.is_set():
            raise TimeoutError
        return future.result()

    def begin(self, work: Coroutine[Any, Any, object]) -> None:
        """Begin what nobody waits for."""
        if self.is_here:
            asyncio.run_coroutine_threadsafe(_quietly(work), self._loop)
        else:
            work.close()

    def unload(self, model_id: str) -> None:
        """Unload a model that nobody refers to any more, and wait for the proof that its process is gone.

        Where the last reference was dropped, that is; so caikit's `unload_model` waits. In a collection of garbage,
        which may interrupt any line of any thread, whatever locks that holds, nobody waits, and nothing is logged in
        the loop: the logging of the thread that waits may be what was interrupted.
        """
        if not self.is_here:
            return
        if threading.get_ident() in _collecting or threading.current_thread() is self._thread:
            self.begin(self.client.unload_model(model_id))
            return
        try:
            report = self.wait(self.client.unload_model(model_id), UNLOAD_TIMEOUT_S)
        except hostd.NotFoundError:  # its load has failed
            return
        except (hostd.HostError, TimeoutError):
            _log.exception("the model %s could not be unloaded", model_id)
            return
        freed_mib = report.freed_bytes / (1 << 20)
        _log.info("unloaded %s: %d processes ended, %.0f MiB given back", model_id, report.processes, freed_mib)

    def stop(self) -> None:
        """End the host and the thread."""
        if not self.is_here:
            return
        closing = asyncio.run_coroutine_threadsafe(self.client.close(), self._loop)
        try:
            closing.result(STOP_TIMEOUT_S)
        except futures.TimeoutError:
            closing.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_TIMEOUT_S)
        self._loop.close()
        self._host.stop()


def hosted(settings: Mapping[str, Any]) -> Hosted:
    """Return the host of this process with these settings; the first that asks starts it."""
    key = json.dumps(settings, sort_keys=True, default=str)
    with _starting:
        known = _running.get(key)
        if known is None or not known.is_here:
            known = _running[key] = Hosted(settings)
        return known


async def _quietly(work: Coroutine[Any, Any, object]) -> None:
    with suppress(hostd.HostError):
        await work


def _note_collection(phase: str, _: dict[str, int]) -> None:
    thread = threading.get_ident()
    (_collecting.add if phase == "start" else _collecting.discard)(thread)


gc.callbacks.append(_note_collection)
