"""The asyncio client against a host that a test controls: tasks that end each other's requests, or must not."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest
from fake_host import FakeHost, echo, polite
from helpers import SOON_S, at_most

from hostd.client._async.client import AsyncClient
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import (
    CancelledError,
    DeadlineExceededError,
    NotFoundError,
    ProtocolError,
    UnavailableError,
)

Fake = Callable[..., FakeHost]


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


def call(client: AsyncClient, value: Any = "x", timeout_s: float | None = None) -> Coroutine[Any, Any, Any]:
    return client.call("m", "echo", (value,), {}, timeout_s)


async def until(check: Callable[[], Any]) -> None:
    """Wait until something is so, while the loop goes on."""
    deadline_s = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline_s, "it never happened"
        await asyncio.sleep(0.001)


def answer(host: FakeHost, number: int) -> None:
    for frames in echo(host, host.of_kind(msg.CALL)[number]):
        host.say(frames)


def item(request: wire.Envelope, value: object) -> list[Any]:
    return wire.pack(msg.ITEM, request.id, body=encode(value)[0])


# Calls


def test_a_task_that_is_cancelled_tells_the_host_and_disturbs_nobody(endpoint: str, fake: Fake) -> None:
    host = fake(polite)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            tasks = [asyncio.ensure_future(call(client, n)) for n in range(3)]
            await until(lambda: len(host.of_kind(msg.CALL)) == 3)
            tasks[1].cancel()
            await until(lambda: host.of_kind(msg.CANCEL))
            assert host.of_kind(msg.CANCEL)[0].id == host.of_kind(msg.CALL)[1].id
            for number in (2, 1, 0):
                answer(host, number)
            assert (await tasks[0], await tasks[2]) == (0, 2)
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]
            assert "waiting=0" in repr(client)

    run(body)


def test_a_timeout_around_a_call_cancels_it(endpoint: str, fake: Fake) -> None:
    host = fake(polite)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call(client), 0.02)
            await until(lambda: host.of_kind(msg.CANCEL))

    run(body)


def test_a_host_that_hangs_is_given_a_little_grace_and_told(endpoint: str, fake: Fake) -> None:
    host = fake(polite)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            with at_most(SOON_S, "a call of 0.05 s"), pytest.raises(DeadlineExceededError):
                await call(client, timeout_s=0.05)
            await until(lambda: host.of_kind(msg.CANCEL))
            host.answer = echo
            assert await call(client, timeout_s=20) == "x"
            assert await call(client, timeout_s=float("inf")) == "x"

    run(body)


def test_closing_ends_every_wait_with_cancelled(endpoint: str, fake: Fake) -> None:
    host = fake(polite)

    async def body() -> None:
        client = await AsyncClient.connect(endpoint)
        tasks = [asyncio.ensure_future(call(client)) for _ in range(10)]
        await until(lambda: len(host.of_kind(msg.CALL)) == 10)
        await client.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {CancelledError}
        await client.close()

    run(body)
    host.await_kind(msg.BYE)


def test_every_call_ends_when_the_host_dies_and_the_next_finds_the_next_host(endpoint: str, fake: Fake) -> None:
    host = fake(polite)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            tasks = [asyncio.ensure_future(call(client)) for _ in range(10)]
            await until(lambda: len(host.of_kind(msg.CALL)) == 10)
            host.stop()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 10
            assert len({id(outcome) for outcome in outcomes}) == 10
            fake()
            assert await call(client) == "x"

    run(body)


def test_an_idle_client_does_not_notice_that_the_host_was_restarted(endpoint: str, fake: Fake) -> None:
    first = fake()

    async def body() -> None:
        host = first
        async with AsyncClient(endpoint) as client:
            for number in range(3):
                host.stop()
                await until(lambda: "disconnected" in repr(client))
                host = fake()
                assert await call(client, number) == number

    run(body)


def test_a_host_that_begins_to_talk_nonsense_is_left_with_a_typed_error_for_everybody(
    endpoint: str, fake: Fake
) -> None:
    host = fake(polite)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            tasks = [asyncio.ensure_future(call(client)) for _ in range(4)]
            await until(lambda: len(host.of_kind(msg.CALL)) == 4)
            host.say([b"nonsense"])
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [ProtocolError] * 4
            host.answer = echo
            assert await call(client) == "x"

    run(body)


def test_more_than_the_queue_takes_is_sent_when_there_is_room(endpoint: str, fake: Fake) -> None:
    host = fake(polite)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            channel = client._channel
            tasks = [asyncio.ensure_future(call(client, bytes(5000))) for _ in range(6000)]
            await until(lambda: len(host.of_kind(msg.CALL)) == 6000)
            assert len(channel._outbox) == 0
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(body)


def test_what_a_failed_call_was_given_is_let_go(endpoint: str, fake: Fake) -> None:
    class Blob(dict):  # type: ignore[type-arg]
        pass

    fake(lambda host, request: echo(host, request) if request.kind == msg.HELLO else [refusal(request)])

    def refusal(request: wire.Envelope) -> list[Any]:
        return msg.pack_error(request.id, NotFoundError("gone"))

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            blob = Blob(x=1)
            watched = weakref.ref(blob)
            gc.disable()
            try:
                with pytest.raises(NotFoundError):
                    await call(client, blob)
                del blob
                await asyncio.sleep(0)
                assert watched() is None
            finally:
                gc.enable()

    run(body)


# Streams


def test_a_stream_gives_its_items_and_grants_credit(endpoint: str, fake: Fake) -> None:
    host = fake()

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            assert [value async for value in client.stream("m", "count", (500,), {}, 20)] == list(range(500))
            assert await call(client) == "x"

    run(body)
    assert host.of_kind(msg.CANCEL) == []


def endless(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
    """Begin streams, and never end them."""
    if request.kind == msg.STREAM:
        return [item(request, n) for n in range(5)]
    return echo(host, request)


def test_breaking_out_of_a_stream_cancels_it(endpoint: str, fake: Fake) -> None:
    host = fake(endless)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            async for value in client.stream("m", "count", (), {}, None):
                if value == 2:
                    break
            await until(lambda: host.of_kind(msg.CANCEL))
            assert "waiting=0" in repr(client)

    run(body)


def test_closing_a_stream_cancels_it(endpoint: str, fake: Fake) -> None:
    host = fake(endless)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            items = client.stream("m", "count", (), {}, None)
            assert await items.__anext__() == 0
            await items.aclose()  # type: ignore[attr-defined]
            await until(lambda: host.of_kind(msg.CANCEL))
            assert [value async for value in items] == []

    run(body)


def test_a_task_that_is_cancelled_in_a_stream_cancels_the_stream(endpoint: str, fake: Fake) -> None:
    host = fake(endless)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            got: list[int] = []

            async def consume() -> None:
                async for value in client.stream("m", "count", (), {}, None):
                    got.append(value)

            task = asyncio.ensure_future(consume())
            await until(lambda: len(got) == 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: host.of_kind(msg.CANCEL))

    run(body)


def test_a_stream_past_its_deadline_is_cancelled(endpoint: str, fake: Fake) -> None:
    host = fake(endless)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            got = []
            with pytest.raises(DeadlineExceededError, match="before the stream's next item"):
                async for value in client.stream("m", "count", (), {}, 0.05):
                    got.append(value)
            assert got == [0, 1, 2, 3, 4]
            await until(lambda: host.of_kind(msg.CANCEL))

    run(body)


def test_an_error_of_a_stream_comes_after_its_items(endpoint: str, fake: Fake) -> None:
    def fails(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
        if request.kind == msg.STREAM:
            return [item(request, 1), msg.pack_error(request.id, NotFoundError("gone"))]
        return echo(host, request)

    fake(fails)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            items = client.stream("m", "count", (), {}, 20)
            assert await items.__anext__() == 1
            with pytest.raises(NotFoundError):
                await items.__anext__()

    run(body)


def test_a_stream_of_a_client_that_is_closed_ends_with_cancelled(endpoint: str, fake: Fake) -> None:
    fake(endless)

    async def body() -> None:
        client = await AsyncClient.connect(endpoint)
        items = client.stream("m", "count", (), {}, None)
        assert await items.__anext__() == 0
        await client.close()
        with pytest.raises(CancelledError):
            while True:
                await items.__anext__()

    run(body)
