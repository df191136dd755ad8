"""The worker pool, when its loop is late."""

import asyncio
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from hostd.config.loading import load_config
from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.shell.processes import pool, starts
from hostd.shell.processes.spawner import WorkerProcess

SPEC = ev.LoadingSpec("python", {}, None, {}, None, None)
SPAWN = fx.SpawnWorker(ev.WorkerId(1), ev.ModelId("m"), SPEC, 1, None)
LOAD = fx.SendLoad(ev.WorkerId(1), ev.ModelId("m"), "/m", SPEC)


@pytest.mark.parametrize("is_spawned", [True, False], ids=["spawned", "not spawned"])
def test_a_worker_that_says_hello_before_its_spawn_is_known_is_told_what_to_load(monkeypatch, tmp_path, is_spawned):
    told = []

    async def story():
        loop, spawned = asyncio.get_running_loop(), asyncio.Event()
        supervisor = SimpleNamespace(emit=lambda _: None)
        lanes = SimpleNamespace(new=lambda _: None)
        backend = SimpleNamespace(admit=lambda _: "00", load=told.append, forget=lambda _: None, lanes=lanes)
        logs = SimpleNamespace(add=lambda *_: None, note=lambda *_: None)
        guard = SimpleNamespace(oom_score_adj=0)
        config = load_config({"runtime_dir": tmp_path / "r", "state_dir": tmp_path / "s"})
        workforce = pool.Workforce(loop, supervisor, backend, logs, guard, None, config, None)

        async def late(_executor, _work):
            await spawned.wait()
            if not is_spawned:
                raise OSError("no process")
            return WorkerProcess(1, child.pid, os.pidfd_open(child.pid), -1)

        monkeypatch.setattr(starts, "in_thread", late)
        handlers = workforce.handlers()
        both = [asyncio.ensure_future(handlers[type(effect)](effect)) for effect in (SPAWN, LOAD)]
        await asyncio.sleep(0)
        assert told == []
        spawned.set()
        event, _ = await asyncio.gather(*both)
        assert isinstance(event, ev.WorkerSpawned if is_spawned else ev.WorkerSpawnFailed)
        for process in (employed.process for employed in workforce._employed.values()):
            loop.remove_reader(process.pidfd)
            os.close(process.pidfd)
        workforce.close()

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        asyncio.run(story())
        child.kill()
    assert told == [LOAD] * is_spawned
