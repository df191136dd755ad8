"""Many threads on one channel: who leads, who follows, and that nobody is forgotten."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from fake_host import FakeHost, echo, polite
from helpers import at_most, descriptors, eventually

from hostd.client.channel import Channel
from hostd.client.sync import ItemStream, PendingCall
from workers.wire import frames as wire
from workers.wire import messages as msg
from workers.wire.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    HostError,
    ProtocolError,
    UnavailableError,
)

if TYPE_CHECKING:
    from hostd.client.tracker import Pending

Fake = Callable[..., FakeHost]


@pytest.fixture
def channel(endpoint: str) -> Iterator[Callable[[], Channel]]:
    """Connect channels to the endpoint; they are closed with the test."""
    made: list[Channel] = []

    def connect(connect_timeout_s: float = 20) -> Channel:
        made.append(Channel(endpoint, connect_timeout_s))
        return made[-1]

    yield connect
    for one in made:
        one.close()


Connect = Callable[[], Channel]


def begin(channel: Channel, value: Any = "x", timeout_s: float | None = None) -> Pending:
    return channel.begin(lambda tracker: tracker.call("m", "echo", [value], {}, timeout_s))


def call(channel: Channel, value: Any = "x", timeout_s: float | None = None) -> Any:
    return channel.wait(begin(channel, value, timeout_s), timeout_s)


def stream(channel: Channel, count: int) -> ItemStream:
    return ItemStream(channel, channel.begin(lambda t: t.stream("m", "count", [count], {}, None)), None)


class Waiting:
    """A thread that waits for something on a channel, and what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self.outcome = work()
        except HostError as error:
            self.outcome = error

    def join(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the thread waits for ever"
        return self.outcome


def follows(channel: Channel, count: int = 1) -> None:
    """Wait until `count` threads follow."""
    eventually(lambda: len(channel._followers) >= count, f"{count} followers")


def answer(host: FakeHost, number: int, value: Any = None) -> None:
    """Answer the call of this number."""
    request = host.await_kind(msg.CALL, number + 1)[number]
    for frames in echo(host, request):
        host.say(frames)


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
    assert time.perf_counter() - began_s < 0.1, "a poll waits"
    answer(host, 0)
    eventually(pending.done, "the answer")
    assert pending.result() == "x"
    assert repr(pending) == "<PendingCall done>"


def test_a_wait_that_was_too_short_does_not_end_the_call(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    pending = PendingCall(one, begin(one), None)
    with at_most(0.8, "a wait of 0.02 s"), pytest.raises(DeadlineExceededError, match="the call goes on"):
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
    assert [type(thread.join()) for thread in waiting] == [CancelledError] * 3
    assert host.await_kind(msg.CANCEL)[0].id == host.of_kind(msg.CALL)[0].id
    pending.cancel()
    assert len(host.of_kind(msg.CANCEL)) == 1


# Deadlines


def test_a_host_that_hangs_is_given_a_little_grace_and_told(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    with at_most(5, "a call of 0.05 s"), pytest.raises(DeadlineExceededError, match=r"within 0\.05 s"):
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


# Closing


def test_closing_ends_every_wait_with_cancelled_and_says_goodbye(fake: Fake, channel: Connect) -> None:
    host, one = fake(polite), channel()
    waiting = [Waiting(lambda: call(one)) for _ in range(8)]
    host.await_kind(msg.CALL, 8)
    follows(one, 7)
    with at_most(5, "closing"):
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


def test_closing_gives_every_descriptor_back_at_once(endpoint: str, fake: Fake) -> None:
    fake()
    before = descriptors()
    one = Channel(endpoint, 20)
    assert descriptors() != before
    one.close()
    assert descriptors() == before


def test_who_still_wants_to_wake_the_leader_writes_into_nobodys_file(fake: Fake, channel: Connect) -> None:
    fake()
    one = channel()
    number = one._wake_fd
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


@pytest.mark.parametrize("held", ["_lead", "_tracking", "_connecting", "_waking"])
def test_a_finalizer_may_run_while_its_own_thread_holds_any_lock(fake: Fake, channel: Connect, held: str) -> None:
    host, one = fake(polite), channel()
    cycle: list[Any] = [stream(one, 1)]
    cycle.append(cycle)
    del cycle
    with getattr(one, held), one._lead if held == "_waking" else contextlib.nullcontext():
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


# Everything at once


def storm(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
    """Answer most things, some with errors."""
    for frames in echo(host, request):
        if request.kind == msg.CALL and request.id % 11 == 0:
            yield msg.pack_error(request.id, DeadlineExceededError("as it happens"))
        else:
            yield frames


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_calls_streams_cancels_and_short_waits_loses_nothing(
    fake: Fake, channel: Connect, seed: int
) -> None:
    fake(storm)
    one = channel()

    def work(number: int) -> int:
        chance = random.Random(seed * 1000 + number)
        done = 0
        for turn in range(60):
            value = f"{number}.{turn}"
            match chance.randrange(6):
                case 0:
                    pending = PendingCall(one, begin(one, value), None)
                    if chance.random() < 0.5:
                        pending.cancel()
                    else:
                        assert outcome_of(pending.result) in (value, DeadlineExceededError)
                case 1:
                    items = stream(one, 100)
                    assert next(items) == 0
                    if chance.random() < 0.5:
                        items.close()
                    elif chance.random() < 0.5:
                        assert list(items) == list(range(1, 100))
                case 2:
                    pending = PendingCall(one, begin(one, value), None)
                    assert outcome_of(lambda pending=pending: pending.result(0.0001)) in (value, DeadlineExceededError)
                    assert outcome_of(pending.result) in (value, DeadlineExceededError)
                case 3:
                    pendings = [PendingCall(one, begin(one, n), None) for n in range(10)]
                    assert all(outcome_of(p.result) in (n, DeadlineExceededError) for n, p in enumerate(pendings))
                case _:
                    assert outcome_of(lambda value=value: call(one, value)) in (value, DeadlineExceededError)
            done += 1
        return done

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(work, range(32))) == [60] * 32
    assert not one._lead.locked()
    assert len(one._followers) == 0
    assert outcome_of(lambda: call(one, "after the storm", 20)) in ("after the storm", DeadlineExceededError)


def outcome_of(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except HostError as error:
        return type(error)


@pytest.mark.heavy
def test_hosts_that_come_and_go_under_many_threads_leave_nobody_waiting(
    endpoint: str, fake: Fake, channel: Connect
) -> None:
    host = fake()
    one = channel()
    is_over = threading.Event()
    outcomes: set[Any] = set()

    def work(number: int) -> None:
        while not is_over.is_set():
            outcome = outcome_of(lambda: call(one, number, 20))
            outcomes.add(outcome if isinstance(outcome, type) else "answered")
            assert outcome in (number, UnavailableError)

    threads = [Waiting(lambda number=number: work(number)) for number in range(16)]  # type: ignore[misc]
    for _ in range(15):
        eventually(lambda host=host: len(host.of_kind(msg.CALL)) > 20, "calls arrive at this host, too")
        host.stop()
        host = fake()
    is_over.set()
    for thread in threads:
        thread.join()
    assert outcomes <= {"answered", UnavailableError}
    assert call(one, "in the end", 20) == "in the end"
