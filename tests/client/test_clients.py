"""Both clients against a host that a test controls: calls, iterators, and what becomes of them when they are left."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from calls import Waiting, item
from fake_host import FakeHost, Frames, echo, polite
from helpers import PATIENCE_S, SOON_S, at_most, eventually

import hostd
from hostd.records import Event
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

Fake = Callable[..., FakeHost]
Connect = Callable[..., Any]

EVENT = {"time_s": 1.0, "model_id": "m", "subject": "model", "old": "LOADING", "new": "READY"}


def call(client: Any, value: Any = "x", timeout_s: float | None = None) -> Any:
    return client.call("m", "echo", (value,), {}, timeout_s)


def stream(client: Any, count: int = 5, timeout_s: float | None = None) -> Any:
    return client.stream("m", "count", (count,), {}, timeout_s)


def mapped(client: Any, inputs: Iterable[Any]) -> Any:
    return client.map("m", "echo", (inputs,), {}, 60)


def endless(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
    """Begin streams and subscriptions, and never end them."""
    if request.kind == msg.VERB:
        return [item(request, None), item(request, EVENT), item(request, {**EVENT, "new": "UNLOADING", "later": 1})]
    return [item(request, n) for n in range(5)] if request.kind == msg.STREAM else echo(host, request)


def test_a_client_is_a_context_and_shows_where_it_is(host: FakeHost, endpoint: str) -> None:
    with hostd.Client(endpoint) as client:
        assert repr(client) == f"<Client <Channel {endpoint} connected waiting=0>>"
        assert call(client) == "x"
    assert "closed" in repr(client)
    host.await_kind(msg.BYE)


# Calls


@pytest.mark.parametrize("timeout_s", [PATIENCE_S, 1e10, float("inf"), None])
def test_any_timeout_can_be_waited_for(client: Any, timeout_s: float | None) -> None:
    assert call(client, 1, timeout_s) == 1


def test_a_host_that_hangs_is_given_a_little_grace_and_told(client: Any, host: FakeHost) -> None:
    host.answer = polite
    with at_most(SOON_S, "a call of 0.05 s"), pytest.raises(hostd.DeadlineExceededError, match=r"did not answer"):
        call(client, timeout_s=0.05)
    assert host.await_kind(msg.CANCEL)[0].id == host.of_kind(msg.CALL)[0].id
    assert "waiting=0" in repr(client)
    for frames in echo(host, host.of_kind(msg.CALL)[0]):  # too late
        host.say(frames)
    host.answer = echo
    assert call(client, "next") == "next"


def close(client: Any, host: FakeHost) -> None:
    client.close()


def stop(client: Any, host: FakeHost) -> None:
    host.stop()


def talk_nonsense(client: Any, host: FakeHost) -> None:
    host.say([b"nonsense"])


ENDINGS = {
    close: (hostd.CancelledError, "the client was closed"),
    stop: (hostd.UnavailableError, "went away before it answered"),
    talk_nonsense: (hostd.ProtocolError, ""),
}


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
def test_the_end_of_a_connection_ends_every_call_and_iterator(
    client: Any, host: FakeHost, fake: Fake, end: Callable[[Any, FakeHost], None]
) -> None:
    error, words = ENDINGS[end]
    host.answer = lambda host, request: () if request.kind == msg.CALL else endless(host, request)
    items, events = stream(client), client.events()
    assert (next(items), next(events)) == (0, Event(**EVENT))
    waiting = [Waiting(lambda: call(client)) for _ in range(8)]
    host.await_kind(msg.CALL, 8)
    with at_most(SOON_S, "to end"):
        end(client, host)
        outcomes = [thread.join() for thread in waiting]
    assert {type(outcome) for outcome in outcomes} == {error}
    assert all(words in str(outcome) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 8, "threads must not raise one and the same exception"
    for iterator in (items, events):
        with pytest.raises(error):
            list(iterator)
    if end is close:
        host.await_kind(msg.BYE)
        with pytest.raises(hostd.FailedPreconditionError, match="is closed: connect again"):
            call(client)
        client.close()
        return
    host.answer = echo
    if end is stop:
        fake()
    assert call(client, "again") == "again"


# Events


def test_events_are_records_and_end_with_their_iterator(client: Any, host: FakeHost) -> None:
    host.answer = endless
    events = client.events("m")
    assert [next(events), next(events)] == [Event(**EVENT), Event(**{**EVENT, "new": "UNLOADING"})]
    assert msg.unpack_map(host.of_kind(msg.VERB)[0]) == {"model_id": "m"}
    events.close()
    assert host.await_kind(msg.CANCEL)[0].id == host.of_kind(msg.VERB)[0].id
    assert "waiting=0" in repr(client)
    with pytest.raises(StopIteration):
        next(events)


def test_a_subscription_that_is_refused_raises_at_once(client: Any, host: FakeHost) -> None:
    host.answer = lambda _host, request: [msg.pack_error(request.id, hostd.NotFoundError("no such model"))]
    with pytest.raises(hostd.NotFoundError):
        next(client.events("nope"))


def test_a_synchronous_subscription_begins_with_the_call_and_ends_with_it(endpoint: str, host: FakeHost) -> None:
    host.answer = endless
    with hostd.connect(endpoint) as client:
        events = client.events()
        assert host.of_kind(msg.VERB)
        del events
        gc.collect()
        host.await_kind(msg.CANCEL)


# map


def test_map_gives_the_results_in_their_order(client: Any) -> None:
    assert list(mapped(client, range(1000))) == list(range(1000))


def test_map_keeps_no_more_in_flight_than_its_window_and_refills_half_of_it(client: Any, host: FakeHost) -> None:
    results = mapped(client, range(200))
    assert [next(results) for _ in range(32)] == list(range(32))
    assert len(host.await_kind(msg.CALL, 64)) == 64
    assert next(results) == 32
    host.await_kind(msg.CALL, 96)
    results.close()


def failing() -> Iterator[int]:
    yield from range(5)
    raise OSError("the file with the inputs ends here")


@pytest.mark.parametrize(
    ("inputs", "error", "begun"), [(failing, OSError, 5), (lambda: [1, 2, {3}], hostd.InvalidArgumentError, 2)]
)
def test_what_was_begun_is_cancelled_when_an_input_fails_or_cannot_be_sent(
    client: Any, host: FakeHost, inputs: Any, error: type[Exception], begun: int
) -> None:
    host.answer = polite
    with pytest.raises(error):
        list(mapped(client, inputs()))
    assert "waiting=0" in repr(client)
    host.await_kind(msg.CANCEL, begun)


# Streams


def test_a_stream_gives_its_items_and_grants_credit(client: Any, host: FakeHost) -> None:
    assert list(stream(client, 1000, PATIENCE_S)) == list(range(1000))
    assert call(client) == "x"
    assert sum(msg.unpack_credit(request.header) for request in host.of_kind(msg.CREDIT)) <= 1000
    assert host.of_kind(msg.CANCEL) == []


def test_a_slow_stream_grants_credit_as_it_is_consumed(client: Any, host: FakeHost) -> None:
    def half(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
        return [item(request, n) for n in range(64)] if request.kind == msg.STREAM else echo(host, request)

    host.answer = half
    items = stream(client)
    assert [next(items) for _ in range(32)] == list(range(32))
    assert msg.unpack_credit(host.await_kind(msg.CREDIT)[0].header) == 32
    items.close()


def test_a_stream_past_its_deadline_is_cancelled(client: Any, host: FakeHost) -> None:
    host.answer = endless
    items, got = stream(client, timeout_s=0.2), []
    with pytest.raises(hostd.DeadlineExceededError, match="before the stream's next item"):
        for value in items:
            got.append(value)
    assert got == [0, 1, 2, 3, 4]
    host.await_kind(msg.CANCEL)
    with pytest.raises(StopIteration):
        next(items)


def test_an_error_of_a_stream_is_raised_once_after_its_items(client: Any, host: FakeHost) -> None:
    host.answer = lambda _host, request: [item(request, 1), msg.pack_error(request.id, hostd.NotFoundError("gone"))]
    items = stream(client, timeout_s=PATIENCE_S)
    assert next(items) == 1
    with pytest.raises(hostd.NotFoundError):
        next(items)
    assert list(items) == []


def test_closing_a_stream_cancels_it_once(client: Any, host: FakeHost) -> None:
    host.answer = endless
    items = stream(client)
    assert next(items) == 0
    items.close()
    assert host.await_kind(msg.CANCEL)[0].id == host.of_kind(msg.STREAM)[0].id
    assert list(items) == []
    items.close()
    assert call(client) == "x"
    assert len(host.of_kind(msg.CANCEL)) == 1


@pytest.mark.parametrize(
    "begin",
    [stream, lambda client: client.events(), lambda client: mapped(client, range(200))],
    ids=["stream", "events", "map"],
)
def test_an_iterator_that_is_left_cancels_what_is_still_to_come(
    client: Any, host: FakeHost, begin: Callable[[Any], Any]
) -> None:
    host.answer = lambda host, request: endless(host, request) if request.id == 2 else ()  # 1 was the HELLO
    iterator = begin(client)
    next(iterator)
    cycle: list[Any] = [iterator]
    cycle.append(cycle)
    del iterator, cycle
    gc.collect()
    host.await_kind(msg.CANCEL)
    eventually(lambda: "waiting=0" in repr(client), "nothing waits any more")
