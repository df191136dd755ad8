"""A worker's loop: one thread, one epoll set for the host's socket, the listener and the lanes.

Rules
1. Whatever brought a call, it has its turn: one call of each conversation after another.
2. While there is work the news are looked at each `LOOK_PERIOD_S`: to look costs as much as half a small call.
3. Answers of quick calls leave together (`Pace`), an answer of a slow one at once.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from hostd_workers.lane.connection import Lane
    from hostd_workers.lane.listener import Listener

LOOK_PERIOD_S = 0.0005


class Lanes:
    """The lanes of a worker: `step` runs a call of each that has one."""

    def __init__(self, listener: Listener, epoll: select.epoll) -> None:
        self._listener = listener
        self._epoll = epoll
        self._lanes: dict[int, Lane] = {}
        self._working: dict[Lane, None] = {}
        epoll.register(listener.fd, select.EPOLLIN)

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def has_work(self) -> bool:
        """Say whether `step` has something to do."""
        return bool(self._working)

    def news(self, fd: int, what: int) -> None:
        """Take in what has come at a descriptor."""
        lane = self._lanes.get(fd)
        if lane is None:
            if fd == self._listener.fd:
                self._accept()
            return
        try:
            is_open = lane.receive() if what & ~select.EPOLLOUT else True
        except HostError:
            is_open = False
        if is_open and what & select.EPOLLOUT:
            is_open = lane.flush()
        if not is_open:
            self._close(lane)
        elif lane.has_work:
            self._working[lane] = None

    def step(self) -> None:
        """Run one call of each lane that has one."""
        for lane in list(self._working):
            lane.step()
            if not lane.has_work:
                del self._working[lane]
                if not lane.flush():
                    self._close(lane)
                elif lane.wants_to_send:
                    self._epoll.modify(lane.fd, select.EPOLLIN | select.EPOLLOUT)

    def flush(self) -> None:
        for lane in list(self._working):
            lane.flush()

    def _accept(self) -> None:
        lane = self._listener.accept()
        if lane is not None:
            self._lanes[lane.fd] = lane
            self._epoll.register(lane.fd, select.EPOLLIN)

    def _close(self, lane: Lane) -> None:
        self._epoll.unregister(lane.fd)
        del self._lanes[lane.fd]
        self._working.pop(lane, None)
        self._listener.forget(lane)
        lane.close()
