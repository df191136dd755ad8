"""Both ends of a feed: what one may send, what the other asks for, and that neither waits for the other for ever."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import AbortedError, CancelledError, ProtocolError
from hostd_workers.wire.feeds import FEED_BYTES, FEED_WINDOW, FeedReceiver, FeedSender, FeedState, put, size_of


def item(size_bytes=1):
    return wire.unpack(wire.pack(msg.ITEM, 1, body=b"b" * size_bytes))


class Pair:
    """Both ends, and what is on its way between them."""

    def __init__(self, window=FEED_WINDOW):
        self.sender, self.receiver = FeedSender(window), FeedReceiver(window)
        self.window = window
        self.items, self.credits = deque(), deque()
        self.sent = self.taken = 0

    def send(self, size_bytes=1):
        assert self.sender.may_send
        self.sender.sent(size_bytes)
        self.items.append(item(size_bytes))
        self.sent += 1

    def deliver(self):
        while self.items:
            self.receiver.came(self.items.popleft())
        while self.credits:
            self.sender.granted(self.credits.popleft())

    def ask(self):
        """Do what a model does that wants an item; say whether it has to wait."""
        credit = self.receiver.grant()
        if credit:
            self.credits.append(credit)
        if not self.receiver.must_wait:
            self.receiver.take()
            self.taken += 1
        return self.receiver.must_wait


def test_nothing_is_sent_before_the_model_asks():
    pair = Pair()
    assert not pair.sender.may_send
    pair.ask()
    pair.deliver()
    assert pair.sender.may_send


def test_a_window_may_be_ahead_of_the_model_and_no_more():
    pair = Pair()
    pair.ask()
    pair.deliver()
    while pair.sender.may_send:
        pair.send()
    assert pair.sent == FEED_WINDOW


def test_with_a_window_of_one_each_item_is_sent_when_the_model_asks_for_it():
    pair = Pair(window=1)
    for count in range(1, 5):
        pair.ask()
        pair.deliver()
        pair.send()
        assert not pair.sender.may_send
        pair.deliver()
        assert not pair.sender.may_send, "it has come, and was not asked for another one"
        pair.ask()
        assert pair.taken == count


def test_credit_is_given_in_halves_of_a_window_not_for_each_item():
    pair = Pair()
    pair.ask()
    pair.deliver()
    for _ in range(FEED_WINDOW):
        pair.send()
    pair.deliver()
    for _ in range(FEED_WINDOW // 2):
        pair.ask()
        assert not pair.credits
    pair.ask()
    assert list(pair.credits) == [FEED_WINDOW // 2]


def test_of_large_items_one_is_sent_when_those_before_it_were_taken():
    pair = Pair()
    pair.ask()
    pair.deliver()
    pair.send(FEED_BYTES)
    assert not pair.sender.may_send
    pair.deliver()
    pair.ask()
    assert not pair.credits, "it is told when the model asks again"
    assert pair.ask()
    pair.deliver()
    assert pair.sender.may_send


def test_an_item_without_credit_is_a_flood():
    receiver = FeedReceiver(2)
    with pytest.raises(ProtocolError, match="no credit"):
        receiver.came(item())
    receiver.grant()
    receiver.came(item())
    receiver.came(item())
    with pytest.raises(ProtocolError, match="no credit"):
        receiver.came(item())


def test_more_bytes_than_there_may_be_are_a_flood():
    receiver = FeedReceiver(FEED_WINDOW)
    receiver.grant()
    receiver.came(item(FEED_BYTES))
    with pytest.raises(ProtocolError, match="no credit"):
        receiver.came(item())
    receiver.take()
    with pytest.raises(ProtocolError, match="no credit"):
        receiver.came(item())
    receiver.grant()
    receiver.came(item())


def test_items_that_came_before_the_end_are_taken_before_it():
    receiver = FeedReceiver(4)
    receiver.grant()
    receiver.came(item(7))
    receiver.end()
    assert size_of(receiver.take()) == 7
    assert (receiver.take(), receiver.must_wait) == (None, False)
    assert receiver.grant() == 0


def test_the_reason_for_which_a_call_is_over_overtakes_what_waits_and_stays():
    receiver = FeedReceiver(4)
    receiver.grant()
    receiver.came(item())
    receiver.close(AbortedError("the input failed"))
    receiver.close(CancelledError("later"))
    for _ in range(2):
        with pytest.raises(AbortedError, match="the input failed"):
            receiver.take()
    assert not receiver.must_wait
    receiver.came(item())
    receiver.end()
    assert receiver.state is FeedState.OVER


def test_what_has_ended_sends_nothing():
    for end in (FeedSender.end, FeedSender.close):
        sender = FeedSender(4)
        sender.granted(4)
        end(sender)
        assert not sender.may_send
        sender.granted(4)
        assert not sender.may_send


def test_an_end_after_the_call_changes_nothing():
    sender = FeedSender(4)
    sender.close()
    sender.end()
    assert sender.state is FeedState.OVER


def test_a_feed_is_put_where_the_header_says():
    args, kwargs = [1, None], {"audio": None}
    assert put(args, kwargs, 1, "a")
    assert put(args, kwargs, "audio", "b")
    assert (args, kwargs) == ([1, "a"], {"audio": "b"})
    assert not put(args, kwargs, 2, "c")
    assert not put(args, kwargs, "video", "c")


def test_both_say_how_they_are():
    pair = Pair(window=4)
    pair.ask()
    pair.deliver()
    pair.send(9)
    assert repr(pair.sender) == "<FeedSender OPEN 1 of 4 sent, 9 bytes>"
    pair.deliver()
    assert repr(pair.receiver) == "<FeedReceiver OPEN 1 of 4 came, 1 wait>"


SIZES = st.sampled_from([1, 100, FEED_BYTES // 3, FEED_BYTES - 1, FEED_BYTES, 3 * FEED_BYTES])
MOVES = st.lists(st.one_of(st.just("ask"), st.just("deliver"), SIZES), max_size=120)


@settings(max_examples=200, deadline=None)
@given(window=st.integers(1, FEED_WINDOW), moves=MOVES)
def test_whatever_happens_nothing_floods_and_a_model_that_waits_gets_its_item(window, moves):
    pair = Pair(window)
    for move in moves:
        if move == "ask":
            pair.ask()
        elif move == "deliver":
            pair.deliver()  # which raises if the other end took it for a flood
        elif pair.sender.may_send:
            before_bytes = pair.sender._untaken_bytes
            pair.send(move)
            assert before_bytes < FEED_BYTES
        assert pair.sent - pair.taken <= window
    taken = pair.taken
    while pair.taken == taken:
        pair.ask()
        pair.deliver()
        if pair.taken == taken and not pair.receiver._waiting:
            pair.send(1)
            pair.deliver()
