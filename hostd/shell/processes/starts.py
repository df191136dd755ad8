"""How a worker's process comes into being: forked from its template, or started afresh.

A worker whose template is not ready in time, or makes no process, is started afresh; why is told with the process.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from hostd import paths
from hostd.shell.linux.marks import mark_of_host
from hostd.shell.processes.environment import worker_environment
from hostd.shell.processes.forking import NotForkedError, Wanted
from hostd.shell.processes.spawning import log_pipe
from hostd.shell.processes.templates import Templates
from hostd.shell.work.threads import Threads, in_thread
from hostd_workers.wire.errors import AbortedError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    import asyncio

    from hostd.config.settings import HostConfig
    from hostd.core import effects as fx
    from hostd.core.bookkeeping.templates import TemplateId
    from hostd.shell.processes.limits import MemoryLimits
    from hostd.shell.processes.spawner import Processes, WorkerProcess
    from hostd.shell.processes.spawning import TemplateProcess
    from hostd.shell.supervisor import Supervisor


class Started(NamedTuple):
    """A worker's process, what it was forked from, and why from nothing."""

    process: WorkerProcess
    template_id: TemplateId | None
    why_fresh: str


class Starts:
    """Makes the processes of workers."""

    def __init__(
        self,
        supervisor: Supervisor,
        processes: Processes,
        guard: MemoryLimits,
        config: HostConfig,
        killers: Threads,
        begun: TemplateProcess | None,
    ) -> None:
        """Take the books of processes, and what bounds their memory.

        `killers` are threads that end templates, `begun` is one that imports nothing and has been started.
        """
        self._processes = processes
        self._guard = guard
        self._endpoint = paths.worker_endpoint(config.runtime_dir)
        self.python = config.workers.python
        """The interpreter for models that name none."""
        self._mark = mark_of_host()
        # One thread that lives as long as the supervisor: see rule 1 of `spawner`.
        self._spawner = Threads(1, "hostd-spawn")
        self.templates = Templates(supervisor, processes, self._spawner, killers, self.python, guard, self._mark, begun)

    def close(self) -> None:
        """End the thread; nothing may be running in it any more."""
        self._spawner.shutdown()

    async def process_of(
        self, effect: fx.SpawnWorker, token: str, page_fd: int | None, unwanted: asyncio.Future[None]
    ) -> Started:
        """Make the process of a worker that shows this token; it is given up when it is `unwanted`, if it can be.

        Raises `OSError` and others if the system makes none, and `AbortedError` for one that was given up.
        """
        environment = worker_environment(
            os.environ,
            model_id=effect.model_id,
            spec_env=effect.spec.env,
            token=token,
            endpoint=self._endpoint,
            supervisor_pid=os.getpid(),
            cpu_threads=effect.cpu_threads,
            limit_bytes=effect.limit_bytes,
            oom_score_adj=self._guard.oom_score_adj,
            host=self._mark,
        )
        template_id, why_fresh, wait_s, _ = effect.origination
        if template_id is not None:
            wanted = partial(
                Wanted,
                effect.worker_id,
                environment,
                page_fd=page_fd,
                begin=partial(self._begin, effect),
                undo=self._undo,
            )
            try:
                return Started(await self._forked(template_id, wanted, wait_s, unwanted), template_id, "")
            except NotForkedError as error:
                why_fresh = str(error)
        if unwanted.done():
            raise AbortedError("it was not wanted any more")
        work = partial(self._fresh, effect, environment, page_fd)
        return Started(await in_thread(self._spawner, work), None, why_fresh)

    async def _forked(
        self, template_id: TemplateId, wanted: partial[Wanted], wait_s: float, unwanted: asyncio.Future[None]
    ) -> WorkerProcess:
        log = log_pipe()
        try:
            return await self.templates.fork(template_id, wanted(log=log), wait_s, unwanted)
        except BaseException:  # cancelled, too: nobody reads this log
            os.close(log[0])
            raise
        finally:
            os.close(log[1])

    def _fresh(self, effect: fx.SpawnWorker, environment: dict[str, str], page_fd: int | None) -> WorkerProcess:
        """Have the system start a worker; runs in the thread."""
        python = effect.spec.python or self.python
        process = self._processes.spawn(effect.worker_id, python, environment, page_fd)
        try:
            self._begin(effect, process)
        except BaseException:  # nobody else knows of it yet
            os.close(process.log_fd)
            self._processes.end(process)
            self._undo(process)
            raise
        return process

    def _begin(self, effect: fx.SpawnWorker, process: WorkerProcess) -> None:
        self._guard.began(effect.worker_id, process.pid, effect.limit_bytes)

    def _undo(self, process: WorkerProcess) -> None:
        self._guard.ended(process.worker_id, process.pid)
