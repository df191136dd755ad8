"""What the commands print, for people and for programs, against a host that answers from memory."""

from __future__ import annotations

import datetime
import io
import json
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

from hostd.cli.commands import listing
from hostd.cli.output import json_ready, to_json
from hostd_workers.wire.errors import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from hostd.records import ModelInfo


@pytest.fixture(autouse=True)
def _is_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_ps_shows_a_row_per_model(run) -> None:
    result = run("ps")
    assert result.exit_code == 0
    assert rows(result.stdout) == [
        ["MODEL", "STATE", "PID", "LOADER", "RSS", "USS", "CHARGE", "BUDGET", "UP", "CALLS", "USED"],
        ["digits", "READY", "4242", "sklearn", "312Mi", "300Mi", "300Mi", "15%", "1h", "17", "3h"],
    ]
    assert "1 model, 312 MiB; host pid 41 (60 MiB), up 2h 1m, at ipc:///run/x" in result.stderr


def test_ps_says_why_a_model_failed(run, client, broken) -> None:
    client.models = {"broken": broken}
    result = run("ps")
    assert rows(result.stdout)[1] == ["broken", "FAILED", "-", "sklearn", *["-"] * 5, "17", "3h"]
    assert "broken: its load raised ValueError: no such tree" in result.stdout


def test_ps_of_an_empty_host_says_so(run, client) -> None:
    client.models = {}
    result = run("ps")
    assert result.stdout == ""
    assert result.stderr.startswith("no models; host pid 41")
    assert json.loads(run("ps", "--json").stdout) == []


def test_ps_gives_programs_the_whole_record(run, digits) -> None:
    (found,) = json.loads(run("ps", "--json").stdout)
    assert found == json.loads(json.dumps(digits.to_dict()))


def test_the_table_of_models_fits_eighty_columns_and_cuts_nothing(digits) -> None:
    long = replace(
        digits, id="team/sentiment-classifier-large-v2-2026-11-22", state="QUARANTINED", loader="my.pkg:load_it"
    )
    many = replace(digits, workers=digits.workers * 2, calls=1234567)
    buffer = io.StringIO()
    Console(file=buffer, width=80).print(listing.models_table([long, many], 2e9, budget_bytes=2**31))
    lines = buffer.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    shown = "".join("".join(line.split()) for line in lines)
    assert "1234567" in shown
    column = "".join(line[: lines[0].index("STATE")].strip() for line in lines[1:])
    assert column.startswith(long.id)


def test_memory_on_devices_has_a_column_where_there_is_some(digits) -> None:
    def table(*models: ModelInfo, width: int = 80) -> list[str]:
        buffer = io.StringIO()
        Console(file=buffer, width=width).print(listing.models_table(models, 2e9, budget_bytes=2**31))
        return buffer.getvalue().splitlines()

    (worker,) = digits.workers
    on_device = replace(digits, id="on-device", workers=(replace(worker, gpu_bytes=3 << 30),))
    elsewhere = replace(digits, workers=(replace(worker, gpu_bytes=0),))
    assert "GPU" not in table(elsewhere)[0]
    heading, first, second = table(on_device, elsewhere)
    assert heading.split()[4:8] == ["RSS", "USS", "GPU", "BUDGET"]
    assert (first.split()[6], second.split()[6]) == ("3.0Gi", "-")


def test_load_passes_path_and_typed_options(run, client) -> None:
    options = ("--option", "threads=2", "-o", "name=a=b", "-o", 'deep={"x": [1]}', "-o", "flag=true")
    result = run("load", "digits", "m", "--type", "mine", "--finder", "files", "--no-wait", *options)
    assert result.exit_code == 0, result.stderr
    ((_, *asked, how),) = [asked for asked in client.asked if asked[0] == "load"]
    assert asked == ["digits", "m", "mine"]
    assert how["options"] == {"threads": 2, "name": "a=b", "deep": {"x": [1]}, "flag": True}
    assert how["finder"] == "files"
    assert how["wait"] is False


def test_load_says_what_is_ready_and_how_to_call_it(run) -> None:
    assert run("load", "digits", "/srv/digits").stdout == (
        "digits is ready in 1.23 s: sklearn, pid 4242, 312 MiB\nmethods: predict, predict_proba\n"
    )


def test_a_load_that_was_not_waited_for_says_how_to_follow_it(run, client, digits) -> None:
    client.models["digits"] = replace(digits, state="LOADING", workers=())
    assert run("load", "digits", "/x", "--no-wait").stdout == "digits is LOADING; follow it with: hostd events digits\n"


def test_unload_says_what_the_operating_system_got_back(run) -> None:
    result = run("unload", "digits", "other")
    assert rows(result.stdout) == [
        ["MODEL", "GIVEN", "BACK", "WAS", "PROCESSES", "TOOK"],
        ["digits", "300", "MiB", "312", "MiB", "1", "42", "ms"],
        ["other", "was", "not", "loaded"],
    ]
    assert rows(run("unload", "--all").stdout)[1][0] == "digits"


def test_an_unload_that_fails_does_not_stop_the_others(run) -> None:
    result = run("unload", "stuck", "digits", "--json")
    assert result.exit_code == 1
    assert [report["model_id"] for report in json.loads(result.stdout)] == ["digits"]
    assert json.loads(result.stderr)["error"]["message"] == "it will not go"


def test_size_says_how_it_is_known(run) -> None:
    assert rows(run("size").stdout)[1] == ["digits", "312", "MiB", str(312 * 2**20), "measured"]
    assert json.loads(run("size", "digits", "--json").stdout) == {
        "digits": {"bytes": 312 * 2**20, "source": "measured"}
    }


def test_explain_tells_the_story(run) -> None:
    first, second = run("explain", "digits").stdout.splitlines()
    assert first == "digits is READY: a reason"
    assert second.endswith("  worker 3 pid 4242  LOADING -> READY  loaded")
    assert json.loads(run("explain", "digits", "--json").stdout)["story"][0]["new"] == "READY"


def test_events_are_lines(run, monkeypatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    assert "digits  worker 3 pid 4242  LOADING -> READY  loaded" in run("events").stdout
    assert json.loads(run("events", "other", "--json").stdout)["model_id"] == "other"


def test_logs_show_lines_with_their_times_and_the_notes_of_the_host(run, client, monkeypatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    note = "-- worker 3, pid 4242, started: load of /srv/digits requested --"
    assert run("logs", "digits").stdout.splitlines() == [
        f"2001-09-09 01:46:40.250  {note}",
        "2001-09-09 01:46:41.500  first",
        "2001-09-09 01:46:41.500  second",
    ]
    assert run("logs", "digits", "--raw").stdout == "first\nsec\x1b[2Jond\n"
    told = json.loads(run("logs", "digits", "--json", "-n", "7").stdout)
    assert told == {"model": "digits", "lines": [line.to_dict() for line in client.log]}
    assert client.asked[-2] == ("logs", "digits", 7, False)
    followed = run("logs", "digits", "-f", "--json").stdout.splitlines()
    assert [json.loads(line)["text"] for line in followed] == [line.text for line in client.log]


def test_an_empty_log_is_no_failure_and_an_unknown_model_is_one(run, client) -> None:
    client.log = ()
    result = run("logs", "digits")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing that digits printed is kept\n")
    result = run("logs", "unknown")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "[NOT_FOUND]" in result.stderr


def test_status_is_one_screen_and_its_exit_code_says_whether_all_is_well(run, client, broken) -> None:
    client.models["broken"] = broken
    result = run("status")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["host", "process", "endpoint", "models", "memory", "metrics"]
    for words in (
        "default is READY",
        "pid 41, up 2h",
        "version 0.1.0",
        "ipc:///run/x",
        "1 FAILED, 1 READY",
        "1.7 GiB free",
    ):
        assert words in result.stdout
    client.degraded = ("the directory is away",)
    result = run("status")
    assert result.exit_code == 1
    assert "READY, degraded" in result.stdout
    assert "the directory is away" in result.stdout


@pytest.mark.parametrize(
    ("state", "over_budget", "code"),
    [("READY", None, 0), ("STARTING", None, 1), ("STOPPING", None, 1), ("READY", "m has grown", 1)],
)
def test_status_for_scripts(run, client, memory, state: str, over_budget: str | None, code: int) -> None:
    client.state, client.memory = state, replace(memory, over_budget=over_budget)
    result = run("status", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["state"], told["ready"]) == (code, state, state == "READY")
    assert told["degraded"] == ([over_budget] if over_budget else [])
    assert told["models"] == {"READY": 1}
    assert {"name", "endpoint", "pid", "uptime_s", "version", "memory", "metrics"} <= set(told)


def test_status_of_no_host_is_a_failure(run, client) -> None:
    client.refusal = UnavailableError("no host answers")
    assert run("status").exit_code == 1


def test_reload_tells_what_changed_and_what_did_not(run, client) -> None:
    client.reloaded = {
        "file": "/etc/h.yaml",
        "changed": {"log_level": ["info", "debug"]},
        "needs_restart": ["metrics.port"],
    }
    assert run("reload").stdout == "log_level: info -> debug\nchanged after a restart only: metrics.port\n"
    client.reloaded = {"file": "/etc/h.yaml", "changed": {}, "needs_restart": []}
    assert run("reload").stdout == "/etc/h.yaml changes nothing that can be changed while the host runs\n"
    assert json.loads(run("reload", "--json").stdout) == client.reloaded


def test_shutdown_says_what_ended(run, client) -> None:
    assert run("shutdown").stdout == "host 41 at ipc:///run/x is shut down; it held 1 model\n"
    assert ("shutdown",) in client.asked


def infer(run, *args: str, **how) -> dict:
    result = run("infer", "digits", *args, **how)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_infer_calls_the_models_own_method_with_json(run) -> None:
    assert infer(run, "[[1, 2.5], null]") == {"method": "predict", "args": [[[1, 2.5], None]], "kwargs": {}}


def test_infer_without_data_calls_without_arguments(run) -> None:
    assert infer(run, "-m", "about", "--kwargs", '{"deep": true}') == {
        "method": "about",
        "args": [],
        "kwargs": {"deep": True},
    }


def test_infer_reads_files_and_standard_input_as_json_or_npy(run, tmp_path: Path) -> None:
    array = np.arange(6, dtype="int16").reshape(2, 3)
    (tmp_path / "x.npy").write_bytes(npy(array))
    (tmp_path / "x.json").write_text("[[0, 1, 2], [3, 4, 5]]", "utf-8")
    for data in (str(tmp_path / "x.npy"), f"@{tmp_path / 'x.npy'}", f"@{tmp_path / 'x.json'}"):
        assert infer(run, data)["args"] == [[[0, 1, 2], [3, 4, 5]]]
    for stdin in (npy(array), b"[[0, 1, 2], [3, 4, 5]]"):
        assert infer(run, "-", stdin=stdin)["args"] == [[[0, 1, 2], [3, 4, 5]]]


def test_infer_makes_arrays_of_lists_when_asked(run, client, monkeypatch) -> None:
    seen = []
    handle = client.retrieve_model("digits")
    monkeypatch.setattr(client, "retrieve_model", lambda _, timeout_s: handle)
    monkeypatch.setattr(handle, "call", lambda *args, **kwargs: seen.append((args, kwargs)))
    assert (
        run("infer", "digits", "[1, 2]", "--dtype", "float32", "--kwargs", '{"x": {"y": [1]}, "n": 3}').exit_code == 0
    )
    ((_, array), kwargs) = seen[0]
    assert array.dtype == np.float32
    assert isinstance(kwargs["x"]["y"], np.ndarray)
    assert kwargs["n"] == 3


def test_infer_sends_text_as_it_is(run) -> None:
    assert infer(run, "--text", "3")["args"] == ["3"]
    assert infer(run, "--text", "-", stdin="a\nb")["args"] == ["a\nb"]


def test_infer_refuses_objects_in_npy_files_because_they_are_code(run, tmp_path: Path) -> None:
    file = tmp_path / "evil.npy"
    np.save(file, np.array([object()], dtype=object), allow_pickle=True)
    result = run("infer", "digits", str(file))
    assert result.exit_code == 2
    assert "allow_pickle=False" in result.stderr


def test_infer_says_which_way_text_and_files_are_sent(run, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]", "utf-8")
    assert (
        f"say @{tmp_path / 'x.json'} to send what is in it" in run("infer", "digits", str(tmp_path / "x.json")).stderr
    )
    assert "send text with --text" in run("infer", "digits", "hello").stderr


def test_infer_prints_arrays_as_json_and_can_write_them(run, client, tmp_path: Path) -> None:
    client.answer = np.array([[0.5, math.nan], [math.inf, 1]], dtype="float32")
    assert run("infer", "digits", "1").stdout == '[[0.5, "NaN"], ["Infinity", 1.0]]\n'
    result = run("infer", "digits", "1", "--output", str(tmp_path / "y.npy"))
    assert result.stdout == ""
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), client.answer)
    run("infer", "digits", "1", "--output", str(tmp_path / "y.json"))
    assert json.loads((tmp_path / "y.json").read_text("utf-8"))[0] == [0.5, "NaN"]


def test_infer_refuses_to_write_what_is_no_array(run, client, tmp_path: Path) -> None:
    client.answer = {"a": object()}
    result = run("infer", "digits", "1", "--output", str(tmp_path / "y.npy"))
    assert result.exit_code == 2
    assert "write it to a .json file" in result.stderr
    assert not (tmp_path / "y.npy").exists()


def test_infer_tells_programs_what_was_called(run) -> None:
    found = infer(run, "1", "--json")
    assert found.pop("duration_s") >= 0
    assert found == {
        "model": "digits",
        "method": "predict",
        "result": {"method": "predict", "args": [1], "kwargs": {}},
    }


def test_a_method_that_streams_is_printed_item_by_item(run, client, writer) -> None:
    client.models["writer"] = writer
    expected = ['"one"', "2", '[[5], {"n": 1}]']
    for args in ((), ("--stream",), ("-m", "write")):
        assert run("infer", "writer", "5", "--kwargs", '{"n": 1}', *args).stdout.splitlines() == expected
    assert json.loads(run("infer", "writer", "5", "--json").stdout.splitlines()[1]) == {"index": 1, "item": 2}


def test_json_has_only_what_the_standard_has() -> None:
    value = {
        1: (b"\x00\xff", {2}, datetime.date(2026, 11, 22), np.float64(1.5), np.array(["a"]), -math.inf),
        "o": object,
    }
    text = to_json(value)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "1": ["AP8=", [2], "2026-11-22", 1.5, ["a"], "-Infinity"],
        "o": "<class 'object'>",
    }
    assert json_ready(np.datetime64("2026-11-22")) == "2026-11-22"
