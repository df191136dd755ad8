"""The main path: load, call, stream, measure, explain, unload; each claim of the host is checked from outside of it."""

import asyncio
import json
import os
import time
from dataclasses import FrozenInstanceError
from pathlib import Path

import psutil
import pytest
from helpers import PATIENCE_S, eventually, of_models

import hostd

pytestmark = pytest.mark.usefixtures("way")


def test_a_model_is_loaded_called_streamed_and_unloaded(shared, shared_host, model_dir, way):
    path, model_id = model_dir(), f"team/{way}"
    with pytest.raises(hostd.NotFoundError):
        shared.explain_model(model_id)
    model = shared.load_model(model_id, path, "some-type")
    assert (model.id, model.path, model.type) == (model_id, path, "some-type")
    assert (model.loaded, model.loading) == (True, False)
    assert set(model.methods) == {"predict", "generate"}
    assert model.methods["generate"].streams
    assert model.predict({"a": [1, 2.5, None, True, b"x", ("t",)]}) == {"a": [1, 2.5, None, True, b"x", ("t",)]}
    assert model(3) == 3
    assert list(model.stream.generate(300)) == list(range(300))
    assert model.submit.predict(4).result(PATIENCE_S) == 4

    async def use():
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            theirs = await client.retrieve_model(model_id)
            assert await asyncio.gather(*(theirs.predict(i) for i in range(200))) == list(range(200))
            assert [item async for item in theirs.stream.generate(100)] == list(range(100))
            assert [info.id for info in await client.list_models()] == [model_id]
            assert await client.get_model_size(model_id) > 0

    asyncio.run(use())
    info, host = shared.get_model(model_id), shared.host_info()
    assert (info.state, info.loader, info.type, info.path) == ("READY", "python", "some-type", path)
    assert (info.calls, info.errors) == (205, 0)
    assert info.last_used_s == pytest.approx(time.time(), abs=PATIENCE_S)
    assert 0 < info.load_duration_s < PATIENCE_S
    assert (host.pid, host.endpoint, host.version) == (shared_host.pid, shared_host.endpoint, hostd.__version__)
    assert os.path.isdir(host.runtime_dir)
    own_bytes = psutil.Process(host.pid).memory_info().rss
    assert host.rss_bytes == pytest.approx(own_bytes, rel=0.1)
    explained = shared.explain_model(model_id)
    assert (explained["state"], explained["model"]["id"]) == ("READY", model_id)
    assert explained["story"][-1]["new"] == "READY"
    report = shared.unload_model(model_id)
    assert (report.model_id, report.processes) == (model_id, 1)
    for record in (info, info.workers[0], host, report):
        assert json.loads(json.dumps(record.to_dict()))
        with pytest.raises(FrozenInstanceError):
            record.model_id = "other"
    assert shared.list_models() == []
    with pytest.raises(hostd.NotFoundError, match=model_id):
        model.predict(1)
    explained = shared.explain_model(model_id)
    assert (explained["state"], explained["model"]) == ("UNLOADED", None)
    assert explained["story"][-1]["new"] == "UNLOADED"
    assert json.loads(json.dumps(explained)) == explained


def test_a_load_writes_nothing_into_the_models_directory(shared, model_dir):
    """Compiled modules beside its files would make it another model, and one that changes while it is watched."""
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


def test_events_tell_the_whole_story_in_order(shared, model_dir):
    events, everything = shared.events("echo"), shared.events()
    for _ in range(50):
        shared.events().close()
    shared.load_model("other", model_dir())
    pid = shared.load_model("echo", model_dir()).info.workers[0].pid
    shared.unload_model("echo")
    seen = []
    for event in events:
        seen.append(event)
        if event.new == "UNLOADED":
            break
    assert next(event for event in everything if event.new == "UNLOADED").model_id == "echo"
    events.close()
    everything.close()
    assert {event.model_id for event in seen} == {"echo"}
    assert [event.new for event in seen if event.subject == "model"] == ["LOADING", "READY", "UNLOADING", "UNLOADED"]
    worker = [event for event in seen if event.subject == "worker"]
    assert [event.new for event in worker] == ["SPAWNING", "IDLE", "LOADING", "READY", "KILLING", "DEAD"]
    assert [event.old for event in worker][1:] == [event.new for event in worker][:-1]
    assert worker[-1].pid == pid
    assert seen.index(worker[-1]) < len(seen) - 1, "UNLOADED must come after DEAD"
    assert [event.time_s for event in seen] == sorted(event.time_s for event in seen)


def test_many_loads_and_unloads_leave_nothing_in_the_supervisor(shared, shared_host, model_dir):
    def held():
        own = f"/proc/{shared_host.pid}"
        return len(os.listdir(f"{own}/fd")), len(os.listdir(f"{own}/task")), of_models(shared_host.pid)

    path = model_dir()
    for model in [shared.load_model(f"warm{i}", path, wait=False) for i in range(20)]:
        model.wait(PATIENCE_S)  # until most of the lazily made threads are there
    shared.unload_all_models()
    before, rounds = held(), 10
    for _ in range(rounds):
        shared.load_model("echo", path)
        shared.unload_model("echo")
    # Fewer descriptors is as good: one may have been open for a moment when they were counted before. And a pool may
    # make another thread up to its size whenever its last one is not back yet; a leak would be one in each round.
    eventually(
        lambda: held()[0] <= before[0] and held()[1] < before[1] + rounds and held()[2] == before[2],
        f"descriptors, threads, processes are those of before: {before}, not {held()}",
    )
