"""Names, options, exit codes and errors of the command line, against a host that answers from memory."""

import functools
import json
import subprocess
import sys

import click
import pytest
from cli_rig import fake_session, invoke
from click.shell_completion import ShellComplete
from helpers import REPOSITORY

from hostd.cli.root import COMMANDS, TYPED_ELSEWHERE, root
from hostd.cli.session import HostCommand
from hostd.hosts import listing as hosts
from hostd_workers.wire.errors import FailedPreconditionError, ModelError, NotFoundError, UnavailableError

python = functools.partial(subprocess.run, cwd=REPOSITORY, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json_and_takes_an_endpoint_and_a_timeout(name):
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: hostd {name}")
    assert COMMANDS[name].summary in invoke("--help").stdout
    command = root.get_command(click.Context(root), name)
    options = {option for parameter in command.params for option in parameter.opts}
    if name not in ("completion", "config"):
        assert "--json" in options
        assert isinstance(command, HostCommand)
    if name not in ("completion", "config", "serve", "demo", "hosts"):
        assert {"--endpoint", "-e", "--timeout"} <= options


def test_the_overview_imports_no_more_than_the_package_itself():
    heavy = "{'rich', 'pydantic', 'numpy', 'yaml', 'hostd.config.settings'}"
    code = (
        "import sys; from click.testing import CliRunner; from hostd.cli.root import root\n"
        "for words in ('', '--help', 'ps --help', 'top --help', 'plan --help', 'lod'):\n"
        "    CliRunner().invoke(root, words.split())\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    assert python([sys.executable, "-c", code]).stdout == "[]\n"


def test_the_module_is_the_command(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    said = python([sys.executable, "-m", "hostd", "--help"]).stdout
    assert said.startswith("Usage: hostd [OPTIONS] COMMAND")
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    ("typed", "lead"),
    [
        ("lod", "Did you mean `hostd load`?"),
        ("stop", "Did you mean `hostd shutdown`?"),
        ("rm", "Did you mean `hostd unload` or `hostd undeploy`?"),
        ("qqqq", "`hostd --help` lists them all."),
    ],
)
def test_an_unknown_command_leads_to_the_one_that_is_meant(run, typed, lead):
    result = run(typed, "x")
    assert result.exit_code == 2
    assert f"No such command {typed!r}. {lead}\n" in result.stderr


@pytest.mark.parametrize(
    "typed",
    sorted({*["stop", "start", "status", "list", "rm", "run", "stats", "inspect"], *TYPED_ELSEWHERE} - {*COMMANDS}),
)
def test_what_people_type_who_know_other_tools_leads_to_commands_of_ours(run, typed):
    assert any(f"`hostd {name}`" in run(typed).stderr for name in TYPED_ELSEWHERE[typed] if name in COMMANDS)


WRONG = """
load only-an-id
load a b --option no-equals
unload
unload a --all
infer digits not-json
infer digits @/no/such/file
infer digits /no/such.npy
infer digits [1] --kwargs [1]
infer digits [1] --dtype parsecs
infer digits [[1],[2,3]] --array
infer digits [null] --array
infer writer --stream --output x.json
bench digits --concurrency 0
logs digits -n 0
ps --timeout 0
plan only-an-id
plan a b --no-wait
pin
unpin
top --interval 0
top --sort colour
serve --set no-equals
completion csh
"""


@pytest.mark.parametrize("words", WRONG.strip().splitlines())
def test_wrong_usage_exits_with_2_and_says_what_was_wrong(run, words):
    result = run(*words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


# Refusals


def test_a_refusal_exits_with_1_and_goes_to_stderr_with_its_status_and_what_to_do(run, client):
    result = run("size", "nope")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: no model 'nope' is loaded [NOT_FOUND]\nhint: hostd ls shows all models, loaded or not\n"
    )
    client.refusal = NotFoundError("no such thing", details={"id": "x"})
    result = run("ps", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    told = {"status": "NOT_FOUND", "code": 5, "message": "no such thing", "details": {"id": "x"}}
    assert json.loads(result.stderr) == {"error": told}
    client.refusal = UnavailableError("evil \x1b[2J\x07 name")
    assert "evil \\x1b[2J\\x07 name" in run("ps").stderr, "a message cannot move the terminal"


def test_a_file_that_is_not_there_is_no_model_that_is_not_there(run, client, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    missing = str(tmp_path / "nope.yaml")
    for command in (("serve",), ("config", "show")):
        result = run(*command, "--config", missing)
        assert f"there is no configuration file {missing} [NOT_FOUND]" in result.stderr
        assert "hint: --config FILE or HOSTD_CONFIG names the file" in result.stderr
    client.refusal = NotFoundError("there is no configuration file", details={"path": missing})
    assert run("reload").stderr.splitlines()[1].startswith("hint: the host goes on with the settings it has")
    assert "hint" not in run("plan", "digits", missing).stderr


def test_a_hint_about_a_model_needs_a_model(run, client):
    client.refusal = FailedPreconditionError("not now")
    assert run("explain", "digits").stderr.splitlines()[1] == "hint: hostd explain digits says why"
    assert run("ps").stderr == "error: not now [FAILED_PRECONDITION]\n"


def test_the_traceback_of_the_models_own_code_is_shown_before_the_error(run, client):
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


def test_an_interrupt_exits_with_130(run, client, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "list_models", interrupted)
    result = run("ps")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    assert client.asked[-1] == ("close",)
    monkeypatch.setattr("hostd.cli.root.with_number_of_wait", interrupted)  # before any command is known
    result = run("ps")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


# Which host, and how long


def test_which_host_is_meant_may_be_said_before_the_command_and_after_it(run, client):
    for words in ("ps", "ps -e tcp://there:1", "--endpoint blue ps", "-e blue ps -e green"):
        run(*words.split())
    assert [endpoint for endpoint, _ in client.was_asked("connect")] == [None, "tcp://there:1", "blue", "green"]
    client.asked.clear()
    assert json.loads(run("--json", "--timeout", "2", "ps").stdout)[0]["id"] == "digits"
    assert client.asked[0][2] == {"timeout_s": 2.0, "connect_timeout_s": 2.0}


def test_a_command_that_asks_no_host_does_not_ignore_which_is_meant(run):
    for words in (("-e", "blue", "serve"), ("--wait", "completion", "bash")):
        result = run(*words)
        assert result.exit_code == 2
        assert "asks no host: it takes no --endpoint" in result.stderr
    assert "hostd serve --name NAME" in run("-e", "blue", "serve").stderr


@pytest.mark.parametrize(
    ("words", "waits_s"),
    [
        ("--wait ps", 60.0),
        ("--wait 5 ps", 5.0),
        ("-e wait --wait ps", 60.0),
        ("ps --wait", 60.0),
        ("ps --wait --tree", 60.0),
        ("ps --wait=7", 7.0),
        ("infer --wait digits [1]", 60.0),
        ("--wait load digits /m --wait", 60.0),
        ("load digits /m --wait 5", 5.0),
        ("load --wait digits /m --no-wait", 60.0),
        (f"deploy digits {__file__} --wait=5", 5.0),
        ("sync --no-wait --wait 5", 5.0),
        ("infer digits --kwargs --wait", None),
        ("ps", None),
    ],
)
def test_wait_takes_a_number_or_none_and_leaves_the_other_words_alone(run, client, words, waits_s):
    run(*words.split())
    assert next((timeouts.get("wait_s") for _, timeouts in client.was_asked("connect")), None) == waits_s


def test_a_timeout_bounds_the_connection_too(run, client):
    for words in ("ps --timeout 2", "ps --timeout 200", "ps"):
        run(*words.split())
    assert [timeouts for _, timeouts in client.was_asked("connect")] == [
        {"timeout_s": 2.0, "connect_timeout_s": 2.0},
        {"timeout_s": 200.0, "connect_timeout_s": 5.0},
        {"connect_timeout_s": 5.0},
    ]


# Completion


@pytest.fixture
def complete(client):
    def completions(*words):
        found = ShellComplete(root, {"obj": fake_session(client)}, "hostd", "_HOSTD_COMPLETE")
        return [item.value for item in found.get_completions(list(words[:-1]), words[-1])]

    return completions


def test_commands_options_and_model_ids_complete(complete, client):
    assert complete("un") == ["unload", "undeploy", "unpin"]
    assert "--kwargs" in complete("infer", "--k")
    assert complete("unload", "x", "") == ["digits"]
    for verb in ("infer", "undeploy", "deploy", "pin", "unpin", "plan", "explain"):
        assert complete(verb, "di") == ["digits"]
    assert complete("top", "--sort", "") == ["memory", "calls", "p99", "name", "used"]
    assert client.asked[0][2]["connect_timeout_s"] < 1
    client.refusal = UnavailableError("nobody there")
    assert complete("infer", "di") == []


def test_names_of_hosts_complete(complete, monkeypatch):
    found = [hosts.FoundHost(name, f"ipc:///{name}", 7, None) for name in ("blue", "brown", "green")]
    monkeypatch.setattr(hosts, "running_hosts", lambda: found)
    assert complete("ps", "-e", "b") == complete("-e", "b") == ["blue", "brown"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed_for_each_shell(run, shell):
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_HOSTD_COMPLETE" in result.stdout


# serve


def test_serve_hands_the_validated_settings_over(run, monkeypatch):
    handed = []
    monkeypatch.setattr(
        "hostd.cli.commands.serving.exec_host", lambda *settings, **sources: handed.append((*settings, sources))
    )
    assert run("serve", "--name", "blue", "--metrics-port", "0").exit_code == 0
    ((config, _, sources),) = handed
    assert (config.name, config.metrics.port) == ("blue", 0)
    assert sources == {"sources": None}, "there is no file to read again"
    result = run("serve", "--set", "workers.drain_timeout=3")
    assert result.exit_code == 1
    assert "did you mean 'drain_timeout_s'?" in result.stderr
