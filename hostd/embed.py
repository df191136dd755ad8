"""A host inside another program: a private one, or one that it shares with others (`hostd.sharing`).

A private `Host` starts a supervisor as a child process in a runtime directory of its own. It installs no signal
handler, reaps no child but its own, and leaves nothing behind: the supervisor and every worker end with the embedding
process, however that ends; those of a shared one with the last process that uses it.
"""

from __future__ import annotations

import os
import subprocess
import time
import weakref
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from hostd.hosts.launch import AT_ONCE, Order, ready_pipe, reaper_command, supervisor_environment, told_of_start
from hostd.not_pickled import NotPickled
from hostd_workers.wire.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnavailableError,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from hostd import AsyncClient, Client
    from hostd.config.settings import HostConfig
    from hostd.sharing import Seat

START_TIMEOUT_S = 60.0
"""An interpreter on a cold disk starts in seconds; what takes longer than this hangs."""

STOP_TIMEOUT_S = 30.0
"""How long an orderly stop may take, draining included, before everything is killed."""

AT_ONCE_PERIOD_S = 0.2
"""Long enough for an interpreter to start."""


class Host(NotPickled):
    """A private model host, for as long as the `with` block lasts.

        with hostd.Host() as host:
            client = host.client()
            model = client.load_model("digits", "models/digits")
            model.predict(x)

    With `shared=True` it is the one host called `name` of this user: the first process starts it, the others join it,
    and it ends with the last of them, however each of them ends. One that `hostd serve --name NAME` runs is joined as
    well, and goes on without us. Settings that this process gives must be those of the host that runs. Environment and
    interpreter are those of the process that started it, and its log is `host.log` in its state directory.

    Keywords are the sections of the configuration file (`models`, `workers`, `memory`, `metrics`, `fronts`, `limits`,
    `finders`, `loaders`, `initializers`, `sizers`, `preload`); `models_dir` is short for `models={"dir": ...}`. Raises
    `InvalidArgumentError` for settings that are not right, `FailedPreconditionError` if a shared host runs with others,
    and what the supervisor says when it does not start.
    """

    _instead = "it belongs to its process; pickle its endpoint and call hostd.connect(endpoint) there"

    def __init__(
        self,
        name: str | None = None,
        *,
        shared: bool = False,
        models: dict[str, Any] | None = None,
        memory: dict[str, Any] | None = None,
        workers: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        fronts: dict[str, Any] | None = None,
        limits: dict[str, Any] | None = None,
        finders: dict[str, Any] | None = None,
        loaders: dict[str, Any] | None = None,
        initializers: dict[str, Any] | None = None,
        sizers: dict[str, Any] | None = None,
        preload: dict[str, Any] | None = None,
        models_dir: str | os.PathLike[str] | None = None,
        log_level: str | None = None,
        **unknown: NoReturn,  # so that editors and type checkers mark what is not there
    ) -> None:
        if shared and name is None:
            raise InvalidArgumentError(
                "a shared host needs the name by which others find it: hostd.Host('my-app', shared=True)"
            )
        if models_dir is not None:
            models = {**(models or {}), "dir": models_dir}
        sections = {
            "models": models,
            "memory": memory,
            "workers": workers,
            "metrics": metrics,
            "fronts": fronts,
            "limits": limits,
            "finders": finders,
            "loaders": loaders,
            "initializers": initializers,
            "sizers": sizers,
            "preload": preload,
            "log_level": log_level,
        }
        if unknown:
            from hostd.hints import nearest  # noqa: PLC0415 - only a failure needs it

            known = ("name", "shared", "models_dir", *sections)
            problems = [f"hostd.Host has no section {each!r}; {nearest(each, known)}" for each in unknown]
            raise InvalidArgumentError("; ".join(problems), details={"problems": problems})
        self._settings: dict[str, Any] = {key: value for key, value in sections.items() if value is not None}
        self._name = name
        self._is_shared = shared
        self._seat: Seat | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._info: dict[str, Any] = {}
        self._supervisor_fd = -1
        self._directory: Path | None = None
        self._owner_pid = 0
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._async_clients: weakref.WeakSet[AsyncClient] = weakref.WeakSet()

    def __repr__(self) -> str:
        state = f"at {self.endpoint}, pid={self.pid}" if self._info else "not started"
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
        """Return a client of this host, which is closed with it at the latest. Takes the options of `hostd.connect`."""
        from hostd import Client  # noqa: PLC0415 - see `_start_private`

        client = Client(self.endpoint, **options)
        self._clients.add(client)
        return client

    def async_client(self, **options: Any) -> AsyncClient:
        """Return an asyncio client of this host; it is closed with the host. Takes the options of `AsyncClient`.

        It connects when it is first used, on the loop that uses it.
        """
        from hostd import AsyncClient  # noqa: PLC0415 - most programs have no loop

        client = AsyncClient(self.endpoint, **options)
        self._async_clients.add(client)
        return client

    def start(self) -> None:
        """Start or join the host; what `with` does. A host that was stopped may be started again."""
        if self._info:
            raise FailedPreconditionError("this Host is started already: use it, or make another")
        self._owner_pid = os.getpid()
        if self._is_shared and self._name is not None:
            from hostd.sharing import take_seat  # noqa: PLC0415 - as above

            self._seat = take_seat(self._name, self._settings, START_TIMEOUT_S)
            self._info = self._seat.info
        else:
            self._start_private()

    def stop(self) -> None:
        """Unload everything and end the host; returns when no process of it is left.

        A shared host goes on as long as others use it. In a signal handler that interrupts this it returns at once.
        """
        if not self._info:
            return
        self._info = {}
        if os.getpid() != self._owner_pid:  # a child that the embedding program forked: the host is its parent's
            self._process = self._seat = None
            return
        for client in self._clients:
            client.close()
        self._clients.clear()
        for asynchronous in self._async_clients:
            asynchronous._channels.close()  # noqa: SLF001 - one of us
        self._async_clients.clear()
        if self._seat is not None:
            self._seat.give_back(STOP_TIMEOUT_S)
            self._seat = None
        elif self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._end_at_once()
            self._tidy()

    def __enter__(self) -> Host:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Host:
        import asyncio  # noqa: PLC0415 - most programs have no loop

        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        import asyncio  # noqa: PLC0415 - as above

        for client in self._async_clients:
            await client.close()
        self._async_clients.clear()
        await asyncio.to_thread(self.stop)

    def _start_private(self) -> None:
        is_told = False
        with ExitStack() as stack:
            with told_of_start():
                order = stack.enter_context(closing(Order()))
                ready_read, ready_write = ready_pipe()
            stack.callback(os.close, ready_read)
            theirs = stack.enter_context(ExitStack())
            theirs.callback(os.close, ready_write)
            try:
                with told_of_start():
                    self._process = subprocess.Popen(  # noqa: S603 - our own command
                        reaper_command(embedded=(os.getpid(), order.told_fd, order.order_fd)),
                        env=supervisor_environment(None, ready_write, kind="embedded"),
                        pass_fds=[ready_write, order.told_fd, order.order_fd],
                        stdin=subprocess.DEVNULL,
                        start_new_session=True,  # the terminal's Ctrl-C is for the embedding program alone
                    )
                theirs.close()
                # From here on what is done, and what is imported for it, is done while the host starts.
                order.tell(self._private_config())
                is_told = True
                from hostd import Client  # noqa: F401, PLC0415 - as said

                info = _await_ready(ready_read)
                self._supervisor_fd = os.pidfd_open(info["pid"])
                self._info = info
            except BaseException:
                if self._process is not None and not is_told:
                    self._process.kill()  # it waits for the order, and has nothing to end
                self._end_at_once()
                self._tidy()
                raise

    def _private_config(self) -> HostConfig:
        from hostd import paths  # noqa: PLC0415 - see `_start_private`
        from hostd.config.loading import config_of_start  # noqa: PLC0415 - as above
        from hostd.sharing import QUIET  # noqa: PLC0415 - as above

        # Only a name: the supervisor makes the directory and its reaper removes it, so whenever this process is
        # killed, either nothing is there yet, or another process is that tidies up.
        directory = self._directory = paths.runtime_dir(paths.private_name(self._name))
        places = {
            "name": str(directory.relative_to(paths.hosts_dir())),
            "runtime_dir": directory,
            "state_dir": directory / "state",
        }
        return config_of_start({"log_level": QUIET, **self._settings, **places})

    def _end_at_once(self) -> None:
        """Have the reaper kill the supervisor and all that it leaves."""
        # Again and again: a reaper that is just starting may ignore it still, if this process does.
        while self._process is not None and self._process.poll() is None:
            self._process.send_signal(AT_ONCE)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(AT_ONCE_PERIOD_S)

    def _tidy(self) -> None:
        """Wait for the proof that nothing is left, and see to it if somebody has killed the reaper."""
        if self._supervisor_fd >= 0:
            from hostd.sharing import see_it_end  # noqa: PLC0415 - see `_start_private`

            see_it_end(self._supervisor_fd, STOP_TIMEOUT_S)
            os.close(self._supervisor_fd)
            self._supervisor_fd = -1
        if self._directory is not None:
            import shutil  # noqa: PLC0415 - a start does without it

            shutil.rmtree(self._directory, ignore_errors=True)
        self._process = self._directory = None

    def _check_started(self) -> None:
        if not self._info:
            raise FailedPreconditionError("this Host is not started: use it as `with hostd.Host() as host:`")


def _await_ready(ready_fd: int) -> dict[str, Any]:
    from hostd.sharing import info_of_start, is_readable  # noqa: PLC0415 - see `_start_private`

    deadline_s = time.monotonic() + START_TIMEOUT_S
    line = b""
    while not line.endswith(b"\n"):
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0 or not is_readable(ready_fd, remaining_s):
            raise DeadlineExceededError(f"the host did not start within {START_TIMEOUT_S:g} s")
        data = os.read(ready_fd, 65536)
        if not data:
            raise UnavailableError("the host ended while it was starting; what it said is on standard error")
        line += data
    return info_of_start(line)
