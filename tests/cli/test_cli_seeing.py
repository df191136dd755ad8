"""`ls`, `ps` on any width, `describe`, `stack`, `explain` and `unload --now`, against a host that answers from memory."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from hostd.cli.commands import listing
from hostd.cli.commands.describing import call_lines
from hostd.records import MethodInfo, ModelInfo
from hostd_workers.wire.errors import ResourceExhaustedError, UnavailableError

GONE = {
    "old": ModelInfo("old", "EVICTED", "/srv/old", "standalone-model", reason="evicted for 2 GiB of model 'new'"),
    "bad": ModelInfo("bad", "FAILED", "/srv/bad", "standalone-model", reason="no weights\n  File x"),
    "new": ModelInfo("new", "AVAILABLE", "/models/new", "standalone-model", reason="loaded with load_model"),
}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


# ls, ps


@pytest.mark.parametrize("command", [("ls",), ("ps", "--all"), ("ps", "-a")])
def test_all_models_are_listed_with_their_states_and_reasons(run, client, command: tuple[str, ...]) -> None:
    client.unloaded = GONE
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    heading, *rows = [line.strip().split(maxsplit=3) for line in result.stdout.splitlines()]
    assert heading == ["MODEL", "STATE", "SIZE", "WHY"]
    assert [row[:3] for row in rows] == [
        ["digits", "READY", "312Mi"],
        ["old", "EVICTED", "-"],
        ["bad", "FAILED", "-"],
        ["new", "AVAILABLE", "-"],
    ]
    assert rows[0][3].strip() == "17 calls, last 3h ago; from /srv/digits"
    assert rows[2][3].strip() == "no weights"
    assert result.stderr == "4 models: 1 AVAILABLE, 1 EVICTED, 1 FAILED, 1 READY\n"
    assert [model["id"] for model in json.loads(run(*command, "--json").stdout)] == ["digits", "old", "bad", "new"]


def test_a_list_without_models_and_a_host_that_is_degraded_say_so(run, client) -> None:
    client.models.clear()
    client.degraded = ("/models cannot be read",)
    result = run("ls")
    assert (result.stdout, result.stderr) == ("", "no models\nthe host is degraded: /models cannot be read\n")


def test_a_tree_of_models_without_processes_makes_no_sense(run) -> None:
    assert run("ps", "--all", "--tree").exit_code == 2


def test_the_table_of_models_has_the_columns_that_its_width_has_room_for(digits) -> None:
    many = [digits, replace(digits, id="team/sentiment-classifier", calls=12345, loader="my.package:loader")]

    def table(width: int) -> list[str]:
        buffer = io.StringIO()
        Console(file=buffer, width=width).print(listing.models_table(many, 2e9, budget_bytes=2**31, width=width))
        return buffer.getvalue().splitlines()

    shown = {width: table(width)[0].split() for width in (30, 40, 60, 80, 120)}
    for width, headings in shown.items():
        assert max(map(len, table(width))) <= width
        assert headings[:2] == ["MODEL", "STATE"]
    assert shown[60] == ["MODEL", "STATE", "PID", "RSS", "USS", "BUDGET", "CALLS", "USED"]
    assert set(shown[40]) < set(shown[60]) < set(shown[80]) < set(shown[120])
    assert "CHARGE" in shown[120]


# describe


def test_a_model_is_described_with_methods_settings_warnings_and_a_call(run, client, digits) -> None:
    methods = {
        "fit": MethodInfo("fit", signature="(data, /)", doc="Learn."),
        "greet": MethodInfo("greet", signature="(name: str, loud: bool = False) -> str", doc="Greet somebody."),
        "count": MethodInfo("count", streams=True, is_async=True, signature="(n: int)"),
    }
    info = replace(digits, methods=methods, default_method=None, warnings=("FutureWarning: old [x]",))
    client.explained = {
        "model": info.to_dict(),
        "settings": [
            {"name": "memory_limit", "value": 400 << 20, "origin": "/srv/digits/model.yaml"},
            {"name": "options.greeting", "value": {"a": [1]}, "origin": "the load"},
            {"name": "finder", "value": None, "origin": "default"},
        ],
    }
    lines = [line.strip() for line in run("describe", "digits", "-e", "two").stdout.splitlines()]
    assert lines[0] == "digits is READY: a reason"
    assert "path     /srv/digits" in lines
    assert "process  4242" in lines
    for signature, doc in (
        ("fit(data, /)", "Learn."),
        ("greet(name: str, loud: bool = False) -> str", "Greet somebody."),
    ):
        assert lines[lines.index(signature) + 1] == doc
    assert "count(n: int)  streams, async" in lines
    settings = [line.split(maxsplit=1) for line in lines]
    assert ["memory_limit", "400 MiB (419430400 bytes)  /srv/digits/model.yaml"] in settings
    assert any(line == ["options.greeting", '{"a": [1]}                 the load'] for line in settings)
    assert "FutureWarning: old [x]" in lines
    assert "hostd infer digits --method greet '\"text\"' -e two" in lines
    found = json.loads(run("describe", "digits", "--json").stdout)
    assert set(found) == {"model_id", "state", "reason", "model", "settings"}


def test_what_is_not_loaded_is_described_as_far_as_it_is_known(run, client) -> None:
    client.explained = {"state": "AVAILABLE", "model": GONE["new"].to_dict(), "settings": []}
    out = run("describe", "digits").stdout
    assert out.startswith("digits is AVAILABLE: a reason\n")
    assert "/models/new" in out
    assert "a call to copy" not in out
    client.explained = {"state": "UNLOADED", "model": None}
    assert run("describe", "digits").stdout == "digits is UNLOADED: a reason\n"


@pytest.mark.parametrize(
    ("method", "shell", "python"),
    [
        (MethodInfo("f", signature="(x: int)"), ["f", "1"], "model.f(1)"),
        (MethodInfo("f", signature="(x: 'list[float]')"), ["f", "[1, 2]"], "model.f([1, 2])"),
        (MethodInfo("f", signature="(x=3)"), ["f"], "model.f()"),
        (MethodInfo("f", signature="()"), ["f"], "model.f()"),
        (MethodInfo("f", signature="(*, x)"), ["f", "DATA"], "model.f(DATA)"),
        (MethodInfo("f", signature="(x)"), ["f", "DATA"], "model.f(DATA)"),
        (MethodInfo("f", signature="(...)"), ["f", "DATA"], "model.f(DATA)"),
        (MethodInfo("f", signature="(x=<object at 0x1>)"), ["f", "DATA"], "model.f(DATA)"),
        (MethodInfo("f", True, signature="(n: int)"), ["f", "1"], "for item in model.stream.f(1): print(item)"),
    ],
    ids=lambda value: value.signature if isinstance(value, MethodInfo) else "",
)
def test_a_call_to_copy_fits_the_signature(digits, method: MethodInfo, shell: list[str], python: str) -> None:
    info = replace(digits, id="a b", methods={"f": method}, default_method=None)
    first, _, handle, call = call_lines(info)
    assert shlex.split(first) == ["hostd", "infer", "a b", "--method", *shell]
    assert (handle, call) == ('model = hostd.connect().retrieve_model("a b")', python)


def test_the_default_method_needs_no_name(digits) -> None:
    info = replace(
        digits, methods={"__call__": MethodInfo("__call__", signature="(x: float)")}, default_method="__call__"
    )
    assert list(call_lines(info)) == [
        "hostd infer digits 0.5",
        "import hostd",
        'model = hostd.connect().retrieve_model("digits")',
        "model(0.5)",
    ]


# stack, explain, unload


def test_stacks_are_printed_by_process(run) -> None:
    assert run("stack", "digits").stdout == ("model digits, process 4242:\nCurrent thread of digits\n  File x\n")
    found = json.loads(run("stack", "digits", "--json").stdout)
    assert found == {"model": "digits", "stacks": [{"pid": 4242, "text": "Current thread of digits\n  File x\n"}]}
    assert run("stack", "nix").exit_code == 1


def a_call(state: str, why: str = "", program: str | None = "app.py") -> dict[str, Any]:
    client = {"pid": 77 if program else None, "program": program}
    return {"method": "greet", "age_s": 12.5, "state": state, "why": why, "client": client}


def test_calls_in_flight_are_explained_with_their_clients(run, client) -> None:
    client.explained = {"calls": [a_call("left", "its caller has gone"), a_call("sent", program=None)]}
    lines = [line.split() for line in run("explain", "digits").stdout.splitlines()]
    assert ["greet", "12.5", "s", "app.py,", "pid", "77", "its", "caller", "has", "gone"] in lines
    assert ["greet", "12.5", "s", "unknown", "program,", "pid", "-"] in lines
    client.explained = {"calls": [a_call("sent")] * 30}
    assert ["and", "10", "more"] in [line.split() for line in run("explain", "digits").stdout.splitlines()]


def test_a_story_is_told_a_line_an_event_and_folded_within_its_column(run, client, monkeypatch) -> None:
    event = {"time_s": 1e9, "model_id": "digits", "subject": "model", "old": "READY", "new": "FAILED"}
    client.explained = {"story": [{**event, "reason": "it died because of a very long story\nFile x"}]}
    (line,) = run("explain", "digits").stdout.splitlines()[1:]
    assert line.split()[2:] == [
        "model",
        "READY",
        "->",
        "FAILED",
        "it",
        "died",
        "because",
        "of",
        "a",
        "very",
        "long",
        "story",
    ]
    monkeypatch.setenv("COLUMNS", "60")
    first, *rest = run("explain", "digits").stdout.splitlines()[1:]
    column = first.index("READY")
    assert rest
    assert all(line[:column].isspace() for line in rest)


def test_an_unload_at_once_is_asked_for(run, client) -> None:
    assert run("unload", "digits", "--now").exit_code == 0
    assert run("unload", "--all", "--now").exit_code == 0
    assert run("unload", "digits").exit_code == 0
    asked = [asked for asked in client.asked if asked[0].startswith("unload")]
    assert asked[0] == ("unload", "digits", True)
    assert ("unload all", True) in asked
    assert asked[-1] == ("unload", "digits", False)


# Hints


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            UnavailableError("it died", details={"exit": "exit code 1"}),
            "hint: hostd logs digits shows what it printed, hostd explain digits what happened to it\n",
        ),
        (UnavailableError("it died", details={"exit": "killed by SIGSEGV", "stack": "Fatal"}), ""),
        (ResourceExhaustedError("over", details={"reason": "MEMORY_LIMIT"}), ""),
    ],
)
def test_a_death_leads_to_the_log_unless_the_message_does(run, client, error: Exception, hint: str) -> None:
    client.refusal = error
    lines = run("infer", "digits", "1").stderr.splitlines(keepends=True)
    assert "".join(lines[1:]) == hint
