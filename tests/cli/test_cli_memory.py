"""What `ps`, `explain`, `plan`, `pin` and `unpin` say of memory, against a host that answers from memory."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from cli_rig import DIGITS, MEMORY, MIB, rows

from hostd.cli.commands.processes import Seen, look_at, shortened
from hostd.records import Holder, LoadPlan, MemoryInfo, TemplateInfo, TemplatesInfo, WorkerInfo
from hostd_workers.wire.errors import ResourceExhaustedError

# ps


def test_ps_says_what_all_take_of_the_budget_and_what_came_back(run):
    assert run("ps").stderr.splitlines()[1:3] == [
        "memory: 300 MiB measured of 2.0 GiB, 1.7 GiB free; 3 evictions; the budget is 80% of the machine",
        "given back: 900 MiB by 4 unloads; last ranker: 310 MiB, 3 processes proven gone in 42 ms",
    ]


def test_ps_names_what_waits_what_grew_and_what_is_pinned(run, client):
    waiting, grown = ("big", "bigger"), "leaky grew by 300 MiB"
    client.memory = replace(MEMORY, reserved_bytes=100 * MIB, waiting=waiting, over_budget=grown)
    client.models = {"digits": replace(DIGITS, pinned=True)}
    result = run("ps")
    assert "300 MiB measured + 100 MiB reserved of 2.0 GiB" in result.stderr
    assert "3 evictions; waiting for memory: big, bigger; the budget is" in result.stderr
    assert f"over the budget: {grown}" in result.stderr
    assert "pinned: digits" in result.stdout


def test_ps_without_a_budget_has_no_column_for_it(run, client):
    client.memory = MemoryInfo(measured_bytes=300 * MIB)
    result = run("ps")
    assert "BUDGET" not in result.stdout
    assert "memory: 300 MiB measured, no budget\ngiven back: nothing was unloaded yet\n" in result.stderr


# ps --tree


@pytest.fixture(scope="module")
def family():
    """A process, a child of this one, which has a child itself."""
    nap = "import sys, time; print('up', flush=True); time.sleep(600)"
    parent = (
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {nap!r}]); "
        "print('started', flush=True); sys.stdin.read(); child.kill(); child.wait()"
    )
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert {process.stdout.readline(), process.stdout.readline()} == {"up\n", "started\n"}
        yield process.pid


@pytest.fixture
def here(client, family):
    """The fake host is this process, and the family is its worker."""
    client.pid = os.getpid()
    client.models = {"digits": replace(DIGITS, workers=(WorkerInfo(1, family, "READY"),))}
    return family


def test_a_tree_shows_every_process_with_what_it_holds(run, here):
    result = run("ps", "--tree")
    assert result.exit_code == 0, result.output
    model, worker, child = rows(result.stdout)
    assert model == "digits READY 300 MiB (15% of the budget)"
    assert worker.split()[1] == str(here)
    assert worker.split()[2:6:2] == ["RSS", "USS"]
    assert worker.split()[6].startswith("python")
    assert child.split()[1] == str(psutil.Process(here).children()[0].pid)
    assert "memory: 300 MiB" in result.stderr
    (record,) = json.loads(run("ps", "--tree", "--json").stdout)
    (worker,) = record["processes"]
    (child,) = worker["children"]
    assert (worker["pid"], child["children"]) == (here, [])
    assert worker["rss_bytes"] >= worker["uss_bytes"] > 0


def test_a_tree_shows_templates_and_which_workers_come_of_them(run, client, here):
    (worker,) = client.models["digits"].workers
    client.models = {"digits": replace(DIGITS, workers=(replace(worker, template=2),))}
    libraries = tuple(f"[lib]{number}" for number in range(8))
    templates = (
        TemplateInfo(1, None, "LEARNING"),
        TemplateInfo(2, here, "READY", libraries=libraries, held_bytes=64 * MIB, forks=12, workers=1),
    )
    client.templates = TemplatesInfo(templates)
    lines = run("ps", "--tree", COLUMNS="200").stdout.splitlines()
    assert "  of template 2: python" in lines[1]
    assert lines[3] == "templates  64 MiB"
    assert f" {here} " in lines[4]
    assert lines[4].endswith("  2, 64 MiB: [lib]0, [lib]1, [lib]2, [lib]3, [lib]4, [lib]5 and 2 more; 1 worker of 12")
    assert len(lines) == 6, "its child, and nothing of the one without a process"


def test_the_tree_of_a_host_elsewhere_is_a_usage_error(run, client, here):
    client.pid = 2**22 + 5  # more than the kernel gives to anybody
    result = run("ps", "--tree")
    assert (result.exit_code, "run it where the host runs" in result.stderr) == (2, True)
    client.pid = psutil.Process(here).children()[0].pid  # there, but not an ancestor of the worker
    assert run("ps", "--tree").exit_code == 2
    assert run("ps", "--all", "--tree").exit_code == 2, "models without processes have no tree"


def test_workers_that_have_just_gone_are_left_out(run, client):
    client.pid = os.getpid()
    client.models = {"digits": replace(DIGITS, workers=(WorkerInfo(1, 2**22 + 5, "READY"),))}
    assert len(run("ps", "--tree").stdout.splitlines()) == 1
    assert look_at(2**22 + 5) is None


def test_what_may_not_be_looked_at_is_a_dash_and_what_goes_meanwhile_is_left_out(run, here, monkeypatch):
    def refuse(process):
        raise psutil.AccessDenied(process.pid)

    def name(process):
        if process.pid != here:
            raise psutil.NoSuchProcess(process.pid)
        return "python"

    monkeypatch.setattr(psutil.Process, "memory_full_info", refuse)
    assert "  USS     -  python" in run("ps", "--tree").stdout
    monkeypatch.setattr(psutil.Process, "cmdline", refuse)
    assert "RSS     -  USS     -  [?]" in run("ps", "--tree").stdout
    monkeypatch.undo()
    monkeypatch.setattr(psutil.Process, "name", name)
    assert look_at(here).children == ()


def test_a_command_line_is_one_line_and_cannot_move_the_terminal():
    seen = Seen(1, "python3", ("/usr/bin/python3", "-c", "print(1)\nprint('\x1b[2J')"), None, None, ())
    assert shortened(seen) == "python3 -c print(1) print('\\x1b[2J')"
    assert shortened(replace(seen, command=())) == "[python3]"


# explain

SIZE = {"bytes": 312 * MIB, "source": "measured", "age_s": 3.2, "charge_bytes": 300 * MIB, "reserved_bytes": 0}
SIZE |= {"shared_bytes": 64 * MIB, "peak_bytes": 380 * MIB, "baseline_bytes": 45 * MIB}
NO_SIZE = dict.fromkeys(SIZE)
EVICTION = {"would_free_bytes": 300 * MIB, "reload_s": 1.23, "idle_s": 312.0, "why_not": "", "rank": 2}
EVICTION |= {"returns": "the next call loads it again"}
EXPLAINED = {
    "all": (
        SIZE,
        EVICTION,
        "  size      312 MiB, measured 3s ago",
        "  charge    300 MiB of the budget, with 64 MiB of shared memory",
        "  peak      380 MiB; 45 MiB were there before the model",
        "  eviction  2nd to go; would free 300 MiB, a reload takes 1.23 s, unused for 5m 12s",
        "            afterwards the next call loads it again",
    ),
    "cannot be evicted": (
        None,
        {**EVICTION, "why_not": "it is pinned", "rank": None, "returns": ""},
        "  eviction  not now: it is pinned; would free 300 MiB, a reload takes 1.23 s, unused for 5m 12s",
    ),
    "reserved": (
        {**NO_SIZE, "source": "remembered", "bytes": 400 * MIB, "charge_bytes": 400 * MIB, "reserved_bytes": 390 * MIB},
        None,
        "  size      400 MiB, remembered",
        "  charge    400 MiB of the budget, of which 390 MiB are reserved and not measured yet",
    ),
    "expected": (
        {**NO_SIZE, "source": "unknown", "need_bytes": 400 * MIB, "need_source": "declared"},
        None,
        "  size      400 MiB expected, declared",
        "  charge    nothing of the budget",
    ),
    "unknown": ({"charge_bytes": 0}, None, "  size      not known yet", "  charge    nothing of the budget"),
    "nothing": (None, None),
}


@pytest.mark.parametrize("case", EXPLAINED)
def test_explain_says_how_big_a_model_is_and_what_an_eviction_would_do(run, client, case):
    size, eviction, *lines = EXPLAINED[case]
    client.explained = {"size": size, "eviction": eviction}
    assert [line.rstrip() for line in run("explain", "digits").stdout.splitlines()][1:-1] == lines
    assert json.loads(run("explain", "digits", "--json").stdout)["size"] == size


@pytest.mark.parametrize(
    ("rank", "turn"),
    [(1, "the next to go"), (3, "3rd to go"), (11, "11th to go"), (22, "22nd to go"), (112, "112th to go")],
)
def test_explain_says_whose_turn_it_is(run, client, rank, turn):
    client.explained = {"eviction": {**EVICTION, "rank": rank}}
    assert f"  eviction  {turn}; " in run("explain", "digits").stdout


def test_what_changes_no_state_is_told_without_an_arrow(run, client):
    pinned = {"time_s": 1e9, "subject": "model", "old": "READY", "new": "READY", "reason": "pinned: it is not evicted"}
    client.explained = {"story": [{**pinned, "model_id": "digits"}]}
    assert run("explain", "digits").stdout.endswith("  model  READY  pinned: it is not evicted\n")


# plan


def test_a_plan_passes_what_a_load_would(run, client):
    assert run("plan", "digits", "m", "--type", "mine", "--finder", "files", "-o", "threads=2").exit_code == 0
    how = {"finder": "files", "loader": None, "initializer": None, "options": {"threads": 2}}
    assert client.was_asked("plan") == [("digits", "m", "mine", how)]


def test_a_plan_says_what_would_go_in_which_order_and_what_stays_why(run, client):
    victims = (Holder("ocr", 300 * MIB, 4000.0, 0.8), Holder("churn", 312 * MIB, 312.0, 1.2))
    holders = (Holder("digits", 400 * MIB, None, 2.0, "it is pinned"),)
    sizes = (700 * MIB, "remembered", 2000 * MIB, 120 * MIB)
    client.plan = LoadPlan("big", "evict", *sizes, victims=victims, holders=holders)
    result = run("plan", "big", "/srv/big")
    assert result.exit_code == 0
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "big would start after 2 evictions",
        "it needs 700 MiB (remembered); 120 MiB of the budget of 2.0 GiB are free",
        "",
        "WOULD GO    HOLDS  UNUSED  RELOAD",
        "ocr       300 MiB      1h  800 ms",
        "churn     312 MiB      5m  1.20 s",
        "",
        "HOLDER    HOLDS  UNUSED  RELOAD  WHY",
        "digits  400 MiB       -  2.00 s  it is pinned",
    ]


@pytest.mark.parametrize(
    ("outcome", "code", "said"), [("start", 0, "start at once"), ("wait", 0, "wait"), ("refuse", 1, "be refused")]
)
def test_only_a_load_that_would_be_refused_exits_with_1(run, client, outcome, code, said):
    client.plan = replace(client.plan, outcome=outcome, reason="a reason")
    result = run("plan", "digits", "/srv/digits")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (code, f"digits would {said}: a reason")
    result = run("plan", "digits", "/srv/digits", "--json")
    assert (result.exit_code, json.loads(result.stdout)["outcome"]) == (code, outcome)


def test_a_plan_says_that_no_load_is_needed_and_that_there_is_no_budget(run, client):
    client.plan = replace(client.plan, need_bytes=0, reason="it is READY already")
    assert run("plan", "digits", "x").stdout == "digits needs no load: it is READY already\n"
    client.plan = LoadPlan("digits", "start", 300 * MIB, "estimated", None, None)
    assert run("plan", "digits", "x").stdout.splitlines()[1] == "it needs 300 MiB (estimated); there is no budget"
    client.refusal = ResourceExhaustedError("no memory within 60 s")
    assert "hint: hostd plan digits PATH says " in run("load", "digits", "/srv/digits").stderr


# pin and unpin


def test_models_are_pinned_and_unpinned(run, client):
    assert run("pin", "digits").stdout == "digits is pinned: its 300 MiB stay until hostd unpin digits\n"
    (record,) = json.loads(run("pin", "digits", "--json").stdout)
    assert record["pinned"]
    assert run("unpin", "digits").stdout == "digits is not pinned\n"
    client.models["digits"] = replace(DIGITS, evictable=False)
    says = "digits is not pinned, but is not evicted either: its settings say evictable: false\n"
    assert run("unpin", "digits").stdout == says
    for verb in ("pin", "unpin"):
        result = run(verb, "nope", "digits")
        assert (result.exit_code, result.stdout[:10]) == (1, "digits is ")
        assert "error: no model 'nope' is loaded [NOT_FOUND]" in result.stderr
