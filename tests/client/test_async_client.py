"""What is of the asyncio client alone: tasks that end each other's requests or must not, and event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest
from both import run, until
from calls import Waiting
from fake_host import FakeHost, Frames, echo, polite
from helpers import PATIENCE_S, SOON_S, at_most
from programs import run as run_program

import hostd
from hostd import AsyncClient
from hostd.client._async import channel as channel_module
from hostd.client.tracker import Pending
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

Fake = Callable[..., FakeHost]


def call(client: AsyncClient, value: Any = "x", timeout_s: float | None = PATIENCE_S) -> Coroutine[Any, Any, Any]:
    return client.call("m", "echo", (value,), {}, timeout_s)


def answer(host: FakeHost, number: int) -> None:
    for frames in echo(host, host.of_kind(msg.CALL)[number]):
        host.say(frames, client=0)


# Tasks


def test_a_task_that_is_cancelled_tells_the_host_and_disturbs_nobody(endpoint: str, host: FakeHost) -> None:
    host.answer = polite

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
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call(client), 0.02)
            await until(lambda: len(host.of_kind(msg.CANCEL)) == 2)
            assert "waiting=0" in repr(client)

    run(body)


def test_a_call_is_begun_as_a_task(endpoint: str, host: FakeHost) -> None:
    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            begun = client.submit("m", "echo", ("x",), {}, PATIENCE_S)
            assert isinstance(begun, asyncio.Task)
            assert await begun == "x"

    run(body)


def test_a_task_that_is_cancelled_in_a_stream_cancels_the_stream(endpoint: str, host: FakeHost) -> None:
    host.answer = lambda host, request: () if request.kind == msg.STREAM else echo(host, request)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            task = asyncio.ensure_future(client.stream("m", "count", (), {}, None).__anext__())  # type: ignore[arg-type]
            await until(lambda: host.of_kind(msg.STREAM))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: host.of_kind(msg.CANCEL))

    run(body)


@pytest.mark.parametrize("turns", range(5))
def test_a_task_that_is_cancelled_just_as_an_item_comes_is_cancelled(endpoint: str, host: FakeHost, turns: int) -> None:
    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            pending = Pending(1)
            waiting = client._channel.wait_until(pending, lambda: is_there, time.monotonic() + PATIENCE_S)
            is_there = False
            task = asyncio.ensure_future(waiting)
            for _ in range(3):
                await asyncio.sleep(0)
            is_there = True
            pending.tell()
            for _ in range(turns):
                await asyncio.sleep(0)
            was_done = task.done()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() != was_done

    run(body)


def test_a_wait_for_an_item_ends_with_its_deadline(endpoint: str, host: FakeHost) -> None:
    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            for deadline_s in (time.monotonic() + 0.02, time.monotonic()):
                pending = Pending(1)
                await client._channel.wait_until(pending, lambda: False, deadline_s)
                assert time.monotonic() >= deadline_s
                assert pending.listeners == []

    run(body)


def test_more_than_the_queue_takes_is_sent_when_there_is_room(endpoint: str, host: FakeHost) -> None:
    host.answer = polite

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            tasks = [asyncio.ensure_future(call(client, bytes(5000))) for _ in range(6000)]
            await until(lambda: len(host.of_kind(msg.CALL)) == 6000)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(body)


def test_what_a_failed_call_was_given_is_let_go(endpoint: str, host: FakeHost) -> None:
    class Blob(dict):  # type: ignore[type-arg]
        pass

    def refuse(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
        gone = msg.pack_error(request.id, hostd.NotFoundError("gone"))
        return [gone] if request.kind == msg.CALL else echo(host, request)

    host.answer = refuse

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            blob = Blob(x=1)
            watched = weakref.ref(blob)
            gc.disable()
            try:
                with pytest.raises(hostd.NotFoundError):
                    await call(client, blob)
                del blob
                await asyncio.sleep(0)
                assert watched() is None
            finally:
                gc.enable()

    run(body)


# Connecting


def test_a_client_connects_when_it_is_needed_or_asked_to(endpoint: str, host: FakeHost) -> None:
    async def body() -> None:
        lazy = AsyncClient(endpoint)
        assert "disconnected" in repr(lazy)
        assert await asyncio.gather(*(call(lazy, n) for n in range(200))) == list(range(200))
        assert len(host.of_kind(msg.HELLO)) == 1, "many tasks connect once"
        await lazy.close()
        assert "closed" in repr(lazy)
        eager = await AsyncClient.connect(endpoint, timeout_s=3)
        assert "connected" in repr(eager)
        assert eager.timeout_s == 3
        await eager.close()

    run(body)
    assert len(host.await_kind(msg.BYE, 2)) == 2


def test_connecting_does_not_wait_for_a_timer(endpoint: str, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "_RETRY_S", 3600)

    async def body() -> None:
        for _ in range(20):
            async with AsyncClient(endpoint) as client:
                assert await call(client) == "x"

    with at_most(SOON_S, "twenty connections"):
        run(body)


def test_a_task_that_is_cancelled_while_it_connects_takes_nobody_with_it(endpoint: str, fake: Fake) -> None:
    greeted = threading.Event()

    def hesitates(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
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


# Event loops


def test_a_client_connects_anew_in_each_loop_that_follows(endpoint: str, host: FakeHost) -> None:
    client = AsyncClient(endpoint)
    for number in range(3):
        with at_most(SOON_S, "a call in another loop"):
            assert asyncio.run(call(client, number)) == number
    host.await_kind(msg.BYE, 2)
    assert len(host.clients) == 3
    host.answer = polite
    with at_most(SOON_S, "a call of 0.05 s"), pytest.raises(hostd.DeadlineExceededError):
        asyncio.run(call(client, timeout_s=0.05))
    asyncio.run(client.close())


def test_loops_that_take_turns_keep_their_connections(endpoint: str, host: FakeHost) -> None:
    client = AsyncClient(endpoint)
    loops = [asyncio.new_event_loop() for _ in range(2)]
    for number in range(6):
        assert loops[number % 2].run_until_complete(call(client, number)) == number
    assert len(host.clients) == 2
    loops[0].run_until_complete(client.close())
    for loop in loops:
        with pytest.raises(hostd.FailedPreconditionError, match="closed"):
            loop.run_until_complete(call(client))
        loop.close()
    with pytest.raises(hostd.FailedPreconditionError, match="closed"):
        asyncio.run(call(client))
    host.await_kind(msg.BYE, 2)


def test_a_client_is_used_in_the_loop_of_another_thread_while_the_first_goes_on(endpoint: str, host: FakeHost) -> None:
    host.answer = polite
    client = AsyncClient(endpoint)
    first = Waiting(lambda: asyncio.run(call(client, "first")))
    host.await_kind(msg.CALL)
    host.answer = echo
    assert asyncio.run(call(client, "second")) == "second"
    answer(host, 0)
    assert first.join() == "first"
    asyncio.run(client.close())


def test_closing_ends_the_calls_in_every_loop(endpoint: str, host: FakeHost) -> None:
    host.answer = polite
    client = AsyncClient(endpoint)
    thread = Waiting(lambda: asyncio.run(call(client)))
    host.await_kind(msg.CALL)
    asyncio.run(client.close())
    assert isinstance(thread.join(), hostd.CancelledError)
    host.await_kind(msg.BYE)


def test_a_forked_child_has_connections_of_its_own(endpoint: str, host: FakeHost) -> None:
    code = """
        import asyncio, gc, os, sys
        import hostd

        client = hostd.AsyncClient(sys.argv[1])
        def call(value):
            return client.call("m", "echo", (value,), {}, 20)

        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(call("parent")) == "parent"
        child = os.fork()
        if child == 0:
            try:
                loop.run_until_complete(call("in the parent's loop"))
            except hostd.FailedPreconditionError as error:
                assert "made before a fork" in error.message, error
            assert asyncio.run(call("child")) == "child"
            asyncio.run(client.close())
            del client
            gc.collect()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert loop.run_until_complete(call("after")) == "after"
        loop.run_until_complete(client.close())
        loop.close()
    """
    run_program(code, endpoint)
    assert len(host.clients) == 2
