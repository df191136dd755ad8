"""The supervisor's entry: environment, signals, what became of the start, and the exit code.

Started by `reaper` (see there why) with the command of `hostd.hosts.launch`, which calls `run`, and with the
configuration as JSON in the environment. What it runs is put together in `service`.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import json
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from hostd.config.received import config_from_json
from hostd.shell import own_log, surroundings
from hostd.shell.processes.early import KIND_VARIABLE, LOCK_FD_VARIABLE, READY_FD_VARIABLE
from hostd.shell.reaper.collecting import end_all
from hostd.shell.reaper.names import CONFIG_VARIABLE, GROUPS_FD_VARIABLE
from hostd.shell.repository.declared import Sources
from hostd.shell.repository.finding import THREAD_NAME as FINDER_THREADS
from hostd.shell.repository.repository import THREAD_NAME as SCANNER_THREADS
from hostd.shell.service import Service
from hostd.shell.sizes.predictor import THREAD_NAME as SIZES_THREADS
from hostd_workers.wire.errors import HostError, to_wire

if TYPE_CHECKING:
    from pathlib import Path

    from hostd.records import HostInfo
    from hostd.shell.processes.spawning import TemplateProcess


_log = logging.getLogger(__name__)

SOURCES_VARIABLE = "HOSTD_SUPERVISOR_SOURCES"
REAPER_VARIABLE = "HOSTD_REAPER_PID"
PR_SET_PDEATHSIG = 1


def _tie_to_reaper() -> None:
    """End with everything when the reaper does: without it nobody would collect what we leave if we were killed.

    The handler of a signal does all of it, because the loop may be busy just then.
    """
    signal.signal(signal.SIGUSR2, functools.partial(_on_reaper_gone, ""))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGUSR2, 0, 0, 0)
    if os.getppid() != int(os.environ.pop(REAPER_VARIABLE)):
        _on_reaper_gone("")


def _have_ended_together(groups: Path | None) -> None:
    """Have all that is in the workers' control groups killed at once by whichever is left, the reaper or we."""
    fd = int(os.environ.pop(GROUPS_FD_VARIABLE))
    if groups is not None:
        os.write(fd, os.fsencode(groups))
        signal.signal(signal.SIGUSR2, functools.partial(_on_reaper_gone, str(groups)))
    os.close(fd)


def _on_reaper_gone(groups: str, *_: object) -> None:
    end_all(groups)
    # Not before: what reads its words may have been killed with the reaper.
    own_log.write_at_once("the process that keeps this host was killed; the host ends at once")
    os._exit(1)


def main(begun: TemplateProcess | None) -> int:
    """Run the host that the environment describes; say on the ready descriptor what became of the start."""
    config = config_from_json(os.environ.pop(CONFIG_VARIABLE))
    sources = Sources(**json.loads(os.environ.pop(SOURCES_VARIABLE, "{}")))
    ready_fd = int(os.environ.pop(READY_FD_VARIABLE, "-1"))
    lock_fd = int(os.environ.pop(LOCK_FD_VARIABLE, "-1"))
    is_private_fd = ready_fd > 2
    own_log.configure(config.log_level, config.log_format)
    surroundings.prepare()
    _tie_to_reaper()

    def report(body: dict[str, Any]) -> None:
        if ready_fd >= 0:
            os.write(ready_fd, json.dumps(body).encode() + b"\n")
            if is_private_fd:
                os.close(ready_fd)

    def on_ready(info: HostInfo) -> None:
        if ready_fd >= 0:
            report({"ready": info.to_dict()})
            return
        try:  # past buffers, which would be written again at the end
            lines = [f"hostd {info.version} is ready at {info.endpoint} (process {info.pid})", *info.fronts.values()]
            os.write(1, "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            _log.warning("it is ready at %s, and cannot say so on standard output: %s", info.endpoint, error)

    kind = os.environ.pop(KIND_VARIABLE, "serve")
    service = Service(config, _have_ended_together, kind, lock_fd if lock_fd >= 0 else None, sources, begun)
    try:
        surroundings.check()
        asyncio.run(service.run(on_ready))
    except (HostError, OSError) as error:
        if ready_fd >= 0:
            said = to_wire(error)[:2] if isinstance(error, HostError) else None
            report({"error": str(error), "kind": said})
        elif config.log_format == "json":
            _log.critical("the host did not start: %s", error)
        else:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def run(begun: TemplateProcess | None) -> NoReturn:
    """Be the host's process, and end it even if a finder or sizer hangs: the interpreter would wait for its thread."""
    gc.freeze()  # or the first collection looks at all that was imported: 10 ms
    gc.enable()  # see `hostd.hosts.launch`
    code = main(begun)
    if any(
        thread.name.startswith((FINDER_THREADS, SCANNER_THREADS, SIZES_THREADS)) for thread in threading.enumerate()
    ):
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
