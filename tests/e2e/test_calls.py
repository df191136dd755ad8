"""Calls while things happen: deadlines, cancelling, streams that are left, and limits.

Each of them has exactly one answer, and none of them waits for another model. Unloads are in `test_c20_unloading`.
"""

import asyncio
import os

import pytest
from helpers import PATIENCE_S, SOON_S, at_most, eventually, lines_of, never, of_models
from models_rig import Work

import hostd
from hostd.client.tracker import STREAM_WINDOW

pytestmark = pytest.mark.usefixtures("way")

SLOW = """
    import pathlib
    import time

    class Slow:
        def predict(self, x):
            return x

        def work(self, marker, release):
            pathlib.Path(marker).touch()
            while not pathlib.Path(release).exists():
                time.sleep(0.002)
            return "finished"

        def generate(self, n, noted):
            try:
                for i in range(n):
                    with open(noted, "a") as file:
                        file.write(f"{i}\\n")
                    yield i
            finally:
                with open(noted, "a") as file:
                    file.write("closed\\n")

        def stall(self, noted):
            yield 1
            time.sleep(3600)

    def load(path):
        return Slow()
"""


@pytest.fixture
def slow(shared, model_dir):
    return shared.load_model("slow", model_dir(SLOW))


# Deadlines and cancelling


def test_a_deadline_that_passes_while_the_model_runs_is_answered_in_time(slow, tmp_path):
    with at_most(SOON_S, "a call with a deadline of 0.2 s"), pytest.raises(hostd.DeadlineExceededError):
        slow.options(timeout_s=0.2).work(str(tmp_path / "a"), str(tmp_path / "b"))
    (tmp_path / "b").touch()
    work = Work(slow.options(timeout_s=None), tmp_path)
    never(work.call.done, "the call was answered before its model was", for_s=0.1)
    work.finish()


def test_a_call_that_is_late_cancelled_or_withdrawn_in_the_queue_is_never_begun(shared_host, slow, tmp_path):
    async def withdraw():
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            model = await client.retrieve_model("slow")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(model.work(str(tmp_path / "late"), str(tmp_path / "b")), 0.1)

    first = Work(slow, tmp_path)
    with pytest.raises(hostd.DeadlineExceededError):
        slow.options(timeout_s=0.1).work(str(tmp_path / "late"), str(tmp_path / "b"))
    second = slow.submit.work(str(tmp_path / "late"), str(tmp_path / "b"))
    second.cancel()
    with pytest.raises(hostd.CancelledError):
        second.result(PATIENCE_S)
    asyncio.run(withdraw())
    eventually(lambda: slow.info.workers[0].in_flight == 1, "the host has heard of all of it")
    first.finish()
    assert slow.predict(1) == 1
    assert not (tmp_path / "late").exists()


def test_a_stream_waits_for_its_consumer_and_is_closed_in_the_worker_when_it_is_left(shared_host, slow, tmp_path):
    noted, other = tmp_path / "noted", tmp_path / "other"
    stream = slow.stream.generate(1_000_000, str(noted))
    assert next(stream) == 0
    eventually(lambda: len(lines_of(noted)) >= STREAM_WINDOW, "the worker fills the window")
    never(lambda: len(lines_of(noted)) > STREAM_WINDOW, "items were made that nobody has room for", for_s=0.1)
    del stream
    eventually(lambda: noted.read_text().endswith("closed\n"), "the generator is closed")

    async def use():
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            model = await client.retrieve_model("slow")
            items = model.stream.generate(1_000_000, str(other))
            assert await items.__anext__() == 0
            await items.aclose()
            assert await model.predict(1) == 1

    asyncio.run(use())
    eventually(lambda: other.read_text().endswith("closed\n"), "the generator is closed")


def test_a_stream_misses_its_deadline_between_two_items(slow):
    stream = slow.options(timeout_s=1).stream.stall("")
    assert next(stream) == 1
    with at_most(SOON_S, "a stream with a deadline of 1 s"), pytest.raises(hostd.DeadlineExceededError):
        next(stream)


# Limits


def test_twenty_models_load_at_the_same_time(shared, model_dir):
    path = model_dir()
    models = [shared.load_model(f"m{i}", path, wait=False) for i in range(20)]
    for i, model in enumerate(models):
        assert model.wait(PATIENCE_S).predict(i) == i
    assert len({worker.pid for info in shared.list_models() for worker in info.workers}) == 20


def test_more_calls_than_the_limit_are_refused_and_the_rest_is_answered(model_dir, tmp_path):
    with hostd.Host(workers={"max_in_flight": 4, "drain_timeout_s": 1}) as host:
        model = host.client().load_model("slow", model_dir(SLOW))
        work = Work(model, tmp_path)
        calls = [model.submit.predict(i) for i in range(3)]
        with pytest.raises(hostd.ResourceExhaustedError, match="max_in_flight"):
            model.predict(9)
        work.finish()
        assert [call.result(PATIENCE_S) for call in calls] == [0, 1, 2]
        assert model.predict(9) == 9


def test_a_load_that_hangs_ends_with_the_timeout_that_ended_it(model_dir):
    slow = model_dir("import time\ndef load(path):\n    time.sleep(3600)\n")
    silent = model_dir(settings="python: ./python\n", files={"python": "#!/bin/sh\nexec sleep 3600\n"})
    os.chmod(f"{silent}/python", 0o755)
    workers = {"spawn_timeout_s": 2, "load_timeout_s": 2, "templates": "off"}  # else a fresh worker is tried as well
    with hostd.Host(workers=workers) as host:
        client = host.client()
        with pytest.raises(hostd.DeadlineExceededError, match=r"\(workers\.load_timeout_s\)\. hostd logs slow has"):
            client.load_model("slow", slow)
        with pytest.raises(hostd.DeadlineExceededError) as caught:
            client.load_model("silent", silent)
        assert "(workers.spawn_timeout_s). hostd logs silent has what it printed" in caught.value.message
        assert caught.value.message.endswith(f"its interpreter is {silent}/python")
        assert "load_timeout_s" in client.explain_model("slow")["reason"]
        assert of_models(host.pid) == []
