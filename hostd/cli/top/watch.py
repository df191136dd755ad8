"""Asks the host beside the screen, so that the keys work while a host is slow, hangs or is gone."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from hostd.cli.top.look import Look, Scene
from hostd_workers.wire.errors import DeadlineExceededError, HostError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hostd import AsyncClient
    from hostd.cli.session import Session

LOOK_TIMEOUT_S = 3.0
"""How long a host may take to say what it has before it counts as gone. It takes milliseconds."""

CONNECT_TIMEOUT_S = 1.0
"""How long to try to reach a host before it is said to be gone. It is tried again and again all the same."""


class Watch:
    """The newest that is known of a host, from a first look on: `scene`.

    `on_look` is called when that has changed by a look. It is not for events, of which there may be thousands in a
    second: they are seen with the next look.
    """

    def __init__(self, session: Session, first: Look, interval_s: float, on_look: Callable[[], None]) -> None:
        self._session = session
        self._interval_s = interval_s
        self._on_look = on_look
        self.scene = Scene(first)

    async def look(self) -> None:
        """Look again and again, with a new connection whenever one breaks."""
        while True:
            try:
                async with await self._connected() as client:
                    while True:
                        began_s = time.monotonic()
                        found = Look.of(
                            await client.list_models(), await client.memory_info(), await client.host_info()
                        )
                        self.scene = replace(self.scene, latest=found, previous=self.scene.latest, trouble="")
                        self._on_look()
                        await asyncio.sleep(max(0.0, began_s + self._interval_s - time.monotonic()))
            except HostError as error:
                is_gone = isinstance(error, UnavailableError | DeadlineExceededError)
                what = "host is gone" if is_gone else "host refuses"
                trouble = f"{what}, trying again: {error.message.splitlines()[0]}"
                self.scene = replace(self.scene, trouble=trouble)
                self._on_look()
            await asyncio.sleep(self._interval_s)

    async def listen(self) -> None:
        """Take note of events, with a new connection whenever one breaks."""
        while True:
            with suppress(HostError):
                async with await self._connected() as client:
                    async for event in client.events():
                        self.scene = replace(self.scene, event=event)
            await asyncio.sleep(self._interval_s)

    def _connected(self) -> Awaitable[AsyncClient]:
        timeout_s = self._session.timeout_s or LOOK_TIMEOUT_S
        return self._session.connect_async(
            self._session.endpoint, timeout_s=timeout_s, connect_timeout_s=min(timeout_s, CONNECT_TIMEOUT_S)
        )
