"""`deploy`, `undeploy`, `sync`, `load --reload` and `size --estimate`, against a host that answers from memory."""

import io
import json
import re
import sys
import time
from dataclasses import replace

import pytest
from cli_rig import DIGITS, MIB, rows

from hostd.cli.output import transferring
from hostd.records import SyncReport
from hostd_workers.wire.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)


@pytest.fixture
def model_dir(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "model.py").write_text("", "utf-8")
    return tmp_path / "digits"


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self):
        return True

    def lines(self):
        """Return what was ever shown, a line at a time, without what moves the cursor."""
        return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue()))


# deploy


def test_deploy_sends_a_directory_with_everything_that_was_said(run, client, model_dir):
    options = (
        "-o",
        "threads=2",
        "--finder",
        "files",
        "--initializer",
        "mine",
        "--retries",
        "3",
        "--loader",
        "words:load",
    )
    flags = ("--replace", "--keep", "--no-wait", "--type", "mine", "--timeout", "9")
    result = run("deploy", "digits", str(model_dir), *options, *flags)
    assert result.exit_code == 0, result.stderr
    ((model_id, files, model_type, how),) = client.was_asked("deploy")
    assert (model_id, files, model_type) == ("digits", model_dir, "mine")
    assert callable(how.pop("progress"))
    expected = {"options": {"threads": 2}, "finder": "files", "initializer": "mine", "retries": 3, "labels": None}
    expected["loader"] = "words:load"
    assert how == {**expected, "replace": True, "keep": True, "wait": False, "timeout_s": 9.0}


def test_deploy_says_what_is_ready_or_how_to_follow_it_and_a_pipe_sees_nothing_else(run, client, model_dir):
    result = run("deploy", "digits", str(model_dir))
    assert result.stdout == ("digits is ready in 1.23 s: sklearn, pid 4242, 312 MiB\nmethods: predict, predict_proba\n")
    assert result.stderr == ""
    assert json.loads(run("deploy", "digits", str(model_dir), "--json").stdout)["state"] == "READY"
    client.models["digits"] = replace(DIGITS, state="LOADING", workers=())
    result = run("deploy", "digits", str(model_dir), "--no-wait")
    assert result.stdout == "digits is LOADING; follow it with: hostd events digits\n"


def test_files_are_deployed_by_their_own_names(run, client, tmp_path):
    weights, settings = (tmp_path / name for name in ("weights.bin", "model.yaml"))
    for path in (weights, settings):
        path.touch()
    for paths in ((weights, settings), (weights,)):
        assert run("deploy", "digits", *map(str, paths)).exit_code == 0
        assert client.was_asked("deploy")[-1][1] == {path.name: path for path in paths}


def test_paths_that_do_not_go_together_are_wrong_usage(run, client, model_dir, tmp_path):
    (tmp_path / "model.py").touch()
    for paths, words in (
        ([model_dir, tmp_path / "model.py"], "is a directory: name one directory, or files only"),
        ([model_dir, tmp_path], "is a directory"),
        ([model_dir / "model.py", tmp_path / "model.py"], "would both be 'model.py'"),
        ([tmp_path / "nope"], "does not exist"),
        ([], "Missing argument 'PATH...'"),
    ):
        result = run("deploy", "digits", *map(str, paths))
        assert result.exit_code == 2
        assert words in " ".join(result.stderr.split())
    assert run("deploy", "digits", str(model_dir), "--retries", "-1").exit_code == 2
    assert client.asked == []


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (AlreadyExistsError("digits is deployed"), "hint: --replace deploys over it"),
        (FailedPreconditionError("this host has no models directory"), "hostd serve --models-dir DIR, or models.dir"),
        (ResourceExhaustedError("no space left on device"), "hint: hostd undeploy ID"),
        (FailedPreconditionError("'w' changed; try again", details={"path": "w"}), None),
        (NotFoundError("no finder knows it"), ""),
    ],
    ids=str,
)
def test_a_refused_deploy_says_what_to_do(run, client, model_dir, error, hint):
    client.deploy_refusal = error
    result = run("deploy", "digits", str(model_dir))
    assert (result.exit_code, result.stdout) == (1, "")
    assert error.message in result.stderr
    assert "hint" not in result.stderr if hint is None else hint in result.stderr


def test_a_terminal_sees_bytes_rate_and_time_in_eighty_columns(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    with transferring("deploying team/digits", "loading team/digits", quiet=False) as progress:
        for sent_mib in (1, 150, 300):
            progress(sent_mib * MIB, 300 * MIB)
    shown = terminal.lines()
    assert max(map(len, shown)) == 80, "the bar takes what is left of the line"
    bar = r"deploying team/digits ━+ 300 MiB of 300 MiB [\d.]+ [KMGT]iB/s 0:00:\d\d"
    assert any(re.fullmatch(bar, line.strip()) for line in shown), shown
    assert any("loading team/digits 0:00:" in line for line in shown), shown


def test_there_is_no_bar_in_a_pipe_nor_for_a_program(monkeypatch):
    for stream, quiet in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with transferring("deploying", "loading", quiet=quiet) as progress:
            assert progress is None
        assert stream.getvalue() == ""


# undeploy


def test_undeploy_says_what_was_given_back_and_removed(run):
    result = run("undeploy", "digits", "other")
    assert result.exit_code == 0
    assert rows(result.stdout) == [
        "MODEL GIVEN BACK WAS PROCESSES TOOK",
        "digits 300 MiB 312 MiB 1 42 ms",
        "other was not loaded",
        "the files of 2 models are removed: digits, other",
    ]


def test_an_undeploy_that_fails_does_not_stop_the_others(run):
    assert run("undeploy").exit_code == 2
    result = run("undeploy", "unknown", "stuck", "digits")
    assert result.exit_code == 1
    assert "the files of 1 model are removed: digits" in result.stdout
    assert "error: there is no model 'unknown' in /models [NOT_FOUND]" in result.stderr
    assert "hint: only what is in the models directory can be undeployed" in result.stderr
    assert "it will not go" in result.stderr
    result = run("undeploy", "unknown", "digits", "--json")
    assert result.exit_code == 1
    assert [report["model_id"] for report in json.loads(result.stdout)] == ["digits"]
    assert json.loads(result.stderr)["error"]["status"] == "NOT_FOUND"


# sync

SYNCED = SyncReport(("a", "b"), ("gone",), {"bad": "no [model] was found"}, ("new",), changed=("old",))


def test_sync_says_what_became_of_each_model(run, client):
    client.synced = SYNCED
    result = run("sync")
    assert result.exit_code == 1, "one could not be loaded"
    assert rows(result.stdout) == [
        "MODEL WHAT WHY",
        "a loaded new in the directory, or declared",
        "b loaded new in the directory, or declared",
        "gone unloaded gone from the directory, or not declared any more",
        "old changed its files have changed since: hostd load old --reload",
        "new waiting still being written",
        "bad failed no [model] was found",
    ]
    told = json.loads(run("sync", "--json").stdout)
    assert told == {**json.loads(json.dumps(SYNCED.to_dict())), "degraded": None}
    assert set(told) == {"loaded", "unloaded", "failed", "writing", "degraded", "changed"}


def test_sync_without_waiting_has_only_begun(run, client):
    client.synced = SyncReport(("a",))
    result = run("sync", "--no-wait", "--no-load", "--timeout", "3")
    assert result.exit_code == 0
    assert rows(result.stdout)[1].startswith("a loading")
    run("sync")
    assert client.was_asked("sync") == [(False, False, 3.0), (True, True, None)]


def test_sync_of_a_directory_that_is_unchanged_or_cannot_be_read_says_so(run, client):
    result = run("sync")
    assert (result.exit_code, result.stdout) == (0, "nothing has changed\n")
    client.synced = SyncReport(degraded="/models cannot be read: Input/output error")
    result = run("sync")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "degraded: /models cannot be read: Input/output error\n"
    assert run("sync", "--json").exit_code == 1


# size --estimate


def test_an_estimate_says_how_it_is_known(run, client):
    result = run("size", "--estimate", "digits", "models/digits")
    assert rows(result.stdout) == ["MODEL SIZE BYTES HOW", f"digits 400 MiB {400 * MIB} remembered"]
    found = run("size", "--estimate", "digits", "/m", "--type", "mine", "--json").stdout
    assert json.loads(found) == {"digits": {"bytes": 400 * MIB, "source": "remembered"}}
    assert client.was_asked("estimate") == [("digits", "models/digits"), ("digits", "/m", "mine")]
    client.asked.clear()
    for args in (("--estimate", "digits"), ("--type", "mine"), ("digits", "--estimate", "digits", "/m")):
        assert run("size", *args).exit_code == 2
    assert client.asked == []


# load of what is loaded


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ("as loaded", ""),
        ("unknown", ""),
        ("changed", "its files have changed since, and it serves what was loaded: hostd load digits --reload"),
        ("gone", "its files are gone since: nothing is at /models/digits any more"),
    ],
)
def test_load_of_what_is_loaded_says_so_and_whether_its_files_have_changed(run, client, files, words):
    client.already_loaded = True
    client.models["digits"] = replace(DIGITS, path="/models/digits", ready_s=time.time() - 38, files=files)
    result = run("load", "digits", "/models/digits")
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert re.match(r"digits was already loaded \d+(\.\d)? s ago: pid ", first), first
    assert "".join(rest) == words
    assert "ready in" not in result.stdout
    told = json.loads(run("load", "digits", "/models/digits", "--json").stdout)
    assert (told["already_loaded"], told["files"]) == (True, files)


def test_reload_needs_no_path(run, client):
    assert run("load", "digits", "--reload").exit_code == 0
    assert run("load", "digits", "/other", "--reload", "-o", "a=1").exit_code == 0
    asked = [(path, how["reload"], how["options"]) for _, path, _, how in client.was_asked("load")]
    assert asked == [(None, True, {}), ("/other", True, {"a": 1})]
    result = run("load", "digits")
    assert result.exit_code == 2
    assert "name the PATH of the model; only --reload knows it" in result.stderr
