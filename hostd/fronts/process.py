"""The process of a front: it ends with its host, and serves what it was told to.

Started by the host (`hostd.shell.fronts`), which has bound the listening socket. It is a client of the host like any
other. What is served by which front is in the modules of `_SERVERS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Coroutine

ORDER_VARIABLE: Final = "HOSTD_FRONT"
"""What a front is told, as JSON."""

SERVES: Final = b"serves"
"""What a front says when it does; anything else is why it does not."""

BEAT: Final = b"\0"
"""What a front says again and again, from its event loop: it is not stuck. No other word has it."""

PR_SET_PDEATHSIG: Final = 1
_SERVERS: Final = {
    "http": "hostd.fronts.http_server",
    "grpc": "hostd.fronts.grpc_server",
    "modelmesh": "hostd.fronts.modelmesh.server",
}
"""By kind the module whose `serve` takes the order and the `Words`, and returns when a signal ends it."""


class Words:
    """What a front tells its host, over a pipe."""

    def __init__(self, fd: int, beat_s: float) -> None:
        """Take the pipe, and the seconds between two beats."""
        self._fd = fd
        self._beat_s = beat_s

    def __repr__(self) -> str:
        return f"<Words {self._fd}>"

    def say(self, word: bytes) -> None:
        """Tell a word; nothing if the pipe is full, because the host stands still, or closed, because it ends."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._fd, word)

    def beat(self) -> None:
        """Tell from now on that this event loop runs. Call it in the loop."""
        self.say(BEAT)
        asyncio.get_running_loop().call_later(self._beat_s, self.beat)


def run() -> NoReturn:
    """Be a front, as the environment says."""
    order: dict[str, Any] = json.loads(os.environ.pop(ORDER_VARIABLE))
    _end_with(order["parent"])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection takes one
    with contextlib.suppress(OSError):  # when memory runs out, it goes before the host
        Path("/proc/self/oom_score_adj").write_text(str(order["oom_score_adj"]), "ascii")
    logging.basicConfig(
        level=logging.WARNING, format=f"%(asctime)s %(levelname)s front {order['kind']}: %(message)s", stream=sys.stderr
    )
    words = Words(order["word_fd"], order["beat_s"])
    try:
        import_module(_SERVERS[order["kind"]]).serve(order, words)
    except (HostError, OSError, ImportError) as error:
        words.say(str(error).encode())
        sys.exit(1)
    sys.exit(0)


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run what serves in the fastest event loop that there is."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def _end_with(parent: int) -> None:
    """End when the host does, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
