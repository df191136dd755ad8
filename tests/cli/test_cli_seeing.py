"""`ls`, `describe`, `stack` and `explain`, against a host that answers from memory."""

import json
import shlex
from dataclasses import replace

import pytest
from cli_rig import DIGITS, rows

from hostd.cli.commands.describing import call_lines
from hostd.records import MethodInfo, ModelInfo, TensorInfo
from hostd_workers.wire.errors import ResourceExhaustedError, UnavailableError

GONE = {
    "old": ModelInfo("old", "EVICTED", "/srv/old", "standalone-model", reason="evicted for 2 GiB of model 'new'"),
    "bad": ModelInfo("bad", "FAILED", "/srv/bad", "standalone-model", reason="no weights\n  File x"),
    "new": ModelInfo("new", "AVAILABLE", "/models/new", "standalone-model", reason="loaded with load_model"),
}


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("command", [("ls",), ("ps", "--all"), ("ps", "-a")])
def test_all_models_are_listed_with_their_states_and_reasons(run, client, command):
    client.unloaded = GONE
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    heading, *found = rows(result.stdout)
    assert heading == "MODEL STATE SIZE WHY"
    assert [row.split()[:3] for row in found] == [
        ["digits", "READY", "312Mi"],
        *([model.id, model.state, "-"] for model in GONE.values()),
    ]
    assert found[0].endswith("17 calls, last 3h ago; from /srv/digits")
    assert found[2].endswith(" no weights")
    assert result.stderr == "4 models: 1 AVAILABLE, 1 EVICTED, 1 FAILED, 1 READY\n"
    assert [model["id"] for model in json.loads(run(*command, "--json").stdout)] == ["digits", *GONE]


def test_a_list_without_models_and_a_host_that_is_degraded_say_so(run, client):
    client.models.clear()
    client.degraded = ("/models cannot be read",)
    result = run("ls")
    assert (result.stdout, result.stderr) == ("", "no models\nthe host is degraded: /models cannot be read\n")


# describe


def test_a_model_is_described_with_methods_settings_warnings_and_a_call(run, client):
    greet = "greet(name: str, loud: bool = False) -> str"
    methods = {
        "fit": MethodInfo("fit", signature="(data, /)", doc="Learn."),
        "greet": MethodInfo("greet", signature=greet.removeprefix("greet"), doc="Greet somebody."),
        "count": MethodInfo("count", streams=True, is_async=True, signature="(n: int)"),
    }
    info = replace(DIGITS, methods=methods, default_method=None, warnings=("FutureWarning: old [x]",))
    client.explained = {
        "model": info.to_dict(),
        "settings": [
            {"name": "memory_limit", "value": 400 << 20, "origin": "/srv/digits/model.yaml"},
            {"name": "options.greeting", "value": {"a": [1]}, "origin": "the load"},
            {"name": "finder", "value": None, "origin": "default"},
        ],
    }
    lines = rows(run("describe", "digits", "-e", "two").stdout)
    assert lines[0] == "digits is READY: a reason"
    for signature, doc in (("fit(data, /)", "Learn."), (greet, "Greet somebody.")):
        assert lines[lines.index(signature) + 1] == doc
    assert {
        "path /srv/digits",
        "process 4242",
        "count(n: int) streams, async",
        "memory_limit 400 MiB (419430400 bytes) /srv/digits/model.yaml",
        'options.greeting {"a": [1]} the load',
        "FutureWarning: old [x]",
        "hostd infer digits --method greet '\"text\"' -e two",
    } <= set(lines)
    found = json.loads(run("describe", "digits", "--json").stdout)
    assert set(found) == {"model_id", "state", "reason", "model", "settings"}


def test_what_is_not_loaded_is_described_as_far_as_it_is_known(run, client):
    client.explained = {"state": "AVAILABLE", "model": GONE["new"].to_dict(), "settings": []}
    out = run("describe", "digits").stdout
    assert out.startswith("digits is AVAILABLE: a reason\n")
    assert "/models/new" in out
    assert "a call to copy" not in out
    client.explained = {"state": "UNLOADED", "model": None}
    assert run("describe", "digits").stdout == "digits is UNLOADED: a reason\n"


@pytest.mark.parametrize(
    ("signature", "shell", "python"),
    [
        ("(x: int)", ["1"], "model.f(1)"),
        ("(x: 'list[float]')", ["[1, 2]"], "model.f([1, 2])"),
        ("(x=3)", [], "model.f()"),
        ("()", [], "model.f()"),
        ("(*, x)", ["DATA"], "model.f(DATA)"),
        ("(x)", ["DATA"], "model.f(DATA)"),
        ("(...)", ["DATA"], "model.f(DATA)"),
        ("(x=<object at 0x1>)", ["DATA"], "model.f(DATA)"),
        ("(n: int)", ["1"], "for item in model.stream.f(1): print(item)"),
    ],
)
def test_a_call_to_copy_fits_the_signature(signature, shell, python):
    method = MethodInfo("f", "stream" in python, signature=signature)
    first, _, handle, call = call_lines(replace(DIGITS, id="a b", methods={"f": method}, default_method=None))
    assert shlex.split(first) == ["hostd", "infer", "a b", "--method", "f", *shell]
    assert (handle, call) == ('model = hostd.connect().retrieve_model("a b")', python)


def test_the_default_method_needs_no_name():
    methods = {"__call__": MethodInfo("__call__", signature="(x: float)")}
    assert list(call_lines(replace(DIGITS, methods=methods, default_method="__call__"))) == [
        "hostd infer digits 0.5",
        "import hostd",
        'model = hostd.connect().retrieve_model("digits")',
        "model(0.5)",
    ]


X = TensorInfo("x", "FP32", (-1, 2))


@pytest.mark.parametrize(
    ("method", "shell", "python"),
    [
        ({"inputs": (X,), "passing": "array"}, ["[[0.5, 0.5]]"], "model.f([[0.5, 0.5]])"),
        ({"inputs": (TensorInfo("x", "", (-1, 9)),), "passing": "array"}, None, "model.f([[0.5] * 9])"),
        (
            {"inputs": (X, TensorInfo("k", "INT64", (), optional=True)), "passing": "map"},
            ['{"x": [[0.5, 0.5]]}'],
            "model.f({'x': [[0.5, 0.5]]})",
        ),
        (
            {"inputs": (X, TensorInfo("k", "INT64", ())), "passing": "keywords"},
            ["--kwargs", '{"x": [[0.5, 0.5]], "k": 1}'],
            "model.f(x=[[0.5, 0.5]], k=1)",
        ),
        (
            {"inputs": (TensorInfo("x:0", "BYTES", ()),), "passing": "keywords"},
            ["--kwargs", '{"x:0": "text"}'],
            "model.f(**{'x:0': 'text'})",
        ),
        (
            {"inputs": (X,), "passing": "array", "known_from": "declared", "example": {"x": [[1, 2]]}},
            ["[[1, 2]]", "--array"],
            "model.f(numpy.asarray([[1, 2]]))",
        ),
        ({"inputs": (TensorInfo("x", "FP32"),), "passing": "array"}, ["DATA"], "model.f(DATA)"),
        ({"inputs": (TensorInfo("x", "FP32", (1, 3, 224, 224)),), "passing": "array"}, ["DATA"], "model.f(DATA)"),
    ],
)
def test_a_call_to_copy_fits_the_inputs(method, shell, python):
    info = replace(DIGITS, id="m", methods={"f": MethodInfo("f", **method)}, default_method="f")
    first, *_, call = call_lines(info)
    assert call == python
    assert shell is None or shlex.split(first) == ["hostd", "infer", "m", *shell]


def test_inputs_and_outputs_are_shown_once(run, client):
    columns = tuple(TensorInfo(f"c{number}", "", (-1,)) for number in range(14))
    methods = {
        "f": MethodInfo("f", inputs=columns, outputs=(X,), known_from="reported"),
        "g": MethodInfo("g", inputs=columns, known_from="reported"),
        "h": MethodInfo(
            "h", inputs=(TensorInfo("n", "INT64", (), optional=True), TensorInfo("a", "FP16")), known_from="declared"
        ),
    }
    client.explained = {"model": replace(DIGITS, methods=methods, default_method="f").to_dict()}
    lines = rows(run("describe", "digits").stdout)
    assert f"takes {', '.join(f'c{number}: any[?]' for number in range(12))}, and 2 more reported" in lines
    assert {
        "returns x: FP32[?, 2] reported",
        "takes what f takes",
        "takes n: INT64, optional, a: FP16[...] declared",
    } <= set(lines)


# stack, explain


def test_stacks_are_printed_by_process(run):
    assert run("stack", "digits").stdout == ("model digits, process 4242:\nCurrent thread of digits\n  File x\n")
    found = json.loads(run("stack", "digits", "--json").stdout)
    assert found == {"model": "digits", "stacks": [{"pid": 4242, "text": "Current thread of digits\n  File x\n"}]}
    assert run("stack", "nix").exit_code == 1


def a_call(state, why="", program="app.py"):
    client = {"pid": 77 if program else None, "program": program}
    return {"method": "greet", "age_s": 12.5, "state": state, "why": why, "client": client}


def test_calls_in_flight_are_explained_with_their_clients(run, client):
    client.explained = {"calls": [a_call("left", "its caller has gone"), a_call("sent", program=None)]}
    lines = rows(run("explain", "digits").stdout)
    assert {"greet 12.5 s app.py, pid 77 its caller has gone", "greet 12.5 s unknown program, pid -"} <= set(lines)
    client.explained = {"calls": [a_call("sent")] * 30}
    assert "and 10 more" in rows(run("explain", "digits").stdout)


def test_a_story_is_told_a_line_an_event_and_folded_within_its_column(run, client):
    event = {"time_s": 1e9, "model_id": "digits", "subject": "model", "old": "READY", "new": "FAILED"}
    client.explained = {"story": [{**event, "reason": "it died because of a very long story\nFile x"}]}
    (line,) = rows(run("explain", "digits").stdout)[1:]
    assert line.split(maxsplit=2)[2] == "model READY -> FAILED it died because of a very long story"
    first, *rest = run("explain", "digits", COLUMNS="60").stdout.splitlines()[1:]
    column = first.index("READY")
    assert rest
    assert all(line[:column].isspace() for line in rest)


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
    ids=["exit", "stack", "limit"],
)
def test_a_death_leads_to_the_log_unless_the_message_does(run, client, error, hint):
    client.refusal = error
    lines = run("infer", "digits", "1").stderr.splitlines(keepends=True)
    assert "".join(lines[1:]) == hint
