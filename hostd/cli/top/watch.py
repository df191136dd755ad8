"""Asks the host in threads of its own, so that the keys work while a host is slow, hangs or is gone."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from hostd.cli.top.look import Look, Scene, look
from hostd_workers.wire.errors import DeadlineExceededError, HostError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from hostd import Client
    from hostd.cli.session import Session

LOOK_TIMEOUT_S = 3.0
"""How long a host may take to say what it has before it counts as gone. It takes milliseconds."""

CONNECT_TIMEOUT_S = 1.0
"""How long to try to reach a host before it is said to be gone. It is tried again and again all the same."""

_FAREWELL_S = 0.5
"""How long to wait for the threads at the end. One that is just connecting ends with the process instead."""


class Watch:
    """The newest that is known of a host, from a first look on; a context manager.

    `on_look` is called, in a thread, when `scene` has changed by a look. It is not for events, of which there may be
    thousands in a second: they are seen with the next look.
    """

    def __init__(self, session: Session, first: Look, interval_s: float, on_look: Callable[[], None]) -> None:
        self._session = session
        self._interval_s = interval_s
        self._on_look = on_look
        self._scene = Scene(first)
        self._lock = threading.Lock()
        self._clients: list[Client] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._again, args=(work,), name=f"top-{work.__name__}", daemon=True)
            for work in (self._look, self._listen)
        ]

    @property
    def scene(self) -> Scene:
        """What is known now."""
        with self._lock:
            return self._scene

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._is_over.set()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            client.close()  # which ends what waits for an answer
        for thread in self._threads:
            thread.join(_FAREWELL_S)

    def _again(self, work: Callable[[Client], None]) -> None:
        """Work with a connection, and with a new one whenever it breaks."""
        while not self._is_over.is_set():
            try:
                with self._connected() as client:
                    work(client)
            except HostError as error:
                if work == self._look and not self._is_over.is_set():
                    self._note_trouble(error)
            self._is_over.wait(self._interval_s)

    @contextmanager
    def _connected(self) -> Iterator[Client]:
        session, timeout_s = self._session, self._session.timeout_s or LOOK_TIMEOUT_S
        with session.connect(
            session.endpoint, timeout_s=timeout_s, connect_timeout_s=min(timeout_s, CONNECT_TIMEOUT_S)
        ) as client:
            with self._lock:
                self._clients.append(client)
            try:
                yield client
            finally:
                with self._lock:
                    self._clients.remove(client)

    def _look(self, client: Client) -> None:
        while not self._is_over.is_set():
            began_s = time.monotonic()
            found = look(client)
            with self._lock:
                self._scene = replace(self._scene, latest=found, previous=self._scene.latest, trouble="")
            self._on_look()
            self._is_over.wait(max(0.0, began_s + self._interval_s - time.monotonic()))

    def _note_trouble(self, error: HostError) -> None:
        what = "host is gone" if isinstance(error, UnavailableError | DeadlineExceededError) else "host refuses"
        with self._lock:
            self._scene = replace(self._scene, trouble=f"{what}, trying again: {error.message.splitlines()[0]}")
        self._on_look()

    def _listen(self, client: Client) -> None:
        for event in client.events(None):
            with self._lock:
                self._scene = replace(self._scene, event=event)
