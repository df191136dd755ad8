"""The lanes of a worker: which clients are connected, which call is next, and how lanes end.

Rules
1. `step` runs one call of each lane that has one, so many calls of one client delay another's by one each.
2. A client is let in by its first message, LANE_HELLO with the secret of this generation.
3. Messages that are not whole hold `UNFINISHED_BYTES` for a process; above that only its oldest one goes on.
4. While they are closed no further call is taken. What has come before ends, then each client hears that nothing else
   was begun (NOT_BEGUN of no call), and its connection ends; `on_idle` is called when all have.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, Final

from hostd_workers.calls.runtime import Runtime
from hostd_workers.lane.connection import Books, Lane, Limits
from hostd_workers.lane.listener import Listener
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import HostError, PermissionDeniedError
from hostd_workers.wire.lane.spare import REST_S
from hostd_workers.wire.lane.spin import Spin

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd_workers.methods import Method
    from hostd_workers.wire.lane.page import Writer
    from hostd_workers.wire.lane.spare import Later

MAX_SILENT: Final = 32
"""Connections that have not said hello: the oldest makes place for the next."""

MAX_LANES: Final = 512
"""Half of the descriptors that a process has by default; a client that comes later calls by the host."""


UNFINISHED_BYTES: Final = 64 << 20


class Lanes:
    """The clients that call this worker without the host."""

    def __init__(self, told: dict[str, Any], methods: dict[str, Method], page: Writer) -> None:
        """Let clients come, as told: `path`, `secret`, `spin_s` and `Limits`. Raises `OSError`."""
        limits = Limits(*(told[name] for name in Limits._fields))
        self._books = Books(limits, page)
        self._secret: bytes = told["secret"]
        self._spin = Spin(told["spin_s"])
        self._methods = methods
        self._listener = Listener(told["path"], self._books)
        self._lanes: dict[int, Lane] = {}
        self._silent: dict[Lane, None] = {}
        self._working: dict[Lane, None] = {}
        self._unfinished: dict[Lane, None] = {}
        """Those of which a long message has come in part, the oldest first."""
        self._holding: dict[Lane, None] = {}
        """Those of which memory may be in use."""
        self._is_open = True
        self._on_idle: Callable[[], None] | None = None
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fd, select.EPOLLIN)

    def __repr__(self) -> str:
        return f"<Lanes {len(self._lanes)} connections, {len(self._working)} have work>"

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._working)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `poll` has something."""
        return self._epoll.fileno()

    def tell(self, on_written: Callable[[], None], later: Later) -> None:
        """Tell a loop that runs calls by itself when there is something for `flush` to send, and have it call later."""
        self._books.on_written, self._books.spare.later = on_written, later

    def also(self, fd: int) -> None:
        """Have `poll` look at another descriptor, too."""
        self._epoll.register(fd, select.EPOLLIN)

    def poll(self, timeout_s: float) -> bool:
        """Take in what has come; say whether another descriptor is readable."""
        is_other = False
        for fd, what in self._epoll.poll(timeout_s) if timeout_s == 0 else self._wait(timeout_s):
            lane = self._lanes.get(fd)
            if lane is not None:
                self._look_at(lane, what)
            elif fd == self._listener.fd:
                self._accept()
            else:
                is_other = True
        return is_other

    def rest(self) -> None:
        """Say which memory is not in use any more, before nothing happens for a while."""
        for lane in list(self._holding):
            self._flush(lane)
            if not lane.holds_memory:
                self._holding.pop(lane, None)

    def _wait(self, timeout_s: float) -> list[tuple[int, int]]:
        """Wait for news; what is not in use meanwhile goes back to the system after a while."""
        self.rest()
        if self._working:
            return self._epoll.poll(0)
        if news := self._spin.look(self._epoll.poll):
            return news
        if self._books.spare.size_bytes:
            news = self._epoll.poll(REST_S)
            if news:
                return news
            self._books.spare.rest()
        return self._epoll.poll(timeout_s)

    def step(self) -> None:
        """Run one call of each lane that has one, and send the answers of those that have no other."""
        for lane in list(self._working):
            lane.step()
            if not lane.has_work:
                self._working.pop(lane, None)
                self._flush(lane)
        self._look_whether_idle()

    def flush(self) -> None:
        """Send all answers that there are so far."""
        for lane in list(self._books.written):
            self._flush(lane)
        self._look_whether_idle()

    def close(self, on_idle: Callable[[], None]) -> None:
        """Take no further call until `open`; `on_idle` is called once none is under way."""
        self._is_open, self._on_idle = False, on_idle
        self.flush()

    def open(self) -> None:
        """Take calls again."""
        self._is_open = True

    # One lane

    def _look_at(self, lane: Lane, what: int) -> None:
        try:
            if what & ~select.EPOLLOUT:
                come = lane.receive()
                if self._unfinished or not come:
                    self._bound(lane)
                for envelope in come:
                    if lane.is_closed:
                        break
                    if lane in self._silent:
                        self._let_in(lane, envelope)
                    else:
                        lane.accept(envelope, is_open=self._is_open)
        except (EOFError, HostError):
            self._close(lane)
        if lane.is_closed:
            return
        if lane.wants_to_send or what & select.EPOLLOUT:
            self._flush(lane)
        elif lane.has_work:
            self._working[lane] = None

    def _bound(self, lane: Lane) -> None:
        """Read no more of a process that sends too many messages at once of which none is whole."""
        if lane.unfinished_bytes and not lane.is_closed:
            self._unfinished[lane] = None
        else:
            self._unfinished.pop(lane, None)
        mine = [each for each in self._unfinished if each.pid == lane.pid]
        is_over = sum(each.unfinished_bytes for each in mine) > UNFINISHED_BYTES
        for each in mine:
            each.is_held = is_over and each is not mine[0]
            self._watch(each)

    def _let_in(self, lane: Lane, envelope: wire.Envelope) -> None:
        if envelope.kind != msg.LANE_HELLO or envelope.header != self._secret:
            raise PermissionDeniedError("a client of a worker begins with the secret that the host has told it")
        del self._silent[lane]
        if not self._is_open:
            self._leave(lane)
            return
        lane.serve(Runtime(self._methods, lane.send, self._books.page, self._books.limits.max_message_bytes))
        self._books.page.connected(len(self._lanes) - len(self._silent))
        # At once: a client that has not heard it takes for granted that none of its calls has begun.
        lane.send(wire.pack(msg.LANE_WELCOME, 0))
        self._flush(lane)

    def _accept(self) -> None:
        try:
            lane = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._listener.shed()
            return
        if lane is not None:
            self._lanes[lane.fd] = lane
            self._silent[lane] = None
            lane.watched = select.EPOLLIN
            self._epoll.register(lane.fd, lane.watched)
            if len(self._silent) > MAX_SILENT or len(self._lanes) > MAX_LANES:
                self._close(next(iter(self._silent)))

    def _flush(self, lane: Lane) -> None:
        lane.flush()
        self._books.written.pop(lane, None)
        if lane.wants_to_send or lane.watched != select.EPOLLIN:
            self._watch(lane)
        if lane.holds_memory:
            self._holding[lane] = None
        if lane.has_work:  # again: its client has taken what it was not worked for any more
            self._working[lane] = None

    def _watch(self, lane: Lane) -> None:
        """Ask the system about what matters of a lane at present."""
        wanted = 0 if lane.is_choked or lane.is_held else select.EPOLLIN
        if lane.wants_to_send:
            wanted |= select.EPOLLOUT
        if wanted != lane.watched and not lane.is_closed:
            self._epoll.modify(lane.fd, wanted)
            lane.watched = wanted

    def _close(self, lane: Lane) -> None:
        self._epoll.unregister(lane.fd)
        del self._lanes[lane.fd]
        self._working.pop(lane, None)
        self._silent.pop(lane, None)
        self._holding.pop(lane, None)
        lane.close()
        if lane in self._unfinished:
            self._bound(lane)
        self._books.written.pop(lane, None)
        self._books.page.connected(len(self._lanes) - len(self._silent))

    def _look_whether_idle(self) -> None:
        if self._on_idle is None:
            return
        for lane in list(self._lanes.values()):
            if lane.is_idle:
                self._leave(lane)
        if not self._lanes:
            on_idle, self._on_idle = self._on_idle, None
            on_idle()

    def _leave(self, lane: Lane) -> None:
        """Tell a client of which nothing is under way that nothing else was begun, then end its connection."""
        if lane not in self._silent and not lane.is_leaving:
            lane.is_leaving = True
            lane.send(wire.pack(msg.NOT_BEGUN, 0))
            self._flush(lane)
        if not lane.wants_to_send:  # else again when its socket has room for that
            self._close(lane)
