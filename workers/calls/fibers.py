"""A thread that takes turns with another one: a function that can pause anywhere, without a library for that."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from hostd_workers.process.forked import leave_if_child

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSED: Final = object()


class Fiber:
    """Runs one function at a time, and nothing of it while the thread that began it runs."""

    __slots__ = ("_answer", "_error", "_function", "_theirs", "_thread", "_turn", "is_paused", "resumed_s")

    def __init__(self) -> None:
        """Start the thread. Raises `RuntimeError` if the system has none left."""
        self._turn = threading.Lock()
        self._theirs = threading.Lock()
        self._turn.acquire()
        self._theirs.acquire()
        self._function: Callable[[], Any] | None = None
        self._answer: Any = None
        self._error: BaseException | None = None
        self.is_paused = False
        self.resumed_s = 0.0
        """Since when it has its turn, of `time.monotonic`."""
        self._thread = threading.Thread(target=self._run, name="hostd-feed", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], Any]) -> Any:
        """Return or raise what a function does, or return `PAUSED`."""
        self._function = function
        return self.resume()

    def resume(self) -> Any:
        """Let what has paused go on; as `run`."""
        self.is_paused = False
        self.resumed_s = time.monotonic()
        self._turn.release()
        self._theirs.acquire()
        answer, error, self._answer, self._error = self._answer, self._error, None, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame
        return answer

    def end(self) -> None:
        """End the thread, in which nothing runs."""
        self._function = None
        self._turn.release()

    # In the thread

    @property
    def is_here(self) -> bool:
        """Whether this is the thread."""
        return threading.current_thread() is self._thread

    def pause(self) -> None:
        """Wait for the next `resume`."""
        leave_if_child()  # which has no other thread to go on
        self.is_paused = True
        self._answer = PAUSED
        self._theirs.release()
        self._turn.acquire()

    def _run(self) -> None:
        self._turn.acquire()
        while self._function is not None:
            try:
                self._answer = self._function()
                leave_if_child()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised in the other thread
                leave_if_child()
                self._error = error
            self._function = None
            self._theirs.release()
            self._turn.acquire()
