"""Memory on a real device: counted for the model that holds it, and back on the device after its unload.

The models talk to the driver itself (libcuda), so that nothing but the driver and nvidia-ml-py is needed. Skipped where
there is no device.
"""

import os
import signal

import pytest
from helpers import eventually

from hostd.shell.memory.gpu import GpuReader

MIB = 1 << 20
CONTEXT_MIB = 1200
"""More than a context takes on any device so far."""

ON_DEVICE = """
    import ctypes, os

    def check(code):
        if code:
            raise RuntimeError(f"the driver says {{code}}")

    class OnDevice:
        def __init__(self):
            self.cuda = ctypes.CDLL("libcuda.so.1")
            self.context = ctypes.c_void_p()
            check(self.cuda.cuInit(0))
            check(self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(self.context), 0))
            self.take({mib})

        def take(self, mib):
            check(self.cuda.cuCtxSetCurrent(self.context))  # of this thread
            check(self.cuda.cuMemAlloc_v2(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(mib << 20)))

        def pid(self):
            return os.getpid()

    def load(path):
        return OnDevice()
"""


@pytest.fixture(scope="module")
def reader():
    found = GpuReader.open()
    if found is None:
        pytest.skip("there is no device that NVML tells of")
    yield found
    found.close()


@pytest.fixture
def used_mib(reader):
    """What the device itself says is in use, whatever holds it."""
    nvml = pytest.importorskip("pynvml")
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    return lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / MIB


def on_device_mib(client, model_id):
    return sum(worker.gpu_bytes or 0 for worker in client.get_model(model_id).workers) / MIB


def test_what_models_hold_on_a_device_is_counted_for_each_and_comes_back(client, model_dir, used_mib):
    before_mib = used_mib()
    sizes = {"large": 2000, "small": 500}
    for model_id, mib in sizes.items():
        client.load_model(model_id, model_dir(ON_DEVICE.format(mib=mib)))
    for model_id, mib in sizes.items():
        assert mib <= on_device_mib(client, model_id) <= mib + CONTEXT_MIB
    taken_mib = used_mib() - before_mib
    assert sum(on_device_mib(client, model_id) for model_id in sizes) == pytest.approx(taken_mib, rel=0.1)
    first_mib = on_device_mib(client, "small")
    client.retrieve_model("small").take(1000)
    eventually(lambda: on_device_mib(client, "small") >= first_mib + 1000, "growth is sampled")
    client.load_model("elsewhere", model_dir())
    assert client.get_model("elsewhere").workers[0].gpu_bytes == 0
    taken_mib = used_mib() - before_mib
    client.unload_model("large")
    assert used_mib() - before_mib < taken_mib - sizes["large"], "with the proof it is back, not some time later"
    assert on_device_mib(client, "small") >= sizes["small"]
    client.unload_model("small")
    assert used_mib() == pytest.approx(before_mib, abs=50)


def test_a_crash_gives_the_memory_on_a_device_back(client, model_dir, used_mib):
    before_mib = used_mib()
    model = client.load_model("victim", model_dir(ON_DEVICE.format(mib=1000)))
    os.kill(model.pid(), signal.SIGKILL)
    eventually(lambda: client.get_model("victim").state == "FAILED", "the death is seen")
    eventually(lambda: used_mib() < before_mib + 100, "it is back")
