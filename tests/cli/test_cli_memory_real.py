"""Memory as a person sees it: a real host with a budget, real models.

The models hold what their `model.yaml` declares, so that plans can be foretold: an interpreter and 100 MiB, or more.
"""

import json
import os
import subprocess
import sys

import psutil
import pytest
from cli_rig import MIB
from helpers import REPOSITORY, eventually

import hostd

BUDGET_BYTES = 520 * MIB
"""Three models of 100 MiB fit, with their interpreters; one of 200 MiB takes the place of one of them, not of none."""

MODEL = """
import subprocess, sys, time

class Model:
    def __init__(self, mib, helper):
        self.held = b"x" * (mib << 20)
        self.helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) if helper else None

    def predict(self, x):
        return len(self.held) >> 20

def load(path, *, mib=100, helper=False, seconds=0):
    time.sleep(seconds)
    return Model(mib, helper)
"""


@pytest.fixture(scope="module")
def host():
    with hostd.Host(memory={"budget": BUDGET_BYTES, "min_residence_s": 0}, workers={"drain_timeout_s": 0.4}) as running:
        yield running


@pytest.fixture(autouse=True)
def client(host):
    with hostd.connect(host.endpoint) as connected:
        yield connected
        connected.unload_all_models()


@pytest.fixture
def model(tmp_path):
    """Write a model that holds so many MiB, and says that it takes 40 more; returns its path and options."""

    def write(mib=100):
        place = tmp_path / f"model-of-{mib}"
        place.mkdir(exist_ok=True)
        (place / "model.py").write_text(MODEL, "utf-8")
        (place / "model.yaml").write_text(f"size: {mib + 40}MiB\n", "utf-8")
        return str(place), "-o", f"mib={mib}"

    return write


def test_a_load_evicts_just_those_that_the_plan_names_and_explain_tells_it(told, on_host, model, client):
    # What is worth least must stay so however long each step takes: b is the largest, and is soon back.
    for model_id, mib, seconds in (("a", 100, 1), ("b", 150, 0), ("c", 50, 1)):
        told("load", model_id, *model(mib), "-o", f"seconds={seconds}")
    assert told("infer", "a", "0")["result"] == 100
    plan = told("plan", "big", *model(200))
    assert (plan["outcome"], plan["budget_bytes"]) == ("evict", BUDGET_BYTES)
    assert [victim["model_id"] for victim in plan["victims"]] == ["b"]
    assert {model["id"] for model in told("ps")} == {"a", "b", "c"}, "a plan changes nothing"
    told("load", "big", *model(200))
    assert {model["id"] for model in told("ps")} == {"a", "c", "big"}
    assert sum(client.memory_info().evictions.values()) >= 1
    assert "EVICT" in [event["cause"] for event in told("explain", "b")["story"]]
    assert "evicted" in on_host("explain", "b").stdout


def test_what_is_pinned_stays_and_what_can_never_fit_is_refused(told, on_host, model):
    for model_id in ("a", "b", "c"):
        told("load", model_id, *model())
    assert all(record["pinned"] for record in told("pin", "a", "b", "c"))
    done = on_host("plan", "big", *model(200))
    assert done.exit_code == 1
    assert "big would be refused" in done.stdout
    assert done.stdout.count("it is pinned") == 3
    refused = on_host("load", "big", *model(200))
    assert refused.exit_code == 1
    assert "[RESOURCE_EXHAUSTED]" in refused.stderr
    assert "hint: hostd plan big PATH" in refused.stderr
    assert "not now: it is pinned" in on_host("explain", "a").stdout
    told("unpin", "b")
    assert [victim["model_id"] for victim in told("plan", "big", *model(200))["victims"]] == ["b"]


def test_a_model_is_explained_watched_and_given_back_with_its_helpers(told, on_host, model, host, client):
    (worker,) = told("load", "a", *model(), "-o", "helper=true")["workers"]
    (helper,) = psutil.Process(worker["pid"]).children()
    found = told("explain", "a")
    assert found["size"]["source"] == "measured"
    assert found["size"]["charge_bytes"] >= 100 * MIB
    assert found["eviction"]["rank"] == 1
    text = on_host("explain", "a").stdout
    assert "the next to go" in text
    assert "measured" in text
    tree = on_host("ps", "--tree").stdout
    assert f" {worker['pid']} " in tree
    assert f" {helper.pid} " in tree
    (record,) = told("ps", "--tree")
    (shown,) = record["processes"]
    assert shown["uss_bytes"] >= 100 * MIB
    assert [child["pid"] for child in shown["children"]] == [helper.pid]
    lines = on_host("ps", COLUMNS="80").stdout.splitlines()
    assert "BUDGET" in lines[0]
    assert lines[1].split()[6].endswith("%")
    assert max(map(len, lines)) <= 80
    see_calls_and_memory(host, client)
    picture = on_host("top", "--once", "--interval", "0.1", COLUMNS="80").stdout.splitlines()
    assert max(map(len, picture)) <= 80
    assert picture[1].startswith("memory [")
    assert any(line.split()[:2] == ["a", "READY"] for line in picture)
    assert "GIVEN BACK" in on_host("unload", "a").stdout
    footer = on_host("ps").stderr
    for words in ("memory: 0 B measured of 520 MiB", "last a: ", "proven gone in"):
        assert words in footer


def see_calls_and_memory(host, client):
    command = [sys.executable, "-m", "hostd", "top", "--json", "--interval", "0.5", "-e", host.endpoint]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}

    def sees_calls():
        client.retrieve_model("a").predict(0)
        found = json.loads(watching.stdout.readline())
        (record,) = found["models"]
        assert found["memory"]["budget_bytes"] == BUDGET_BYTES
        assert record["charge_bytes"] >= 100 * MIB
        return bool(record["calls_per_s"]) and record["latency_p99_s"] is not None

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as watching:
        eventually(sees_calls, "calls are counted", within_s=60)
        watching.kill()
