"""Direct lanes of a client: workers of this machine that it calls without the host. A channel does the waiting.

What a channel sends goes through here, by a lane or by the host.

Rules
1. A model that is called a second time is asked a lane for, beside the call. A request is sent to one place at a time,
   so it is begun once at most.
2. The host ends the request that asked for a lane when nothing more should be sent there. The worker gives back what it
   has not begun (NOT_BEGUN), a connection that ends before the worker's first word has begun nothing, and a request of
   which the system has taken no byte is not begun either. These go to the host, under the same id, with what is left of
   their time.
3. Of other requests whose connection has ended the host knows what became of the worker: it is asked, and what it says
   is their error.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import DeadlineExceededError, HostError, UnavailableError
from hostd_workers.wire.lane.link import Link
from hostd_workers.wire.lane.spare import Spare
from hostd_workers.wire.lane.spin import Spin
from hostd_workers.wire.lane.stream import new_buffer
from hostd_workers.wire.light import NamedTuple
from hostd_workers.wire.shares import too_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.client.tracker import Pending, PendingStream, Tracker
    from hostd_workers.wire.frames import Buffer
    from hostd_workers.wire.lane.spare import Later

P = TypeVar("P", bound="Pending")

_RETRY_S: Final = 1.0
"""How long calls go by the host before a lane is asked for again."""

_FATE_S: Final = 5.0
"""How long the host may take to know what became of a worker: a process that dumps its memory takes seconds."""

_CREDENTIALS: Final = struct.Struct("3i")


class _Sent(NamedTuple):
    pending: Pending
    frames: list[Buffer]
    at_s: float


class Lane:
    """A worker that is called directly, and what waits for its answers."""

    __slots__ = (
        "_leaving",
        "_refused",
        "asked",
        "has_spoken",
        "is_over",
        "link",
        "max_in_flight",
        "model_id",
        "outbox",
        "sent",
        "worker",
    )

    def __init__(self, link: Link, asked: int, model_id: str, worker: int, max_in_flight: int) -> None:
        self.link = link
        self.asked = asked
        """The number of the request that asked for it, which ends when nothing more should be sent here."""
        self.model_id = model_id
        self.worker = worker
        self.max_in_flight = max_in_flight
        self.sent: dict[int, _Sent] = {}
        self.outbox: deque[list[Buffer]] = deque()
        self._leaving: list[int] = []
        """The requests that leave with the next flush."""
        self._refused: set[int] = set()
        """Those of which no byte has left, since the worker's end is closed."""
        self.has_spoken = False
        self.is_over = False

    def __repr__(self) -> str:
        return f"<Lane to worker {self.worker} of {self.model_id!r}, {len(self.sent)} wait>"

    def begin(self, request: _Sent) -> None:
        """Have a request sent with the next flush."""
        id_ = request.pending.id
        self.sent[id_] = request
        self._leaving.append(id_)
        self.outbox.append(request.frames)

    def has_left(self, id_: int) -> bool:
        """Say whether the worker may know of a request."""
        return self.has_spoken and id_ not in self._refused and id_ not in self._leaving

    def flush(self) -> None:
        """Send what is in the outbox, as far as the worker takes it."""
        outbox, link = self.outbox, self.link
        link.has_sent = False
        while outbox:
            link.send(outbox.popleft())
        link.flush()
        if link.is_broken and not link.has_sent:
            self._refused.update(self._leaving)
        self._leaving.clear()


class LaneKeeper(Protocol):
    """What waits for news of the lanes of a channel."""

    def watch(self, lane: Lane) -> None:
        """Listen to a lane that has come, or no more to one that is about to be closed."""

    def watch_room(self, lane: Lane) -> None:
        """Have `flush` called when a lane takes more, if something waits for that, and else no more."""


class Lanes:
    """The lanes of one channel, by model. All but `begin`, `send` and `ask` is for what does the channel's I/O."""

    def __init__(self, tracker: Tracker, keeper: LaneKeeper, later: Later, *, is_on: bool) -> None:
        """Take what knows the requests, what waits for news, which is not kept alive, and what calls later."""
        self._tracker = tracker
        self._keeper = weakref.ref(keeper)
        self._is_on = is_on
        self._buffer = new_buffer()
        self._spare = Spare(later)
        self._by_model: dict[str, Lane] = {}
        self._asked_s: dict[str, float] = {}
        """When a model's lane was asked for last; 0: it was called once."""
        self.open: dict[int, Lane] = {}
        """All lanes, by descriptor, those that are closing included."""
        self.written: dict[Lane, None] = {}
        """Those with something in their outbox."""
        self.outbox: deque[list[Buffer]] = deque()
        """What goes to the host."""
        self.spin = Spin()
        """How whoever waits for a worker looks for its answer, as the host says."""

    def begin(self, make: Callable[[Tracker], tuple[P, list[Buffer]]]) -> P:
        """Return a request that `make` makes, and which leaves with the next flush."""
        pending, frames = make(self._tracker)
        lane = None if pending.model_id is None else self.of(pending.model_id)
        if lane is None:
            self.outbox.append(frames)
        else:
            self._note(lane, pending, frames)
        return pending

    def send(self, pending: Pending, frames: list[Buffer]) -> None:
        """Have what belongs to a request sent the way that it has gone."""
        lane = None if pending.lane is None else self.open.get(pending.lane)
        if lane is None:
            self.outbox.append(frames)
        else:
            self._put(lane, frames)

    def flush(self) -> None:
        """Send what is in the outboxes of lanes, as far as the workers take it."""
        written = self.written
        while written:
            lane, _ = written.popitem()
            was_blocked = lane.link.wants_to_send
            lane.flush()
            if lane.link.wants_to_send is not was_blocked and (keeper := self._keeper()) is not None:
                keeper.watch_room(lane)

    def of(self, model_id: str) -> Lane | None:
        """Return the lane of a model, if there is one; ask for it if it is called often enough."""
        lane = self._by_model.get(model_id)
        if lane is None and self._is_on and self._tracker.welcome.get("lanes") is True:
            self._wish(model_id)
        return lane

    def receive(self, lane: Lane) -> None:
        """Take in what has come over a lane."""
        try:
            for envelope in lane.link.receive():
                self._take(lane, envelope)
        except (EOFError, HostError):
            self._lost(lane)
        else:
            self._close_if_over(lane)

    def close(self) -> None:
        """Close all lanes, and send nothing more to the host; what waits for an answer is ended by the tracker."""
        self.outbox.clear()
        self._by_model.clear()
        self._asked_s.clear()
        for lane in list(self.open.values()):
            self._forget(lane)
        self._spare.close()

    def _note(self, lane: Lane, pending: Pending, frames: list[Buffer]) -> None:
        sent = len(lane.sent)
        if sent >= lane.max_in_flight:  # the worker would say so, but not while it is busy
            error = too_many(lane.model_id, sent, sent, lane.max_in_flight, "in flight")
            self._tracker.forget(pending, error)
            return
        pending.lane = lane.link.fd
        lane.begin(_Sent(pending, frames, time.monotonic()))
        self.written[lane] = None

    def _put(self, lane: Lane, frames: list[Buffer]) -> None:
        lane.outbox.append(frames)
        self.written[lane] = None

    def _take(self, lane: Lane, envelope: wire.Envelope) -> None:
        kind = envelope.kind
        if kind == msg.NOT_BEGUN:
            self._retire(lane)
            given_back = [envelope.id] if envelope.id else list(lane.sent)
            for sent in [lane.sent.pop(id_) for id_ in given_back if id_ in lane.sent]:
                self._send_by_host(sent)
        elif kind == msg.LANE_WELCOME:
            lane.has_spoken = True
        else:
            if kind not in (msg.ITEM, msg.CREDIT):
                lane.sent.pop(envelope.id, None)
            self._tracker.answer(envelope)

    # A lane comes

    def _wish(self, model_id: str) -> None:
        asked_s, now = self._asked_s.get(model_id), time.monotonic()
        if asked_s is None:
            self._asked_s[model_id] = 0.0
        elif now - asked_s > _RETRY_S:
            self._asked_s[model_id] = now
            self.outbox.append(self.ask(model_id)[1])

    def ask(self, model_id: str) -> tuple[PendingStream, list[Buffer]]:
        """Return the request for the lane of a model, which opens it when the host has answered."""
        asked, frames = self._tracker.subscribe("open_lane", {"model_id": model_id})
        mine = weakref.ref(self)  # it waits as long as the lane is there, and is no reason to keep that

        def told() -> None:
            lanes = mine()
            if lanes is not None:
                lanes._told(model_id, asked)  # noqa: SLF001 - one of us

        asked.listeners.append(told)
        return asked, frames

    def _told(self, model_id: str, asked: PendingStream) -> None:
        if asked.items:
            self._open(model_id, asked.id, asked.take()[0])
        elif asked.is_done:
            for lane in [lane for lane in self.open.values() if lane.asked == asked.id]:
                self._retire(lane)
                self._close_if_over(lane)

    def _open(self, model_id: str, asked: int, address: object) -> None:
        match address:
            case {
                "path": str(path),
                "secret": bytes(secret),
                "worker": int(worker),
                "max_in_flight": int(limit),
                "spin_s": float(spin_s),
            } if self._is_on:
                self.spin.limit_s = spin_s
                link = self._connected(path)
                if link is not None:
                    lane = Lane(link, asked, model_id, worker, limit)
                    self._by_model[model_id] = self.open[link.fd] = lane
                    self._put(lane, wire.pack(msg.LANE_HELLO, 0, secret))
                    self._tell(lane)

    def _tell(self, lane: Lane) -> None:
        keeper = self._keeper()
        if keeper is not None:
            keeper.watch(lane)

    def _connected(self, path: str) -> Link | None:
        with contextlib.ExitStack() as stack:
            try:
                connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                connection.setblocking(False)
                connection.connect(path)
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            except OSError:  # it is on another machine, not ours to enter, just gone, or there is no descriptor left
                return None
            if _CREDENTIALS.unpack(credentials)[1] not in (os.geteuid(), 0):
                return None
            stack.pop_all()
        max_bytes = self._tracker.welcome.get("max_message_bytes", 1 << 30)
        return Link(connection, self._buffer, max_bytes, self._spare)

    # A lane goes

    def _retire(self, lane: Lane) -> None:
        """Send nothing more over a lane; what it has may still be answered."""
        if self._by_model.get(lane.model_id) is lane:
            del self._by_model[lane.model_id]
            self._asked_s[lane.model_id] = 0.0

    def _close_if_over(self, lane: Lane) -> None:
        """Close a lane over which nothing more is sent, once nothing waits for it."""
        if not lane.sent and self._by_model.get(lane.model_id) is not lane and not lane.is_over:
            self._forget(lane)

    def _forget(self, lane: Lane) -> None:
        lane.is_over = True
        del self.open[lane.link.fd]
        self.written.pop(lane, None)
        self._tell(lane)
        lane.link.close()

    def _lost(self, lane: Lane) -> None:
        self._retire(lane)
        self._forget(lane)
        sent: list[_Sent] = []
        for id_, each in lane.sent.items():
            if lane.has_left(id_):
                each.pending.lane = None
                sent.append(each)
            else:
                self._send_by_host(each)
        lane.sent.clear()
        if sent:
            pending, frames = self._tracker.verb("lane_fate", {"worker": lane.worker}, _FATE_S)
            pending.listeners.append(lambda: self._end(sent, pending.error))
            self.outbox.append(frames)

    def _end(self, sent: list[_Sent], error: HostError | None) -> None:
        told = error
        if told is None or isinstance(told, DeadlineExceededError):  # of the question, not of the calls
            told = UnavailableError(
                "the worker's connection ended, and what became of the worker is not known; whether the call was begun "
                "is unknown"
            )
        for each in sent:
            self._tracker.forget(each.pending, told)

    def _send_by_host(self, sent: _Sent) -> None:
        pending, frames = sent.pending, sent.frames
        pending.lane = None
        if pending.is_done:
            return
        deadline_ms = wire.deadline_of(frames[0])
        if deadline_ms != wire.MAX_DEADLINE_MS:
            deadline_ms = max(1, deadline_ms - int((time.monotonic() - sent.at_s) * 1000))
        self.outbox.append([wire.readdress(frames[0], pending.id, deadline_ms), *frames[1:]])
