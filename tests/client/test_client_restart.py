"""Clients whose host is killed, hangs, or is another one by now: real hosts in one runtime directory."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from helpers import SOON_S, Service, at_most, eventually, state_of

import hostd

if TYPE_CHECKING:
    from pathlib import Path

Serve = Callable[..., Service]

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


def outcome_of(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except hostd.HostError as error:
        return type(error)


def test_everything_in_flight_is_unavailable_when_the_host_is_killed(
    serve: Serve, model_dir: Callable[..., str], tmp_path: Path
) -> None:
    service = serve()
    with hostd.connect(service.endpoint) as client:
        model = client.load_model("m", model_dir(SLOW))
        running = model.submit.linger(str(tmp_path / "marker"))
        queued = model.submit.predict(1)
        stream = model.options(timeout_s=None).stream.generate(3)
        events = client.events()
        waiting: list[Any] = []
        thread = threading.Thread(target=lambda: waiting.append(outcome_of(running.result)))
        thread.start()
        eventually((tmp_path / "marker").exists, "the call runs")
        kill(service)
        with at_most(SOON_S, "to notice"):
            thread.join()
            assert waiting == [hostd.UnavailableError]
            assert outcome_of(queued.result) is hostd.UnavailableError
            assert outcome_of(lambda: next(stream)) is hostd.UnavailableError
            assert outcome_of(lambda: next(events)) is hostd.UnavailableError


def test_the_same_client_works_with_the_next_host_of_the_directory(serve: Serve, model_dir: Callable[..., str]) -> None:
    path = model_dir(SLOW)
    first = serve()
    with hostd.connect(first.endpoint) as client:
        epoch = client.host_info().epoch
        model = client.load_model("m", path)
        assert model.predict(1) == 1
        kill(first)
        second = serve()
        assert second.endpoint == first.endpoint
        assert client.host_info().epoch != epoch, "the first verb after a restart is answered by the new host"
        with pytest.raises(hostd.NotFoundError):
            model.predict(2)
        client.load_model("m", path)
        assert model.predict(3) == 3


def test_many_threads_go_through_restarts(serve: Serve, model_dir: Callable[..., str]) -> None:
    path = model_dir(SLOW)
    service = serve()
    with hostd.connect(service.endpoint) as client:
        model = client.load_model("m", path)
        is_over = threading.Event()
        answered = [0] * 16
        failures: set[Any] = set()

        def work(number: int) -> None:
            while not is_over.is_set():
                outcome = outcome_of(lambda: model.predict(number))
                if outcome == number:
                    answered[number] += 1
                else:
                    failures.add(outcome)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                before = list(answered)
                eventually(lambda before=before: all(a > b for a, b in zip(answered, before, strict=True)), "all go on")
                kill(service)
                service = serve()
                client.load_model("m", path)
            before = list(answered)
            eventually(lambda: all(a > b for a, b in zip(answered, before, strict=True)), "all go on in the end")
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert failures <= {hostd.UnavailableError, hostd.NotFoundError, hostd.FailedPreconditionError}


def test_a_host_that_hangs_does_not_hold_a_call_beyond_its_deadline(
    serve: Serve, model_dir: Callable[..., str]
) -> None:
    service = serve()
    with hostd.connect(service.endpoint) as client:
        model = client.load_model("m", model_dir(SLOW)).options(timeout_s=0.2)
        os.kill(service.pid, signal.SIGSTOP)
        try:
            eventually(lambda: state_of(service.pid) == "T", "the host is stopped")
            with at_most(SOON_S, "a call of 0.2 s"):
                assert outcome_of(lambda: model.predict(1)) is hostd.DeadlineExceededError
            with at_most(SOON_S, "to connect for 0.2 s"):
                refused = outcome_of(lambda: hostd.connect(service.endpoint, connect_timeout_s=0.2))
                assert refused is hostd.UnavailableError
        finally:
            os.kill(service.pid, signal.SIGCONT)
        assert model.options(timeout_s=20).predict(2) == 2


def test_an_orderly_shutdown_is_noticed_as_well(serve: Serve) -> None:
    service = serve()
    with hostd.connect(service.endpoint, connect_timeout_s=1) as client:
        client.shutdown()
        service.ended()
        assert outcome_of(client.list_models) is hostd.UnavailableError
        with pytest.raises(hostd.UnavailableError, match="hostd serve"):
            client.list_models()


def test_the_asynchronous_client_goes_through_all_of_it(
    serve: Serve, model_dir: Callable[..., str], tmp_path: Path
) -> None:
    path = model_dir(SLOW)

    async def body() -> None:
        service = serve()
        async with hostd.AsyncClient(service.endpoint) as client:
            model = await client.load_model("m", path)
            tasks = [asyncio.ensure_future(model.predict(n)) for n in range(200)]
            assert await asyncio.gather(*tasks) == list(range(200))
            running = asyncio.ensure_future(model.linger(str(tmp_path / "marker")))
            queued = [asyncio.ensure_future(model.predict(n)) for n in range(50)]
            await asyncio.to_thread(eventually, (tmp_path / "marker").exists, "the call runs")
            await asyncio.to_thread(kill, service)
            outcomes = await asyncio.gather(running, *queued, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {hostd.UnavailableError}
            await asyncio.to_thread(serve)
            await client.load_model("m", path)
            assert await model.predict(3) == 3

    asyncio.run(asyncio.wait_for(body(), 60))


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


def test_sixty_four_threads_share_one_client(serve: Serve, model_dir: Callable[..., str]) -> None:
    with hostd.connect(serve().endpoint) as client:
        model = client.load_model("m", model_dir())
        wrong: list[Any] = []

        def work(number: int) -> None:
            for turn in range(20):
                value = f"{number}.{turn}" * (1 + number * turn)  # of many sizes, above and below all limits
                if model.predict(value) != value:
                    wrong.append(value)
                if turn % 10 == 0 and list(model.stream.generate(100)) != list(range(100)):
                    wrong.append("stream")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert "waiting=0" in repr(client)
