"""Listeners on an event loop that runs while a test waits for something, and real peers of theirs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import zmq
from helpers import PATIENCE_S, POLL_S

from hostd.shell.transport.listener import Listener, Side
from hostd.shell.transport.poller import Poller

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIMIT_BYTES = 2 << 20


class Transport:
    """A poller on a loop of its own; what its listeners hear they hear while `until` waits."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.poller = Poller(self.loop)
        self.context: zmq.Context[Any] = zmq.Context()
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._stack.callback(self.loop.close)
        self._stack.callback(self.context.term)
        self._stack.callback(self.poller.close)

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def listen(self, side: Side, name: str = "a", *, peer_buffer_bytes: int = LIMIT_BYTES) -> Listener:
        """Return a listener that is closed with the rest."""
        made = Listener(
            self.poller,
            f"ipc://{self._directory}/{name}.ipc",
            side,
            max_message_bytes=LIMIT_BYTES,
            peer_buffer_bytes=peer_buffer_bytes,
        )
        self._stack.callback(made.close)
        return made

    def dealer(self, listener: Listener, identity: bytes = b"", **options: int) -> zmq.Socket[bytes]:
        """Return a DEALER that begins to connect."""
        peer: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        self._stack.callback(peer.close, 0)
        if identity:
            peer.setsockopt(zmq.IDENTITY, identity)
        for name, value in options.items():
            peer.setsockopt(getattr(zmq, name), value)
        peer.connect(listener.endpoint)
        return peer

    def until(self, is_true: Callable[[], Any], what: str = "it") -> None:
        """Let the loop run until something is true; the loop wakes for sockets, and looks now and then."""

        async def wait() -> None:
            quiet = asyncio.Event()
            before = self.poller.on_quiet
            self.poller.on_quiet = quiet.set
            try:
                while not is_true():
                    quiet.clear()
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(quiet.wait(), POLL_S)
            finally:
                self.poller.on_quiet = before

        try:
            self.loop.run_until_complete(asyncio.wait_for(wait(), PATIENCE_S))
        except asyncio.TimeoutError:
            raise AssertionError(f"not in {PATIENCE_S:g} s: {what}") from None
