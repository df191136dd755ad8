"""How the asyncio client finds its host, alone and with many tasks that want it at once."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import pytest
from fake_host import FakeHost, echo
from helpers import SOON_S, at_most
from test_channel_connecting import other_version, polite_to_nobody, refuses_version, strange_welcome, talks_nonsense

from hostd.client._async.client import AsyncClient
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import (
    FailedPreconditionError,
    HostError,
    InvalidArgumentError,
    ProtocolError,
    UnavailableError,
    VersionMismatchError,
)

if TYPE_CHECKING:
    from pathlib import Path

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


def test_a_client_connects_when_it_is_needed_or_asked_to(endpoint: str, fake: Fake) -> None:
    host = fake()

    async def body() -> None:
        lazy = AsyncClient(endpoint)
        assert "disconnected" in repr(lazy)
        assert await call(lazy) == "x"
        await lazy.close()
        assert "closed" in repr(lazy)
        eager = await AsyncClient.connect(endpoint, timeout_s=3)
        assert "connected" in repr(eager)
        assert eager.timeout_s == 3
        await eager.close()
        async with AsyncClient(endpoint) as client:
            assert await call(client) == "x"
        with pytest.raises(FailedPreconditionError, match="is closed"):
            await call(client)

    run(body)
    assert len(host.await_kind(msg.BYE, 3)) == 3


def test_connecting_does_not_wait_for_a_timer(endpoint: str, fake: Fake) -> None:
    fake()

    async def body() -> None:
        took = []
        for _ in range(20):
            began_s = time.perf_counter()
            async with AsyncClient(endpoint):
                took.append(time.perf_counter() - began_s)
        assert min(took) < 0.04

    run(body)


def test_nobody_there_is_said_so_within_the_timeout(endpoint: str, place: Path) -> None:
    async def body() -> None:
        with at_most(SOON_S, "to give up"), pytest.raises(UnavailableError, match="there is no socket"):
            await AsyncClient.connect(endpoint, connect_timeout_s=3600)
        with pytest.raises(UnavailableError, match=r"waited 0\.2 s"):
            await AsyncClient.connect(endpoint, wait_s=0.2)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(place / "c.ipc"))
        with pytest.raises(UnavailableError, match="is stale"):
            await AsyncClient.connect(endpoint, connect_timeout_s=0.1)
        with pytest.raises(InvalidArgumentError):
            await AsyncClient.connect("no/sense", connect_timeout_s=0.1)

    run(body)


def test_a_host_that_says_nothing_is_none(endpoint: str, fake: Fake) -> None:
    fake(polite_to_nobody)

    async def body() -> None:
        with at_most(SOON_S, "to give up"), pytest.raises(UnavailableError, match="nothing there answers as a host"):
            await AsyncClient.connect(endpoint, connect_timeout_s=0.1)

    run(body)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (other_version, VersionMismatchError),
        (refuses_version, VersionMismatchError),
        (talks_nonsense, ProtocolError),
        (strange_welcome, ProtocolError),
    ],
)
def test_a_host_that_speaks_otherwise_is_a_typed_error_at_once(
    endpoint: str, fake: Fake, answers: Any, error: type[HostError]
) -> None:
    fake(answers)

    async def body() -> None:
        with at_most(SOON_S, "to be refused"), pytest.raises(error):
            await AsyncClient.connect(endpoint, connect_timeout_s=60)

    run(body)


def test_many_tasks_connect_once(endpoint: str, fake: Fake) -> None:
    host = fake()

    async def body() -> None:
        client = AsyncClient(endpoint)
        assert await asyncio.gather(*(call(client, n) for n in range(200))) == list(range(200))
        await client.close()

    run(body)
    assert len(host.of_kind(msg.HELLO)) == 1


def test_a_task_that_is_cancelled_while_it_connects_takes_nobody_with_it(endpoint: str, fake: Fake) -> None:
    greeted = threading.Event()

    def hesitates(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
        if request.kind == msg.HELLO and not greeted.is_set():
            greeted.set()
            return ()
        return echo(host, request)

    fake(hesitates)

    async def body() -> None:
        client = AsyncClient(endpoint)
        first = asyncio.ensure_future(call(client, "first"))
        await until(greeted.is_set)
        others = [asyncio.ensure_future(call(client, n)) for n in range(5)]
        await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.gather(*others) == list(range(5))
        with pytest.raises(asyncio.CancelledError):
            await first
        await client.close()

    run(body)


def test_tasks_that_find_no_host_all_give_up_within_one_timeout(endpoint: str) -> None:
    async def body() -> None:
        client = AsyncClient(endpoint, connect_timeout_s=0.3)
        with at_most(SOON_S, "fifty tasks"):
            outcomes = await asyncio.gather(*(call(client) for _ in range(50)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {UnavailableError}
        await client.close()

    run(body)


def test_closing_while_it_looks_for_a_host_ends_the_search(endpoint: str, fake: Fake) -> None:
    host = fake()

    async def body() -> None:
        client = AsyncClient(endpoint, connect_timeout_s=60)
        async with client:
            host.stop()
            searching = asyncio.ensure_future(call(client))
            await until(lambda: "disconnected" in repr(client))
            with pytest.raises(UnavailableError):
                await searching
            searching = asyncio.ensure_future(call(client))
            await asyncio.sleep(0)
        with at_most(SOON_S, "closing"), pytest.raises(FailedPreconditionError):
            await searching

    run(body)
