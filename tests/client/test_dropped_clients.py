"""Clients that nobody closes: wherever the collector finds them, they say goodbye, and never stop the thread it runs in."""

from __future__ import annotations

import asyncio
import gc
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from fake_host import FakeHost, Frames, echo
from helpers import descriptors, eventually
from programs import run

import hostd
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

Fake = Callable[..., FakeHost]

PRELUDE = """
import asyncio, gc, os, sys, threading
import hostd

endpoint = sys.argv[1]
gc.disable()

def call(client, value="x"):
    return client.call("m", "echo", (value,), {}, 20)

def collect():
    assert gc.collect() > 0
    with hostd.connect(endpoint) as other:  # the process goes on, and so does ZeroMQ in it
        assert call(other, "after") == "after"
"""

WAYS = {
    "an exception's traceback": """
        def use():
            client = hostd.connect(endpoint)
            problem = None
            try:
                client.call("m", "echo", (object(),), {}, 20)
            except hostd.HostError as error:
                problem = error
            return str(problem)

        use()
        collect()
    """,
    "bound methods": """
        class App:
            def __init__(self):
                self.client = hostd.connect(endpoint)
                self.routes = {"/": self.answer}

            def answer(self):
                return call(self.client)

        assert App().answer() == "x"
        collect()
    """,
    "calls in flight": """
        client = hostd.connect(endpoint)
        calls = [client.submit("m", "never", (number,), {}, None) for number in range(100)]
        calls.append(calls)
        del client, calls
        collect()
    """,
    "another thread while one leads": """
        leading = hostd.connect(endpoint)
        waiting = leading.submit("m", "never", (1,), {}, None)
        thread = threading.Thread(target=lambda: call(leading, "leader's"))
        thread.start()
        thread.join()
        dropped = [hostd.connect(endpoint)]
        dropped.append(dropped)
        del dropped
        thread = threading.Thread(target=waiting.exception)
        thread.start()
        collector = threading.Thread(target=collect)
        collector.start()
        collector.join()
        leading.close()
        thread.join()
    """,
    "after asyncio.run": """
        async def use():
            client = await hostd.AsyncClient.connect(endpoint)
            assert await client.call("m", "echo", ("x",), {}, 20) == "x"
            client.itself = client

        asyncio.run(use())
        collect()
    """,
    "in a loop that goes on": """
        async def use():
            client = await hostd.AsyncClient.connect(endpoint)
            assert await client.call("m", "echo", ("x",), {}, 20) == "x"
            client.itself = client

        async def main():
            for _ in range(3):
                await use()
                collect()
                other = await hostd.AsyncClient.connect(endpoint)  # its descriptors may have the numbers of those
                assert await other.call("m", "echo", ("x",), {}, 20) == "x"
                await other.close()

        asyncio.run(main())
    """,
    "a forked child": """
        mine = [hostd.connect(endpoint)]
        mine.append(mine)
        kept = hostd.connect(endpoint)
        child = os.fork()
        if child == 0:
            from hostd.client.connection import Connection
            send, Connection.send = Connection.send, lambda *_: os._exit(9)
            del mine, kept
            gc.collect()
            Connection.send = send
            assert call(hostd.connect(endpoint)) == "x"
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert call(mine[0]) == call(kept) == "x"
        kept.close()
        del mine
        collect()
    """,
    "the end of the interpreter": """
        client = hostd.connect(endpoint)
        client.itself = client
        calls = [client.submit("m", "never", (number,), {}, None) for number in range(10)]
        del client, calls
        kept = hostd.connect(endpoint)
        print(call(kept))
    """,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_the_collector_finds_stops_nobody(endpoint: str, fake: Fake, way: str) -> None:
    fake(never_some)
    run(PRELUDE + textwrap.dedent(WAYS[way]), endpoint)


def never_some(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
    """Echo, but leave calls of the method `never` without an answer."""
    if request.kind == msg.CALL and msg.unpack_target(request.header).method == "never":
        return ()
    return echo(host, request)


@pytest.mark.parametrize("kind", ["sync", "async", "async, with a loop that goes on"])
def test_a_thousand_clients_that_were_dropped_leave_no_descriptor(endpoint: str, fake: Fake, kind: str) -> None:
    host = fake()
    before = descriptors()

    def drop() -> None:
        client = hostd.connect(endpoint)
        cycle: list[Any] = [client]
        cycle.append(cycle)

    async def drop_one() -> None:
        client = await hostd.AsyncClient.connect(endpoint)
        cycle: list[Any] = [client]
        cycle.append(cycle)

    async def drop_all() -> None:
        for _ in range(1000):
            await drop_one()
        gc.collect()
        await asyncio.to_thread(host.await_kind, msg.BYE, 1000)

    if kind == "sync":
        for _ in range(1000):
            drop()
    elif kind == "async":
        for _ in range(1000):
            asyncio.run(drop_one())
    else:
        asyncio.run(drop_all())
    gc.collect()
    assert len(host.clients) == 1000
    host.await_kind(msg.BYE, 1000)
    eventually(lambda: descriptors() == before, "all are closed")
