"""Memory that processes hold on NVIDIA devices, as NVML tells it.

Needs the package nvidia-ml-py (module `pynvml`, extra `gpu`), a driver and a device; without one of them there are no
figures, and nothing else changes. In a container NVML shows the processes of its own PID namespace under their numbers
there (os_find_ns_pid in NVIDIA's open kernel modules). Does not cover other makers' devices.
"""

from __future__ import annotations

import importlib
import logging
import threading
from typing import Any

from hostd.shell.work.closing import Closing

_log = logging.getLogger(__name__)

_QUERIES = (
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetComputeRunningProcesses_v2",
    "nvmlDeviceGetComputeRunningProcesses",
)
"""The newest first. A module may know one that the driver does not have, and the other way round."""


class GpuReader(Closing):
    """Asks all devices which processes hold how much. Its calls may block for milliseconds: use it in threads."""

    def __init__(self, nvml: Any, query: Any, devices: list[Any]) -> None:
        self._nvml = nvml
        self._query = query
        self._devices = devices
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<GpuReader of {len(self._devices)} devices>"

    @classmethod
    def open(cls) -> GpuReader | None:
        """Return a reader, or None if there is nothing to be read. May take seconds: devices wake up for it."""
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            _log.debug("memory on devices is not measured: nvidia-ml-py is not installed (extra gpu)")
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            _log.debug("memory on devices is not measured: %s", error)
            return None
        try:
            devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            query = _query_of(nvml, devices[0]) if devices else None
        except nvml.NVMLError as error:
            _log.info("memory on devices is not measured: %s", error)
            query = None
        if query is None:
            nvml.nvmlShutdown()
            return None
        _log.info("memory on devices is measured by NVML, on %s of them", len(devices))
        return cls(nvml, query, devices)

    def bytes_by_pid(self) -> dict[int, int | None] | None:
        """Return what each process holds on all devices, in bytes; None once NVML has failed.

        What is not in it holds nothing; None is what NVML cannot tell (NVML_VALUE_NOT_AVAILABLE).
        """
        with self._lock:
            if not self._devices:
                return None
            try:
                return self._sums()
            except self._nvml.NVMLError as error:
                _log.warning("memory on devices is not measured any more, NVML has failed: %s", error)
                self._shut_down()
                return None

    def close(self) -> None:
        """Give NVML back; there are no figures afterwards."""
        with self._lock:
            self._shut_down()

    def _sums(self) -> dict[int, int | None]:
        held: dict[int, int | None] = {}
        for device in self._devices:
            for process in self._query(device):
                before, more = held.get(process.pid, 0), process.usedGpuMemory
                held[process.pid] = None if before is None or more is None else before + int(more)
        return held

    def _shut_down(self) -> None:
        if self._devices:
            self._devices = []
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError as error:
                _log.debug("NVML could not be shut down: %s", error)


def _query_of(nvml: Any, device: Any) -> Any:
    """Return the function that this driver knows; raises NVMLError if it knows none."""
    for name in _QUERIES:
        query = getattr(nvml, name, None)
        if query is None:
            continue
        try:
            query(device)
        except nvml.NVMLError as error:
            if name == _QUERIES[-1] or error.value != nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
        else:
            return query
    return None
