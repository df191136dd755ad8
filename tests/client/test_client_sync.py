"""The synchronous client against a host that a test controls: iterators, and what becomes of them when they are left."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from fake_host import FakeHost, echo, polite
from helpers import eventually

from hostd.client._sync.client import Client
from hostd.records import Event
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import CancelledError, DeadlineExceededError, InvalidArgumentError, NotFoundError

Fake = Callable[..., FakeHost]

EVENT = {"time_s": 1.0, "model_id": "m", "subject": "model", "old": "LOADING", "new": "READY"}


def item(request: wire.Envelope, value: object) -> list[Any]:
    return wire.pack(msg.ITEM, request.id, body=encode(value)[0])


def serves_events(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
    """Note a subscription, and send two events at once."""
    if request.kind == msg.VERB:
        yield item(request, None)
        yield item(request, EVENT)
        yield item(request, {**EVENT, "new": "UNLOADING", "a field of the future": 1})
    else:
        yield from echo(host, request)


@pytest.fixture
def client(endpoint: str, fake: Fake) -> Iterator[Client]:
    fake()
    with Client(endpoint) as made:
        yield made


@pytest.fixture
def host(client: Client, fake: Fake) -> FakeHost:
    """The host of `client`."""
    found: FakeHost = fake.__closure__[1].cell_contents[-1]  # type: ignore[attr-defined]
    return found


def test_a_client_is_a_context_and_shows_where_it_is(endpoint: str, fake: Fake) -> None:
    host = fake()
    with Client(endpoint) as client:
        assert repr(client) == f"<Client <Channel {endpoint} connected waiting=0>>"
        assert client.call("m", "echo", (1,), {}, 5) == 1
    assert "closed" in repr(client)
    host.await_kind(msg.BYE)


def test_events_are_records_and_begin_when_the_host_has_noted_the_subscription(client: Client, host: FakeHost) -> None:
    host.answer = serves_events
    events = client.events("m")
    assert msg.unpack_map(host.of_kind(msg.VERB)[0]) == {"model_id": "m"}
    first, second = next(events), next(events)
    assert (first, second.new) == (Event(**EVENT), "UNLOADING")
    events.close()  # type: ignore[attr-defined]
    assert host.await_kind(msg.CANCEL)[0].id == host.of_kind(msg.VERB)[0].id
    assert "waiting=0" in repr(client)
    with pytest.raises(StopIteration):
        next(events)


def test_a_subscription_that_is_refused_raises_at_once(client: Client, host: FakeHost) -> None:
    host.answer = lambda _host, request: [msg.pack_error(request.id, NotFoundError("no such model"))]
    with pytest.raises(NotFoundError):
        client.events("nope")


@pytest.mark.parametrize("is_begun", [False, True])
def test_events_that_nobody_wants_any_more_are_cancelled(client: Client, host: FakeHost, is_begun: bool) -> None:
    host.answer = serves_events
    events = client.events()
    if is_begun:
        next(events)
    del events
    gc.collect()
    host.await_kind(msg.CANCEL)
    assert "waiting=0" in repr(client)


def left_iterators(client: Client) -> list[Iterator[Any]]:
    """Return iterators of every kind that have begun, all of which still have something to cancel."""
    events = client.events()
    next(events)
    mapped = client.map("m", "echo", (range(200),), {}, 60)
    assert next(mapped) == 0
    streamed = client.stream("m", "count", (10**9,), {}, 60)
    return [events, mapped, streamed]


@pytest.mark.parametrize("number", range(3))
def test_an_iterator_may_be_finalized_by_a_thread_that_holds_the_channels_locks(
    client: Client, host: FakeHost, number: int
) -> None:
    def answers(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
        if request.kind == msg.STREAM:
            return ()
        return serves_events(host, request)

    host.answer = answers
    iterators = left_iterators(client)
    cycle: list[Any] = [iterators.pop(number)]
    cycle.append(cycle)
    del cycle
    channel = client._channel
    with channel._tracking, channel._waker._using, channel._lead:
        gc.collect()
    assert client.call("m", "echo", (1,), {}, 20) == 1
    host.await_kind(msg.CANCEL)
    for iterator in iterators:
        iterator.close()  # type: ignore[attr-defined]


# map


def test_map_gives_the_results_in_their_order(client: Client) -> None:
    assert list(client.map("m", "echo", (range(1000),), {}, 60)) == list(range(1000))


def test_what_was_begun_is_cancelled_when_the_inputs_fail(client: Client, host: FakeHost) -> None:
    host.answer = polite

    def inputs() -> Iterator[int]:
        yield from range(5)
        raise OSError("the file with the inputs ends here")

    with pytest.raises(OSError, match="ends here"):
        list(client.map("m", "echo", (inputs(),), {}, 60))
    assert "waiting=0" in repr(client)
    host.await_kind(msg.CANCEL, 5)


def test_what_was_begun_is_cancelled_when_an_input_cannot_be_sent(client: Client, host: FakeHost) -> None:
    host.answer = polite
    with pytest.raises(InvalidArgumentError):
        list(client.map("m", "echo", ([1, 2, {3}],), {}, 60))
    assert "waiting=0" in repr(client)
    host.await_kind(msg.CANCEL, 2)


# Streams


def test_a_stream_past_its_deadline_is_cancelled(client: Client, host: FakeHost) -> None:
    host.answer = lambda _host, request: [item(request, 1)] if request.kind == msg.STREAM else []
    items = client.stream("m", "count", (2,), {}, 0.05)
    assert next(items) == 1
    with pytest.raises(DeadlineExceededError, match="before the stream's next item"):
        next(items)
    host.await_kind(msg.CANCEL)
    with pytest.raises(StopIteration):
        next(items)


def test_an_error_of_a_stream_is_raised_once_after_its_items(client: Client, host: FakeHost) -> None:
    def fails(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
        yield item(request, 1)
        yield msg.pack_error(request.id, NotFoundError("gone"))

    host.answer = fails
    items = client.stream("m", "count", (), {}, 20)
    assert next(items) == 1
    with pytest.raises(NotFoundError):
        next(items)
    assert list(items) == []


def test_a_long_stream_grants_credit_as_it_is_consumed(client: Client, host: FakeHost) -> None:
    with client.stream("m", "count", (1000,), {}, 20) as items:
        assert list(items) == list(range(1000))
    eventually(lambda: host.of_kind(msg.CREDIT) or host.of_kind(msg.BYE) or True, "credit")
    granted = sum(msg.unpack_credit(request.header) for request in host.of_kind(msg.CREDIT))
    assert granted <= 1000


def test_leaving_a_stream_early_cancels_it(client: Client, host: FakeHost) -> None:
    host.answer = lambda _host, request: [item(request, n) for n in range(5)] if request.kind == msg.STREAM else []
    with client.stream("m", "count", (), {}, None) as items:
        for value in items:
            if value == 2:
                break
    assert host.await_kind(msg.CANCEL)[0].id == host.of_kind(msg.STREAM)[0].id
    assert list(items) == []
    items.close()
    assert len(host.of_kind(msg.CANCEL)) == 1


def test_closing_the_client_ends_its_iterators(endpoint: str, fake: Fake) -> None:
    fake(polite)
    client = Client(endpoint)
    items = client.stream("m", "count", (), {}, None)
    client.close()
    with pytest.raises(CancelledError, match="the client was closed"):
        next(items)
