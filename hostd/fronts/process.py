"""The process of a front: it ends with its host, and serves what it was told to.

Started by the host (`hostd.shell.fronts`), which has bound the listening socket. It is a client of the host like any
other. What it serves is a function `serve(order, words)` that its order names: one of ours, or another package's
(entry points in the group `hostd.fronts`). That says `SERVES` when it does, beats, and returns when a signal ends it;
what it raises ends the front. `hostd.fronts.http_server.serve_app` is all that for an ASGI application.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypedDict

from hostd.plugins import types
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
WORD_BYTES: Final = 4096
"""Of one word. A pipe takes as many at a time, or none (pipe(7))."""

_log = logging.getLogger(__name__)


class Order(TypedDict):
    """What a front is told by its host.

    `serve` is its function, as `module:attribute`; `listen_fd` is a socket that listens already. `anonymous` is the
    role of who has no token, `tokens`, `certificate` and `key` are files (`fronts.*` in the settings). The host lets a
    front have `max_in_flight` calls of a model. What is left is read by `run`.
    """

    name: str
    serve: str
    endpoint: str
    listen_fd: int
    word_fd: int
    beat_s: float
    parent: int
    oom_score_adj: int
    anonymous: str
    tokens: str | None
    certificate: str | None
    key: str | None
    max_in_flight: int
    max_body_bytes: int
    max_bodies_bytes: int


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
            os.write(self._fd, word[:WORD_BYTES])

    def beat(self) -> None:
        """Tell from now on that this event loop runs. Call it in the loop."""
        self.say(BEAT)
        asyncio.get_running_loop().call_later(self._beat_s, self.beat)


def run() -> NoReturn:
    """Be a front, as the environment says."""
    order: Order = json.loads(os.environ.pop(ORDER_VARIABLE))
    _end_with(order["parent"])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection takes one
    with contextlib.suppress(OSError):  # when memory runs out, it goes before the host
        Path("/proc/self/oom_score_adj").write_text(str(order["oom_score_adj"]), "ascii")
    logging.basicConfig(
        level=logging.WARNING, format=f"%(asctime)s %(levelname)s front {order['name']}: %(message)s", stream=sys.stderr
    )
    words = Words(order["word_fd"], order["beat_s"])
    try:
        types.factory(types.FRONTS, order["serve"], {})(order, words)
    except (HostError, OSError) as error:
        words.say(str(error).encode("utf-8", "replace"))
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - it is anybody's code
        _log.exception("a defect of this front")
        words.say(f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
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
