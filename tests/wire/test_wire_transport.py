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
    """A ROUTER and a DEALER that knows it."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.router: zmq.Socket[Any] = context.socket(zmq.ROUTER)
        self.dealer: zmq.Socket[Any] = context.socket(zmq.DEALER)
        for socket in (self.router, self.dealer):
            socket.linger = 0
        self.router.router_mandatory = 1
        self.dealer.identity = b"peer"
        self.router.bind("inproc://pair")
        self.dealer.connect("inproc://pair")
        self.server, self.client = MessageSocket(self.router), MessageSocket(self.dealer)


@pytest.fixture
def pair() -> Iterator[Pair]:
    context: zmq.Context[Any] = zmq.Context()
    made = Pair(context)
    yield made
    made.router.close()
    made.dealer.close()
    context.term()


@pytest.mark.parametrize("frames", [[b"one"], [b"one", b"", b"three"], [b"head", BIG], [b"", BIG, BIG, b"tail"]])
@pytest.mark.parametrize("track", [False, True])
def test_a_message_arrives_whole_in_both_directions(pair: Pair, frames: list[bytes], track: bool) -> None:
    pair.client.send(frames, track=track)
    identity, got = pair.server.receive_routed()
    assert identity == b"peer"
    assert [bytes(frame) for frame in buffers_of(got)] == frames
    pair.server.send_routed(identity, got)
    back = pair.client.receive()
    assert type(back[0]) is bytes
    assert [bytes(frame) for frame in buffers_of(back)] == frames


def test_there_is_news_only_while_a_message_waits(pair: Pair) -> None:
    assert not pair.server.has_news()
    pair.client.send([b"x"])
    assert pair.server.has_news()
    pair.server.receive_routed()
    assert not pair.server.has_news()
    with pytest.raises(zmq.Again):
        pair.server.receive()


def test_a_peer_that_is_not_there_is_an_error_not_silence(pair: Pair) -> None:
    with pytest.raises(zmq.ZMQError) as caught:
        pair.server.send_routed(b"nobody", [b"x"])
    assert caught.value.errno == zmq.EHOSTUNREACH


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
        _, frames = pair.server.receive_routed()
        assert [bytes(frame) for frame in frames] == [b"%d" % number, b"second"]
    pair.client.send([b"after", b"all"])
    assert [bytes(frame) for frame in pair.server.receive_routed()[1]] == [b"after", b"all"]


def test_only_big_frames_of_ours_are_lent_and_can_be_waited_for(pair: Pair) -> None:
    mine = bytearray(BIG)
    pair.client.send([b"head", mine, BIG[:-1]], track=True)
    (lent,) = pair.client.unsent
    with pytest.raises(zmq.NotDone):
        lent.wait(0.001)
    identity, frames = pair.server.receive_routed()
    assert identity == b"peer"
    del frames
    gc.collect()
    eventually(lambda: lent.done, "ZeroMQ needs the memory no more")
    pair.client.send([b"head", mine])
    assert len(pair.client.unsent) == 1


def test_received_frames_are_views_of_what_came(pair: Pair) -> None:
    pair.client.send([b"head", BIG])
    _, frames = pair.server.receive_routed()
    before = sys.getrefcount(frames[1])
    buffers = buffers_of(frames)
    assert buffers[0] is frames[0]
    assert isinstance(buffers[1], memoryview)
    assert sys.getrefcount(frames[1]) > before
    single = [b"alone"]
    assert buffers_of(single) is single
