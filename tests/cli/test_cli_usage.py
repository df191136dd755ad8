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

from hostd import paths
from hostd.cli.root import COMMANDS, root
from hostd.cli.session import HostCommand
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


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in ("completion", "config", "serve", "demo")])
def test_every_command_that_asks_a_host_takes_an_endpoint_and_a_timeout(name: str) -> None:
    options = {option for parameter in command(name).params for option in parameter.opts}
    assert {"--endpoint", "-e", "--timeout"} <= options


def test_the_overview_imports_no_more_than_the_package_itself() -> None:
    heavy = "{'rich', 'pydantic', 'numpy', 'yaml', 'hostd.config'}"
    code = (
        "import sys; from click.testing import CliRunner; from hostd.cli.root import root\n"
        "for args in ([], ['--help'], ['ps', '--help'], ['top', '--help'], ['plan', '--help'], ['lod']): CliRunner().invoke(root, args)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_command_leads_to_the_nearest_one(run) -> None:
    result = run("lod", "x")
    assert result.exit_code == 2
    assert "there is no command 'lod'; did you mean 'load'?" in result.stderr


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
        ("plan", "a", "b", "--wait"),
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
        "error: no model 'nope' is loaded [NOT_FOUND]\nhint: hostd ps shows the models that are loaded\n"
    )


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
    assert run("ps").exit_code == 130
    assert client.asked[-1] == ("close",)


def test_an_endpoint_may_be_the_name_of_a_host(run, client) -> None:
    run("ps")
    run("ps", "-e", "tcp://there:1")
    run("ps", "--endpoint", "blue")
    endpoints = [asked[1] for asked in client.asked if asked[0] == "connect"]
    assert endpoints == [None, "tcp://there:1", paths.client_endpoint(paths.runtime_dir("blue"))]


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
    launch = pytest.importorskip("hostd.launch")
    handed = []
    monkeypatch.setattr(launch, "exec_host", lambda *settings, **sources: handed.append((*settings, sources)))
    assert run("serve", "--name", "blue", "--metrics-port", "0").exit_code == 0
    ((config, _, sources),) = handed
    assert (config.name, config.metrics.port) == ("blue", 0)
    assert sources == {"arguments": {"name": "blue", "metrics": {"port": "0"}}, "file": None}


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
