"""The lanes of a client without its channel: which are closed, and what calls hear after their worker has gone."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from hostd.client.lanes import Lane, Lanes
from hostd.client.tracker import Pending, Tracker
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import DeadlineExceededError, HostError, UnavailableError
from hostd_workers.wire.lane.link import Link
from hostd_workers.wire.lane.spare import Spare
from hostd_workers.wire.lane.stream import new_buffer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Channel:
    """A channel; the test is its host, and has the worker's end of each lane."""

    def __init__(self, path: str) -> None:
        self.tracker = Tracker()
        self.tracker.welcome = {"lanes": True}
        self.lanes = Lanes(self.tracker, self, threading.Timer, is_on=True)
        self.address = {"path": path, "secret": b"s", "worker": 1, "max_in_flight": 9, "spin_s": 0.0}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.workers: list[Link] = []

    def watch(self, lane: Lane) -> None:
        """Nothing: the test says when something has come."""

    def watch_room(self, lane: Lane) -> None:
        """Nothing, for the same reason."""

    def open(self) -> int:
        """Give the client a lane, as the host does; return the number of the request."""
        asked, _ = self.lanes.ask("m")
        self.tracker.receive(wire.pack(msg.ITEM, asked.id, body=encode(self.address)[0]))
        self.workers.append(Link(self.listener.accept()[0], new_buffer(), 1 << 30, Spare()))
        return asked.id

    def call(self) -> Pending:
        """Begin a call over the lane that there is."""
        pending = self.lanes.begin(lambda tracker: tracker.call("m", "f", (), {}, None))
        assert pending.lane is not None
        return pending

    def turn(self, *said: Any) -> None:
        """Have the client send what it has, and the worker of its first lane answer."""
        self.lanes.flush()
        for frames in said:
            self.workers[0].send(frames)
        self.workers[0].flush()

    def take_in(self) -> None:
        for lane in list(self.lanes.open.values()):
            self.lanes.receive(lane)

    def answer(self, request: wire.Envelope | int, error: HostError | None = None) -> None:
        id_ = request if isinstance(request, int) else request.id
        if error is None:
            self.tracker.receive(wire.pack(msg.RESULT, id_, body=encode(None)[0]))
        else:
            self.tracker.receive(msg.pack_error(id_, error))

    def close(self) -> None:
        self.lanes.close()
        for worker in self.workers:
            worker.close()
        self.listener.close()


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    made = Channel(str(tmp_path / "lane"))
    yield made
    made.close()


WELCOME = wire.pack(msg.LANE_WELCOME, 0)


def test_without_a_descriptor_for_a_lane_calls_go_by_the_host(channel: Channel) -> None:
    asked, _ = channel.lanes.ask("m")
    with no_descriptor_left():
        channel.tracker.receive(wire.pack(msg.ITEM, asked.id, body=encode(channel.address)[0]))
    assert channel.lanes.begin(lambda tracker: tracker.call("m", "f", (), {}, None)).lane is None
    channel.open()
    assert channel.call().lane is not None


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("told", "heard"),
    [
        (UnavailableError("killed by SIGKILL"), "killed by SIGKILL"),
        (DeadlineExceededError("the deadline passed"), "what became of the worker is not known"),
    ],
    ids=["known", "not known in time"],
)
def test_calls_of_a_worker_that_has_gone_hear_what_became_of_it(channel: Channel, told: HostError, heard: str) -> None:
    channel.open()
    pending = channel.call()
    channel.turn(WELCOME)
    channel.take_in()
    channel.workers[0].close()
    channel.take_in()
    channel.answer(wire.unpack(channel.lanes.outbox[-1]), told)
    with pytest.raises(UnavailableError, match=heard):
        pending.result()


def test_calls_of_which_no_byte_reached_the_worker_go_to_the_host(channel: Channel) -> None:
    channel.open()
    before = channel.call()
    channel.turn(WELCOME)
    channel.take_in()
    channel.workers[0].close()
    after = channel.call()
    channel.lanes.flush()
    later = channel.call()  # and does not even leave here, before the end of the connection is seen
    channel.take_in()
    asked = [wire.unpack(frames) for frames in channel.lanes.outbox]
    assert [(each.kind, each.id) for each in asked[:2]] == [(msg.CALL, after.id), (msg.CALL, later.id)]
    assert asked[2].kind == msg.VERB, "what became of the worker, for the call that it may have begun"
    channel.answer(asked[2], UnavailableError("killed by SIGKILL"))
    assert [each.is_done for each in (before, after, later)] == [True, False, False]


def test_a_call_that_has_left_in_part_is_not_begun_again(channel: Channel) -> None:
    channel.open()
    channel.call()
    channel.turn(WELCOME)
    channel.take_in()
    long = channel.lanes.begin(lambda tracker: tracker.call("m", "f", ("x" * (4 << 20),), {}, None))
    channel.lanes.flush()  # as much as the socket holds
    channel.workers[0].close()
    channel.lanes.written[channel.lanes.open[long.lane or 0]] = None
    channel.lanes.flush()
    channel.take_in()
    assert [wire.unpack(frames).kind for frames in channel.lanes.outbox] == [msg.VERB]


def test_a_lane_over_which_nothing_more_is_to_be_sent_is_closed_after_the_last_answer(channel: Channel) -> None:
    asked = channel.open()
    pending = channel.call()
    channel.turn(WELCOME)
    channel.take_in()
    channel.answer(asked)
    assert (len(channel.lanes.open), channel.lanes.of("m")) == (1, None)
    channel.turn(wire.pack(msg.RESULT, pending.id, body=encode(5)[0]))
    channel.take_in()
    assert (pending.result(), channel.lanes.open) == (5, {})


def test_a_lane_that_another_has_replaced_is_closed(channel: Channel) -> None:
    first, second = channel.open(), channel.open()
    channel.answer(first)
    lane = channel.lanes.of("m")
    assert lane is not None
    assert (lane.asked, list(channel.lanes.open.values())) == (second, [lane])
