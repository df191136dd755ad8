"""The machine under the figures: what it is, and how much of it other programs used meanwhile."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import zmq

PACKAGES = ("hostd", "pyzmq", "msgpack", "psutil", "numpy", "scikit-learn")


def machine_facts() -> dict[str, Any]:
    """Return what the figures depend on: cores, memory in bytes, kernel, versions, load."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "libzmq": zmq.zmq_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


class Neighbours:
    """Measures the cores that were busy with anything but this process and its descendants."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), _busy_s(), _own_s()

    def cores(self) -> float:
        """Return the cores that others used since the last call, or since the beginning."""
        before, self._start = self._start, (time.perf_counter(), _busy_s(), _own_s())
        elapsed_s, busy_s, own_s = (after - earlier for after, earlier in zip(self._start, before, strict=True))
        return max(0.0, (busy_s - own_s) / elapsed_s)

    def await_quiet(self, limit_cores: float, give_up_s: float, look_again_s: float) -> None:
        """Wait until others use at most `limit_cores`, or until `give_up_s` of `time.monotonic`."""
        self.cores()
        while time.monotonic() < give_up_s:
            time.sleep(look_again_s)
            if self.cores() <= limit_cores:
                return


def _busy_s() -> float:
    times = psutil.cpu_times()
    # Guests' time is in user's already (proc(5)); stolen time is a neighbour's too, on the machine below this one.
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal


def _own_s() -> float:
    """Return the CPU seconds of this process and its descendants, those that ended and were waited for included."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
