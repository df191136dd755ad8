"""How a channel ends: closed, broken, or left to a finalizer; everybody who waits hears of it."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
from typing import Any

import pytest
from calls import Connect, Fake, Waiting, answer, begin, call, follows, stream
from fake_host import echo, polite
from helpers import SOON_S, at_most, descriptors, eventually

from hostd.client._sync.channel import Channel
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    CancelledError,
    FailedPreconditionError,
    ProtocolError,
    UnavailableError,
)

# Closing


def test_closing_ends_every_wait_with_cancelled_and_says_goodbye(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    waiting = [Waiting(lambda: call(one)) for _ in range(8)]
    host.await_kind(msg.CALL, 8)
    follows(one, 7)
    with at_most(SOON_S, "closing"):
        one.close()
        outcomes = [thread.join() for thread in waiting]
    assert [type(outcome) for outcome in outcomes] == [CancelledError] * 8
    assert {str(outcome) for outcome in outcomes} == {"the client was closed"}
    host.await_kind(msg.BYE)


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


def test_closing_gives_every_descriptor_back(endpoint: str, fake: Fake) -> None:
    fake()
    before = descriptors()
    one = Channel(endpoint, 20)
    assert descriptors() != before
    one.close()
    eventually(lambda: descriptors() == before, "ZeroMQ has closed everything")


def test_who_still_wants_to_wake_the_leader_writes_into_nobodys_file(fake: Fake, channel: Connect) -> None:
    fake()
    one = channel()
    number = one._waker.fd
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


def test_every_request_ends_when_the_host_dies(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    waiting = [Waiting(lambda: call(one)) for _ in range(8)]
    host.await_kind(msg.CALL, 8)
    host.stop()
    outcomes = [thread.join() for thread in waiting]
    assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 8
    assert len({id(outcome) for outcome in outcomes}) == 8, "threads must not raise one and the same exception"
    assert "went away before it answered" in str(outcomes[0])


def test_an_answer_that_came_just_before_the_host_died_counts(fake: Fake, channel: Connect) -> None:
    host, one = fake(), channel()
    pending = begin(one)
    eventually(lambda: one._connection is not None and one._connection.has_news(), "the answer is here")
    host.stop()
    assert one.wait(pending, 20) == "x"


def test_a_host_that_begins_to_talk_nonsense_is_left_with_a_typed_error_for_everybody(
    fake: Fake, channel: Connect
) -> None:
    host, one = fake(polite), channel()
    waiting = [Waiting(lambda: call(one)) for _ in range(4)]
    host.await_kind(msg.CALL, 4)
    host.say([b"nonsense"])
    assert [type(thread.join()) for thread in waiting] == [ProtocolError] * 4
    host.answer = echo
    assert call(one, "again") == "again"
    assert len(host.clients) == 2


def test_a_request_that_was_made_while_the_connection_broke_is_unavailable_not_forgotten(
    fake: Fake, channel: Connect
) -> None:
    host, one = fake(polite), channel()

    def make(tracker: Any) -> Any:
        one._connection, connection = None, one._connection
        assert connection is not None
        connection.close()
        return tracker.call("m", "echo", ["x"], {}, None)

    pending = one.begin(make)
    with pytest.raises(UnavailableError, match="broke before the request was sent: try again"):
        one.wait(pending, None)
    host.answer = echo
    assert call(one, 1) == 1


# Finalizers


def test_a_stream_that_is_dropped_is_cancelled(fake: Fake, channel: Connect) -> None:
    host, one = fake(), channel()
    items = stream(one, 10)
    assert next(items) == 0
    host.answer = polite
    endless = stream(one, 1)
    del items
    del endless
    assert {request.id for request in host.await_kind(msg.CANCEL)} <= {request.id for request in host.received}


def test_a_stream_that_ended_is_not_cancelled(fake: Fake, channel: Connect) -> None:
    host, one = fake(), channel()
    assert list(stream(one, 100)) == list(range(100))
    assert call(one) == "x"
    assert host.of_kind(msg.CANCEL) == []


@pytest.mark.parametrize("held", ["_lead", "_tracking", "_connecting", "_waker"])
def test_a_finalizer_may_run_while_its_own_thread_holds_any_lock(fake: Fake, channel: Connect, held: str) -> None:
    host, one = fake(polite), channel()
    cycle: list[Any] = [stream(one, 1)]
    cycle.append(cycle)
    del cycle
    lock = one._waker._using if held == "_waker" else getattr(one, held)
    with lock, one._lead if held == "_waker" else contextlib.nullcontext():
        gc.collect()
    host.answer = echo
    assert call(one) == "x"
    assert len(host.await_kind(msg.CANCEL)) == 1


def test_a_finalizer_may_run_while_a_request_is_made(fake: Fake, channel: Connect) -> None:
    fake()
    one = channel()

    def make(tracker: Any) -> Any:
        cycle: list[Any] = [dropped.pop()]
        cycle.append(cycle)
        del cycle
        gc.collect()
        return tracker.call("m", "echo", ["x"], {}, None)

    dropped = [stream(one, 1)]
    assert one.wait(one.begin(make), 20) == "x"


def test_a_finalizer_may_run_in_a_follower_that_is_about_to_sleep(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    begin(one)
    one._lead.acquire()
    pending = begin(one, "second")
    follower = Waiting(lambda: one.wait(pending, None))
    follows(one)
    one._lead.release()
    one._followers.wake_one()
    one._followers.wake_one()
    answer(host, 1)
    assert follower.join() == "second"
