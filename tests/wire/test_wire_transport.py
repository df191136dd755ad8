"""Whole messages over real ZeroMQ sockets."""

import gc
import itertools
import sys

import pytest
import zmq
from helpers import eventually

from hostd_workers.wire import transport
from hostd_workers.wire.transport import MessageSocket, buffers_of

BIG = bytes(transport.COPY_BELOW_BYTES)


class Pair:
    """Two sockets that are connected."""

    def __init__(self, context):
        self.sockets = [context.socket(zmq.DEALER) for _ in range(2)]
        for socket in self.sockets:
            socket.linger = 0
        self.sockets[0].bind("inproc://pair")
        self.sockets[1].connect("inproc://pair")
        self.server, self.client = map(MessageSocket, self.sockets)


@pytest.fixture
def pair():
    context = zmq.Context()
    made = Pair(context)
    yield made
    for socket in made.sockets:
        socket.close()
    context.term()


FRAMES = {"one": [b"one"], "three": [b"one", b"", b"three"], "big": [b"head", BIG], "all": [b"", BIG, BIG, b"tail"]}


@pytest.mark.parametrize("frames", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("track", [False, True])
def test_a_message_arrives_whole_in_both_directions(pair, frames, track):
    pair.client.send(frames, track=track)
    got = pair.server.receive()
    assert [bytes(frame) for frame in buffers_of(got)] == frames
    pair.server.send(got)
    back = pair.client.receive()
    assert type(back[0]) is bytes
    assert [bytes(frame) for frame in buffers_of(back)] == frames


def test_there_is_news_only_while_a_message_waits(pair):
    assert not pair.server.has_news()
    pair.client.send([b"x"])
    assert pair.server.has_news()
    pair.server.receive()
    assert not pair.server.has_news()
    with pytest.raises(zmq.Again):
        pair.server.receive()


def test_a_full_queue_sends_nothing_of_a_message_and_the_stream_of_messages_stays_whole(pair):
    sent = 0
    with pytest.raises(zmq.Again):
        for sent in itertools.count():
            pair.client.send([b"%d" % sent, b"second"])
    assert sent > 100
    pair_of = [[b"%d" % number, b"second"] for number in range(sent)]
    assert [[bytes(frame) for frame in pair.server.receive()] for _ in range(sent)] == pair_of
    pair.client.send([b"after", b"all"])
    assert [bytes(frame) for frame in pair.server.receive()] == [b"after", b"all"]


def test_only_big_frames_of_ours_are_lent_and_can_be_waited_for(pair):
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


def test_received_frames_are_views_of_what_came(pair):
    pair.client.send([b"head", BIG])
    frames = pair.server.receive()
    before = sys.getrefcount(frames[1])
    buffers = buffers_of(frames)
    assert buffers[0] is frames[0]
    assert isinstance(buffers[1], memoryview)
    assert sys.getrefcount(frames[1]) > before
    single = [b"alone"]
    assert buffers_of(single) is single
