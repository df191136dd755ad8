"""A private host inside another program.

`Host` starts a supervisor as a child process in a runtime directory of its own. It installs no signal handler, reaps no
child but its own, and leaves nothing behind: the supervisor and every worker end with the embedding process, however
that ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostd import paths
from hostd.client.sync import Client
from hostd.launch import AT_ONCE, keeper_command, ready_pipe, supervisor_environment, told_of_start
from hostd_workers.wire.errors import DeadlineExceededError, FailedPreconditionError, UnavailableError, from_wire

if TYPE_CHECKING:
    from types import TracebackType

START_TIMEOUT_S = 60.0
"""An interpreter on a cold disk starts in seconds; what takes longer than this hangs."""

STOP_TIMEOUT_S = 30.0
"""How long an orderly stop may take, draining included, before everything is killed."""

AT_ONCE_PERIOD_S = 0.2
"""Long enough for an interpreter to start."""


class Host:
    """A private model host, for as long as the `with` block lasts.

        with hostd.Host() as host:
            client = host.client()
            model = client.load_model("digits", "models/digits")
            model.predict(x)

    Keywords are the sections of the configuration file (`models`, `workers`, `memory`, `metrics`, `limits`, `finders`,
    `loaders`, `initializers`, `sizers`); `models_dir` is short for `models={"dir": ...}`. Raises
    `InvalidArgumentError` for settings that are not right, and what the supervisor says when it does not start.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        models: dict[str, Any] | None = None,
        memory: dict[str, Any] | None = None,
        workers: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        limits: dict[str, Any] | None = None,
        finders: dict[str, Any] | None = None,
        loaders: dict[str, Any] | None = None,
        initializers: dict[str, Any] | None = None,
        sizers: dict[str, Any] | None = None,
        models_dir: str | os.PathLike[str] | None = None,
        log_level: str = "warning",
    ) -> None:
        if models_dir is not None:
            models = {**(models or {}), "dir": models_dir}
        sections = {
            "models": models,
            "memory": memory,
            "workers": workers,
            "metrics": metrics,
            "limits": limits,
            "finders": finders,
            "loaders": loaders,
            "initializers": initializers,
            "sizers": sizers,
        }
        self._settings: dict[str, Any] = {key: value for key, value in sections.items() if value is not None}
        self._settings["log_level"] = log_level
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._info: dict[str, Any] = {}
        self._supervisor_fd = -1
        self._directory = Path()
        self._owner_pid = 0
        self._clients: list[Client] = []

    def __repr__(self) -> str:
        state = f"at {self.endpoint}, pid={self.pid}" if self._process else "not started"
        return f"<Host {state}>"

    @property
    def endpoint(self) -> str:
        """The endpoint at which other processes of this user can reach the host."""
        self._check_started()
        return str(self._info["endpoint"])

    @property
    def pid(self) -> int:
        """The process id of the supervisor."""
        self._check_started()
        return int(self._info["pid"])

    def client(self, **options: Any) -> Client:
        """Return a client of this host; it is closed with the host. Takes the options of `hostd.connect`."""
        client = Client(self.endpoint, **options)
        self._clients.append(client)
        return client

    def start(self) -> None:
        """Start the host; what `with` does. A host that was stopped may be started again."""
        if self._process is not None:
            raise FailedPreconditionError("this Host is started already: use it, or make another")
        # Imported here, because clients that never start a host need no pydantic (a fifth of a second).
        from hostd.config import load_config  # noqa: PLC0415

        self._owner_pid = os.getpid()
        directory = self._directory = _private_directory(self._name)
        ready_read, ready_write = ready_pipe()
        try:
            config = load_config({**self._settings, "runtime_dir": directory, "state_dir": directory / "state"})
            with told_of_start():
                self._process = subprocess.Popen(  # noqa: S603 - our own command
                    keeper_command(embedder_pid=os.getpid(), remove_dir=directory),
                    env=supervisor_environment(config, ready_write),
                    pass_fds=[ready_write],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # the terminal's Ctrl-C is for the embedding program alone
                )
            os.close(ready_write)
            ready_write = -1
            self._info = self._await_ready(ready_read)
            self._supervisor_fd = os.pidfd_open(self._info["pid"])
        except BaseException:
            self._end_at_once()
            self._tidy()
            raise
        finally:
            os.close(ready_read)
            if ready_write >= 0:
                os.close(ready_write)

    def stop(self) -> None:
        """Unload everything and end the host; returns when no process of it is left."""
        process = self._process
        if process is None:
            return
        if os.getpid() != self._owner_pid:  # a child that the embedding program forked: the host is its parent's
            self._process = None
            return
        for client in self._clients:
            client.close()
        self._clients.clear()
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._end_at_once()
        self._tidy()

    def __enter__(self) -> Host:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Host:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _await_ready(self, ready_fd: int) -> dict[str, Any]:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        line = b""
        while not line.endswith(b"\n"):
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0 or not _is_readable(ready_fd, remaining_s):
                raise DeadlineExceededError(f"the host did not start within {START_TIMEOUT_S:g} s")
            data = os.read(ready_fd, 65536)
            if not data:
                raise UnavailableError("the host ended while it was starting; what it said is on standard error")
            line += data
        said = json.loads(line)
        if "error" in said:
            message = f"the host did not start: {said['error']}"
            raise from_wire([*said["kind"], message, {}]) if said["kind"] else UnavailableError(message)
        return dict(said["ready"])

    def _end_at_once(self) -> None:
        """Have the keeper kill the supervisor and all that it leaves."""
        # Again and again: a keeper that is just starting may ignore it still, if this process does.
        while self._process is not None and self._process.poll() is None:
            self._process.send_signal(AT_ONCE)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(AT_ONCE_PERIOD_S)

    def _tidy(self) -> None:
        """Wait for the proof that nothing is left, and see to it if somebody has killed the keeper."""
        if self._supervisor_fd >= 0:
            if not _is_readable(self._supervisor_fd, STOP_TIMEOUT_S):
                signal.pidfd_send_signal(self._supervisor_fd, signal.SIGKILL)
                _is_readable(self._supervisor_fd, None)
            os.close(self._supervisor_fd)
            self._supervisor_fd = -1
        shutil.rmtree(self._directory, ignore_errors=True)
        self._process = None

    def _check_started(self) -> None:
        if self._process is None:
            raise FailedPreconditionError("this Host is not started: use it as `with hostd.Host() as host:`")


def _is_readable(fd: int, timeout_s: float | None) -> bool:
    # Not select(2), which takes no descriptor above 1023; a server may have more.
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))


def _private_directory(name: str | None) -> Path:
    # Only a name: the supervisor makes the directory and its keeper removes it, so whenever this process is killed,
    # either nothing is there yet, or somebody is who tidies up.
    return paths.runtime_dir(f"{name or 'embedded'}-{os.getpid()}-{secrets.token_hex(4)}")
