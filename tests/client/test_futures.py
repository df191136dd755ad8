"""Pending calls as `concurrent.futures` knows them; nobody but these functions waits, and no thread stays."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

import pytest
from calls import Waiting, answer
from fake_host import FakeHost, Frames, echo, polite
from helpers import PATIENCE_S, SOON_S, at_most, eventually
from programs import run

import hostd
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

Fake = Callable[..., FakeHost]


@pytest.fixture
def host(fake: Fake) -> FakeHost:
    """A host that answers when it is told to."""
    return fake(polite)


@pytest.fixture
def client(endpoint: str, host: FakeHost) -> Iterator[hostd.Client]:
    with hostd.connect(endpoint) as connected:
        yield connected
    eventually(lambda: not helpers(), "the threads that waited for calls have ended")


def helpers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "hostd-calls"]


def begin(client: hostd.Client, value: Any = "x", timeout_s: float | None = None) -> hostd.PendingCall:
    return client.submit("m", "echo", (value,), {}, timeout_s)


def answer_soon(host: FakeHost, *numbers: int) -> None:
    """Answer calls while somebody waits for them."""

    def run() -> None:
        eventually(helpers, "somebody waits")
        for number in numbers:
            answer(host, number)

    threading.Thread(target=run).start()


def test_a_pending_call_has_all_that_a_future_has(client: hostd.Client, host: FakeHost) -> None:
    call = begin(client)
    plain = vars(futures.Future())
    assert {name: type(getattr(call, name)) for name in plain if name != "_waiters"} == {
        name: type(value) for name, value in plain.items() if name != "_waiters"
    }
    assert list(call._waiters) == plain["_waiters"]
    assert call._condition is call._condition


def test_calls_are_iterated_over_as_they_complete(host: FakeHost, client: hostd.Client) -> None:
    calls = [begin(client, number) for number in range(4)]
    completed = futures.as_completed(calls, timeout=PATIENCE_S)
    for number in (2, 0, 3, 1):
        answer_soon(host, number)
        assert next(completed) is calls[number]
        assert calls[number].result() == number
    assert next(completed, None) is None


def test_a_call_that_was_done_before_is_completed_at_once(host: FakeHost, client: hostd.Client) -> None:
    calls = [begin(client, number) for number in range(2)]
    answer(host, 0)
    eventually(calls[0].done, "the answer")
    assert next(futures.as_completed(calls)) is calls[0]
    assert futures.wait(calls, return_when=futures.FIRST_COMPLETED).done == {calls[0]}


@pytest.mark.parametrize("when", [futures.ALL_COMPLETED, futures.FIRST_COMPLETED, futures.FIRST_EXCEPTION])
def test_calls_are_waited_for(host: FakeHost, client: hostd.Client, when: str) -> None:
    calls = [begin(client, number) for number in range(3)]
    error = msg.pack_error(1, hostd.NotFoundError("no model"))
    if when == futures.FIRST_EXCEPTION:

        def fail() -> None:
            request = host.await_kind(msg.CALL, 2)[1]
            eventually(helpers, "somebody waits")
            host.say([wire.readdress(error[0], request.id, wire.MAX_DEADLINE_MS), *error[1:]])

        threading.Thread(target=fail).start()
    else:
        answer_soon(host, *range(3) if when == futures.ALL_COMPLETED else [1])
    with at_most(SOON_S, "to hear of it"):
        done, pending = futures.wait(calls, PATIENCE_S, when)
    if when == futures.ALL_COMPLETED:
        assert (done, pending) == (set(calls), set())
    else:
        assert (done, pending) == ({calls[1]}, {calls[0], calls[2]})


def test_a_wait_that_was_too_short_leaves_no_thread_and_the_calls_go_on(host: FakeHost, client: hostd.Client) -> None:
    calls = [begin(client, number) for number in range(2)]
    with at_most(SOON_S, "a wait of 0.05 s"):
        assert futures.wait(calls, 0.05) == (set(), set(calls))
    with pytest.raises(futures.TimeoutError):
        next(futures.as_completed(calls, 0.05))
    eventually(lambda: not helpers(), "nobody waits any more")
    answer(host, 1)
    assert calls[1].result(PATIENCE_S) == 1
    assert futures.wait(calls, 0.05).done == {calls[1]}


def test_calls_of_several_clients_and_other_futures_are_waited_for_together(
    endpoint: str, host: FakeHost, client: hostd.Client
) -> None:
    host.answer = echo
    with hostd.connect(endpoint) as other, futures.ThreadPoolExecutor(1) as pool:
        several = [begin(client, 1), begin(other, 2), pool.submit(lambda: 3)]
        assert sorted(future.result() for future in futures.as_completed(several, PATIENCE_S)) == [1, 2, 3]


def test_others_wait_for_calls_of_the_same_client_meanwhile(host: FakeHost, client: hostd.Client) -> None:
    first, second = begin(client, "first"), begin(client, "second")
    listening = Waiting(lambda: futures.wait([first], PATIENCE_S))
    eventually(helpers, "somebody waits")
    waiting = Waiting(second.result)
    answer(host, 1)
    assert waiting.join() == "second"
    answer(host, 0)
    assert listening.join().done == {first}


def test_callbacks_run_when_nobody_waits_and_may_use_the_client(host: FakeHost, client: hostd.Client) -> None:
    seen: list[Any] = []
    call = begin(client, "x")

    def then(done: futures.Future[Any]) -> None:
        host.answer = echo
        seen.append((done.result(), client.call("m", "echo", ("next",), {}, PATIENCE_S)))

    call.add_done_callback(then)
    assert not seen
    answer(host, 0)
    eventually(lambda: seen == [("x", "next")], "the callback has run")
    call.add_done_callback(lambda done: seen.append(done is call))
    assert seen[-1] is True, "at once, because the call is done"


@pytest.mark.parametrize("watch", [lambda call: futures.wait([call]), lambda call: call.add_done_callback(print)])
def test_a_host_that_hangs_ends_no_wait_later_than_the_deadline(
    host: FakeHost, client: hostd.Client, watch: Callable[[hostd.PendingCall], object]
) -> None:
    call = begin(client, timeout_s=0.05)
    with at_most(SOON_S, "a call of 0.05 s"):
        watch(call)
        eventually(lambda: call._pending.is_done, "it has ended")
    assert isinstance(call.exception(), hostd.DeadlineExceededError)
    host.await_kind(msg.CANCEL)


def test_a_cancelled_call_is_what_a_cancelled_future_is(host: FakeHost, client: hostd.Client) -> None:
    calls = [begin(client, number) for number in range(2)]
    assert calls[0].running()
    waiting = Waiting(lambda: futures.wait(calls, PATIENCE_S, futures.FIRST_COMPLETED))
    eventually(helpers, "somebody waits")
    assert calls[0].cancel()
    assert waiting.join().done == {calls[0]}
    assert calls[0].cancelled()
    assert calls[0].cancel(), "it is cancelled, so the answer is yes"
    assert not calls[0].running()
    for ask in (calls[0].result, calls[0].exception):
        with pytest.raises(futures.CancelledError):
            ask()
        with pytest.raises(hostd.CancelledError):
            ask()
    answer(host, 1)
    assert calls[1].result() == 1
    assert not calls[1].cancel()


def test_errors_are_returned_by_exception_and_raised_by_result(fake: Fake, endpoint: str) -> None:
    def fail(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
        if request.kind == msg.CALL:
            return [msg.pack_error(request.id, hostd.NotFoundError("no such model"))]
        return echo(host, request)

    fake(fail)
    with hostd.connect(endpoint) as client:
        call = begin(client)
        assert isinstance(call.exception(), hostd.NotFoundError)
        assert [done.exception() is None for done in futures.as_completed([call])] == [False]
        with pytest.raises(hostd.NotFoundError):
            call.result(timeout=1)
        assert not call.cancelled()


def test_a_short_wait_is_the_timeout_of_futures_and_ours(host: FakeHost, client: hostd.Client) -> None:
    call = begin(client)
    for ask in (call.result, call.exception):
        with pytest.raises(futures.TimeoutError):
            ask(timeout=0.01)
        with pytest.raises(hostd.DeadlineExceededError, match="the call goes on"):
            ask(0.01)
    answer(host, 0)
    assert call.result(PATIENCE_S) == "x"
    assert host.of_kind(msg.CANCEL) == []


@pytest.mark.parametrize("how", [hostd.CancelledError, hostd.UnavailableError])
def test_closing_the_client_or_losing_the_host_ends_every_wait(
    host: FakeHost, client: hostd.Client, how: type[hostd.HostError]
) -> None:
    calls = [begin(client, number) for number in range(3)]
    waiting = Waiting(lambda: futures.wait(calls, PATIENCE_S))
    eventually(helpers, "somebody waits")
    client.close() if how is hostd.CancelledError else host.stop()
    assert waiting.join().done == set(calls)
    assert {type(call.exception()) for call in calls} == {how}


def test_a_call_is_awaited_in_an_event_loop(host: FakeHost, client: hostd.Client) -> None:
    async def wait() -> Any:
        calls = [begin(client, number) for number in range(2)]
        wrapped = [asyncio.wrap_future(call) for call in calls]
        answer_soon(host, 1)
        assert await asyncio.wait_for(wrapped[1], PATIENCE_S) == 1
        wrapped[0].cancel()
        await asyncio.sleep(0)
        return calls[0].cancelled()

    assert asyncio.run(wait())


def test_many_calls_are_waited_for_while_others_come_and_go(host: FakeHost, client: hostd.Client) -> None:
    host.answer = echo

    def work(number: int) -> int:
        for _ in range(5):
            calls = [begin(client, (number, n)) for n in range(40)]
            for call in calls[::5]:
                call.cancel()
            seen = {call for call in futures.as_completed(calls, PATIENCE_S) if not call.cancelled()}
            assert all(call.result()[0] == number for call in seen)
            assert client.call("m", "echo", (number,), {}, PATIENCE_S) == number
        return number

    with at_most(PATIENCE_S, "not to wait for the sweep each time"), futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))


def test_a_forked_child_is_told_and_a_program_may_end_while_somebody_listens(endpoint: str, fake: Fake) -> None:
    fake(polite)
    code = """
        import os, sys
        from concurrent import futures
        import hostd

        client = hostd.connect(sys.argv[1])
        call = client.submit("m", "echo", ("x",), {}, None)
        child = os.fork()
        if child == 0:
            try:
                futures.wait([call])
            except hostd.FailedPreconditionError as error:
                assert "made before a fork" in error.message
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        call.add_done_callback(print)
    """
    run(code, endpoint)
