"""Memory on devices, with a pynvml as nvidia-ml-py is: its names, its errors, None for what it cannot tell."""

# ruff: noqa: N802, N815 - the names are NVML's

import functools
import logging
import sys
from types import SimpleNamespace

import pytest

from hostd.shell.memory.gpu import GpuReader

MIB = 1 << 20


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(f"error {value}")
        self.value = value


class Nvml:
    """The module: devices with processes, functions that a driver may lack, and what fails."""

    NVML_ERROR_FUNCTION_NOT_FOUND = 13
    NVMLError = NVMLError

    def __init__(self, *devices, lacks=(), fails=()):
        self.devices = devices
        self.lacks, self.fails = lacks, set(fails)
        self.inits = self.shutdowns = 0
        self.asked = []

    def _may(self, name):
        if name in self.fails:
            raise NVMLError(9)

    def nvmlInit(self):
        self._may("init")
        self.inits += 1

    def nvmlShutdown(self):
        self.shutdowns += 1
        self._may("shutdown")

    def nvmlDeviceGetCount(self):
        self._may("count")
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def _query(self, version, device):
        if version in self.lacks:
            raise NVMLError(self.NVML_ERROR_FUNCTION_NOT_FOUND)
        self._may("query")
        self.asked.append(version)
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.devices[device].items()]

    nvmlDeviceGetComputeRunningProcesses_v3 = functools.partialmethod(_query, "v3")
    nvmlDeviceGetComputeRunningProcesses_v2 = functools.partialmethod(_query, "v2")

    def nvmlDeviceGetComputeRunningProcesses(self, device):
        return self._query("v3" if "v3" not in self.lacks else "plain", device)


@pytest.fixture
def install(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "hostd.shell.memory.gpu")

    def put(nvml):
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return GpuReader.open()

    return put


def loud(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


def test_what_a_process_holds_is_summed_over_all_devices_unless_one_cannot_tell(install, caplog):
    reader = install(Nvml({5: 10 * MIB, 6: MIB}, {5: 3 * MIB}, {}))
    assert reader.bytes_by_pid() == {5: 13 * MIB, 6: MIB}
    assert loud(caplog) == ["memory on devices is measured by NVML, on 3 of them"]
    assert "3 devices" in repr(reader)
    for devices in (({5: None, 6: MIB}, {5: 2 * MIB}), ({5: 2 * MIB, 6: MIB}, {5: None})):
        assert install(Nvml(*devices)).bytes_by_pid() == {5: None, 6: MIB}


@pytest.mark.parametrize(
    ("lacks", "used"), [((), "v3"), (("v3",), "v2"), (("v3", "v2"), "plain")], ids=["new", "older", "old"]
)
def test_the_newest_function_that_the_driver_and_the_module_have_is_used(install, monkeypatch, lacks, used):
    nvml = Nvml({5: MIB}, lacks=lacks)
    assert install(nvml).bytes_by_pid() == {5: MIB}
    assert set(nvml.asked) == {used}
    for version in ("v3", "v2"):
        monkeypatch.delattr(Nvml, f"nvmlDeviceGetComputeRunningProcesses_{version}")
    assert install(Nvml({5: MIB})).bytes_by_pid() == {5: MIB}


def test_without_the_module_a_driver_or_a_device_there_are_no_figures_and_no_noise(install, caplog):
    assert install(None) is None
    assert install(Nvml({}, fails=("init",))) is None
    without = Nvml()
    assert install(without) is None
    assert without.shutdowns == without.inits == 1
    assert loud(caplog) == []
    assert "nvidia-ml-py is not installed" in caplog.text


def test_devices_that_cannot_be_asked_are_said_once(install, caplog):
    nvml = Nvml({}, fails=("query",))
    assert install(nvml) is None
    assert nvml.shutdowns == 1
    assert loud(caplog) == ["memory on devices is not measured: error 9"]


@pytest.mark.parametrize("also", [(), ("shutdown",)])
def test_a_failure_switches_it_off_with_one_warning(install, caplog, also):
    nvml = Nvml({5: MIB})
    reader = install(nvml)
    nvml.fails = {"query", *also}
    assert reader.bytes_by_pid() is None
    nvml.fails = set()
    assert reader.bytes_by_pid() is None, "it stays off"
    reader.close()
    assert nvml.shutdowns == 1
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == ["WARNING"]
