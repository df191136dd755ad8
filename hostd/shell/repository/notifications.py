"""When to look at the models directory: on the file system's notifications where there are any, and in every period.

Watches the directory's top level. Notifications come from watchfiles (inotify on Linux). They do not come from other
machines that share a network file system, nor from below the top level, nor while the directory is away: there the
period does it. The directory is known by its inode, so that one that vanishes and comes back, or is mounted over, is
watched again. Does not cover what is there (`scanner`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from hostd.shell.work.threads import may_start

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path


QUIET_MS = 100
"""How long nothing may happen before a change is reported: a copy that makes ten entries causes one look. The watching
thread wakes so often."""

GATHER_MS = 1000
"""A change is reported after so long although others follow, so that one entry that is written for an hour does not
keep the others from being seen, and causes a look per second at most."""

CHECK_S = 2.0
"""How often the watching thread looks whether the directory is still the one that it watches, or is back: a system
call. With a shorter period, as often as that."""

END_S = 2.0
"""How long its end is waited for: it comes in `CHECK_S` or less, unless the directory hangs with its file server."""

_log = logging.getLogger(__name__)


NOTIFICATION = "notification"
PERIOD = "period"


async def changes(directory: Path, period_s: float, stop: asyncio.Event) -> AsyncGenerator[str, None]:
    """Yield NOTIFICATION or PERIOD whenever the directory should be looked at, until `stop` is set.

    At the end the watching thread is gone, if its file system answers. Also yields when watching has begun, because
    what changed before was not notified. If the loop over it may be left early, close it (`contextlib.aclosing`).
    """
    loop = asyncio.get_running_loop()
    wake, ended = asyncio.Event(), asyncio.Event()
    watch = _Watch(
        str(directory),
        min(CHECK_S, period_s),
        lambda: loop.call_soon_threadsafe(wake.set),
        lambda: loop.call_soon_threadsafe(ended.set),
    )
    stopping = loop.create_task(stop.wait())
    stopping.add_done_callback(lambda _: wake.set())
    has_begun = watch.begin()
    try:
        while not stop.is_set():
            cause = NOTIFICATION
            try:
                await asyncio.wait_for(wake.wait(), period_s)
            except asyncio.TimeoutError:
                cause = PERIOD
            wake.clear()
            if not stop.is_set():
                yield cause
    finally:
        stopping.cancel()
        watch.stop()
        if has_begun:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ended.wait(), END_S)
                watch.join()


class _Watch(threading.Thread):
    """Calls `notify` when something changed in a directory, or when it is another one; and `done` at its end."""

    def __init__(
        self, directory: str, check_s: float, notify: Callable[[], object], done: Callable[[], object]
    ) -> None:
        # A daemon, because a call to a file server that is gone may never return.
        super().__init__(name="hostd-watch", daemon=True)
        self._directory = directory
        self._check_s = check_s
        self._notify = notify
        self._done = done
        self._stopped = threading.Event()
        self._has_complained = False

    def begin(self) -> bool:
        """Start it; say whether the system gave it a thread."""
        try:
            self.start()
        except RuntimeError as error:
            self._complain(error)
            return False
        return True

    def stop(self) -> None:
        """End it soon."""
        self._stopped.set()

    def run(self) -> None:
        """Watch, and watch again, until `stop`."""
        # A loop that was closed without waiting for us takes no calls any more.
        with suppress(RuntimeError):
            try:
                while not self._stopped.is_set():
                    self._watch()
                    self._stopped.wait(self._check_s)
            finally:
                self._done()

    def _watch(self) -> None:
        """Watch the directory as long as it is the same one; return at once if it cannot be watched."""
        # Here because it takes 30 ms, and a host without a models directory does not need it.
        from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError  # noqa: PLC0415

        identity = self._identity()
        if identity is None:
            return
        if not may_start(1):
            # It makes a thread of its own, and aborts the process if it gets none (notify 8.0.0, inotify.rs).
            self._complain(RuntimeError("the system gives this process no more threads"))
            return
        try:
            # Not polling, whatever the environment says: the period does that.
            with RustNotify(
                [self._directory],
                debug=False,
                force_polling=False,
                poll_delay_ms=0,
                recursive=False,
                ignore_permission_denied=False,
            ) as watcher:
                self._has_complained = False
                self._notify()
                while not self._stopped.is_set() and self._identity() == identity:
                    found = watcher.watch(GATHER_MS, QUIET_MS, max(1, round(self._check_s * 1000)), self._stopped)
                    if not isinstance(found, str) and any(map(self._is_of_interest, found)):
                        self._notify()
        except (OSError, WatchfilesRustInternalError) as error:
            self._complain(error)
        else:
            self._notify()

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._directory)  # noqa: PTH116 - watchfiles takes strings, too
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _is_of_interest(self, change: tuple[int, str]) -> bool:
        """Say whether a change is of more than a hidden entry: deploys work in one."""
        return not os.path.basename(change[1]).startswith(".")  # noqa: PTH119 - as above

    def _complain(self, error: Exception) -> None:
        if not self._has_complained:
            _log.warning(
                "changes of %s are not notified, so they are seen once in every models.poll_period_s: %s",
                self._directory,
                error,
            )
        self._has_complained = True
