"""`deploy`, `undeploy`, `sync` and `size --estimate`, against a host that answers from memory."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from hostd.cli.commands import deploying
from hostd.cli.output import transferring
from hostd.records import SyncReport
from hostd_workers.wire.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)

if TYPE_CHECKING:
    from pathlib import Path

MIB = 2**20


@pytest.fixture(autouse=True)
def _is_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "model.py").write_text("", "utf-8")
    return tmp_path / "digits"


def asked(client, verb: str) -> list[Any]:
    return [one[1:] for one in client.asked if one[0] == verb]


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """Return what was ever shown, a line at a time, without what moves the cursor."""
        return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue()))


# deploy


def test_deploy_sends_a_directory_with_everything_that_was_said(run, client, model_dir: Path) -> None:
    options = ("-o", "threads=2", "--finder", "files", "--initializer", "mine", "--retries", "3")
    flags = ("--replace", "--keep", "--no-wait", "--type", "mine", "--timeout", "9")
    result = run("deploy", "digits", str(model_dir), *options, *flags)
    assert result.exit_code == 0, result.stderr
    ((model_id, files, model_type, how),) = asked(client, "deploy")
    assert (model_id, files, model_type) == ("digits", model_dir, "mine")
    assert callable(how.pop("progress"))
    assert how == {
        "options": {"threads": 2},
        "finder": "files",
        "initializer": "mine",
        "retries": 3,
        "replace": True,
        "keep": True,
        "wait": False,
        "timeout_s": 9.0,
    }


def test_deploy_says_what_is_ready_and_a_pipe_sees_nothing_else(run, model_dir: Path) -> None:
    result = run("deploy", "digits", str(model_dir))
    assert result.stdout == ("digits is ready in 1.23 s: sklearn, pid 4242, 312 MiB\nmethods: predict, predict_proba\n")
    assert result.stderr == ""
    assert json.loads(run("deploy", "digits", str(model_dir), "--json").stdout)["state"] == "READY"


def test_a_deploy_that_was_not_waited_for_says_how_to_follow_it(run, client, digits, model_dir: Path) -> None:
    client.models["digits"] = replace(digits, state="LOADING", workers=())
    result = run("deploy", "digits", str(model_dir), "--no-wait")
    assert result.stdout == "digits is LOADING; follow it with: hostd events digits\n"


def test_files_are_deployed_by_their_own_names(run, client, tmp_path: Path) -> None:
    for name in ("weights.bin", "model.yaml"):
        (tmp_path / name).touch()
    paths = [tmp_path / "weights.bin", tmp_path / "model.yaml"]
    assert run("deploy", "digits", *map(str, paths)).exit_code == 0
    assert run("deploy", "digits", str(paths[0])).exit_code == 0
    assert [files for _, files, *_ in asked(client, "deploy")] == [
        {"weights.bin": paths[0], "model.yaml": paths[1]},
        {"weights.bin": paths[0]},
    ]


def test_paths_that_do_not_go_together_are_wrong_usage(run, client, model_dir: Path, tmp_path: Path) -> None:
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
    ],
    ids=str,
)
def test_a_refused_deploy_says_what_to_do(run, client, model_dir: Path, error: Any, hint: str) -> None:
    client.deploy_refusal = error
    result = run("deploy", "digits", str(model_dir))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert error.message in result.stderr
    assert hint in result.stderr


def test_a_file_that_changed_is_no_matter_of_the_hosts_directory(run, client, model_dir: Path) -> None:
    client.deploy_refusal = FailedPreconditionError("'w' changed; try again", details={"path": "w"})
    assert "hint" not in run("deploy", "digits", str(model_dir)).stderr


def test_a_terminal_sees_bytes_rate_and_time_in_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    with transferring("deploying team/digits", "loading team/digits", quiet=False) as progress:
        assert progress is not None
        for sent_mib in (1, 150, 300):
            progress(sent_mib * MIB, 300 * MIB)
    shown = terminal.lines()
    assert max(map(len, shown)) == 80, "the bar takes what is left of the line"
    bar = r"deploying team/digits ━+ 300 MiB of 300 MiB [\d.]+ [KMGT]iB/s 0:00:\d\d"
    assert any(re.fullmatch(bar, line.strip()) for line in shown), shown
    assert any("loading team/digits 0:00:" in line for line in shown), shown


def test_there_is_no_bar_in_a_pipe_nor_for_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, quiet in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with transferring("deploying", "loading", quiet=quiet) as progress:
            assert progress is None
        assert stream.getvalue() == ""


# undeploy


def test_undeploy_says_what_was_given_back_and_removed(run) -> None:
    result = run("undeploy", "digits", "other")
    assert result.exit_code == 0
    assert rows(result.stdout) == [
        ["MODEL", "GIVEN", "BACK", "WAS", "PROCESSES", "TOOK"],
        ["digits", "300", "MiB", "312", "MiB", "1", "42", "ms"],
        ["other", "was", "not", "loaded"],
        ["the", "files", "of", "2", "models", "are", "removed:", "digits,", "other"],
    ]


def test_an_undeploy_that_fails_does_not_stop_the_others(run) -> None:
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


def test_undeploy_needs_a_name(run) -> None:
    assert run("undeploy").exit_code == 2


# sync

SYNCED = SyncReport(("a", "b"), ("gone",), {"bad": "no [model] was found"}, ("new",), changed=("old",))


def test_sync_says_what_became_of_each_model(run, client) -> None:
    client.synced = SYNCED
    result = run("sync")
    assert result.exit_code == 1, "one could not be loaded"
    assert [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()] == [
        ["MODEL", "WHAT", "WHY"],
        ["a", "loaded", "new in the directory, or declared"],
        ["b", "loaded", "new in the directory, or declared"],
        ["gone", "unloaded", "gone from the directory, or not declared any more"],
        ["old", "changed", "its files have changed since: hostd load old --reload"],
        ["new", "waiting", "still being written"],
        ["bad", "failed", "no [model] was found"],
    ]
    assert json.loads(run("sync", "--json").stdout) == {
        "loaded": ["a", "b"],
        "unloaded": ["gone"],
        "failed": {"bad": "no [model] was found"},
        "writing": ["new"],
        "degraded": None,
        "changed": ["old"],
    }


def test_sync_without_waiting_has_only_begun(run, client) -> None:
    client.synced = SyncReport(("a",))
    result = run("sync", "--no-wait", "--no-load", "--timeout", "3")
    assert result.exit_code == 0
    assert rows(result.stdout)[1][:2] == ["a", "loading"]
    run("sync")
    assert asked(client, "sync") == [(False, False, 3.0), (True, True, None)]


def test_sync_of_an_unchanged_directory_says_so(run) -> None:
    result = run("sync")
    assert (result.exit_code, result.stdout) == (0, "nothing has changed\n")


def test_sync_of_a_directory_that_cannot_be_read_says_why(run, client) -> None:
    client.synced = SyncReport(degraded="/models cannot be read: Input/output error")
    result = run("sync")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "degraded: /models cannot be read: Input/output error\n"
    assert run("sync", "--json").exit_code == 1


def test_the_table_of_a_sync_fits_eighty_columns_and_cuts_nothing() -> None:
    report = SyncReport(("team/sentiment-classifier-large",), (), {"bad": "because " * 30})
    buffer = io.StringIO()
    Console(file=buffer, width=80).print(deploying.sync_table(report, is_waited_for=True))
    lines = buffer.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert buffer.getvalue().count("because") == 30


# size --estimate, load, ps


def test_an_estimate_says_how_it_is_known(run, client) -> None:
    result = run("size", "--estimate", "digits", "models/digits")
    assert rows(result.stdout) == [
        ["MODEL", "SIZE", "BYTES", "HOW"],
        ["digits", "400", "MiB", str(400 * MIB), "remembered"],
    ]
    found = run("size", "--estimate", "digits", "/m", "--type", "mine", "--json").stdout
    assert json.loads(found) == {"digits": {"bytes": 400 * MIB, "source": "remembered"}}
    assert asked(client, "estimate") == [("digits", "models/digits"), ("digits", "/m", "mine")]


@pytest.mark.parametrize(
    "args", [("--estimate", "digits"), ("--type", "mine"), ("digits", "--estimate", "digits", "/m")], ids=str
)
def test_an_estimate_needs_an_id_and_a_path_and_stands_alone(run, client, args: tuple[str, ...]) -> None:
    assert run("size", *args).exit_code == 2
    assert client.asked == []


def test_load_passes_retries_and_initializer(run, client) -> None:
    assert run("load", "digits", "/m", "--retries", "2", "--initializer", "mine", "--wait", "5").exit_code == 0
    assert run("load", "digits", "/m").exit_code == 0
    found = [how for *_, how in asked(client, "load")]
    assert [(how["retries"], how["initializer"], how["wait"]) for how in found] == [
        (2, "mine", True),
        (None, None, True),
    ]


def test_ps_shows_what_does_not_work(run, client) -> None:
    assert "degraded" not in run("ps").stderr
    client.degraded = ("/models cannot be read", "no file-system notifications")
    assert run("ps").stderr.splitlines()[-2:] == [
        "the host is degraded: /models cannot be read",
        "the host is degraded: no file-system notifications",
    ]


def test_a_model_that_is_not_found_when_it_is_looked_at_is_an_error(run, client, model_dir: Path) -> None:
    client.deploy_refusal = NotFoundError("no finder knows it")
    assert run("deploy", "digits", str(model_dir)).exit_code == 1
