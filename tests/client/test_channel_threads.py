"""Many threads on one channel: one leads, others follow, none is forgotten, and how it ends."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import pytest
from calls import Connect, Fake, Waiting, answer, begin, call, follows
from fake_host import echo, polite
from helpers import SOON_S, at_most, eventually

from hostd.client._sync.calls import PendingCall
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    CancelledError,
    FailedPreconditionError,
    UnavailableError,
)

# Hand-over


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]])
def test_answers_find_their_threads_in_any_order(fake: Fake, channel: Connect, order: list[int]) -> None:
    host, one = fake(polite), channel()
    waiting = []
    for number in range(4):
        waiting.append(Waiting(lambda number=number: call(one, number)))  # type: ignore[misc]
        host.await_kind(msg.CALL, number + 1)
    follows(one, 3)
    for number in order:
        answer(host, number)
        assert waiting[number].join() == number
    assert len(one._followers) == 0
    assert not one._lead.locked()


def test_a_leader_that_gives_up_hands_the_lead_over(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    pending = begin(one)
    leader = Waiting(lambda: one.wait_until(pending, lambda: pending.is_done, time.monotonic() + 0.05))
    host.await_kind(msg.CALL)
    follower = Waiting(lambda: call(one, "follower"))
    leader.join()
    answer(host, 1)
    assert follower.join() == "follower"


def test_a_follower_that_is_woken_to_lead_when_it_gives_up_wakes_the_next(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    first, second = begin(one, "first"), begin(one, "second")
    one._lead.acquire()
    impatient = Waiting(lambda: one.wait_until(first, lambda: False, time.monotonic() + 0.05))
    follows(one)
    patient = Waiting(lambda: one.wait(second, None))
    follows(one, 2)
    # The hand-over meets the deadline: the woken one leaves without leading.
    woken = one._followers._sleeps[0]
    one._lead.release()
    woken.is_over = True
    impatient.join()
    answer(host, 1)
    assert patient.join() == "second"


def test_a_thread_that_is_interrupted_while_it_leads_gives_the_lead_back(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()

    def interrupted() -> bool:
        raise KeyboardInterrupt

    pending = begin(one)
    with pytest.raises(KeyboardInterrupt):
        one.wait_until(pending, interrupted, None)
    assert not one._lead.locked()
    answer(host, 0)
    assert one.wait(pending, 20) == "x"


def test_a_send_that_fails_gives_the_lead_back(fake: Fake, channel: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    host, one = fake(), channel()
    with monkeypatch.context() as patched:
        patched.setattr(one._pump.connection, "send", lambda _frames: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            begin(one)
    assert not one._lead.locked()
    assert call(one, "after") == "after"
    assert host.of_kind(msg.CALL)


# Several waiters of one call


def test_several_threads_may_wait_for_one_call_and_asking_whether_it_is_done_takes_it_from_none(
    fake: Fake, channel: Connect
) -> None:
    host, one = fake(polite), channel()
    leader = Waiting(lambda: call(one, "the leader's"))
    host.await_kind(msg.CALL)
    shared = PendingCall(one, begin(one, "shared"), None)
    waiting = [Waiting(shared.result) for _ in range(3)]
    follows(one, 3)
    for _ in range(5):
        assert not shared.done()
    answer(host, 1)
    assert [thread.join() for thread in waiting] == ["shared"] * 3
    assert shared.done()
    answer(host, 0)
    assert leader.join() == "the leader's"


def test_asking_whether_a_call_is_done_does_not_wait_and_takes_in_what_has_come(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    pending = PendingCall(one, begin(one), None)
    with at_most(SOON_S, "to ask a hundred times"):
        assert not any(pending.done() for _ in range(100))
    answer(host, 0)
    eventually(pending.done, "the answer")
    assert pending.result() == "x"
    assert repr(pending) == "<PendingCall done>"


def test_a_call_that_is_cancelled_ends_for_all_that_wait(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    pending = PendingCall(one, begin(one), None)
    waiting = [Waiting(pending.result) for _ in range(3)]
    follows(one, 2)
    pending.cancel()
    assert all(isinstance(thread.join(), CancelledError) for thread in waiting)
    assert host.await_kind(msg.CANCEL)[0].id == host.of_kind(msg.CALL)[0].id
    assert pending.cancel()
    assert len(host.of_kind(msg.CANCEL)) == 1


# Deadlines


@pytest.mark.parametrize("timeout_s", [1e10, float("inf")])
def test_any_timeout_can_be_waited_for(fake: Fake, channel: Connect, timeout_s: float) -> None:
    host, one = fake(polite), channel()
    leader = Waiting(lambda: call(one, "leader", timeout_s))
    host.await_kind(msg.CALL)
    follower = Waiting(lambda: call(one, "follower", timeout_s))
    follows(one)
    answer(host, 1)
    answer(host, 0)
    assert (leader.join(), follower.join()) == ("leader", "follower")


# Closing


@pytest.mark.parametrize("seed", range(5))
def test_closing_at_any_moment_from_several_threads_ends_everything(fake: Fake, channel: Connect, seed: int) -> None:
    fake()
    one = channel()
    chance = random.Random(seed)
    began = threading.Barrier(7)

    def work() -> str:
        began.wait()
        while True:
            try:
                call(one)
            except CancelledError:
                return "cancelled"
            except FailedPreconditionError:
                return "closed"

    def close() -> str:
        began.wait()
        for _ in range(chance.randrange(2000)):
            pass
        one.close()
        return "closed"

    threads = [Waiting(work) for _ in range(5)] + [Waiting(close) for _ in range(2)]
    assert {thread.join() for thread in threads} <= {"cancelled", "closed"}
    assert not one._lead.locked()


def test_a_thread_that_still_wants_to_wake_the_leader_writes_into_nobodys_file(fake: Fake, channel: Connect) -> None:
    fake()
    one = channel()
    number = one._pump.waker.fd
    one.close()
    reused = os.open("/dev/null", os.O_RDONLY)  # a write to this would fail
    try:
        assert reused <= number
        os.dup2(reused, number)
        with one._lead:  # a thread that found the lead taken just before is about to do this
            one._hurry()
    finally:
        os.close(reused)
        if reused != number:
            os.close(number)


# The connection breaks


def test_an_answer_that_came_just_before_the_host_died_counts(fake: Fake, channel: Connect) -> None:
    host, one = fake(), channel()
    pending = begin(one)
    eventually(lambda: one._pump.connection is not None and one._pump.connection.has_news(), "the answer is here")
    host.stop()
    assert one.wait(pending, 20) == "x"


def test_a_request_that_was_made_while_the_connection_broke_is_unavailable_not_forgotten(
    fake: Fake, channel: Connect
) -> None:
    host, one = fake(polite), channel()

    def make(tracker: Any) -> Any:
        one._pump.connection, connection = None, one._pump.connection
        assert connection is not None
        connection.close()
        return tracker.call("m", "echo", ["x"], {}, None)

    pending = one.begin(make)
    with pytest.raises(UnavailableError, match="broke before the request was sent: try again"):
        one.wait(pending, None)
    host.answer = echo
    assert call(one, 1) == 1
