"""The worker pool, when its loop is late: with the real core and the real sampler."""

import asyncio
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import pytest
from helpers import PATIENCE_S

from hostd.config.loading import load_config
from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.config import CoreConfig
from hostd.shell.memory.sampler import Sampler
from hostd.shell.memory.schedule import Schedule
from hostd.shell.processes import pool, starts
from hostd.shell.processes.spawner import WorkerProcess
from hostd.shell.supervisor import Supervisor
from hostd.shell.work.component import Component
from hostd_workers.wire.errors import HostError

SPEC = ev.LoadingSpec("python", {}, None, {}, None, None)
MODEL, WORKER = ev.ModelId("m"), ev.WorkerId(1)
NO_PERIOD_S = 1000.0
"""A period that no test lives to see."""


class Others(Component):
    """What carries out all effects that a component does not; nothing comes of them."""

    def __init__(self, component):
        others = (
            set(get_args(fx.Effect)) - {fx.Answer, fx.AnswerError, fx.Announce, fx.Stop} - set(component.handlers())
        )
        self.handlers = lambda: dict.fromkeys(others, lambda _: None)


@pytest.mark.parametrize("is_spawned", [True, False], ids=["spawned", "not spawned"])
def test_a_worker_that_says_hello_before_its_process_is_known_loads_and_is_watched(monkeypatch, tmp_path, is_spawned):
    async def late(_executor, _work):
        await spawned.wait()
        if not is_spawned:
            raise OSError("no process")
        return WorkerProcess(WORKER, child.pid, os.pidfd_open(child.pid), -1)

    async def story(supervisor, workforce):
        supervisor.attach(Others(workforce), workforce)
        sampler = Sampler(Schedule(NO_PERIOD_S, NO_PERIOD_S, 0.005), workforce.watched, measured.put_nowait)
        supervisor.tell(sampler.on_event)
        sampling = asyncio.create_task(sampler.run())
        source = ev.LoadSource("/m")
        answer = supervisor.ask(lambda caller: ev.LoadRequested(caller, MODEL, source, wait=True, deadline_s=None))
        supervisor.emit(ev.SpecFound(MODEL, 1, SPEC, "/m"))
        await asyncio.sleep(0)
        supervisor.emit(ev.WorkerSaidHello(WORKER))
        await asyncio.sleep(0)
        assert told.empty()
        spawned.set()
        if is_spawned:
            assert (await asyncio.wait_for(told.get(), PATIENCE_S)).worker_id == WORKER
            assert (await asyncio.wait_for(measured.get(), PATIENCE_S)).worker_id == WORKER
        else:
            with pytest.raises(HostError, match="no process"):
                await asyncio.wait_for(answer, PATIENCE_S)
        assert told.empty()
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)

    async def main():
        loop = asyncio.get_running_loop()
        with Supervisor(CoreConfig()) as supervisor:
            with pool.Workforce(loop, supervisor, backend, logs, guard, None, config, None) as workforce:
                try:
                    await story(supervisor, workforce)
                finally:
                    for process in (employed.process for employed in workforce._employed.values()):
                        loop.remove_reader(process.pidfd)
                        os.close(process.pidfd)

    told, measured, spawned = asyncio.Queue(), asyncio.Queue(), asyncio.Event()
    lanes = SimpleNamespace(new=lambda _: None)
    backend = SimpleNamespace(admit=lambda _: "00", load=told.put_nowait, forget=lambda _: None, lanes=lanes)
    logs = SimpleNamespace(add=lambda *_: None, note=lambda *_: None)
    guard = SimpleNamespace(oom_score_adj=0)
    config = load_config({"runtime_dir": tmp_path / "r", "state_dir": tmp_path / "s"})
    monkeypatch.setattr(starts, "in_thread", late)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        asyncio.run(main())
        child.kill()
