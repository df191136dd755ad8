"""Clients with a host that is killed, hangs, or is another one by now: real hosts in one runtime directory."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from calls import Waiting, outcome_of
from helpers import PATIENCE_S, SOON_S, Service, at_most, eventually, state_of

import hostd

if TYPE_CHECKING:
    from pathlib import Path

Serve = Callable[..., Service]
Connect = Callable[..., Any]

SLOW = """
    import time
    from pathlib import Path

    class Slow:
        def predict(self, x):
            return x

        def linger(self, marker):
            Path(marker).touch()
            while True:
                time.sleep(3600)

        def generate(self, n):
            yield from range(n)
            while True:
                time.sleep(3600)

    def load(path):
        return Slow()
"""


def kill(service: Service) -> None:
    """End a host as a crash would, and wait until nothing of it is left."""
    os.kill(service.pid, signal.SIGKILL)
    service.ended()


def predict(client: Any, value: Any, timeout_s: float | None = PATIENCE_S) -> Any:
    return client.call("m", "predict", (value,), {}, timeout_s)


def test_everything_in_flight_is_unavailable_when_the_host_is_killed_and_the_next_is_found(
    serve: Serve, connect: Connect, model_dir: Callable[..., str], tmp_path: Path
) -> None:
    path, first = model_dir(SLOW), serve()
    client = connect(first.endpoint, direct=False)
    epoch = client.host_info().epoch
    client.load_model("m", path)
    assert predict(client, 1) == 1
    waiting = [Waiting(lambda: client.call("m", "linger", (str(tmp_path / "marker"),), {}, None))]
    eventually((tmp_path / "marker").exists, "the call runs")
    stream, events = client.stream("m", "generate", (3,), {}, None), client.events()
    waiting += [Waiting(lambda: predict(client, 1)), Waiting(lambda: list(stream)), Waiting(lambda: list(events))]
    eventually(lambda: len(client.explain_model("m")["calls"]) == 3, "all are in the host")
    kill(first)
    with at_most(SOON_S, "to notice"):
        assert {type(thread.join()) for thread in waiting} == {hostd.UnavailableError}
    second = serve()
    assert second.endpoint == first.endpoint
    assert client.host_info().epoch != epoch, "the first verb after a restart is answered by the new host"
    with pytest.raises(hostd.NotFoundError):
        predict(client, 2)
    client.load_model("m", path)
    assert predict(client, 3) == 3


def test_a_host_that_hangs_does_not_hold_a_call_beyond_its_deadline(
    serve: Serve, connect: Connect, model_dir: Callable[..., str]
) -> None:
    service = serve()
    client = connect(service.endpoint)
    client.load_model("m", model_dir(SLOW))
    os.kill(service.pid, signal.SIGSTOP)
    try:
        eventually(lambda: state_of(service.pid) == "T", "the host is stopped")
        with at_most(SOON_S, "a call of 0.2 s"):
            assert outcome_of(lambda: predict(client, 1, 0.2)) is hostd.DeadlineExceededError
        with at_most(SOON_S, "to connect for 0.2 s"):
            refused = outcome_of(lambda: connect(service.endpoint, connect_timeout_s=0.2))
            assert refused is hostd.UnavailableError
    finally:
        os.kill(service.pid, signal.SIGCONT)
    assert predict(client, 2) == 2


def test_an_orderly_shutdown_is_noticed_as_well(serve: Serve, connect: Connect) -> None:
    service = serve()
    client = connect(service.endpoint, connect_timeout_s=1)
    client.shutdown()
    service.ended()
    assert outcome_of(client.list_models) is hostd.UnavailableError
    with pytest.raises(hostd.UnavailableError, match="hostd serve"):
        client.list_models()


@pytest.mark.parametrize("how", ["cancel", "break", "aclose", "timeout"])
def test_what_a_task_gives_up_is_given_up_in_the_worker(
    serve: Serve, model_dir: Callable[..., str], tmp_path: Path, how: str
) -> None:
    source = """
        import asyncio
        from pathlib import Path

        class Model:
            async def generate(self, marker):
                try:
                    for item in range(10**9):
                        yield item
                        await asyncio.sleep(0)
                finally:
                    Path(marker).touch()

            async def linger(self, marker):
                try:
                    await asyncio.Event().wait()
                finally:
                    Path(marker).touch()

            async def predict(self, x):
                return x

        def load(path):
            return Model()
    """
    marker = tmp_path / "marker"

    async def body() -> None:
        async with hostd.AsyncClient(serve().endpoint) as client:
            model = (await client.load_model("m", model_dir(source))).options(timeout_s=None)
            if how == "cancel":
                task = asyncio.ensure_future(model.linger(str(marker)))
                await asyncio.sleep(0)
                assert await model.predict(1) == 1  # which was sent after it, and so it runs
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif how == "timeout":
                with pytest.raises(hostd.DeadlineExceededError):
                    await model.options(timeout_s=1).linger(str(marker))
            else:
                items = model.stream.generate(str(marker))
                async for item in items:
                    if item == 1000:
                        break
                if how == "aclose":
                    await items.aclose()
                del items
            await asyncio.to_thread(eventually, marker.exists, "the coroutine in the worker has ended")
            assert await model.predict(2) == 2

    asyncio.run(asyncio.wait_for(body(), 60))
