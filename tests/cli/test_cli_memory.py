"""What `ps`, `explain`, `plan`, `pin` and `unpin` say of memory, against a host that answers from memory."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest
from rich.console import Console

from hostd.cli.commands import listing
from hostd.cli.commands.processes import Seen, look_at, shortened
from hostd.records import Holder, LoadPlan, MemoryInfo, WorkerInfo
from hostd_workers.wire.errors import ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20


@pytest.fixture(autouse=True)
def _is_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


# ps


def test_ps_says_what_all_take_of_the_budget_and_what_came_back(run) -> None:
    said = run("ps").stderr.splitlines()
    assert said[1] == (
        "memory: 300 MiB measured of 2.0 GiB, 1.7 GiB free; 3 evictions; the budget is 80% of the machine"
    )
    assert said[2] == "given back: 900 MiB by 4 unloads; last ranker: 310 MiB, 3 processes proven gone in 42 ms"


def test_ps_names_who_waits_who_grew_and_who_is_pinned(run, client, memory, digits) -> None:
    client.memory = replace(
        memory, reserved_bytes=100 * MIB, waiting=("big", "bigger"), over_budget="leaky grew by 300 MiB"
    )
    client.models = {"digits": replace(digits, pinned=True)}
    result = run("ps")
    assert "300 MiB measured + 100 MiB reserved of 2.0 GiB" in result.stderr
    assert "3 evictions; waiting for memory: big, bigger; the budget is" in result.stderr
    assert "over the budget: leaky grew by 300 MiB" in result.stderr
    assert "pinned: digits" in result.stdout


def test_ps_without_a_budget_has_no_column_for_it(run, client) -> None:
    client.memory = MemoryInfo(measured_bytes=300 * MIB)
    result = run("ps")
    assert "BUDGET" not in result.stdout
    assert "memory: 300 MiB measured, no budget\ngiven back: nothing was unloaded yet\n" in result.stderr


@pytest.mark.parametrize(
    ("charge_bytes", "budget_bytes", "shown"),
    [(0, 100, "-"), (1, 1000, "<1%"), (15, 100, "15%"), (300, 100, "300%"), (5, None, "-")],
)
def test_a_share_of_the_budget_is_short(charge_bytes: int, budget_bytes: int | None, shown: str) -> None:
    assert listing.format_share(charge_bytes, budget_bytes) == shown


def test_what_is_reserved_for_a_load_counts_in_the_table(digits) -> None:
    loading = replace(digits, state="LOADING", workers=(), charge_bytes=500 * MIB, reserved_bytes=500 * MIB)
    buffer = io.StringIO()
    Console(file=buffer, width=80).print(listing.models_table([loading], 2e9, budget_bytes=2000 * MIB))
    assert words(buffer.getvalue())[1][:7] == ["digits", "LOADING", "-", "sklearn", "-", "-", "25%"]


# ps --tree


@pytest.fixture
def family() -> Iterator[int]:
    """A process, a child of this one, which has a child itself."""
    nap = "import sys, time; print('up', flush=True); time.sleep(600)"
    parent = (
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {nap!r}]); "
        "print('started', flush=True); sys.stdin.read(); child.kill(); child.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert {process.stdout.readline(), process.stdout.readline()} == {"up\n", "started\n"}
        yield process.pid


@pytest.fixture
def here(client, digits, family: int) -> int:
    """The fake host is this process, and the family is its worker."""
    client.pid = os.getpid()
    client.models = {"digits": replace(digits, workers=(WorkerInfo(1, family, "READY"),))}
    return family


def test_a_tree_shows_every_process_with_what_it_holds(run, here: int) -> None:
    result = run("ps", "--tree")
    assert result.exit_code == 0, result.output
    model, worker, child = words(result.stdout)
    assert model == ["digits", "READY", "300", "MiB", "(15%", "of", "the", "budget)"]
    assert worker[1] == str(here)
    assert worker[2:6:2] == ["RSS", "USS"]
    assert worker[6].startswith("python")
    assert child[1] == str(psutil.Process(here).children()[0].pid)
    assert "memory: 300 MiB" in result.stderr


def test_a_tree_for_programs_has_the_processes_in_each_record(run, here: int) -> None:
    (record,) = json.loads(run("ps", "--tree", "--json").stdout)
    (worker,) = record["processes"]
    (child,) = worker["children"]
    assert (worker["pid"], child["children"]) == (here, [])
    assert worker["rss_bytes"] >= worker["uss_bytes"] > 0


def test_the_tree_of_a_host_elsewhere_is_a_usage_error(run, client) -> None:
    client.pid = 2**22 + 5  # more than the kernel gives to anybody
    result = run("ps", "--tree")
    assert result.exit_code == 2
    assert "run it where the host runs" in result.stderr


def test_a_pid_that_means_another_process_here_is_not_shown_as_a_worker(run, client, here: int) -> None:
    client.pid = psutil.Process(here).children()[0].pid  # not an ancestor of the worker
    assert run("ps", "--tree").exit_code == 2


def test_workers_that_have_just_gone_are_left_out(run, client, digits) -> None:
    client.pid = os.getpid()
    client.models = {"digits": replace(digits, workers=(WorkerInfo(1, 2**22 + 5, "READY"),))}
    assert len(run("ps", "--tree").stdout.splitlines()) == 1
    assert look_at(2**22 + 5) is None


def test_what_may_not_be_looked_at_is_a_dash(run, here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", refuse)
    assert "  USS     -  python" in run("ps", "--tree").stdout
    monkeypatch.setattr(psutil.Process, "cmdline", refuse)
    assert "RSS     -  USS     -  [?]" in run("ps", "--tree").stdout


def test_a_process_that_goes_while_it_is_looked_at_is_left_out(here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(process: psutil.Process) -> str:
        if process.pid != here:
            raise psutil.NoSuchProcess(process.pid)
        return "python"

    monkeypatch.setattr(psutil.Process, "name", name)
    seen = look_at(here)
    assert seen is not None
    assert seen.children == ()


def test_a_command_line_is_one_line_and_cannot_move_the_terminal() -> None:
    seen = Seen(1, "python3", ("/usr/bin/python3", "-c", "print(1)\nprint('\x1b[2J')"), None, None, ())
    assert shortened(seen) == "python3 -c print(1) print('\\x1b[2J')"
    assert shortened(replace(seen, command=())) == "[python3]"


# explain

SIZE = {
    "bytes": 312 * MIB,
    "source": "measured",
    "age_s": 3.2,
    "charge_bytes": 300 * MIB,
    "reserved_bytes": 0,
    "shared_bytes": 64 * MIB,
    "peak_bytes": 380 * MIB,
    "baseline_bytes": 45 * MIB,
}
EVICTION = {
    "would_free_bytes": 300 * MIB,
    "reload_s": 1.23,
    "idle_s": 312.0,
    "why_not": "",
    "rank": 2,
    "returns": "the next call loads it again",
}


def explained(run, client, size: dict | None, eviction: dict | None) -> list[str]:
    client.explained = {"size": size, "eviction": eviction}
    return [line.rstrip() for line in run("explain", "digits").stdout.splitlines()][1:-1]


def test_explain_says_how_big_a_model_is_and_what_an_eviction_would_do(run, client) -> None:
    assert explained(run, client, SIZE, EVICTION) == [
        "  size      312 MiB, measured 3s ago",
        "  charge    300 MiB of the budget, with 64 MiB of shared memory",
        "  peak      380 MiB; 45 MiB were there before the model",
        "  eviction  2nd to go; would free 300 MiB, a reload takes 1.23 s, unused for 5m 12s",
        "            afterwards the next call loads it again",
    ]


@pytest.mark.parametrize(
    ("rank", "turn"),
    [(1, "the next to go"), (3, "3rd to go"), (11, "11th to go"), (22, "22nd to go"), (112, "112th to go")],
)
def test_explain_says_whose_turn_it_is(run, client, rank: int, turn: str) -> None:
    (line, _) = explained(run, client, None, {**EVICTION, "rank": rank})
    assert line.startswith(f"  eviction  {turn}; ")


def test_explain_says_why_a_model_cannot_be_evicted_now(run, client) -> None:
    (line,) = explained(run, client, None, {**EVICTION, "why_not": "it is pinned", "rank": None, "returns": ""})
    assert line.startswith("  eviction  not now: it is pinned; would free 300 MiB")


def test_explain_tells_what_is_reserved_from_what_is_measured(run, client) -> None:
    loading = {**dict.fromkeys(SIZE), "source": "remembered", "bytes": 400 * MIB}
    loading |= {"charge_bytes": 400 * MIB, "reserved_bytes": 390 * MIB}
    assert explained(run, client, loading, None) == [
        "  size      400 MiB, remembered",
        "  charge    400 MiB of the budget, of which 390 MiB are reserved and not measured yet",
    ]


def test_explain_says_what_a_load_is_expected_to_take_before_anything_is_measured(run, client) -> None:
    waiting = {**dict.fromkeys(SIZE), "source": "unknown", "need_bytes": 400 * MIB, "need_source": "declared"}
    assert explained(run, client, waiting, None) == [
        "  size      400 MiB expected, declared",
        "  charge    nothing of the budget",
    ]
    assert explained(run, client, {"charge_bytes": 0}, None)[0] == "  size      not known yet"


def test_explain_says_nothing_of_memory_where_there_is_none(run, client) -> None:
    assert explained(run, client, None, None) == []
    client.explained = {"size": SIZE, "eviction": EVICTION}
    assert json.loads(run("explain", "digits", "--json").stdout)["size"] == SIZE


def test_what_changes_no_state_is_told_without_an_arrow(run, client) -> None:
    pinned = {"time_s": 1e9, "subject": "model", "old": "READY", "new": "READY", "reason": "pinned: it is not evicted"}
    client.explained = {"story": [{**pinned, "model_id": "digits"}]}
    assert run("explain", "digits").stdout.endswith("  model  READY  pinned: it is not evicted\n")


# plan


def test_a_plan_passes_what_a_load_would(run, client) -> None:
    assert run("plan", "digits", "m", "--type", "mine", "--finder", "files", "-o", "threads=2").exit_code == 0
    how = {"finder": "files", "initializer": None, "options": {"threads": 2}}
    assert ("plan", "digits", "m", "mine", how) in client.asked


def test_a_plan_says_who_would_go_in_which_order_and_who_stays_why(run, client) -> None:
    client.plan = LoadPlan(
        "big",
        "evict",
        700 * MIB,
        "remembered",
        2000 * MIB,
        120 * MIB,
        victims=(Holder("ocr", 300 * MIB, 4000.0, 0.8), Holder("churn", 312 * MIB, 312.0, 1.2)),
        holders=(Holder("digits", 400 * MIB, None, 2.0, "it is pinned"),),
    )
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
    ("outcome", "code", "said"),
    [
        ("start", 0, "digits would start at once: a reason"),
        ("wait", 0, "digits would wait: a reason"),
        ("refuse", 1, "digits would be refused: a reason"),
    ],
)
def test_only_a_load_that_would_be_refused_exits_with_1(run, client, outcome: str, code: int, said: str) -> None:
    client.plan = replace(client.plan, outcome=outcome, reason="a reason")
    result = run("plan", "digits", "/srv/digits")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (code, said)
    result = run("plan", "digits", "/srv/digits", "--json")
    assert (result.exit_code, json.loads(result.stdout)["outcome"]) == (code, outcome)


def test_a_plan_of_what_is_loaded_says_that_it_needs_no_load(run, client) -> None:
    client.plan = replace(client.plan, need_bytes=0, reason="it is READY already")
    assert run("plan", "digits", "x").stdout == "digits needs no load: it is READY already\n"


def test_a_plan_without_a_budget_says_so(run, client) -> None:
    client.plan = LoadPlan("digits", "start", 300 * MIB, "estimated", None, None)
    assert run("plan", "digits", "x").stdout.splitlines()[1] == "it needs 300 MiB (estimated); there is no budget"


# pin and unpin


def test_models_are_pinned_and_unpinned(run) -> None:
    assert run("pin", "digits").stdout == "digits is pinned: its 300 MiB stay until hostd unpin digits\n"
    (record,) = json.loads(run("pin", "digits", "--json").stdout)
    assert record["pinned"]
    assert run("unpin", "digits").stdout == "digits is not pinned\n"


def test_what_is_unpinned_may_still_not_be_evictable(run, client, digits) -> None:
    client.models["digits"] = replace(digits, evictable=False)
    assert run("unpin", "digits").stdout == (
        "digits is not pinned, but is not evicted either: its settings say evictable: false\n"
    )


@pytest.mark.parametrize("verb", ["pin", "unpin"])
def test_a_model_that_is_not_there_does_not_keep_others_from_being_pinned(run, verb: str) -> None:
    result = run(verb, "nope", "digits")
    assert result.exit_code == 1
    assert result.stdout.startswith("digits is ")
    assert "error: no model 'nope' is loaded [NOT_FOUND]" in result.stderr


def test_a_load_that_finds_no_memory_leads_to_the_plan(run, client) -> None:
    client.refusal = ResourceExhaustedError("no memory within 60 s")
    assert "hint: hostd plan digits PATH says what holds the memory" in run("load", "digits", "/srv/digits").stderr
