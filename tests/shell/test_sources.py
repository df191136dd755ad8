"""The sources of settings: what variables and null mean in each, what plugins get, and where a value came from."""

import os
from pathlib import Path

import pytest

from hostd.config.loading import load_config
from hostd.config.sources import gather


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("HOSTD_", "XDG_"))]:
        monkeypatch.delenv(name)


def write(folder, text):
    file = folder / "hostd.yaml"
    file.write_text(text, "utf-8")
    return file


@pytest.mark.parametrize("off", ["0", "null", "0.0"])
def test_polling_is_off_with_zero_and_with_null_from_every_source(tmp_path, monkeypatch, off):
    assert load_config(file=write(tmp_path, f"models: {{poll_period_s: {off}}}")).models.poll_period_s == 0
    argument = None if off == "null" else float(off)
    file = write(tmp_path, "models: {poll_period_s: 5, write_quiet_period_s: 5}")
    models = load_config({"models": {"poll_period_s": argument, "write_quiet_period_s": argument}}, file=file).models
    assert (models.poll_period_s, models.write_quiet_period_s) == (0, 0)
    monkeypatch.setenv("HOSTD_MODELS__POLL_PERIOD_S", off)
    assert load_config(file=file).models.poll_period_s == 0


@pytest.mark.parametrize("off", ["-1", "-.inf", "0", "null"])
def test_the_quiet_period_is_off_below_zero_too(tmp_path, off):
    assert (
        load_config(file=write(tmp_path, f"models: {{write_quiet_period_s: {off}}}")).models.write_quiet_period_s == 0
    )


def test_the_settings_of_models_can_be_given_by_variables(monkeypatch):
    given = {
        "DIR": "/m",
        "LAZY_LOAD": "true",
        "LOAD_ON_START": "0",
        "LAZY_LOAD_RETRIES": "7",
        "COMPLETION_MARKER": "OK",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"HOSTD_MODELS__{name}", value)
    models = load_config().models
    assert (models.dir, models.lazy_load, models.load_on_start) == (Path("/m"), True, False)
    assert (models.lazy_load_retries, models.completion_marker) == (7, "OK")


def test_plugins_can_be_given_by_variables_whose_config_is_json_where_it_is_any(monkeypatch):
    monkeypatch.setenv("HOSTD_FINDERS__DEFAULT__TYPE", "multi")
    monkeypatch.setenv("HOSTD_FINDERS__DEFAULT__CONFIG__FINDERS", '["files", "a:b"]')
    monkeypatch.setenv("HOSTD_FINDERS__DEFAULT__CONFIG__WORD", "files")
    monkeypatch.setenv("HOSTD_LOADERS", '{"own": {"type": "a:b", "config": {"version": "1"}}}')
    config = load_config()
    assert config.finders["default"].config == {"finders": ["files", "a:b"], "word": "files"}
    assert config.loaders["own"].config == {"version": "1"}


def test_a_config_of_a_plugin_keeps_what_is_none(tmp_path):
    assert load_config({"sizers": {"a": {"type": "t", "config": {"x": None}}}}).sizers["a"].config == {"x": None}


def test_each_setting_says_where_it_came_from(tmp_path, monkeypatch):
    file = write(tmp_path, "workers: {spawn_timeout_s: 1, drain_timeout_s: 1}\nsizers: {default: {type: a:b}}\n")
    monkeypatch.setenv("HOSTD_WORKERS__DRAIN_TIMEOUT_S", "2")
    monkeypatch.setenv("HOSTD_METRICS", '{"port": 7}')
    origins = gather({"name": "x", "models": {"dir": None}}, file=file, environment=True).origins
    assert {name: origin for name, origin in origins.items() if origin != "default"} == {
        "name": "an argument",
        "workers.spawn_timeout_s": str(file),
        "workers.drain_timeout_s": "HOSTD_WORKERS__DRAIN_TIMEOUT_S",
        "metrics.port": "HOSTD_METRICS",
        "sizers.default.type": str(file),
    }
    assert origins["finders"] == origins["models.dir"] == origins["sizers.default.config"] == "default"
