"""The supervisor's process: everything put together, from the configuration to the last socket removed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from functools import partial
from typing import TYPE_CHECKING

from hostd import paths
from hostd.core import events as ev
from hostd.plugins.registry import Plugins
from hostd.shell.control.description import Description
from hostd.shell.control.hangup import Hangup
from hostd.shell.control.requests import Control
from hostd.shell.control.settings import Settings
from hostd.shell.control.subscriptions import Subscriptions
from hostd.shell.control.watches import Watches
from hostd.shell.deploys.executor import Files
from hostd.shell.memory.gpu import GpuReader
from hostd.shell.memory.sampler import Sampler
from hostd.shell.memory.schedule import Schedule
from hostd.shell.place import Place
from hostd.shell.processes.leftovers import end_leftovers, remove_leftovers
from hostd.shell.processes.limits import MemoryLimits
from hostd.shell.processes.logs import LogDrain
from hostd.shell.processes.pool import Workforce
from hostd.shell.reaper.names import FORWARDED
from hostd.shell.repository.declared import DeclaredModels, Sources
from hostd.shell.repository.directory import ModelsDirectory
from hostd.shell.repository.finding import Finding
from hostd.shell.repository.repository import NoRepository, Repository
from hostd.shell.repository.specifying import Specifying
from hostd.shell.repository.survey import Survey
from hostd.shell.rundir import RuntimeDirectory, StateDirectory
from hostd.shell.sizes.predictor import Sizes
from hostd.shell.starting import models_dir_of, recover
from hostd.shell.supervisor import Supervisor
from hostd.shell.transport.clients import Frontend, Programs
from hostd.shell.transport.lanes import LanePlaces
from hostd.shell.transport.listener import Listener
from hostd.shell.transport.poller import Poller
from hostd.shell.transport.workers import Backend
from hostd.shell.verbs import Verbs
from hostd.shell.work.slices import Slices
from hostd_workers.wire.errors import HostError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from hostd.config.settings import HostConfig, MemoryConfig, ModelsConfig
    from hostd.records import HostInfo
    from hostd.shell.control.metrics import Metrics
    from hostd.shell.fronts import Fronts
    from hostd.shell.processes.spawning import TemplateProcess
    from hostd.shell.transport.listener import Side


class _Parts(NamedTuple):
    """The components that a running host is led by."""

    supervisor: Supervisor
    settings: Settings
    place: Place
    description: Description
    sampler: Sampler
    repository: Repository | None
    files: Files
    declared: DeclaredModels
    sizes: Sizes
    fronts: Fronts | None
    metrics: Metrics | None


class Service:
    """One running host."""

    def __init__(
        self,
        config: HostConfig,
        have_ended_together: Callable[[Path | None], None],
        kind: str = "serve",
        lock_fd: int | None = None,
        sources: Sources | None = None,
        begun: TemplateProcess | None = None,
    ) -> None:
        """Take the settings; `have_ended_together` has the workers' control groups killed if we are.

        `begun` is a template that has been started (`early`).
        """
        self._begun = begun
        self._config = config
        self._have_ended_together = have_ended_together
        self._kind = kind
        self._lock_fd = lock_fd
        self._sources = sources or Sources()

    async def run(self, on_ready: Callable[[HostInfo], None]) -> None:
        """Serve until shut down. Raises `HostError` when the host cannot be started."""
        with contextlib.ExitStack() as stack:
            host = await self._composed(stack)
            supervisor, repository, models = host.supervisor, host.repository, self._config.models
            self._serve_pages(host, stack)
            _handle_signals(host)
            in_host = partial(supervisor.read, "host")
            beside = [host.sampler.run(), host.place.follow(in_host), in_host(end_leftovers), in_host(remove_leftovers)]
            tasks = [asyncio.create_task(each) for each in beside]
            if host.fronts is not None:
                await _unless_stopped(supervisor, host.fronts.start())
            gc.freeze()  # what the host is made of stays: collections that look through it hold all calls up for 20 ms
            if repository is not None or host.declared.now:
                await _load_at_start(host, models)
            if repository is not None and models.lazy_load:
                tasks.append(asyncio.create_task(repository.follow(supervisor.ask)))
            host.description.has_started = True
            on_ready(host.description.info())
            supervisor.start(host.sizes.recall_imports(is_bare_begun=self._begun is not None))
            await supervisor.stopped.wait()
            if repository is not None:
                repository.end()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await host.files.finish()

    async def _composed(self, stack: contextlib.ExitStack) -> _Parts:
        """Make all components and connect them, what is needed first and what is heard by clients last."""
        config, enter, loop = self._config, stack.enter_context, asyncio.get_running_loop()
        plugins, models_dir = Plugins(config), models_dir_of(config.models)
        place = self._take_directories(stack)
        logs = enter(LogDrain(config.state_dir / paths.LOGS, config.workers.log_bytes))
        settings = Settings(config, models_dir, self._sources)
        supervisor = enter(Supervisor(settings.for_core()))
        listen = partial(_listener, enter(Poller(loop, supervisor.arm)), config)
        guard = enter(MemoryLimits.open())
        self._have_ended_together(guard.groups)
        gpu: GpuReader | None = await supervisor.read("host", GpuReader.open)  # a driver may take seconds to wake
        if gpu is not None:
            enter(gpu)
        max_bytes = config.limits.max_message_bytes
        lanes = enter(LanePlaces(config))
        backend = enter(Backend(partial(listen, paths.worker_endpoint), supervisor.emit, max_bytes, lanes))
        workforce = enter(Workforce(loop, supervisor, backend, logs, guard, gpu, config, self._begun))
        staging = repository = None
        if models_dir is not None:
            from hostd.shell.deploys.staging import Staging  # noqa: PLC0415 - see `_serve_pages`

            staging = Staging(ModelsDirectory(models_dir))
            await supervisor.read("host", partial(recover, staging))
            repository = enter(Repository(plugins, models_dir, config.models))
        files = enter(Files(supervisor, staging))
        specifying = Specifying(plugins, models_dir)
        sizes = enter(Sizes(supervisor.now, workforce, plugins, config, specifying))
        finding = enter(Finding(supervisor, specifying, repository))
        declared = enter(DeclaredModels(config.preload, specifying, models_dir, self._sources))
        queries, programs = supervisor.core.queries, Programs()
        fronts = _fronts(loop, config, stack)
        description = Description(config, self._kind, queries, place, models_dir, fronts)
        survey = Survey(queries, finding.contents, repository, declared)
        metrics = _metrics(config, supervisor)
        subscriptions, slices = Subscriptions(supervisor), Slices()
        watches = Watches(supervisor, subscriptions, slices, description.epoch)
        control = Control(
            supervisor,
            logs,
            files,
            sizes,
            workforce,
            declared,
            survey,
            settings,
            programs,
            metrics,
            subscriptions,
            watches,
            description,
            slices,
        )
        frontend = enter(
            Frontend(
                partial(listen, paths.client_endpoint),
                supervisor.emit,
                Verbs(control.verbs()),
                loop.time,
                on_withdrawn=subscriptions.withdraw,
                programs=programs,
                welcome=description.welcome(),
                max_message_bytes=max_bytes,
            )
        )
        supervisor.attach(frontend, backend, workforce, sizes, finding, files, repository or NoRepository())
        sampler = _sampler(config.memory, supervisor, workforce, gpu)
        supervisor.tell(workforce.on_event, subscriptions.on_event, watches.on_event)
        supervisor.tell(sampler.on_event, declared.on_event)
        return _Parts(
            supervisor, settings, place, description, sampler, repository, files, declared, sizes, fronts, metrics
        )

    def _take_directories(self, stack: contextlib.ExitStack) -> Place:
        with paths.told(self._config.runtime_dir, "runtime"):
            runtime = stack.enter_context(RuntimeDirectory(self._config.runtime_dir, self._lock_fd))
        state = StateDirectory(self._config.state_dir, may_be_shared=self._kind == "shared")
        return Place(runtime, stack.enter_context(state))

    def _serve_pages(self, host: _Parts, stack: contextlib.ExitStack) -> None:
        section = self._config.metrics
        if section.port is not None:
            from hostd.shell.control.pages import serve  # noqa: PLC0415 - most hosts do without, and start the sooner

            loop, description = asyncio.get_running_loop(), host.description
            assert host.metrics is not None  # noqa: S101 - see `_metrics`
            description.metrics_port = serve(section.host, section.port, loop, host.metrics, description.info, stack)


def _metrics(config: HostConfig, supervisor: Supervisor) -> Metrics | None:
    """Return what counts for the page of metrics, if anybody can see that."""
    if config.metrics.port is None and config.fronts.http is None and not config.fronts.others:
        return None
    from hostd.shell.control.metrics import Metrics  # noqa: PLC0415 - as for the pages

    metrics = Metrics(supervisor.core)
    supervisor.tell(metrics.on_event)
    return metrics


def _fronts(loop: asyncio.AbstractEventLoop, config: HostConfig, stack: contextlib.ExitStack) -> Fronts | None:
    section = config.fronts
    if not (section.http or section.grpc or section.modelmesh or section.others):
        return None
    from hostd.shell.fronts import Fronts  # noqa: PLC0415 - as for the pages

    return stack.enter_context(Fronts(loop, config))


def _listener(poller: Poller, config: HostConfig, endpoint_in: Callable[[Path], str], side: Side) -> Listener:
    limits = config.limits
    return Listener(
        poller,
        endpoint_in(config.runtime_dir),
        side,
        max_message_bytes=limits.max_message_bytes,
        peer_buffer_bytes=limits.peer_buffer_bytes,
    )


def _sampler(settings: MemoryConfig, supervisor: Supervisor, workforce: Workforce, gpu: GpuReader | None) -> Sampler:
    schedule = Schedule(settings.sample_period_s, settings.max_sample_period_s, settings.watch_period_s)
    return Sampler(schedule, workforce.watched, supervisor.emit_later, gpu, workforce.with_group)


async def _load_at_start(host: _Parts, settings: ModelsConfig) -> None:
    """Load what is declared, and what is in the models directory; what is not loaded there now is left alone."""
    supervisor, declared = host.supervisor, host.declared
    wait, load = settings.wait_for_initial_loads, settings.load_on_start
    first = supervisor.ask(
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
    with contextlib.suppress(HostError):
        await _unless_stopped(supervisor, first)


async def _unless_stopped(supervisor: Supervisor, work: Awaitable[object]) -> None:
    """Wait for a part of the start, but no longer than the host lives: a signal may end it meanwhile."""
    begun = asyncio.ensure_future(work)
    stopped = asyncio.create_task(supervisor.stopped.wait())
    await asyncio.wait({begun, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not begun.done():
        begun.cancel()
    await asyncio.gather(stopped, *([] if begun.done() else [begun]), return_exceptions=True)
    if begun.done() and not begun.cancelled():
        begun.result()


def _handle_signals(host: _Parts) -> None:
    loop, supervisor = asyncio.get_running_loop(), host.supervisor

    async def reload() -> None:
        with contextlib.suppress(HostError):  # it is logged
            await host.settings.reload(supervisor)

    def shut_down() -> None:
        supervisor.emit_later(ev.ShutdownRequested(None))

    hangup = Hangup(loop, lambda: supervisor.start(reload()), shut_down)
    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:  # see `reaper`
            loop.add_signal_handler(number, hangup if number == signal.SIGHUP else shut_down)
