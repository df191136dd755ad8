"""The configuration object: its sources and their order, its errors, and its round trip to the supervisor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY, named

from hostd import paths
from hostd.config.loading import load_config
from hostd.config.outright import outright
from hostd.config.received import config_from_json
from hostd.config.table import SETTINGS, Setting
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("HOSTD_", "XDG_"))]:
        monkeypatch.delenv(name)


def write(folder, text):
    file = folder / "hostd.yaml"
    file.write_text(text, "utf-8")
    return file


DEFAULTS = {
    "models": {
        "dir": None,
        "lazy_load": False,
        "completion_marker": None,
        "poll_period_s": 10,
        "write_quiet_period_s": 2,
        "lazy_load_retries": 2,
        "load_on_start": True,
        "wait_for_initial_loads": False,
    },
    "workers": {
        "load_retries": 0,
        "retry_backoff_s": 0.2,
        "retry_max_backoff_s": 30,
        "spawn_timeout_s": 30,
        "load_timeout_s": 600,
        "drain_timeout_s": 10,
        "max_in_flight": 1024,
        "spin_s": 0,
        "log_bytes": 2**20,
    },
    "memory": {"sample_period_s": 5, "estimate_timeout_s": 10},
    "metrics": {"port": None},
    "limits": {"max_message_bytes": 2**30, "max_in_flight_bytes": 2**32, "peer_buffer_bytes": 32 * 2**20},
}


def test_without_any_source_the_defaults_hold_and_are_frozen():
    config = load_config()
    assert config.name == "default"
    assert (config.finders, config.loaders, config.initializers, config.sizers) == ({}, {}, {}, {})
    for section, settings in DEFAULTS.items():
        assert {name: getattr(getattr(config, section), name) for name in settings} == settings
    with pytest.raises(ValueError, match="frozen"):
        config.workers.drain_timeout_s = 1


def test_arguments_win_over_environment_over_file_over_defaults(tmp_path, monkeypatch):
    file = write(tmp_path, "workers: {spawn_timeout_s: 1, load_timeout_s: 1, drain_timeout_s: 1, log_bytes: 2GiB}\n")
    for variable, value in {"WORKERS__LOAD_TIMEOUT_S": 2, "WORKERS__DRAIN_TIMEOUT_S": 2, "NAME": "theirs"}.items():
        monkeypatch.setenv(f"HOSTD_{variable}", str(value))
    config = load_config({"name": None, "workers": {"drain_timeout_s": 3}}, file=file)
    workers = config.workers
    assert (workers.spawn_timeout_s, workers.load_timeout_s, workers.drain_timeout_s) == (1, 2, 3)
    assert (workers.max_in_flight, workers.log_bytes, config.name) == (1024, 2**31, "theirs")
    monkeypatch.setenv("HOSTD_WORKER__TYPO", "1")
    assert load_config(environment=False).name == "default"
    with pytest.raises(NotFoundError, match="no configuration file /no/such/file"):
        load_config(file="/no/such/file", environment=False)


def test_a_variable_of_null_unsets_what_the_file_sets_and_an_empty_one_is_no_variable(tmp_path, monkeypatch):
    file = write(tmp_path, "metrics: {port: 9000}\n")
    monkeypatch.setenv("HOSTD_METRICS__PORT", "")
    assert load_config(file=file).metrics.port == 9000
    monkeypatch.setenv("HOSTD_METRICS__PORT", "null")
    assert load_config(file=file).metrics.port is None


def test_the_configuration_is_equal_after_a_round_trip_and_the_environment_is_not_read_again(monkeypatch, tmp_path):
    config = load_config(
        {
            "name": "a",
            "models": {"dir": tmp_path, "poll_period_s": None, "completion_marker": ".done"},
            "metrics": {"port": 0},
            "loaders": {"own": {"type": "a:b", "config": {"limit": float("inf"), "of": [None, {"x": True}]}}},
        }
    )
    monkeypatch.setenv("HOSTD_WORKERS__DRAIN_TIMEOUT_S", "99")
    text = config.to_json()
    read = config_from_json(text)
    assert (read.to_json(), read.endpoint) == (text, config.endpoint)
    assert plainly(read) == plainly(config)
    with pytest.raises(ValueError, match="frozen"):
        read.workers.drain_timeout_s = 1


def plainly(settings):
    """Return settings as maps, however they are held."""
    if isinstance(settings, dict):
        return {name: plainly(value) for name, value in settings.items()}
    if type(settings).__module__.startswith("hostd."):
        return {name: plainly(value) for name, value in vars(settings).items() if not name.startswith("_")}
    return settings


VALUES = [
    *(None, True, False, [], {}, {"a": 1}, float("nan"), float("inf"), Path("/x"), Path("x"), "x" * 200),
    *(-2, -1, 0, 1, 2, 100, 101, 1024, 4095, 4096, 4097, 65535, 65536, 604800, 604801, 10**6, 10**6 + 1, 2**63),
    *(-0.5, 0.0, 0.01, 0.011, 0.5, 1.0, 604800.5),
    *("", "auto", " None ", "80%", "0%", "120 %", "400MB", "4k", "3", "true", "debug", "json", "host", "ab", "a/b"),
    *("x\n", "~/x", "/x/../y"),
]
NAMES = [
    (name, None) if isinstance(known, Setting) else (name, key) for name, known in SETTINGS.items() for key in known
]


@pytest.mark.parametrize(("section", "name"), dict.fromkeys(NAMES))
def test_settings_that_need_no_pydantic_are_what_pydantic_makes_of_them(section, name):
    for value in VALUES:
        given = {section: value if name is None else {name: value}}
        arguments = {"runtime_dir": "/run/x", "state_dir": Path("/state"), **given}
        config = outright(arguments)
        if config is not None:
            assert plainly(config) == plainly(load_config(arguments))
            assert json.loads(config.to_json()) == json.loads(load_config(arguments).to_json())


def test_usual_settings_need_no_pydantic_and_a_variable_does(monkeypatch, tmp_path):
    usual = {
        "runtime_dir": tmp_path,
        "state_dir": tmp_path / "state",
        "models": {"dir": tmp_path, "lazy_load": True},
        "memory": {"budget": "4GiB", "idle_ttl_s": 60},
        "workers": {"cpu_threads": 2, "drain_timeout_s": 0.5},
        "log_level": "error",
    }
    assert outright(usual) is not None
    assert outright({**usual, "memory": {"budget": "much"}}) is None
    monkeypatch.setenv("hostd_log_level", "info")
    assert outright(usual) is None


def test_the_table_of_settings_is_what_the_settings_make():
    subprocess.run([sys.executable, REPOSITORY / ".ci" / "settings_table.py", "--check"], check=True)


WRONG_VALUES = {
    "workers.drain_timeout_s": {"-1": "greater than 0.*-1", ".nan": "finite"},
    "workers.max_in_flight": {"many": "integer.*'many'", "true": "must be a number"},
    "workers.log_bytes": {"12 parsecs": "not a size; write bytes or a unit"},
    "workers.python": {"/no/such/python": "no interpreter at /no/such/python: /no is missing"},
    "metrics.port": {"65536": "65535", "true": "must be a number"},
    "models.lazy_load": {"1": "must be true or false, not 1", "maybe": "valid boolean.*'maybe'"},
    "models.load_on_start": {"0.0": "must be true or false"},
    "models.wait_for_initial_loads": {"[]": "boolean"},
    "models.poll_period_s": {
        "true": "must be a number, not True",
        "-1": "greater than or equal to 0",
        "often": "valid number.*'often'",
    },
    "models.write_quiet_period_s": {"false": "must be a number", ".inf": "finite"},
    "models.completion_marker": {
        "a/b": "name of a file.*'a/b'",
        "..": "name of a file",
        "''": "name of a file",
        "5": "string",
    },
    "models.lazy_load_retries": {"101": "100", "true": "must be a number", "1.5": "integer"},
    "models.dir": {"''": "an empty one would be the working directory", "5": "path.*5"},
    "workers.load_retries": {"-1": "greater than or equal to 0"},
}
WRONG = [
    *(
        (f"{section}: {{{name}: {value}}}", rf"{section}\.{name} .*{words}")
        for setting, values in WRONG_VALUES.items()
        for section, name in [setting.split(".")]
        for value, words in values.items()
    ),
    ("workers: {drain_timeout: 3}", r"workers.drain_timeout \(from .*hostd.yaml\): .*'drain_timeout_s'"),
    ("model: {dir: x}", r"model \(from .*\): no such setting; did you mean 'models'"),
    ("quux: 1", r"quux .*: no such setting; known are: .*models.*workers"),
    ("models: []", r"models .*must be a mapping of settings, such as {dir: ...}, not \[\]"),
    ("memory: 5", r"memory .*must be a mapping .*, not 5"),
    ("name: a/b", r"name .*: at most 64 letters.*'a/b'"),
    ("name: ../x", r"name .*: at most 64 letters"),
    ("log_level: loud", r"log_level .*'debug', 'info', 'warning' or 'error'.*'loud'"),
    ("workers: {log_bytes: '" + "9" * 400 + ".5MB'}", r"workers.log_bytes .*too large"),
    ("workers: {retry_backoff_s: 60}", r"workers .*retry_max_backoff_s must be at least retry_backoff_s"),
    ("loaders: []", r"loaders .*must be a mapping of names, such as {default: {type: ...}}, not \[\]"),
    ("loaders: {default: 5}", r"loaders\.default .*must be a mapping of settings, such as {type: ...}, not 5"),
    ("finders: {default: files}", r"finders\.default .*must be a mapping .*, not 'files'"),
    ("sizers: {a: {}}", r"sizers\.a \(from .*hostd.yaml\) lacks its 'type'"),
    ("sizers: {a: {type: 3}}", r"sizers\.a\.type .*string"),
    ("sizers: {a: {type: ''}}", r"sizers\.a\.type .*at least 1 character"),
    ("initializers: {a: {type: x, conf: {}}}", r"initializers\.a\.conf .*no such setting; did you mean 'config'"),
    ("initializers: {a: {type: x, config: [1]}}", r"initializers\.a\.config .*must be a mapping of names and val"),
    ("loaders: {a: {type: x, config: {d: 2024-01-31}}}", r"loaders\.a\.config .*config\.d must be .*got a date"),
    ("loaders: {a: {type: x, config: {1: 2}}}", r"loaders\.a\.config.*string"),
    ("loaders: {'a b': {type: x}}", r"loaders\.a b: at most 64 letters.*'a b'"),
    ("limits: {max_message_bytes: 8GiB}", r"limits .*max_in_flight_bytes must be at least max_message_bytes"),
    ("workers: {drain_timeout: 3}\nlog_level: loud\n", "2 settings are wrong"),
    ("- a list", r"must be a mapping of settings, not \['a list'\]"),
    ("a: [", r"hostd.yaml cannot be read: line 1, column 5: while parsing [^\n]*$"),
    ("a: 1\nb: \x07", r"cannot be read: line 2, column 4: special characters are not allowed$"),
    ("a: 2024-99-99", r"cannot be read: month must be"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=named)
def test_a_bad_file_is_an_error_that_names_the_setting_and_what_was_expected(tmp_path, text, message):
    with pytest.raises(InvalidArgumentError, match=message):
        load_config(file=write(tmp_path, text))


@pytest.mark.parametrize("text", ["", "models:\n", "# nothing\n"])
def test_an_empty_file_or_section_sets_nothing(tmp_path, text):
    assert load_config(file=write(tmp_path, text)) == load_config()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HOSTD_WORKERS__DRAIN_TIMEOUT_S", "soon", r"\(from HOSTD_WORKERS__DRAIN_TIMEOUT_S\)"),
        ("HOSTD_WORKERS__DRAIN_TIMEOUT", "3", r"HOSTD_WORKERS__DRAIN_TIMEOUT\): .*did you mean 'drain_timeout_s'"),
        ("HOSTD_WORKER__PYTHON", "x", r"HOSTD_WORKER__PYTHON: no such environment variable; .*'HOSTD_WORKERS'"),
        ("HOSTD_RUNTIMEDIR", "/x", r"HOSTD_RUNTIMEDIR: no such .*; did you mean 'HOSTD_RUNTIME_DIR'"),
        ("HOSTD_LOADERS", "mine", r"HOSTD_LOADERS: is a section, .*HOSTD_LOADERS__DEFAULT__TYPE="),
        ("HOSTD_LOADERS__DEFAULT", "5", r"loaders.default \(from HOSTD_LOADERS__DEFAULT\) must be a mapping"),
        ("HOSTD_MODELS__LAZY_LOAD", "2", r"models.lazy_load \(from HOSTD_MODELS__LAZY_LOAD\): .*boolean"),
        ("HOSTD_MODELS", "/srv/models", r"HOSTD_MODELS: is a section, .*HOSTD_MODELS__DIR="),
    ],
)
def test_a_bad_variable_is_an_error_that_names_it(monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidArgumentError, match=message):
        load_config()


def test_variables_that_an_orchestrator_sets_for_a_service_of_our_name_are_ignored(monkeypatch):
    for variable in ("HOSTD_SERVICE_HOST", "HOSTD_PORT", "HOSTD_PORT_9000_TCP_ADDR"):
        monkeypatch.setenv(variable, "tcp://10.0.0.1:9000")
    monkeypatch.setenv("HOSTD_ENDPOINT", "ipc:///elsewhere/client.ipc")
    assert load_config().endpoint != "ipc:///elsewhere/client.ipc"
    with pytest.raises(InvalidArgumentError, match=r"runtime_dir .*allows 107; choose a shorter runtime directory"):
        load_config({"runtime_dir": "/" + "x" * 100})


def test_relative_paths_in_the_file_are_relative_to_the_file_and_others_to_the_working_directory(tmp_path, monkeypatch):
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "python"
    elsewhere.mkdir()
    link.symlink_to(sys.executable)
    monkeypatch.chdir(elsewhere)
    given = {"state_dir": "state", "workers": {"python": str(link)}}
    config = load_config(given, file=write(tmp_path, "models: {dir: models}\nruntime_dir: run\n"))
    assert config.models.dir == tmp_path / "models"
    assert config.runtime_dir == tmp_path / "run"
    assert config.state_dir == elsewhere / "state"
    assert config.workers.python == str(link), "the link is what makes a virtual environment"


def test_directories_follow_xdg_and_fall_back_to_one_of_this_user(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert paths.runtime_dir("a") == tmp_path / f"hostd-{os.getuid()}" / "a"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative/is/to/be/ignored")
    assert paths.runtime_dir("a") == tmp_path / f"hostd-{os.getuid()}" / "a"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert paths.runtime_dir("a") == Path("/run/user/7/hostd/a")
    assert load_config({"name": "a"}).endpoint == "ipc:///run/user/7/hostd/a/client.ipc"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config({"name": "b"}).state_dir == tmp_path / ".local/state/hostd/b"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert load_config({"name": "b"}).state_dir == Path("/state/hostd/b")


def test_a_client_finds_the_host_that_serve_would_start_in_the_same_environment(monkeypatch, tmp_path):
    assert paths.default_endpoint() == load_config().endpoint
    monkeypatch.setenv("HOSTD_NAME", "b")
    assert paths.default_endpoint() == load_config().endpoint
    assert paths.default_endpoint("c") == load_config({"name": "c"}).endpoint
    monkeypatch.setenv("HOSTD_RUNTIME_DIR", str(tmp_path))
    assert paths.default_endpoint() == load_config().endpoint == f"ipc://{tmp_path}/client.ipc"
    monkeypatch.setenv("HOSTD_ENDPOINT", "tcp://elsewhere:1")
    assert paths.default_endpoint() == "tcp://elsewhere:1"
