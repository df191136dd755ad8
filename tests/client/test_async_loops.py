"""One asyncio client in several event loops: after each other, beside each other, and in forked children."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from calls import Waiting
from fake_host import FakeHost, echo, polite
from helpers import PATIENCE_S, SOON_S, at_most
from programs import run

import hostd
from hostd_workers.wire import messages as msg

Fake = Callable[..., FakeHost]


def call(client: hostd.AsyncClient, value: Any = "x", timeout_s: float | None = PATIENCE_S) -> Coroutine[Any, Any, Any]:
    return client.call("m", "echo", (value,), {}, timeout_s)


def test_a_client_connects_anew_in_each_loop_that_follows(endpoint: str, fake: Fake) -> None:
    host = fake()
    client = hostd.AsyncClient(endpoint)
    for number in range(3):
        with at_most(SOON_S, "a call in another loop"):
            assert asyncio.run(call(client, number)) == number
    host.await_kind(msg.BYE, 2)
    asyncio.run(client.close())
    assert len(host.clients) == 3


def test_a_deadline_passes_in_the_second_loop_too(endpoint: str, fake: Fake) -> None:
    host = fake()
    client = hostd.AsyncClient(endpoint)
    assert asyncio.run(call(client)) == "x"
    host.answer = polite
    with at_most(SOON_S, "a call of 0.05 s"), pytest.raises(hostd.DeadlineExceededError):
        asyncio.run(call(client, timeout_s=0.05))
    asyncio.run(client.close())


def test_loops_that_take_turns_keep_their_connections(endpoint: str, fake: Fake) -> None:
    host = fake()
    client = hostd.AsyncClient(endpoint)
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


def test_a_client_is_used_in_the_loop_of_another_thread_while_the_first_goes_on(endpoint: str, fake: Fake) -> None:
    host = fake(polite)
    client = hostd.AsyncClient(endpoint)
    met = threading.Barrier(2, timeout=PATIENCE_S)

    async def first() -> Any:
        waiting = asyncio.ensure_future(call(client, "first"))
        await asyncio.to_thread(host.await_kind, msg.CALL)
        await asyncio.to_thread(met.wait)
        await asyncio.to_thread(met.wait)
        for frames in echo(host, host.of_kind(msg.CALL)[0]):
            host.say(frames, client=0)
        return await waiting

    thread = Waiting(lambda: asyncio.run(first()))
    met.wait()
    host.answer = echo
    assert asyncio.run(call(client, "second")) == "second"
    met.wait()
    assert thread.join() == "first"
    asyncio.run(client.close())


def test_closing_ends_the_calls_in_every_loop(endpoint: str, fake: Fake) -> None:
    host = fake(polite)
    client = hostd.AsyncClient(endpoint)
    thread = Waiting(lambda: asyncio.run(call(client)))
    host.await_kind(msg.CALL)
    asyncio.run(client.close())
    assert isinstance(thread.join(), hostd.CancelledError)
    host.await_kind(msg.BYE)


def test_a_forked_child_has_connections_of_its_own(endpoint: str, fake: Fake) -> None:
    host = fake()
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
    run(code, endpoint)
    assert len(host.clients) == 2
