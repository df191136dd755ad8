"""`hostd config`: what is in force, where it came from, and the schema of the file."""

import json
import re

import pytest

from hostd.config.loading import load_config
from hostd.config.settings import HostConfig


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")  # paths of any length stay in one piece
    (tmp_path / "hostd.yaml").write_text("workers: {drain_timeout_s: 1, spawn_timeout_s: 7}\n", "utf-8")
    return tmp_path / "hostd.yaml"


def test_show_prints_the_settings_that_would_hold_and_where_each_came_from(run, file, monkeypatch):
    monkeypatch.setenv("HOSTD_METRICS__PORT", "9")
    runtime = file.parent / "run"
    flags = ("--drain-timeout", "3", "--runtime-dir", str(runtime), "--set", "limits.peer_buffer_bytes=5MB")
    result = run("config", "show", "--json", *flags)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["endpoint"], found["file"]) == (f"ipc://{runtime}/client.ipc", str(file))
    workers = found["config"]["workers"]
    assert (workers["drain_timeout_s"], workers["spawn_timeout_s"]) == (3, 7)
    assert found["config"]["limits"]["peer_buffer_bytes"] == 5_000_000
    assert {name: origin for name, origin in found["origins"].items() if origin != "default"} == {
        "runtime_dir": "an argument",
        "workers.drain_timeout_s": "an argument",
        "workers.spawn_timeout_s": str(file),
        "metrics.port": "HOSTD_METRICS__PORT",
        "limits.peer_buffer_bytes": "an argument",
    }


def test_show_is_a_table_for_people(run, file):
    rows = run("config", "show", "--drain-timeout", "3", "--name", "blue").stdout.splitlines()
    assert rows[0].split() == ["SETTING", "VALUE", "FROM"]
    shown = {row.split()[0]: row.split()[1:] for row in rows[1:]}
    assert shown["workers.drain_timeout_s"] == ["3.0", "an", "argument"]
    assert shown["workers.spawn_timeout_s"] == ["7.0", str(file)]
    assert shown["models.lazy_load"] == ["false", "default"]
    assert shown["models.dir"] == shown["finders"] == ["-", "default"]
    assert shown["endpoint:"][0].endswith("/blue/client.ipc")


def test_a_plugin_can_be_set_on_the_command_line(run):
    pairs = ("finders.default.type=multi", 'finders.default.config.finders=["files"]', "sizers.a.type=x:y")
    result = run("config", "show", "--json", *(word for pair in pairs for word in ("--set", pair)))
    found = json.loads(result.stdout)
    assert found["config"]["finders"] == {"default": {"type": "multi", "config": {"finders": ["files"]}}}
    assert found["origins"]["finders.default.config.finders"] == "an argument"
    assert found["origins"]["sizers.a.type"] == "an argument"


def test_show_takes_another_file_and_says_what_is_wrong_in_one(run, file):
    (file.parent / "other.yaml").write_text("log_level: debug\n", "utf-8")
    found = json.loads(run("config", "show", "--json", "--config", "other.yaml").stdout)
    assert found["config"]["log_level"] == "debug"
    assert found["origins"]["log_level"] == found["file"] == str(file.parent / "other.yaml")
    assert found["config"]["workers"]["spawn_timeout_s"] == 30
    file.write_text("models: {lazy_load: 1}\n", "utf-8")
    result = run("config", "show")
    assert result.exit_code == 1
    assert "models.lazy_load" in result.stderr
    assert str(file) in result.stderr


def test_the_schema_explains_every_setting_and_demands_none(run):
    result = run("config", "schema", "--json")
    assert result.exit_code == 0, result.stderr
    schema = json.loads(result.stdout)
    assert "required" not in schema
    assert set(schema["properties"]) == set(HostConfig.model_fields)
    for section, described in {"": schema, **schema["$defs"]}.items():
        for name, setting in described["properties"].items():
            is_section = "$ref" in setting
            assert is_section or setting.get("description"), f"{section}.{name}"
    lazy = schema["$defs"]["ModelsConfig"]["properties"]["lazy_load"]
    assert (lazy["type"], lazy["default"]) == ("boolean", False)
    assert lazy["description"].startswith("Whether a model that is asked for")
    period = schema["$defs"]["ModelsConfig"]["properties"]["poll_period_s"]
    assert {"type": "null"} in period["anyOf"]
    (plugin,) = schema["properties"]["loaders"]["patternProperties"].values()
    assert plugin == {"$ref": "#/$defs/PluginConfig"}
    assert json.loads(run("config", "schema", "--json").stdout) == schema


def test_the_schema_for_people_is_a_file_with_every_default(run, tmp_path):
    text = run("config", "schema", COLUMNS="60").stdout
    assert max(map(len, text.splitlines())) <= 60
    file = tmp_path / "defaults.yaml"
    file.write_text(text, "utf-8")
    assert load_config(file=file) == load_config()
    for name, field in HostConfig.model_fields.items():
        assert re.search(rf"^#?{name}:", text, re.MULTILINE), name
        for inner in getattr(field.annotation, "model_fields", {}):
            assert re.search(rf"^ +#?{inner}:", text, re.MULTILINE), f"{name}.{inner}"
    assert re.search(r"# Whether a model that is asked for .*\n( +#.*\n)+ +lazy_load: false\n", text)
    assert "max_message_bytes: 1GiB" in text
    assert "debug, info" in " ".join(text.replace("#", "").split())
