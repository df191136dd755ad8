"""Names, options, exit codes and errors of the command line, against a host that answers from memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hostd.cli.root import COMMANDS, TYPED_ELSEWHERE, root
from hostd.cli.session import HostCommand
from hostd.hosts import listing as hosts
from hostd_workers.wire.errors import FailedPreconditionError, ModelError, NotFoundError, UnavailableError

REPOSITORY = Path(__file__).parents[2]


def command(name: str) -> click.Command:
    found = root.get_command(click.Context(root), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(root, [name, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: root {name}")
    assert COMMANDS[name].summary in CliRunner().invoke(root, ["--help"]).stdout


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("completion", "config")])
def test_every_command_can_speak_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in command(name).params)
    assert isinstance(command(name), HostCommand)


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in ("completion", "config", "serve", "demo", "hosts")])
def test_every_command_that_asks_a_host_takes_an_endpoint_and_a_timeout(name: str) -> None:
    options = {option for parameter in command(name).params for option in parameter.opts}
    assert {"--endpoint", "-e", "--timeout"} <= options


def test_the_overview_imports_no_more_than_the_package_itself() -> None:
    heavy = "{'rich', 'pydantic', 'numpy', 'yaml', 'hostd.config.settings'}"
    code = (
        "import sys; from click.testing import CliRunner; from hostd.cli.root import root\n"
        "for args in ([], ['--help'], ['ps', '--help'], ['top', '--help'], ['plan', '--help'], ['lod']): CliRunner().invoke(root, args)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("typed", "lead"),
    [
        ("lod", "Did you mean `hostd load`?"),
        ("stop", "Did you mean `hostd shutdown`?"),
        ("rm", "Did you mean `hostd unload` or `hostd undeploy`?"),
        ("qqqq", "`hostd --help` lists them all."),
    ],
)
def test_an_unknown_command_leads_to_the_one_that_is_meant(run, typed: str, lead: str) -> None:
    result = run(typed, "x")
    assert result.exit_code == 2
    assert f"No such command {typed!r}. {lead}\n" in result.stderr


@pytest.mark.parametrize(
    "typed", ["stop", "start", "status", "list", "rm", "run", "stats", "inspect", *TYPED_ELSEWHERE]
)
def test_what_people_type_who_know_other_tools_leads_to_commands_of_ours(run, typed: str) -> None:
    if typed in COMMANDS:
        return
    assert any(f"`hostd {name}`" in run(typed).stderr for name in TYPED_ELSEWHERE[typed] if name in COMMANDS)


@pytest.mark.parametrize(
    "args",
    [
        ("load", "only-an-id"),
        ("load", "a", "b", "--option", "no-equals"),
        ("unload",),
        ("unload", "a", "--all"),
        ("infer", "digits", "not json"),
        ("infer", "digits", "@/no/such/file"),
        ("infer", "digits", "/no/such.npy"),
        ("infer", "digits", "[1]", "--kwargs", "[1]"),
        ("infer", "digits", "[1]", "--dtype", "parsecs"),
        ("infer", "digits", "[[1], [2, 3]]", "--array"),
        ("infer", "writer", "--stream", "--output", "x.json"),
        ("bench", "digits", "--concurrency", "0"),
        ("logs", "digits", "-n", "0"),
        ("ps", "--timeout", "0"),
        ("plan", "only-an-id"),
        ("plan", "a", "b", "--no-wait"),
        ("pin",),
        ("unpin",),
        ("top", "--interval", "0"),
        ("top", "--sort", "colour"),
        ("serve", "--set", "no-equals"),
        ("completion", "csh"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_was_wrong(run, args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert "Error: " in result.stderr
    assert result.stdout == ""


def test_a_refusal_exits_with_1_and_goes_to_stderr_with_its_status_and_what_to_do(run) -> None:
    result = run("size", "nope")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "error: no model 'nope' is loaded [NOT_FOUND]\nhint: hostd ls shows all models, loaded or not\n"
    )


def test_a_file_that_is_not_there_is_no_model_that_is_not_there(
    run, client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    missing = str(tmp_path / "nope.yaml")
    for command in (("serve",), ("config", "show")):
        result = run(*command, "--config", missing)
        assert f"there is no configuration file {missing} [NOT_FOUND]" in result.stderr
        assert "hint: --config FILE or HOSTD_CONFIG names the file" in result.stderr
    client.refusal = NotFoundError("there is no configuration file", details={"path": missing})
    assert run("reload").stderr.splitlines()[1].startswith("hint: the host goes on with the settings it has")
    assert "hint" not in run("plan", "digits", missing).stderr


def test_a_hint_about_a_model_needs_a_model(run, client) -> None:
    client.refusal = FailedPreconditionError("not now")
    assert run("explain", "digits").stderr.splitlines()[1] == "hint: hostd explain digits says why"
    assert run("ps").stderr == "error: not now [FAILED_PRECONDITION]\n"


def test_a_refusal_is_json_on_stderr_for_a_program(run, client) -> None:
    client.refusal = NotFoundError("no such thing", details={"id": "x"})
    result = run("ps", "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert json.loads(result.stderr) == {
        "error": {"status": "NOT_FOUND", "code": 5, "message": "no such thing", "details": {"id": "x"}}
    }


def test_the_traceback_of_the_models_own_code_is_shown_before_the_error(run, client) -> None:
    client.refusal = ModelError("ValueError: bad [pixels]", details={"traceback": 'File "model.py", line 3\n  x[/y]'})
    result = run("infer", "digits", "[1]")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "The model's own traceback:",
        'File "model.py", line 3',
        "  x[/y]",
        "error: ValueError: bad [pixels] [UNKNOWN]",
        "hint: hostd logs digits shows what the model printed",
    ]


def test_a_message_cannot_move_the_terminal(run, client) -> None:
    client.refusal = UnavailableError("evil \x1b[2J\x07 name")
    assert "evil \\x1b[2J\\x07 name" in run("ps").stderr


def test_an_interrupt_exits_with_130(run, client, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "list_models", interrupted)
    result = run("ps")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    assert client.asked[-1] == ("close",)
    monkeypatch.setattr("hostd.cli.root.with_number_of_wait", lambda *_: interrupted())  # before any command is known
    result = run("ps")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_which_host_is_meant_may_be_said_before_the_command_and_after_it(run, client) -> None:
    run("ps")
    run("ps", "-e", "tcp://there:1")
    run("--endpoint", "blue", "ps")
    run("-e", "blue", "ps", "-e", "green")
    endpoints = [asked[1] for asked in client.asked if asked[0] == "connect"]
    assert endpoints == [None, "tcp://there:1", "blue", "green"]
    client.asked.clear()
    assert json.loads(run("--json", "--timeout", "2", "ps").stdout)[0]["id"] == "digits"
    assert client.asked[0][2] == {"timeout_s": 2.0, "connect_timeout_s": 2.0}


def test_a_command_that_asks_no_host_does_not_ignore_which_is_meant(run) -> None:
    for words in (("-e", "blue", "serve"), ("--wait", "completion", "bash")):
        result = run(*words)
        assert result.exit_code == 2
        assert "asks no host: it takes no --endpoint" in result.stderr
    assert "hostd serve --name NAME" in run("-e", "blue", "serve").stderr


@pytest.mark.parametrize(
    ("words", "waits_s"),
    [
        (("--wait", "ps"), 60.0),
        (("--wait", "5", "ps"), 5.0),
        (("-e", "wait", "--wait", "ps"), 60.0),
        (("ps", "--wait"), 60.0),
        (("ps", "--wait", "--tree"), 60.0),
        (("ps", "--wait=7"), 7.0),
        (("infer", "--wait", "digits", "[1]"), 60.0),
        (("--wait", "load", "digits", "/m", "--wait"), 60.0),
        (("load", "digits", "/m", "--wait", "5"), 5.0),
        (("load", "--wait", "digits", "/m", "--no-wait"), 60.0),
        (("deploy", "digits", __file__, "--wait=5"), 5.0),
        (("sync", "--no-wait", "--wait", "5"), 5.0),
        (("infer", "digits", "--kwargs", "--wait"), None),
        (("ps",), None),
    ],
    ids=str,
)
def test_wait_takes_a_number_or_none_and_leaves_the_other_words_alone(
    run, client, words: tuple[str, ...], waits_s: float | None
) -> None:
    run(*words)
    assert next((asked[2].get("wait_s") for asked in client.asked if asked[0] == "connect"), None) == waits_s


def test_a_timeout_bounds_the_connection_too(run, client) -> None:
    run("ps", "--timeout", "2")
    run("ps", "--timeout", "200")
    run("ps")
    timeouts = [asked[2] for asked in client.asked if asked[0] == "connect"]
    assert timeouts == [
        {"timeout_s": 2.0, "connect_timeout_s": 2.0},
        {"timeout_s": 200.0, "connect_timeout_s": 5.0},
        {"connect_timeout_s": 5.0},
    ]


def complete(client, *words: str) -> list[str]:
    from click.shell_completion import ShellComplete

    from hostd.cli.session import Session

    session = Session(connect=client.connect)
    found = ShellComplete(root, {"obj": session}, "hostd", "_HOSTD_COMPLETE").get_completions(
        list(words[:-1]), words[-1]
    )
    return [item.value for item in found]


def test_commands_options_and_model_ids_complete(client) -> None:
    assert complete(client, "un") == ["unload", "undeploy", "unpin"]
    assert "--kwargs" in complete(client, "infer", "--k")
    assert complete(client, "infer", "di") == ["digits"]
    assert complete(client, "unload", "x", "") == ["digits"]
    assert complete(client, "undeploy", "di") == complete(client, "deploy", "di") == ["digits"]
    assert [complete(client, verb, "di") for verb in ("pin", "unpin", "plan", "explain")] == [["digits"]] * 4
    assert complete(client, "top", "--sort", "") == ["memory", "calls", "p99", "name", "used"]
    assert client.asked[0][2]["connect_timeout_s"] < 1


def test_names_of_hosts_complete(client, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [hosts.FoundHost(name, f"ipc:///{name}", 7, None) for name in ("blue", "brown", "green")]
    monkeypatch.setattr(hosts, "running_hosts", lambda: found)
    assert complete(client, "ps", "-e", "b") == complete(client, "-e", "b") == ["blue", "brown"]


def test_without_a_host_there_is_nothing_to_complete_and_no_error(client) -> None:
    client.refusal = UnavailableError("nobody there")
    assert complete(client, "infer", "di") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed_for_each_shell(run, shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_HOSTD_COMPLETE" in result.stdout


def test_serve_refuses_a_setting_that_there_is_not(run) -> None:
    result = run("serve", "--set", "workers.drain_timeout=3")
    assert result.exit_code == 1
    assert "did you mean 'drain_timeout_s'?" in result.stderr


def test_serve_hands_the_validated_settings_over(run, monkeypatch: pytest.MonkeyPatch) -> None:
    handed = []
    monkeypatch.setattr(
        "hostd.cli.commands.serving.exec_host", lambda *settings, **sources: handed.append((*settings, sources))
    )
    assert run("serve", "--name", "blue", "--metrics-port", "0").exit_code == 0
    ((config, _, sources),) = handed
    assert (config.name, config.metrics.port) == ("blue", 0)
    assert sources == {"sources": None}, "there is no file to read again"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hostd", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.stdout.startswith("Usage: hostd [OPTIONS] COMMAND")
    assert max(map(len, done.stdout.splitlines())) <= 80
