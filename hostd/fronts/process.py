"""The process of a front: it ends with its host, and serves what it was told to.

Started by the host (`hostd.shell.fronts`), which has bound the listening socket. It is a client of the host like any
other. What is served by which front is in the modules of `_SERVERS`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

from hostd_workers.wire.errors import HostError

ORDER_VARIABLE: Final = "HOSTD_FRONT"
"""What a front is told, as JSON."""

SERVES: Final = b"serves"
"""What a front says when it does; anything else is why it does not."""

PR_SET_PDEATHSIG: Final = 1
_SERVERS: Final = {
    "http": "hostd.fronts.http_server",
    "grpc": "hostd.fronts.grpc_server",
    "modelmesh": "hostd.fronts.modelmesh.server",
}
"""By kind the module whose `serve` takes the order and what says that it serves, and returns when a signal ends it."""


def run() -> NoReturn:
    """Be a front, as the environment says."""
    order: dict[str, Any] = json.loads(os.environ.pop(ORDER_VARIABLE))
    _end_with(order["parent"])
    with contextlib.suppress(OSError):  # when memory runs out, it goes before the host
        Path("/proc/self/oom_score_adj").write_text(str(order["oom_score_adj"]), "ascii")
    logging.basicConfig(
        level=logging.WARNING, format=f"%(asctime)s %(levelname)s front {order['kind']}: %(message)s", stream=sys.stderr
    )
    try:
        import_module(_SERVERS[order["kind"]]).serve(order, partial(_say, order["word_fd"], SERVES))
    except (HostError, OSError, ImportError) as error:
        _say(order["word_fd"], str(error).encode())
        sys.exit(1)
    sys.exit(0)


def _say(fd: int, word: bytes) -> None:
    """Tell the host that this front serves, or why not."""
    os.write(fd, word)
    os.close(fd)


def _end_with(parent: int) -> None:
    """End when the host does, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
