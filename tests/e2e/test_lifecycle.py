"""The main path: load, call, stream, measure, explain, unload; each claim of the host is checked from outside of it."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import PATIENCE_S, descendants, eventually, is_there, rss_of_tree, uss_of_tree

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20

HOLDER = """
    import subprocess
    import sys

    class Holder:
        def __init__(self, size_bytes, helpers):
            self.data = b"\\1" * size_bytes
            hold = "import time; held = b'x' * (8 << 20); print('up', flush=True); time.sleep(3600)"
            self.helpers = [
                subprocess.Popen([sys.executable, "-S", "-c", hold], stdout=subprocess.PIPE) for _ in range(helpers)
            ]
            for helper in self.helpers:
                helper.stdout.readline()

        def predict(self, x):
            return len(self.data)

        def grow(self, size_bytes):
            self.data += b"\\2" * size_bytes
            return len(self.data)

        def pids(self):
            return [helper.pid for helper in self.helpers]

    def load(path, size_bytes=0, helpers=0):
        return Holder(size_bytes, helpers)
"""


def test_a_model_is_loaded_called_streamed_and_unloaded(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    path = model_dir()
    model = shared.load_model("team/echo", path, "some-type")
    assert (model.id, model.path, model.type) == ("team/echo", path, "some-type")
    assert model.loaded
    assert not model.loading
    assert set(model.methods) == {"predict", "generate"}
    assert model.methods["generate"].streams
    assert model.predict({"a": [1, 2.5, None, True, b"x", ("t",)]}) == {"a": [1, 2.5, None, True, b"x", ("t",)]}
    assert model(3) == 3
    assert list(model.stream.generate(300)) == list(range(300))
    assert model.submit.predict(4).result(PATIENCE_S) == 4
    info = shared.get_model("team/echo")
    assert (info.state, info.loader, info.type, info.path) == ("READY", "python", "some-type", path)
    assert (info.calls, info.errors) == (4, 0)
    assert info.last_used_s == pytest.approx(time.time(), abs=PATIENCE_S)
    assert 0 < info.load_duration_s < PATIENCE_S
    report = shared.unload_model("team/echo")
    assert report.model_id == "team/echo"
    assert report.processes == 1
    assert shared.list_models() == []
    with pytest.raises(hostd.NotFoundError, match="team/echo"):
        model.predict(1)


def test_the_asynchronous_client_does_the_same(shared_host: hostd.Host, model_dir: Callable[..., str]) -> None:
    async def use() -> hostd.UnloadReport:
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            model = await client.load_model("echo", model_dir())
            assert await model.predict(1) == 1
            assert await asyncio.gather(*(model.predict(i) for i in range(200))) == list(range(200))
            assert [item async for item in model.stream.generate(100)] == list(range(100))
            assert [info.id for info in await client.list_models()] == ["echo"]
            assert await client.get_model_size("echo") == pytest.approx(await model.size(), abs=MIB)
            return await client.unload_model("echo")

    assert asyncio.run(use()).processes == 1


def test_c20_an_unload_reports_what_the_system_gets_back(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    model = shared.load_model("holder", model_dir(HOLDER), options={"size_bytes": 128 * MIB, "helpers": 1})
    (worker,) = model.info.workers
    pids = [worker.pid, *model.pids()]
    size_bytes, private_bytes = model.size, uss_of_tree(worker.pid)
    began_s = time.monotonic()
    report = shared.unload_model("holder")
    took_s = time.monotonic() - began_s
    assert not [pid for pid in pids if is_there(pid)], "unloaded was answered before every process was gone"
    assert report.freed_bytes == pytest.approx(private_bytes, rel=0.02, abs=MIB)
    assert report.size_bytes == pytest.approx(size_bytes, abs=MIB)
    assert report.processes == len(pids)
    assert 0 < report.duration_s <= took_s


def test_a_load_writes_nothing_into_the_models_directory(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    """Compiled modules beside its files would make it another model, and one that changes to whoever watches it."""
    files = {"sibling.py": "ANSWER = 42", "late.py": "ANSWER = 43"}
    source = """
        import sibling
        def answer():
            import late
            return sibling.ANSWER, late.ANSWER
        def load(path):
            return answer
    """
    path = Path(model_dir(source, settings='env: {PYTHONDONTWRITEBYTECODE: ""}', files=files))
    before = sorted(path.rglob("*"))
    assert shared.load_model("m", path)() == (42, 43)
    assert sorted(path.rglob("*")) == before


def test_a_size_follows_a_model_that_grows(model_dir: Callable[..., str]) -> None:
    with hostd.Host(memory={"sample_period_s": 0.05}) as host:
        model = host.client().load_model("holder", model_dir(HOLDER))
        before_bytes = model.size
        assert model.grow(48 * MIB) == 48 * MIB
        tree_bytes = rss_of_tree(model.info.workers[0].pid)
        assert tree_bytes > before_bytes + 40 * MIB
        # Not the first sample that is larger: that may be of the middle of the growth.
        eventually(lambda: model.size == pytest.approx(tree_bytes, rel=0.02, abs=MIB), "all of the growth is seen")


def test_c23_unloading_all_reports_each_of_them(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    path = model_dir()
    pids = [shared.load_model(f"m{i}", path).info.workers[0].pid for i in range(4)]
    reports = shared.unload_all_models()
    assert not [pid for pid in pids if is_there(pid)]
    assert sorted(report.model_id for report in reports) == ["m0", "m1", "m2", "m3"]
    assert all(report.processes == 1 for report in reports)
    assert shared.unload_all_models() == []


def test_c20_unloading_what_is_not_loaded_is_no_error_and_frees_nothing(shared: hostd.Client) -> None:
    report = shared.unload_model("nobody")
    assert (report.processes, report.freed_bytes, report.size_bytes) == (0, 0, 0)


def test_events_tell_the_whole_story_in_order(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    events = shared.events("echo")
    shared.load_model("other", model_dir())
    pid = shared.load_model("echo", model_dir()).info.workers[0].pid
    shared.unload_model("echo")
    seen = []
    for event in events:
        seen.append(event)
        if event.new == "UNLOADED":
            break
    events.close()
    assert {event.model_id for event in seen} == {"echo"}
    assert [event.new for event in seen if event.subject == "model"] == ["LOADING", "READY", "UNLOADING", "UNLOADED"]
    worker = [event for event in seen if event.subject == "worker"]
    assert [event.new for event in worker] == ["SPAWNING", "IDLE", "LOADING", "READY", "KILLING", "DEAD"]
    assert [event.old for event in worker][1:] == [event.new for event in worker][:-1]
    assert worker[-1].pid == pid
    assert seen.index(worker[-1]) < len(seen) - 1, "UNLOADED must come after DEAD"
    assert [event.time_s for event in seen] == sorted(event.time_s for event in seen)


def test_events_of_all_models_come_to_every_subscriber(shared_host: hostd.Host, model_dir: Callable[..., str]) -> None:
    with hostd.connect(shared_host.endpoint) as first, hostd.connect(shared_host.endpoint) as second:
        streams = [first.events(), second.events()]
        first.load_model("a", model_dir())
        first.unload_model("a")
        for stream in streams:
            assert next(event for event in stream if event.new == "UNLOADED").model_id == "a"
            stream.close()


def test_a_subscription_that_is_closed_costs_nothing_more(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    for _ in range(50):
        shared.events().close()
    shared.load_model("echo", model_dir())
    assert shared.retrieve_model("echo").predict(1) == 1


def test_explain_says_why_in_every_state(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    with pytest.raises(hostd.NotFoundError):
        shared.explain_model("never-seen")
    shared.load_model("echo", model_dir())
    explained = shared.explain_model("echo")
    assert (explained["state"], explained["model"]["id"]) == ("READY", "echo")
    assert explained["story"][-1]["new"] == "READY"
    shared.unload_model("echo")
    explained = shared.explain_model("echo")
    assert (explained["state"], explained["model"]) == ("UNLOADED", None)
    assert explained["story"][-1]["new"] == "UNLOADED"
    assert json.loads(json.dumps(explained)) == explained


def test_what_a_model_prints_is_kept_also_after_it_is_gone(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    source = """
        import os, sys

        print("loading")

        class Talker:
            def predict(self, x):
                print("called with", x)
                print("and an error", file=sys.stderr)
                os.system("echo from a shell")
                return x

        def load(path):
            return Talker()
    """
    shared.load_model("team/talker", model_dir(source)).predict(17)
    wanted = ["loading", "called with 17", "and an error", "from a shell"]
    eventually(lambda: shared.model_logs("team/talker").splitlines() == wanted, "all four lines are in the log")
    shared.unload_model("team/talker")
    assert shared.model_logs("team/talker").splitlines() == wanted
    assert shared.model_logs("team/talker", tail_bytes=8) == "a shell\n"


def test_the_last_words_of_a_model_that_exits_are_in_its_error(
    shared: hostd.Client, model_dir: Callable[..., str]
) -> None:
    path = model_dir(
        "import sys\nclass M:\n    def leave(self):\n        sys.exit('no licence found')\ndef load(path):\n    return M()\n"
    )
    model = shared.load_model("leaver", path)
    with pytest.raises(hostd.UnavailableError, match="no licence found") as caught:
        model.leave()
    assert caught.value.details["exit"] == "exit code 1"
    assert "no licence found" in shared.explain_model("leaver")["reason"]
    assert shared.get_model("leaver").state == "FAILED"
    assert shared.load_model("leaver", path).info.state == "READY"


def test_records_are_frozen_and_ready_for_json(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    model = shared.load_model("echo", model_dir())
    records = [model.info, model.info.workers[0], shared.host_info(), shared.unload_model("echo")]
    for record in records:
        assert json.loads(json.dumps(record.to_dict()))
        with pytest.raises(FrozenInstanceError):
            record.model_id = "other"


def test_the_host_describes_itself(shared: hostd.Client, shared_host: hostd.Host) -> None:
    info = shared.host_info()
    assert info.pid == shared_host.pid
    assert info.endpoint == shared_host.endpoint
    assert info.version == hostd.__version__
    assert os.path.isdir(info.runtime_dir)
    assert info.rss_bytes == pytest.approx(rss_of_tree(info.pid), rel=0.1)


def test_a_model_with_coroutines_serves_many_calls_at_once(
    shared: hostd.Client, model_dir: Callable[..., str], tmp_path
) -> None:
    source = """
        import asyncio

        class M:
            def __init__(self):
                self.together = 0
                self.all_here = asyncio.Event()

            async def meet(self, n):
                self.together += 1
                if self.together == n:
                    self.all_here.set()
                await self.all_here.wait()
                return self.together

            async def generate(self, n):
                for i in range(n):
                    await asyncio.sleep(0)
                    yield i

        def load(path):
            return M()
    """
    model = shared.load_model("async", model_dir(source))
    calls = [model.submit.meet(20) for _ in range(20)]
    assert [call.result(PATIENCE_S) for call in calls] == [20] * 20
    assert list(model.stream.generate(150)) == list(range(150))


def test_two_hundred_threads_share_one_client(shared: hostd.Client, model_dir: Callable[..., str]) -> None:
    model = shared.load_model("echo", model_dir())
    wrong: list[object] = []

    def call(number: int) -> None:
        for i in range(5):
            if (got := model.predict([number, i])) != [number, i]:
                wrong.append(got)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(200)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_S)
    assert wrong == []
    assert shared.get_model("echo").calls == 1000


def test_many_loads_and_unloads_leave_nothing_in_the_supervisor(
    shared: hostd.Client, shared_host: hostd.Host, model_dir: Callable[..., str]
) -> None:
    def held() -> tuple[int, int, list[int]]:
        own = f"/proc/{shared_host.pid}"
        return len(os.listdir(f"{own}/fd")), len(os.listdir(f"{own}/task")), descendants(shared_host.pid)

    path = model_dir()
    for model in [shared.load_model(f"warm{i}", path, wait=False) for i in range(20)]:
        model.wait(PATIENCE_S)  # until most of the lazily made threads are there
    shared.unload_all_models()
    before, rounds = held(), 15
    for _ in range(rounds):
        shared.load_model("echo", path)
        shared.unload_model("echo")
    # Fewer descriptors is as good: one may have been open for a moment when they were counted before. And a pool may
    # make another thread up to its size whenever its last one is not back yet; a leak would be one in each round.
    eventually(
        lambda: held()[0] <= before[0] and held()[1] < before[1] + rounds and held()[2] == before[2],
        f"descriptors, threads, processes are those of before: {before}, not {held()}",
    )
