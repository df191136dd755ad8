"""What the commands print, for people and for programs, against a host that answers from memory."""

import datetime
import io
import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from cli_rig import BROKEN, DIGITS, LOG, MEMORY, NO_TREE, WRITER, rows

from hostd.cli.output import json_ready, to_json
from hostd_workers.wire.errors import UnavailableError


def test_ps_shows_a_row_per_model_and_programs_get_the_whole_record(run):
    result = run("ps")
    assert result.exit_code == 0
    assert rows(result.stdout) == [
        "MODEL STATE PID LOADER RSS USS CHARGE BUDGET UP CALLS USED",
        "digits READY 4242 sklearn 312Mi 300Mi 300Mi 15% 1h 17 3h",
    ]
    assert "1 model, 312 MiB; host pid 41 (60 MiB), up 2h 1m, at ipc:///run/x" in result.stderr
    assert json.loads(run("ps", "--json").stdout) == [json.loads(json.dumps(DIGITS.to_dict()))]


def test_ps_says_why_a_model_failed_and_that_a_host_is_empty_or_degraded(run, client):
    client.models = {"broken": BROKEN}
    result = run("ps")
    assert rows(result.stdout)[1] == "broken FAILED - sklearn - - - - - 17 3h"
    assert f"broken: {NO_TREE}" in result.stdout
    assert "degraded" not in result.stderr
    client.degraded = ("/models cannot be read", "no file-system notifications")
    assert run("ps").stderr.splitlines()[-2:] == [f"the host is degraded: {why}" for why in client.degraded]
    client.models = {}
    result = run("ps")
    assert (result.stdout, result.stderr.partition("41")[0]) == ("", "no models; host pid ")
    assert json.loads(run("ps", "--json").stdout) == []


def test_load_passes_path_and_typed_options(run, client):
    options = ("--option", "threads=2", "-o", "name=a=b", "-o", 'deep={"x": [1]}', "-o", "flag=true")
    how = ("--type", "mine", "--finder", "files", "--no-wait", "--retries", "2", "--initializer", "mine")
    assert run("load", "digits", "m", *how, *options).exit_code == 0
    assert run("load", "digits", "m").exit_code == 0
    (*asked, how), (*_, default) = client.was_asked("load")
    assert asked == ["digits", "m", "mine"]
    assert how["options"] == {"threads": 2, "name": "a=b", "deep": {"x": [1]}, "flag": True}
    assert (how["finder"], how["wait"], how["retries"], how["initializer"]) == ("files", False, 2, "mine")
    assert (default["wait"], default["retries"], default["initializer"]) == (True, None, None)


def test_load_says_what_is_ready_and_how_to_call_it_or_how_to_follow_it(run, client):
    assert run("load", "digits", "/srv/digits").stdout == (
        "digits is ready in 1.23 s: sklearn, pid 4242, 312 MiB\nmethods: predict, predict_proba\n"
    )
    client.models["digits"] = replace(DIGITS, state="LOADING", workers=())
    assert run("load", "digits", "/x", "--no-wait").stdout == "digits is LOADING; follow it with: hostd events digits\n"


def test_unload_says_what_the_operating_system_got_back_and_one_that_fails_does_not_stop_the_others(run, client):
    result = run("unload", "digits", "other")
    assert rows(result.stdout) == [
        "MODEL GIVEN BACK WAS PROCESSES TOOK",
        "digits 300 MiB 312 MiB 1 42 ms",
        "other was not loaded",
    ]
    assert rows(run("unload", "--all").stdout)[1].startswith("digits")
    result = run("unload", "stuck", "digits", "--json")
    assert result.exit_code == 1
    assert [report["model_id"] for report in json.loads(result.stdout)] == ["digits"]
    assert json.loads(result.stderr)["error"]["message"] == "it will not go"
    assert client.was_asked("unload")[0] == ("digits", False)
    client.asked.clear()
    assert run("unload", "digits", "--now").exit_code == run("unload", "--all", "--now").exit_code == 0
    assert (client.was_asked("unload")[0], client.was_asked("unload all")) == (("digits", True), [(None, True)])


def test_labels_are_given_to_loads_and_choose_what_is_shown_and_unloaded(run, client):
    client.models["other"] = replace(DIGITS, id="other", labels={"team": "a", "tier": ""})
    assert run("load", "digits", "/m", "--label", "team=a", "--label", "note=").exit_code == 0
    assert client.was_asked("load")[0][-1]["labels"] == {"team": "a", "note": ""}
    assert run("load", "digits", "/m").exit_code == 0
    assert client.was_asked("load")[1][-1]["labels"] is None
    for command in ("ps", "ls"):
        shown = json.loads(run(command, "--label", "team=a", "--label", "tier=", "--json").stdout)
        assert [model["id"] for model in shown] == ["other"], command
    assert rows(run("unload", "--label", "team=a").stdout)[1].startswith("other")
    assert run("unload", "--all", "--label", "team=b", "--now").stdout == "no models with team=b were loaded\n"
    assert client.was_asked("unload all") == [({"team": "a"}, False), ({"team": "b"}, True)]
    for wrong in (["--label", "team"], ["digits", "--label", "team=a"], []):
        assert run("unload", *wrong).exit_code == 2, wrong


def test_size_says_how_it_is_known(run):
    assert rows(run("size").stdout)[1] == f"digits 312 MiB {312 * 2**20} measured"
    told = json.loads(run("size", "digits", "--json").stdout)
    assert told == {"digits": {"bytes": 312 * 2**20, "source": "measured"}}


def test_explain_and_events_tell_the_story(run, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    moved = "worker 3 pid 4242  LOADING -> READY  loaded"
    first, second = run("explain", "digits").stdout.splitlines()
    assert first == "digits is READY: a reason"
    assert second.endswith(f"  {moved}")
    assert json.loads(run("explain", "digits", "--json").stdout)["story"][0]["new"] == "READY"
    assert f"digits  {moved}" in run("events").stdout
    assert json.loads(run("events", "other", "--json").stdout)["model_id"] == "other"


def test_logs_show_lines_with_their_times_and_the_notes_of_the_host(run, client, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert run("logs", "digits").stdout.splitlines() == [
        "2001-09-09 01:46:40.250  -- worker 3, pid 4242, started: load of /srv/digits requested --",
        "2001-09-09 01:46:41.500  first",
        "2001-09-09 01:46:41.500  second",
    ]
    assert run("logs", "digits", "--raw").stdout == "first\nsec\x1b[2Jond\n"
    told = json.loads(run("logs", "digits", "--json", "-n", "7").stdout)
    assert told == {"model": "digits", "lines": [line.to_dict() for line in LOG]}
    assert client.was_asked("logs")[-1] == ("digits", 7, False)
    followed = run("logs", "digits", "-f", "--json").stdout.splitlines()
    assert [json.loads(line)["text"] for line in followed] == [line.text for line in LOG]
    client.log = ()
    result = run("logs", "digits")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing that digits printed is kept\n")
    result = run("logs", "unknown")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "[NOT_FOUND]" in result.stderr


def test_status_is_one_screen_and_its_exit_code_says_whether_all_is_well(run, client):
    client.models["broken"] = BROKEN
    result = run("status")
    assert result.exit_code == 0
    assert [row.split()[0] for row in rows(result.stdout)] == [
        "host",
        "process",
        "endpoint",
        "models",
        "memory",
        "metrics",
    ]
    for words in ("default is READY", "pid 41, up 2h", "version 0.1.0", "1 FAILED, 1 READY", "1.7 GiB free"):
        assert words in result.stdout
    assert "ipc:///run/x" in result.stdout
    client.degraded = ("the directory is away",)
    result = run("status")
    assert result.exit_code == 1
    assert "READY, degraded" in result.stdout
    assert "the directory is away" in result.stdout
    client.refusal = UnavailableError("no host answers")
    assert run("status").exit_code == 1


@pytest.mark.parametrize(
    ("state", "over_budget", "code"),
    [("READY", None, 0), ("STARTING", None, 1), ("STOPPING", None, 1), ("READY", "m has grown", 1)],
)
def test_status_for_scripts(run, client, state, over_budget, code):
    client.state, client.memory = state, replace(MEMORY, over_budget=over_budget)
    result = run("status", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["state"], told["ready"]) == (code, state, state == "READY")
    assert told["degraded"] == ([over_budget] if over_budget else [])
    assert told["models"] == {"READY": 1}
    assert {"name", "endpoint", "pid", "uptime_s", "version", "memory", "metrics"} <= set(told)


def test_reload_and_shutdown_say_what_they_did(run, client):
    changed = {"log_level": ["info", "debug"]}
    client.reloaded = {"file": "/etc/h.yaml", "changed": changed, "needs_restart": ["metrics.port"]}
    assert run("reload").stdout == "log_level: info -> debug\nchanged after a restart only: metrics.port\n"
    client.reloaded = {"file": "/etc/h.yaml", "changed": {}, "needs_restart": []}
    assert run("reload").stdout == "/etc/h.yaml changes nothing that can be changed while the host runs\n"
    assert json.loads(run("reload", "--json").stdout) == client.reloaded
    assert run("shutdown").stdout == "host 41 at ipc:///run/x is shut down; it held 1 model\n"
    assert ("shutdown",) in client.asked


# infer


def infer(run, *args, **how):
    result = run("infer", "digits", *args, **how)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_infer_calls_the_models_own_method_with_json(run):
    assert infer(run, "[[1, 2.5], null]") == {"method": "predict", "args": [[[1, 2.5], None]], "kwargs": {}}
    told = {"method": "about", "args": [], "kwargs": {"deep": True}}
    assert infer(run, "-m", "about", "--kwargs", '{"deep": true}') == told
    found = infer(run, "1", "--json")
    assert found.pop("duration_s") >= 0
    result = {"method": "predict", "args": [1], "kwargs": {}}
    assert found == {"model": "digits", "method": "predict", "result": result}


def test_infer_reads_files_and_standard_input_as_json_or_npy_or_text(run, tmp_path):
    array = np.arange(6, dtype="int16").reshape(2, 3)
    (tmp_path / "x.npy").write_bytes(npy(array))
    (tmp_path / "x.json").write_text("[[0, 1, 2], [3, 4, 5]]", "utf-8")
    for data in (str(tmp_path / "x.npy"), f"@{tmp_path / 'x.npy'}", f"@{tmp_path / 'x.json'}"):
        assert infer(run, data)["args"] == [[[0, 1, 2], [3, 4, 5]]]
    for stdin in (npy(array), b"[[0, 1, 2], [3, 4, 5]]"):
        assert infer(run, "-", stdin=stdin)["args"] == [[[0, 1, 2], [3, 4, 5]]]
    assert infer(run, "--text", "3")["args"] == ["3"]
    assert infer(run, "--text", "-", stdin="a\nb")["args"] == ["a\nb"]
    said = run("infer", "digits", str(tmp_path / "x.json")).stderr
    assert f"say @{tmp_path / 'x.json'} to send what is in it" in said
    assert "send text with --text" in run("infer", "digits", "hello").stderr


def test_infer_makes_arrays_of_lists_when_asked(run, client, monkeypatch):
    seen = []
    handle = client.retrieve_model("digits")
    monkeypatch.setattr(client, "retrieve_model", lambda _, timeout_s: handle)
    monkeypatch.setattr(handle, "call", lambda *args, **kwargs: seen.append((args, kwargs)))
    kwargs = '{"x": {"y": [1]}, "n": 3}'
    assert run("infer", "digits", "[1, 2]", "--dtype", "float32", "--kwargs", kwargs).exit_code == 0
    ((_, array), kwargs) = seen[0]
    assert array.dtype == np.float32
    assert isinstance(kwargs["x"]["y"], np.ndarray)
    assert kwargs["n"] == 3


def test_infer_refuses_objects_in_npy_files_because_they_are_code_and_to_write_what_is_no_array(run, client, tmp_path):
    np.save(tmp_path / "evil.npy", np.array([object()], dtype=object), allow_pickle=True)
    result = run("infer", "digits", str(tmp_path / "evil.npy"))
    assert (result.exit_code, "allow_pickle=False" in result.stderr) == (2, True)
    client.answer = {"a": object()}
    result = run("infer", "digits", "1", "--output", str(tmp_path / "y.npy"))
    assert (result.exit_code, "write it to a .json file" in result.stderr) == (2, True)
    assert not (tmp_path / "y.npy").exists()


def test_infer_prints_arrays_as_json_and_can_write_them(run, client, tmp_path):
    client.answer = np.array([[0.5, math.nan], [math.inf, 1]], dtype="float32")
    assert run("infer", "digits", "1").stdout == '[[0.5, "NaN"], ["Infinity", 1.0]]\n'
    assert run("infer", "digits", "1", "--output", str(tmp_path / "y.npy")).stdout == ""
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), client.answer)
    run("infer", "digits", "1", "--output", str(tmp_path / "y.json"))
    assert json.loads((tmp_path / "y.json").read_text("utf-8"))[0] == [0.5, "NaN"]


def test_a_method_that_streams_is_printed_item_by_item(run, client):
    client.models["writer"] = WRITER
    expected = ['"one"', "2", '[[5], {"n": 1}]']
    for args in ((), ("--stream",), ("-m", "write")):
        assert run("infer", "writer", "5", "--kwargs", '{"n": 1}', *args).stdout.splitlines() == expected
    assert json.loads(run("infer", "writer", "5", "--json").stdout.splitlines()[1]) == {"index": 1, "item": 2}


def test_json_has_only_what_the_standard_has():
    day = datetime.date(2026, 11, 22)
    value = {1: (b"\x00\xff", {2}, day, np.float64(1.5), np.array(["a"]), -math.inf), "o": object}
    assert json.loads(to_json(value), parse_constant=pytest.fail) == {
        "1": ["AP8=", [2], "2026-11-22", 1.5, ["a"], "-Infinity"],
        "o": "<class 'object'>",
    }
    assert json_ready(np.datetime64("2026-11-22")) == "2026-11-22"
