"""Many threads on one channel: who leads, who follows, and that nobody is forgotten."""

from __future__ import annotations

import time

import pytest
from calls import Connect, Fake, Waiting, answer, begin, call, follows
from fake_host import echo, polite
from helpers import SOON_S, at_most, eventually

from hostd.client._sync.calls import PendingCall
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    CancelledError,
    DeadlineExceededError,
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
        patched.setattr(one._connection, "send", lambda _frames: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            begin(one)
    assert not one._lead.locked()
    assert call(one, "after") == "after"
    assert host.of_kind(msg.CALL)


# Several waiters of one call


def test_two_threads_may_wait_for_one_call(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    leader = Waiting(lambda: call(one, "the leader's"))
    host.await_kind(msg.CALL)
    shared = PendingCall(one, begin(one, "shared"), None)
    waiting = [Waiting(shared.result) for _ in range(3)]
    follows(one, 3)
    answer(host, 1)
    assert [thread.join() for thread in waiting] == ["shared"] * 3
    answer(host, 0)
    assert leader.join() == "the leader's"


def test_asking_whether_a_call_is_done_takes_it_from_nobody(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    leader = Waiting(lambda: call(one, "the leader's"))
    host.await_kind(msg.CALL)
    shared = PendingCall(one, begin(one, "shared"), None)
    waiting = Waiting(shared.result)
    follows(one)
    for _ in range(5):
        assert not shared.done()
    answer(host, 1)
    assert waiting.join() == "shared"
    assert shared.done()
    answer(host, 0)
    leader.join()


def test_asking_whether_a_call_is_done_does_not_wait_and_takes_in_what_has_come(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    pending = PendingCall(one, begin(one), None)
    began_s = time.perf_counter()
    for _ in range(100):
        assert not pending.done()
    assert time.perf_counter() - began_s < SOON_S, "a poll waits"
    answer(host, 0)
    eventually(pending.done, "the answer")
    assert pending.result() == "x"
    assert repr(pending) == "<PendingCall done>"


def test_a_wait_that_was_too_short_does_not_end_the_call(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    pending = PendingCall(one, begin(one), None)
    with at_most(SOON_S, "a wait of 0.02 s"), pytest.raises(DeadlineExceededError, match="the call goes on"):
        pending.result(0.02)
    answer(host, 0)
    assert pending.result(20) == "x"
    assert host.of_kind(msg.CANCEL) == []


def test_a_call_that_is_cancelled_ends_for_all_who_wait(fake: Fake, channel: Connect) -> None:
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


def test_a_host_that_hangs_is_given_a_little_grace_and_told(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    with at_most(SOON_S, "a call of 0.05 s"), pytest.raises(DeadlineExceededError, match=r"within 0\.05 s"):
        call(one, timeout_s=0.05)
    assert host.await_kind(msg.CANCEL)[0].id == host.of_kind(msg.CALL)[0].id
    assert len(one._tracker) == 0


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


def test_a_late_answer_is_dropped_and_the_next_call_is_not_confused(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    with pytest.raises(DeadlineExceededError):
        call(one, "late", 0.01)
    answer(host, 0)
    host.answer = echo
    assert call(one, "next") == "next"
