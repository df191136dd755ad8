"""Feeds over a lane to a worker alone: what a client sends against the rules hurts its own call."""

import pytest
from lane_rig import Rig, wait_for

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode, encode_call
from hostd_workers.wire.feeds import FEED_BYTES, FEED_WINDOW

SOURCE = """
    class Model:
        def echo(self, x):
            return x
        def total(self, items):
            return sum(items)

    def load(path):
        return Model()
"""


ASYNC_SOURCE = SOURCE.replace(
    "def total(self, items):\n            return sum(items)",
    """async def total(self, items):
            return sum([item async for item in items])""",
)


@pytest.fixture(params=[SOURCE, ASYNC_SOURCE], ids=["plain", "coroutines"])
def source(request):
    return request.param


@pytest.fixture
def rig(supervisor, source):
    made = Rig(supervisor, source)
    yield made
    made.close()


def fed(id, window=FEED_WINDOW):
    body, buffers = encode_call([None], {})
    return wire.pack(msg.CALL, id, msg.pack_target(msg.Target("m", "total", feed=0, feed_window=window)), body, buffers)


def item(id, value=1):
    return wire.pack(msg.ITEM, id, body=encode(value)[0])


def end(id):
    return wire.pack(msg.END, id, body=encode(None)[0])


def asked(client, id):
    credit = client.receive()
    assert (credit.kind, credit.id) == (msg.CREDIT, id)
    return msg.unpack_credit(credit.header)


def test_a_call_takes_items_over_the_lane_and_is_counted_once(rig):
    client = rig.client()
    client.send(fed(1))
    assert asked(client, 1) == FEED_WINDOW
    assert rig.page.figures().in_flight == 1
    client.send(item(1, 3), item(1, 4), end(1))
    answer = client.receive()
    assert (answer.kind, decode(answer.body)) == (msg.RESULT, 7)
    wait_for(lambda: rig.page.figures().in_flight == 0, "the call has ended")


def test_a_flood_ends_its_call_and_the_connection_goes_on(rig):
    client = rig.client()
    client.send(fed(1, window=2), fed(2))
    assert sorted([asked(client, 1), asked(client, 2)]) == [2, FEED_WINDOW]
    client.send(*[item(1)] * 10, item(2), end(2), item(3), end(4))
    answers = [client.receive() for _ in range(2)]
    (error,) = [msg.unpack_error(each) for each in answers if each.kind == msg.ERROR]
    assert error.status.name == "INVALID_ARGUMENT"
    assert [decode(each.body) for each in answers if each.kind == msg.RESULT] == [1]
    assert client.result("echo", 5, id=6) == 5


def test_a_client_that_goes_or_stalls_takes_nothing_from_others(rig):
    stalls, goes, other = rig.client(), rig.client(), rig.client()
    for client in (stalls, goes):
        client.send(fed(1))
        asked(client, 1)
    goes.send(item(1))
    goes.close()
    assert other.result("echo", 5) == 5
    wait_for(lambda: rig.page.figures().in_flight == 1, "the call of the one that has gone has ended")
    stalls.send(end(1))
    assert stalls.receive().kind == msg.RESULT


def test_a_call_with_a_feed_counts_as_so_many_bytes_as_may_be_ahead(supervisor):
    rig = Rig(supervisor, SOURCE, max_in_flight_bytes=FEED_BYTES)
    client = rig.client()
    client.send(fed(1))
    assert msg.unpack_error(client.receive()).status.name == "RESOURCE_EXHAUSTED"
    assert client.result("echo", 5, id=2) == 5
    rig.close()
