"""Whole messages over real ZeroMQ sockets."""

from __future__ import annotations

import gc
import itertools
import sys
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from helpers import eventually

from hostd_workers.wire import transport
from hostd_workers.wire.transport import MessageSocket, buffers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = bytes(transport.COPY_BELOW_BYTES)


class Pair:
    """Two sockets that are connected."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.sockets: list[zmq.Socket[Any]] = [context.socket(zmq.DEALER) for _ in range(2)]
        for socket in self.sockets:
            socket.linger = 0
        self.sockets[0].bind("inproc://pair")
        self.sockets[1].connect("inproc://pair")
        self.server, self.client = map(MessageSocket, self.sockets)


@pytest.fixture
def pair() -> Iterator[Pair]:
    context: zmq.Context[Any] = zmq.Context()
    made = Pair(context)
    yield made
    for socket in made.sockets:
        socket.close()
    context.term()


@pytest.mark.parametrize("frames", [[b"one"], [b"one", b"", b"three"], [b"head", BIG], [b"", BIG, BIG, b"tail"]])
@pytest.mark.parametrize("track", [False, True])
def test_a_message_arrives_whole_in_both_directions(pair: Pair, frames: list[bytes], track: bool) -> None:
    pair.client.send(frames, track=track)
    got = pair.server.receive()
    assert [bytes(frame) for frame in buffers_of(got)] == frames
    pair.server.send(got)
    back = pair.client.receive()
    assert type(back[0]) is bytes
    assert [bytes(frame) for frame in buffers_of(back)] == frames


def test_there_is_news_only_while_a_message_waits(pair: Pair) -> None:
    assert not pair.server.has_news()
    pair.client.send([b"x"])
    assert pair.server.has_news()
    pair.server.receive()
    assert not pair.server.has_news()
    with pytest.raises(zmq.Again):
        pair.server.receive()


def test_a_full_queue_sends_nothing_of_a_message_and_the_stream_of_messages_stays_whole(pair: Pair) -> None:
    def fill() -> Iterator[int]:
        for number in itertools.count():
            try:
                pair.client.send([b"%d" % number, b"second"])
            except zmq.Again:
                return
            yield number

    sent = len(list(fill()))
    assert sent > 100
    for number in range(sent):
        frames = pair.server.receive()
        assert [bytes(frame) for frame in frames] == [b"%d" % number, b"second"]
    pair.client.send([b"after", b"all"])
    assert [bytes(frame) for frame in pair.server.receive()] == [b"after", b"all"]


def test_only_big_frames_of_ours_are_lent_and_can_be_waited_for(pair: Pair) -> None:
    mine = bytearray(BIG)
    pair.client.send([b"head", mine, BIG[:-1]], track=True)
    (lent,) = pair.client.unsent
    with pytest.raises(zmq.NotDone):
        lent.wait(0.001)
    frames = pair.server.receive()
    assert len(frames) == 3
    del frames
    gc.collect()
    eventually(lambda: lent.done, "ZeroMQ needs the memory no more")
    pair.client.send([b"head", mine])
    assert len(pair.client.unsent) == 1


def test_received_frames_are_views_of_what_came(pair: Pair) -> None:
    pair.client.send([b"head", BIG])
    frames = pair.server.receive()
    before = sys.getrefcount(frames[1])
    buffers = buffers_of(frames)
    assert buffers[0] is frames[0]
    assert isinstance(buffers[1], memoryview)
    assert sys.getrefcount(frames[1]) > before
    single = [b"alone"]
    assert buffers_of(single) is single
