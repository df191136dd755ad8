"""The supervisor's process: everything put together, from the configuration to the last socket removed.

Started by `keeper` (see there why) as `python -m hostd.shell.service`, with the configuration as JSON in the
environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import resource
import secrets
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import zmq

from hostd import paths
from hostd.config import HostConfig
from hostd.core import events as ev
from hostd.core.registry import CoreConfig
from hostd.finders import find_spec
from hostd.records import Event, HostInfo
from hostd.shell.backend import Backend
from hostd.shell.frontend import Frontend
from hostd.shell.keeper import kill_children
from hostd.shell.logs import LogDrain
from hostd.shell.metrics import Metrics
from hostd.shell.rundir import RuntimeDirectory
from hostd.shell.sockets import Pump, RouterSocket
from hostd.shell.supervisor import Supervisor
from hostd.shell.verbs import Request, Role, Verb, Verbs, load_requested
from hostd.version import __version__
from workers.wire import frames as wire
from workers.wire import messages as msg
from workers.wire.errors import HostError, NotFoundError, ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

CONFIG_VARIABLE = "HOSTD_SUPERVISOR_CONFIG"
READY_FD_VARIABLE = "HOSTD_SUPERVISOR_READY_FD"
KEEPER_VARIABLE = "HOSTD_KEEPER_PID"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_MAX_SUBSCRIPTIONS = 64
"""Of one client: every one of them costs a message at every transition."""

_PROBE_PERIOD_S = 60.0
"""How often to look for clients that went without a word; each costs one message of 16 bytes."""


class Service:
    """One running host."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._started_s = time.time()
        self._epoch = secrets.token_hex(8)
        self._metrics_port: int | None = None
        self._subscribers: dict[ev.Caller, str | None] = {}

    async def run(self, on_ready: Callable[[HostInfo], None]) -> None:
        """Serve until shut down. Raises `HostError` when the host cannot be started."""
        config = self._config
        with contextlib.ExitStack() as stack:
            stack.enter_context(RuntimeDirectory(config.runtime_dir))
            self._logs = stack.enter_context(LogDrain(config.state_dir / "logs", config.workers.log_bytes))
            context: zmq.Context[Any] = zmq.Context()
            stack.callback(context.term)
            loop = asyncio.get_running_loop()
            pump = Pump(loop)
            supervisor = self._supervisor = Supervisor(
                CoreConfig(
                    spawn_timeout_s=config.workers.spawn_timeout_s,
                    load_timeout_s=config.workers.load_timeout_s,
                    drain_timeout_s=config.workers.drain_timeout_s,
                    max_in_flight=config.workers.max_in_flight,
                    max_in_flight_bytes=config.limits.max_in_flight_bytes,
                ),
                self._logs,
                pump,
                worker_endpoint=paths.worker_endpoint(config.runtime_dir),
                worker_python=config.workers.python,
                find=find_spec,
            )
            stack.callback(supervisor.close)
            self._connect(supervisor, loop)
            self._bind(context, pump, stack)
            stack.callback(pump.stop)
            self._serve_metrics(supervisor, loop)
            supervisor.listeners.append(self._publish)
            self._handle_signals(loop)
            tasks = [asyncio.create_task(self._sample()), asyncio.create_task(self._probe())]
            on_ready(self._info())
            await supervisor.stopped.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _connect(self, supervisor: Supervisor, loop: asyncio.AbstractEventLoop) -> None:
        limits = self._config.limits
        self._backend = Backend(supervisor.emit, limits.max_message_bytes)
        self._frontend = Frontend(
            supervisor.emit,
            Verbs(self._verbs()),
            loop.time,
            on_backlog=supervisor.flush_soon,
            on_withdrawn=self._unsubscribe,
            welcome={
                "version": wire.VERSION,
                "supported": list(wire.SUPPORTED_VERSIONS),
                "epoch": self._epoch,
                "batches": True,
                "max_message_bytes": limits.max_message_bytes,
            },
            buffer_messages=limits.client_buffer_messages,
            max_message_bytes=limits.max_message_bytes,
        )
        supervisor.attach(self._frontend, self._backend)

    def _bind(self, context: zmq.Context[Any], pump: Pump, stack: contextlib.ExitStack) -> None:
        max_frame_bytes = self._config.limits.max_message_bytes
        for side, endpoint in (
            (self._backend, paths.worker_endpoint(self._config.runtime_dir)),
            (self._frontend, paths.client_endpoint(self._config.runtime_dir)),
        ):
            socket = RouterSocket(
                context,
                endpoint,
                side.on_message,
                side.on_unsent,
                max_frame_bytes=max_frame_bytes,
                owner_uid=os.geteuid(),
            )
            # Answers that were just given, the one to `shutdown` among them, may take a moment to leave.
            stack.callback(socket.close, linger_ms=1000)
            side.socket = socket
            pump.add(socket)

    def _serve_metrics(self, supervisor: Supervisor, loop: asyncio.AbstractEventLoop) -> None:
        section = self._config.metrics
        if section.port is not None:
            metrics = Metrics(loop, supervisor.core.list_models)
            self._metrics_port = metrics.serve(section.port, section.host)
            supervisor.listeners.append(metrics.on_event)

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._shut_down)

    def _shut_down(self) -> None:
        self._supervisor.emit_later(ev.ShutdownRequested(None))

    async def _sample(self) -> None:
        samples: dict[ev.WorkerId, ev.Memory] = {}
        while True:
            await asyncio.sleep(self._config.memory.sample_period_s)
            samples = await self._supervisor.sample_all(samples)

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_PERIOD_S)
            self._frontend.probe()

    # Verbs

    def _verbs(self) -> dict[str, Verb]:
        emit = self._supervisor.emit
        return {
            "load_model": Verb(Role.MANAGE, lambda r: emit(load_requested(r))),
            "unload_model": Verb(
                Role.MANAGE,
                lambda r: emit(ev.UnloadRequested(r.caller, ev.ModelId(r.get("model_id", str)), r.deadline_s)),
            ),
            "unload_all_models": Verb(Role.MANAGE, lambda r: emit(ev.UnloadAllRequested(r.caller, r.deadline_s))),
            "retrieve_model": Verb(
                Role.USE,
                lambda r: emit(ev.RetrieveRequested(r.caller, ev.ModelId(r.get("model_id", str)), r.deadline_s)),
            ),
            "shutdown": Verb(Role.ADMINISTER, lambda r: emit(ev.ShutdownRequested(r.caller))),
            "list_models": Verb(Role.USE, self._list_models),
            "get_model": Verb(Role.USE, self._get_model),
            "explain_model": Verb(Role.USE, self._explain_model),
            "model_logs": Verb(Role.USE, self._model_logs),
            "host_info": Verb(Role.USE, lambda r: self._frontend.answer(r.caller, self._info().to_dict())),
            "events": Verb(Role.USE, self._subscribe),
        }

    def _list_models(self, request: Request) -> None:
        request.only()
        self._frontend.answer(request.caller, [model.to_dict() for model in self._supervisor.core.list_models()])

    def _get_model(self, request: Request) -> None:
        model_id = request.get("model_id", str)
        model = self._supervisor.core.get_model(model_id)
        if model is None:
            raise NotFoundError(f"there is no model {model_id!r}; see list_models", details={"model_id": model_id})
        self._frontend.answer(request.caller, model.to_dict())

    def _explain_model(self, request: Request) -> None:
        model_id = request.get("model_id", str)
        core = self._supervisor.core
        model, story = core.get_model(model_id), core.story(model_id)
        if model is None and not story:
            raise NotFoundError(f"nothing is known of a model {model_id!r}", details={"model_id": model_id})
        explanation = {
            "model_id": model_id,
            "state": model.state if model else story[-1].new if story[-1].subject == "model" else "UNLOADED",
            "reason": model.reason if model else story[-1].reason,
            "model": model.to_dict() if model else None,
            "story": [event.to_dict() for event in story],
        }
        self._frontend.answer(request.caller, explanation)

    def _model_logs(self, request: Request) -> None:
        model_id, tail_bytes = request.get("model_id", str), request.get("tail_bytes", int, 64 * 1024)
        log = self._logs.log_of(model_id)

        def then(tail: object) -> None:
            text = tail.decode(errors="replace") if isinstance(tail, bytes) else ""
            self._frontend.answer(request.caller, text)

        self._supervisor.read(lambda: log.tail(min(tail_bytes, self._config.workers.log_bytes)), then)

    def _subscribe(self, request: Request) -> None:
        request.only("model_id")
        if sum(caller.client == request.caller.client for caller in self._subscribers) >= _MAX_SUBSCRIPTIONS:
            raise ResourceExhaustedError(f"a client may have {_MAX_SUBSCRIPTIONS} subscriptions: close some first")
        self._subscribers[request.caller] = request.get_optional("model_id", str)
        self._frontend.answer(request.caller, None, msg.ITEM)  # "noted": what happens from now on will come

    def _publish(self, event: Event) -> None:
        for caller, model_id in list(self._subscribers.items()):
            if model_id is None or model_id == event.model_id:
                self._frontend.answer(caller, event.to_dict(), msg.ITEM)

    def _unsubscribe(self, client: ev.ClientId, request_id: int | None) -> None:
        for caller in list(self._subscribers):
            if caller.client == client and request_id in (None, caller.request_id):
                del self._subscribers[caller]

    def _info(self) -> HostInfo:
        core = self._supervisor.core
        return HostInfo(
            pid=os.getpid(),
            epoch=self._epoch,
            version=__version__,
            protocol=wire.VERSION,
            endpoint=self._config.endpoint,
            started_s=self._started_s,
            models=len(core.list_models()),
            workers=core.worker_count(),
            rss_bytes=psutil.Process().memory_info().rss,
            metrics_port=self._metrics_port,
            runtime_dir=str(self._config.runtime_dir),
            state_dir=str(self._config.state_dir),
            python=sys.executable,
        )


def _prepare_process() -> None:
    """Raise the limit on descriptors, and adopt what workers leave (prctl(2), FACTS)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        # libzmq aborts a binding process that runs out of descriptors.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _tie_to_keeper() -> None:
    """End with everything when the keeper does: without it nobody would collect what we leave if we were killed.

    By a signal whose handler does all of it, because the loop may be busy just then.
    """
    signal.signal(signal.SIGUSR2, _on_keeper_gone)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGUSR2, 0, 0, 0)
    if os.getppid() != int(os.environ.pop(KEEPER_VARIABLE)):
        _on_keeper_gone()


def _on_keeper_gone(*_: object) -> None:
    os.write(2, b"error: the process that keeps this host was killed; the host ends at once\n")
    kill_children()
    os._exit(1)


def main() -> int:
    """Run the host that the environment describes; say on the ready descriptor what became of the start."""
    config = HostConfig.from_json(os.environ.pop(CONFIG_VARIABLE))
    ready_fd = int(os.environ.pop(READY_FD_VARIABLE, "-1"))
    is_private_fd = ready_fd > sys.stderr.fileno()
    if is_private_fd:
        os.set_inheritable(ready_fd, False)
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    _prepare_process()
    _tie_to_keeper()

    def report(body: dict[str, Any]) -> None:
        if ready_fd >= 0:
            os.write(ready_fd, json.dumps(body).encode() + b"\n")
            if is_private_fd:
                os.close(ready_fd)

    def on_ready(info: HostInfo) -> None:
        if ready_fd >= 0:
            report({"ready": info.to_dict()})
        else:
            print(f"hostd {info.version} is ready at {info.endpoint} (process {info.pid})", flush=True)  # noqa: T201

    try:
        asyncio.run(Service(config).run(on_ready))
    except (HostError, OSError, zmq.ZMQError) as error:
        if ready_fd >= 0:
            report({"error": str(error)})
        else:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
