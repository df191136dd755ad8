"""Memory as a person sees it: the command line as a subprocess, a real host with a budget, real models.

The models hold what their `model.yaml` declares, so that plans can be foretold: an interpreter and 100 MiB, or more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers import eventually

import hostd

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
MIB = 2**20
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

Run = Callable[..., Any]


def hostd_command(host: hostd.Host, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HOSTD_") and key != "COLUMNS"}
    return subprocess.run(
        [sys.executable, "-m", "hostd", *args, "-e", host.endpoint],
        capture_output=True,
        text=True,
        env={**clean, "PYTHONPATH": str(REPOSITORY), **more},
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def host() -> Iterator[hostd.Host]:
    with hostd.Host(memory={"budget": BUDGET_BYTES, "min_residence_s": 0}, workers={"drain_timeout_s": 0.4}) as running:
        yield running


@pytest.fixture
def client(host: hostd.Host) -> Iterator[hostd.Client]:
    with hostd.connect(host.endpoint) as connected:
        yield connected
        connected.unload_all_models()


@pytest.fixture
def run(host: hostd.Host, client: hostd.Client) -> Run:
    """Run a command that must succeed, and return its JSON output."""

    def succeed(*args: str) -> Any:
        done = hostd_command(host, *args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return succeed


@pytest.fixture
def model(tmp_path: Path) -> Callable[[int], str]:
    """Write a model that holds so many MiB, and says that it takes 40 more; returns its path."""

    def write(mib: int) -> str:
        place = tmp_path / f"model-of-{mib}"
        if not place.exists():
            place.mkdir()
            (place / "model.py").write_text(MODEL, "utf-8")
            (place / "model.yaml").write_text(f"size: {mib + 40}MiB\n", "utf-8")
        return str(place)

    return write


def load(run: Run, model: Callable[[int], str], model_id: str, mib: int = 100, *options: str) -> dict[str, Any]:
    loaded: dict[str, Any] = run("load", model_id, model(mib), "-o", f"mib={mib}", *options)
    return loaded


def test_a_load_evicts_just_those_whom_the_plan_names(run, model, client) -> None:
    # What is worth least must stay so however long each step takes: b is the largest, and is soon back.
    for model_id, mib, seconds in (("a", 100, 1), ("b", 150, 0), ("c", 50, 1)):
        load(run, model, model_id, mib, "-o", f"seconds={seconds}")
    assert run("infer", "a", "0")["result"] == 100
    plan = run("plan", "big", model(200), "-o", "mib=200")
    assert plan["outcome"] == "evict"
    assert plan["budget_bytes"] == BUDGET_BYTES
    assert [victim["model_id"] for victim in plan["victims"]] == ["b"]
    assert {model["id"] for model in run("ps")} == {"a", "b", "c"}  # a plan changes nothing
    load(run, model, "big", 200)
    assert {model["id"] for model in run("ps")} == {"a", "c", "big"}
    assert sum(client.memory_info().evictions.values()) >= 1


def test_an_eviction_is_an_event_that_explain_tells(run, model, host) -> None:
    for model_id in ("a", "b", "c"):
        load(run, model, model_id)
    assert run("plan", "big", model(200), "-o", "mib=200")["victims"]
    load(run, model, "big", 200)
    # Which of them go depends on how long each took to load.
    causes = {name: [event["cause"] for event in run("explain", name)["story"]] for name in ("a", "b", "c")}
    victim = next(name for name in causes if "EVICT" in causes[name])
    assert "evicted" in hostd_command(host, "explain", victim).stdout


def test_what_is_pinned_stays_and_what_can_never_fit_is_refused(run, model, host) -> None:
    for model_id in ("a", "b", "c"):
        load(run, model, model_id)
    assert all(record["pinned"] for record in run("pin", "a", "b", "c"))
    done = hostd_command(host, "plan", "big", model(200), "-o", "mib=200")
    assert done.returncode == 1
    assert "big would be refused" in done.stdout
    assert done.stdout.count("it is pinned") == 3
    refused = hostd_command(host, "load", "big", model(200), "-o", "mib=200")
    assert refused.returncode == 1
    assert "[RESOURCE_EXHAUSTED]" in refused.stderr
    assert "hint: hostd plan big PATH" in refused.stderr
    run("unpin", "b")
    assert [victim["model_id"] for victim in run("plan", "big", model(200), "-o", "mib=200")["victims"]] == ["b"]


def test_explain_says_how_big_a_model_is_and_what_an_eviction_would_do(run, model, host) -> None:
    load(run, model, "a")
    found = run("explain", "a")
    assert found["size"]["source"] == "measured"
    assert found["size"]["charge_bytes"] >= 100 * MIB
    assert found["eviction"]["rank"] == 1
    text = hostd_command(host, "explain", "a").stdout
    assert "the next to go" in text
    assert "measured" in text
    run("pin", "a")
    assert "not now: it is pinned" in hostd_command(host, "explain", "a").stdout


def test_ps_shows_the_budget_and_what_unloads_gave_back(run, model, host) -> None:
    load(run, model, "a")
    done = hostd_command(host, "ps", COLUMNS="80")
    head, row, *_ = done.stdout.splitlines()
    assert "BUDGET" in head
    assert row.split()[6].endswith("%")
    assert max(map(len, done.stdout.splitlines())) <= 80
    said = hostd_command(host, "unload", "a").stdout
    assert "GIVEN BACK" in said
    footer = hostd_command(host, "ps").stderr
    assert "memory: 0 B measured of 520 MiB" in footer
    assert "last a: " in footer
    assert "proven gone in" in footer


def test_a_tree_shows_the_helpers_of_a_model(run, model, host) -> None:
    loaded = load(run, model, "a", 100, "-o", "helper=true")
    (worker,) = loaded["workers"]
    (helper,) = psutil.Process(worker["pid"]).children()
    text = hostd_command(host, "ps", "--tree").stdout
    assert f" {worker['pid']} " in text
    assert f" {helper.pid} " in text
    (record,) = run("ps", "--tree")
    (shown,) = record["processes"]
    assert shown["uss_bytes"] >= 100 * MIB
    assert [child["pid"] for child in shown["children"]] == [helper.pid]


def test_top_counts_calls_and_memory(run, model, host, client) -> None:
    load(run, model, "a")
    with subprocess.Popen(
        [sys.executable, "-m", "hostd", "top", "--json", "--interval", "0.5", "-e", host.endpoint],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
    ) as watching:
        assert watching.stdout is not None
        called = client.retrieve_model("a")

        def sees_calls() -> bool:
            called.predict(0)
            assert watching.stdout is not None
            found = json.loads(watching.stdout.readline())
            (record,) = found["models"]
            assert found["memory"]["budget_bytes"] == BUDGET_BYTES
            assert record["charge_bytes"] >= 100 * MIB
            return bool(record["calls_per_s"]) and record["latency_p99_s"] is not None

        eventually(sees_calls, "calls are counted")
        watching.kill()
    picture = hostd_command(host, "top", "--once", "--interval", "0.1", COLUMNS="80").stdout.splitlines()
    assert max(map(len, picture)) <= 80
    assert picture[1].startswith("memory [")
    assert any(line.split()[:2] == ["a", "READY"] for line in picture)
