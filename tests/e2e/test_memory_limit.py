"""Limits, and sudden deaths for want of memory: what is killed, what callers are told, and what is not disturbed."""

import fcntl
import os
import signal
import tempfile
import uuid
from pathlib import Path

import pytest
from helpers import eventually
from memory_rig import MIB, Holders
from models_rig import Work

import hostd

pytestmark = pytest.mark.usefixtures("way")

LIMIT = "memory_limit: 100MiB\n"


@pytest.fixture
def holder(model_dir):
    return Holders(model_dir)


def test_a_model_over_its_limit_is_killed_and_its_caller_is_told_the_figures(client, holder, tmp_path):
    model = client.load_model("greedy", holder(10, settings=LIMIT))
    other = client.load_model("other", holder(10))
    other_pid = other.pid()
    work = Work(model, tmp_path)
    growing = model.submit.grow_for_good(200)  # or its answer might be there before anybody has looked
    work.finish()
    with pytest.raises(hostd.ResourceExhaustedError, match="memory_limit of 100 MiB") as caught:
        growing.result()
    details = caught.value.details
    assert (details["reason"], details["limit_bytes"]) == ("MEMORY_LIMIT", 100 * MIB)
    assert details["measured_bytes"] > 100 * MIB
    explained = client.explain_model("greedy")
    assert explained["state"] == "FAILED"
    assert "memory_limit" in explained["reason"]
    assert explained["details"] == details
    with pytest.raises(hostd.FailedPreconditionError, match="memory_limit") as later:
        model.pid()
    assert later.value.details["reason"] == "MEMORY_LIMIT"
    assert other.pid() == other_pid


def test_a_model_within_its_limit_serves_on_and_a_kill_from_outside_is_told_apart(client, holder):
    # Its processes bear its name, and /proc tells names and sizes in the same file.
    model = client.load_model("7 kB", holder(10, settings=LIMIT))
    assert (model.info.memory_limit, model.info.size_source) == (100 * MIB, "measured")
    assert model.info.size > 10 * MIB
    assert model.grow(20) == 30 * MIB
    with pytest.raises(hostd.ModelError, match="MemoryError"):  # the model's own error
        model.grow(20_000)
    own = int(Path(f"/proc/{client.host_info().pid}/oom_score_adj").read_text())
    assert model.oom_score_adj() > own, "workers go before the supervisor"
    os.kill(model.pid(), signal.SIGKILL)
    eventually(lambda: client.get_model("7 kB").state == "FAILED", "the death is seen")
    assert "SIGKILL by somebody else" in client.get_model("7 kB").reason
    with pytest.raises(hostd.FailedPreconditionError, match="somebody else"):
        model.pid()


def test_the_cores_are_divided_among_models(model_dir):
    holder, cores = Holders(model_dir), len(os.sched_getaffinity(0))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "HOSTD_CPU_THREADS")
    unset = {name: os.environ.pop(name, None) for name in names}
    try:
        with hostd.Host() as host:
            client = host.client()
            first, second = (client.load_model(name, holder(1)) for name in "ab")
            own = client.load_model("c", holder(1, settings="cpu_threads: 3"))
            assert first.environment(*names) == [str(cores)] * 4
            assert second.environment(*names) == [str(max(1, cores // 2))] * 4
            assert own.environment(*names) == ["3"] * 4
            assert own.info.cpu_threads == 3
    finally:
        os.environ.update({name: value for name, value in unset.items() if value is not None})


@pytest.fixture
def shm():
    """Where a file in /dev/shm may be; it is removed. Meanwhile no other test changes what the whole system has."""
    path = Path("/dev/shm", f"hostd-test-{uuid.uuid4()}")
    with Path(tempfile.gettempdir(), f"hostd-test-of-shared-memory-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["memfd mapped", "named written", "unlinked mapped"])
def test_shared_memory_counts_against_a_limit_and_comes_back_if_it_goes(client, holder, shm, kind):
    model = client.load_model("sharing", holder(10, settings=LIMIT))
    model.share(kind, str(shm), 64)
    eventually(lambda: client.get_model("sharing").workers[0].shared_bytes >= 64 * MIB, "it is charged")
    assert 0 <= client.get_model("sharing").workers[0].shared_bytes - 64 * MIB < MIB // 16
    stays = kind.startswith("named")
    report = client.unload_model("sharing")
    assert 64 * (not stays) < report.freed_bytes / MIB - 10 < 64 * (not stays) + 20
    assert shm.exists() is stays
    model = client.load_model("sharing", holder(10, settings=LIMIT))
    with pytest.raises(hostd.ResourceExhaustedError, match="memory_limit of 100 MiB") as caught:
        model.share_for_good(kind, str(shm), 200)
    assert caught.value.details["measured_bytes"] > 100 * MIB
