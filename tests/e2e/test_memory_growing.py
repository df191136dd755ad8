"""First loads of which nothing is known, with real processes: paused, put back, ended at the budget, and remembered."""

import os
import signal

import pytest
from helpers import descendants, eventually, is_there, state_of
from memory_rig import ALL_FRESH, MIB, Holders, new
from models_rig import Work

import hostd

pytestmark = pytest.mark.usefixtures("way")

BUDGET_MIB = 200
WITHIN_S = 60.0
SETTINGS = {"budget": f"{BUDGET_MIB}MiB", "min_residence_s": 0, "admission_timeout_s": 300, "sample_period_s": 0.1}

UNKNOWN = """
    import os, subprocess, sys, time

    class Model:
        def __init__(self, mib, gate):
            self.helper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"])
            self.held = []
            for _ in range(mib // 4):
                self.held.append(bytearray(b"x") * (4 << 20))
                time.sleep(0.02)
            while gate and not os.path.exists(gate):
                time.sleep(0.002)

        def pid(self):
            return os.getpid()

    def load(path, mib, gate=None):
        return Model(mib, gate)
"""


@pytest.fixture
def tight():
    with (
        hostd.Host(workers=ALL_FRESH, memory=SETTINGS) as host,
        host.client() as client,
    ):  # of its own: a host remembers
        yield client


def pause(client, path, mib=120):
    """Load a model that outgrows what is free, and return the processes of its worker once it is paused."""
    client.load_model("m", path, options={"mib": mib}, wait=False)
    eventually(lambda: client.memory_info().paused == ("m",), "it is paused", within_s=WITHIN_S)
    (worker,) = client.get_model("m").workers
    assert worker.state == "PAUSED"
    tree = [worker.pid, *descendants(worker.pid)]
    eventually(lambda: {state_of(pid) for pid in tree} == {"T"}, "its whole tree is stopped", within_s=WITHIN_S)
    return tree


def test_a_load_that_outgrows_its_reservation_is_paused_until_there_is_room_and_goes_on(tight, model_dir, tmp_path):
    evicted = tight.memory_info().evictions.get("LOAD", 0)
    busy = Work(tight.load_model("busy", Holders(model_dir)(100)), tmp_path)
    tree = pause(tight, model_dir(new(UNKNOWN)))
    explained = tight.explain_model("m")
    assert explained["state"] == "LOADING"
    assert explained["reason"].startswith(
        "its load is paused until there is room for more, number 1 in line: it holds "
    )
    assert tight.plan_load("n", model_dir()).outcome == "wait", "nothing starts before it"
    assert tight.memory_info().measured_bytes < (BUDGET_MIB + 40) * MIB
    busy.finish()
    assert tight.load_model("m", tight.get_model("m").path or "", options={"mib": 120}).pid() == tree[0]
    assert {state_of(pid) for pid in tree} <= {"R", "S"}, "none is stopped"
    assert tight.memory_info().evictions["LOAD"] == evicted + 1


def test_of_two_first_loads_that_do_not_fit_together_one_goes_on_and_the_other_is_put_back(tight, model_dir, tmp_path):
    evicted = tight.memory_info().evictions.get("LOAD", 0)
    path, gate = model_dir(new(UNKNOWN)), tmp_path / "gate"
    options = {"mib": 120, "gate": str(gate)}
    models = [tight.load_model(name, path, options=options, wait=False) for name in ("a", "b")]

    def is_put_back(name):
        return "PUT_BACK" in [event["cause"] for event in tight.explain_model(name)["story"]]

    eventually(lambda: any(map(is_put_back, "ab")), "one of them yields for the other", within_s=WITHIN_S)
    gate.touch()
    for model in sorted(models, key=lambda model: is_put_back(model.id)):  # or the first would be loaded once more
        model.wait()
    assert tight.memory_info().evictions["LOAD"] == evicted + 1
    assert all(model.pid() for model in models)


def test_a_load_that_needs_more_than_the_budget_is_killed_there_and_that_is_remembered(tight, model_dir):
    path = model_dir(new(UNKNOWN))
    with pytest.raises(hostd.ResourceExhaustedError, match="needs more") as caught:
        tight.load_model("big", path, options={"mib": 2 * BUDGET_MIB}, retries=3)
    measured_bytes = caught.value.details["needed_bytes"]
    assert BUDGET_MIB * MIB < measured_bytes < 2 * BUDGET_MIB * MIB
    story = tight.explain_model("big")["story"]
    assert sum(event["cause"] == "SPAWN" for event in story) == 1, "it is not tried again"
    with pytest.raises(hostd.ResourceExhaustedError, match=r"\(at least\), more than the whole budget") as caught:
        tight.load_model("big", path, options={"mib": 2 * BUDGET_MIB})
    assert caught.value.details["needed_bytes"] == measured_bytes
    plan = tight.plan_load("big", path, options={"mib": 2 * BUDGET_MIB})
    assert (plan.outcome, plan.need_bytes, plan.need_source) == ("refuse", measured_bytes, "at least")


def test_an_estimate_above_the_whole_budget_is_tried(tight, model_dir):
    path = model_dir(new(UNKNOWN))
    with open(os.path.join(path, "weights.bin"), "wb") as file:
        file.truncate(BUDGET_MIB * MIB)  # a hole, but for the sizer
    assert tight.estimate_model_size("m", path).source == "estimated"
    assert tight.load_model("m", path, options={"mib": 8}).pid()


@pytest.mark.parametrize("end", ["unloaded", "killed with its host"])
def test_a_paused_load_that_is_ended_leaves_no_process(model_dir, tmp_path, end):
    with hostd.Host(workers=ALL_FRESH, memory=SETTINGS) as host:
        client = host.client()
        busy = Work(client.load_model("busy", Holders(model_dir)(100)), tmp_path)
        tree = pause(client, model_dir(new(UNKNOWN)))
        if end == "unloaded":
            assert client.unload_model("m").processes == len(tree)
            assert not any(map(is_there, tree))
            busy.finish()
        else:
            os.kill(host.pid, signal.SIGKILL)
    eventually(lambda: not any(map(is_there, tree)), "they are gone", within_s=WITHIN_S)
