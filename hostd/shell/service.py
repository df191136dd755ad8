"""The supervisor's process: everything put together, from the configuration to the last socket removed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from hostd import paths
from hostd.core import events as ev
from hostd.plugins.registry import Plugins
from hostd.records import HostInfo
from hostd.shell.control.hangup import Hangup
from hostd.shell.control.requests import Control
from hostd.shell.control.settings import Settings
from hostd.shell.deploys.executor import Files
from hostd.shell.deploys.staging import Staging
from hostd.shell.memory.gpu import GpuReader
from hostd.shell.memory.sampler import Sampler
from hostd.shell.memory.schedule import Schedule
from hostd.shell.place import Place
from hostd.shell.processes.leftovers import end_leftovers
from hostd.shell.processes.limits import MemoryLimits
from hostd.shell.processes.logs import LogDrain
from hostd.shell.processes.pool import Workforce
from hostd.shell.processes.reaper import FORWARDED
from hostd.shell.repository.declared import DeclaredModels, Sources
from hostd.shell.repository.directory import ModelsDirectory
from hostd.shell.repository.finding import Finding
from hostd.shell.repository.repository import Repository
from hostd.shell.repository.specifying import Specifying
from hostd.shell.repository.survey import Survey
from hostd.shell.rundir import RuntimeDirectory, StateDirectory
from hostd.shell.sizes.predictor import Sizes
from hostd.shell.starting import models_dir_of, recover, troubles_of
from hostd.shell.transport.clients import Frontend
from hostd.shell.transport.listener import Listener
from hostd.shell.transport.poller import Poller
from hostd.shell.transport.workers import Backend
from hostd.shell.verbs import Verbs
from hostd.version import __version__
from hostd_workers.wire import frames as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hostd.config.settings import HostConfig
    from hostd.records import Event
    from hostd.shell.supervisor import Supervisor

_log = logging.getLogger(__name__)


class Service:
    """One running host."""

    def __init__(
        self,
        config: HostConfig,
        have_ended_together: Callable[[Path | None], None],
        kind: str = "serve",
        lock_fd: int | None = None,
        sources: Sources | None = None,
    ) -> None:
        """Take the settings; `have_ended_together` has the workers' control groups killed if we are."""
        self._config = config
        self._have_ended_together = have_ended_together
        self._kind = kind
        self._lock_fd = lock_fd
        self._sources = sources or Sources()
        self._started_s = time.time()
        self._epoch = secrets.token_hex(8)
        self._metrics_port: int | None = None
        self._has_started = False

    async def run(self, on_ready: Callable[[HostInfo], None]) -> None:
        """Serve until shut down. Raises `HostError` when the host cannot be started."""
        config = self._config
        plugins = Plugins(config)
        models_dir = models_dir_of(config.models)
        with contextlib.ExitStack() as stack:
            self._take_directories(stack)
            self._logs = stack.enter_context(LogDrain(config.state_dir / paths.LOGS, config.workers.log_bytes))
            loop = asyncio.get_running_loop()
            poller = stack.enter_context(Poller(loop))
            settings = self._settings = Settings(config, models_dir, self._sources)
            supervisor = self._supervisor = settings.start_supervisor(poller)
            stack.callback(supervisor.close)
            guard = stack.enter_context(MemoryLimits.open())
            self._have_ended_together(guard.groups)
            gpu = await _open_gpu(supervisor, stack)
            workforce = Workforce(
                loop,
                supervisor,
                self._logs,
                guard,
                gpu,
                endpoint=paths.worker_endpoint(config.runtime_dir),
                python=config.workers.python,
                sample_period_s=config.memory.sample_period_s,
            )
            stack.callback(workforce.close)
            repository = self._repository = (
                None if models_dir is None else Repository(supervisor, plugins, models_dir, config.models)
            )
            staging = None if models_dir is None else Staging(ModelsDirectory(models_dir))
            files = self._files = Files(supervisor, staging)
            specifying = Specifying(plugins, models_dir)
            sizes = Sizes(supervisor, workforce, plugins, config, specifying)
            sizes.open()
            stack.callback(sizes.close)
            finding = Finding(loop, supervisor, specifying, repository)
            stack.callback(finding.close)
            handlers = {**finding.handlers(), **workforce.handlers(), **files.handlers(), **sizes.handlers()}
            if repository is not None and staging is not None:
                stack.callback(repository.close)
                handlers |= repository.handlers()
                await supervisor.aside(recover, staging)
            declared = DeclaredModels(config.preload, specifying, models_dir, self._sources)
            stack.callback(declared.close)
            control = Control(
                supervisor,
                self._logs,
                files,
                sizes,
                workforce,
                declared,
                Survey(supervisor, finding.contents, repository, declared),
                settings,
                self._info,
                log_bytes=config.workers.log_bytes,
            )
            self._connect(supervisor, loop, control, handlers)
            self._bind(poller, stack)
            self._serve_pages(loop, stack)
            self._handle_signals(loop)
            sampler = self._sampler(workforce, gpu)
            tasks = [asyncio.create_task(sampler.run()), asyncio.create_task(self._place.follow(supervisor.aside))]
            tasks.append(asyncio.create_task(self._end_leftovers()))
            if repository is not None or declared.now:
                await self._load_at_start(declared)
            if repository is not None and config.models.lazy_load:
                tasks.append(asyncio.create_task(repository.follow()))
            self._tell_ready(on_ready)
            await supervisor.stopped.wait()
            await self._end(tasks)

    def _take_directories(self, stack: contextlib.ExitStack) -> None:
        with paths.told(self._config.runtime_dir, "runtime"):
            runtime = stack.enter_context(RuntimeDirectory(self._config.runtime_dir, self._lock_fd))
        state = StateDirectory(self._config.state_dir, may_be_shared=self._kind == "shared")
        self._place = Place(runtime, stack.enter_context(state))

    async def _end_leftovers(self) -> None:
        await self._supervisor.aside(end_leftovers)

    def _tell_ready(self, on_ready: Callable[[HostInfo], None]) -> None:
        self._has_started = True
        on_ready(self._info())

    async def _load_at_start(self, declared: DeclaredModels) -> None:
        """Load what is declared, and what is in the models directory; what is not loaded there now is left alone."""
        self._supervisor.listeners.append(declared.on_event)
        wait, load = self._config.models.wait_for_initial_loads, self._config.models.load_on_start
        first = self._supervisor.ask(
            lambda caller: ev.SyncRequested(
                caller,
                wait,
                load,
                retry_all=False,
                deadline_s=None,
                is_leaving=not load,
                declared=declared.now,
                is_first=True,
            )
        )
        # A signal may end the host while models are still being loaded.
        stopped = asyncio.create_task(self._supervisor.stopped.wait())
        await asyncio.wait({first, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        await asyncio.gather(first, stopped, return_exceptions=True)

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        if self._repository is not None:
            self._repository.end()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._files.finish()

    def _connect(
        self,
        supervisor: Supervisor,
        loop: asyncio.AbstractEventLoop,
        control: Control,
        handlers: Mapping[type, Callable[[Any], object]],
    ) -> None:
        limits = self._config.limits
        self._backend = Backend(supervisor.emit, limits.max_message_bytes)
        self._frontend = Frontend(
            supervisor.emit,
            Verbs(control.verbs()),
            loop.time,
            on_withdrawn=control.withdraw,
            welcome={
                "version": wire.VERSION,
                "supported": list(wire.SUPPORTED_VERSIONS),
                "epoch": self._epoch,
                "batches": True,
                "max_message_bytes": limits.max_message_bytes,
            },
            max_message_bytes=limits.max_message_bytes,
        )
        supervisor.attach(self._frontend, self._backend, handlers)

    def _bind(self, poller: Poller, stack: contextlib.ExitStack) -> None:
        limits = self._config.limits
        for side, endpoint in (
            (self._backend, paths.worker_endpoint(self._config.runtime_dir)),
            (self._frontend, paths.client_endpoint(self._config.runtime_dir)),
        ):
            side.socket = Listener(
                poller,
                endpoint,
                side.side(),
                max_message_bytes=limits.max_message_bytes,
                peer_buffer_bytes=limits.peer_buffer_bytes,
            )
            # Answers that were just given, the one to `shutdown` among them, may take a moment to leave.
            stack.callback(side.socket.close, linger_s=1.0)

    def _serve_pages(self, loop: asyncio.AbstractEventLoop, stack: contextlib.ExitStack) -> None:
        section = self._config.metrics
        if section.port is not None:
            from hostd.shell.control.pages import serve  # noqa: PLC0415 - most hosts do without, and start the sooner

            self._metrics_port = serve(section.host, section.port, loop, self._supervisor, self._info, stack)

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        hangup = Hangup(loop, self._settings.reload, self._shut_down)
        for number in FORWARDED:
            if signal.getsignal(number) != signal.SIG_IGN:  # see `reaper`
                loop.add_signal_handler(number, hangup if number == signal.SIGHUP else self._shut_down)

    def _shut_down(self) -> None:
        self._supervisor.emit_later(ev.ShutdownRequested(None))

    def _sampler(self, workforce: Workforce, gpu: GpuReader | None) -> Sampler:
        settings = self._config.memory
        schedule = Schedule(settings.sample_period_s, settings.max_sample_period_s, settings.watch_period_s)
        sampler = Sampler(schedule, workforce.watched, self._supervisor.emit_later, gpu, workforce.with_group)

        def on_event(event: Event) -> None:
            if event.subject == "worker" and event.new == "LOADING":
                sampler.wake()

        self._supervisor.listeners.append(on_event)
        return sampler

    def _info(self) -> HostInfo:
        core = self._supervisor.core
        return HostInfo(
            pid=os.getpid(),
            epoch=self._epoch,
            version=__version__,
            protocol=wire.VERSION,
            endpoint=self._config.endpoint,
            started_s=self._started_s,
            models=len(core.queries.list_models()),
            workers=core.queries.worker_count(),
            rss_bytes=psutil.Process().memory_info().rss,
            metrics_port=self._metrics_port,
            runtime_dir=str(self._config.runtime_dir),
            state_dir=str(self._config.state_dir),
            python=sys.executable,
            models_dir=None if self._repository is None else str(self._repository.path),
            degraded=(
                *troubles_of(core.queries.degraded, self._config.models, has_directory=self._repository is not None),
                *self._place.troubles,
            ),
            name=self._config.name,
            state="STOPPING" if core.queries.is_stopping else "READY" if self._has_started else "STARTING",
            metrics_host=None if self._metrics_port is None else self._config.metrics.host,
            kind=self._kind,
        )


async def _open_gpu(supervisor: Supervisor, stack: contextlib.ExitStack) -> GpuReader | None:
    gpu = await supervisor.aside(GpuReader.open)  # a driver may take seconds to wake
    if gpu is not None:
        stack.callback(gpu.close)
    return gpu
