"""`hostd top` on a host that answers from memory, as a program of its own: `python top_program.py DIR ARGS`.

A file `gone` in DIR makes the host unreachable, a file `broken` makes the next picture raise.
"""

import itertools
import os
import sys
import time
from pathlib import Path

from hostd.cli.root import root
from hostd.cli.session import Session
from hostd.cli.top import screen
from hostd.records import Event, HostInfo, MemoryInfo, ModelInfo
from hostd_workers.wire.errors import UnavailableError

PLACE = Path(sys.argv[1])
MIB = 2**20
STARTED_S = time.time()
LOOKS = itertools.count()


class FakeClient:
    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def close(self):
        pass

    def list_models(self):
        if (PLACE / "gone").exists():
            raise UnavailableError("nobody answers")
        seen = next(LOOKS)
        return [
            ModelInfo(f"model-{i}", "READY", "/m", "t", generation=1, calls=seen * 7, charge_bytes=(9 - i) * 10 * MIB)
            for i in range(3)
        ]

    def memory_info(self):
        return MemoryInfo(500 * MIB, "set", 240 * MIB, 0, 260 * MIB)

    def host_info(self):
        return HostInfo(41, "e", "0.1.0", 1, "ipc:///x", STARTED_S, 3, 3, 60 * MIB, None, "/run", "/state", "py")

    def events(self, model_id):
        yield Event(time.time(), "model-2", "model", "READY", "UNLOADING", "EVICT", "evicted for another")


def connect(endpoint, **timeouts):
    if (PLACE / "gone").exists():
        raise UnavailableError("nobody answers")
    return FakeClient()


def breakable(*args, **how):
    if (PLACE / "broken").exists():
        raise RuntimeError("the picture is broken")
    return picture(*args, **how)


if __name__ == "__main__":
    if os.isatty(0):
        os.close(os.open(os.ttyname(0), os.O_RDWR))  # which makes it the terminal that controls this session
    picture, screen.frame = screen.frame, breakable
    root.main(["top", *sys.argv[2:]], prog_name="hostd", obj=Session(connect=connect))
