"""The sources of settings: what variables and null mean in each, declared models, and places when there is no home."""

import os
from pathlib import Path

import pytest

from hostd import paths
from hostd.config.loading import load_config
from hostd.config.received import config_from_json
from hostd.config.schema import config_schema
from hostd.config.sources import gather
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError


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
    for below in ("-1", "-.inf"):
        file = write(tmp_path, f"models: {{write_quiet_period_s: {below}}}")
        assert load_config(file=file).models.write_quiet_period_s == 0


def test_plugins_can_be_given_by_variables_and_their_config_is_json_where_it_is_any(monkeypatch):
    monkeypatch.setenv("HOSTD_FINDERS__DEFAULT__TYPE", "multi")
    monkeypatch.setenv("HOSTD_FINDERS__DEFAULT__CONFIG__FINDERS", '["files", "a:b"]')
    monkeypatch.setenv("HOSTD_FINDERS__DEFAULT__CONFIG__WORD", "files")
    monkeypatch.setenv("HOSTD_LOADERS", '{"own": {"type": "a:b", "config": {"version": "1"}}}')
    config = load_config({"sizers": {"a": {"type": "t", "config": {"x": None}}}})
    assert config.sizers["a"].config == {"x": None}
    assert config.finders["default"].config == {"finders": ["files", "a:b"], "word": "files"}
    assert config.loaders["own"].config == {"version": "1"}


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


FILE = """
preload:
  short: models/short
  long: {path: ../long, options: {a: 1}, memory_limit: 400MB, pin: true}
  inside:
  typo: {path: x, optoins: {}}
  bad: {path: x, options: {when: 2024-01-01}}
  7: {idle_ttl_s: -1}
"""


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "house" / "hostd.yaml"
    made.parent.mkdir()
    made.write_text(FILE)
    return made


def test_entries_are_read_in_all_their_forms_and_one_that_is_wrong_keeps_its_problem(file):
    config = load_config(file=file, environment=False)
    assert all(
        vars(read) == vars(config.preload[name]) for name, read in config_from_json(config.to_json()).preload.items()
    )
    preload = config.preload
    assert preload["short"].path == file.parent / "models" / "short"
    long = preload["long"]
    assert (long.path, long.options, long.memory_limit, long.pin) == (
        file.parent.parent / "long",
        {"a": 1},
        400_000_000,
        True,
    )
    assert (preload["inside"].path, preload["inside"].problem) == (None, "")
    assert preload["typo"].problem == "optoins: no such setting; did you mean 'options'?"
    assert "a date goes in quotes" in preload["bad"].problem
    assert "idle_ttl_s: input should be greater than or equal to 0" in preload["7"].problem


def test_each_setting_of_a_declared_model_says_where_it_comes_from(file, monkeypatch):
    monkeypatch.setenv("HOSTD_PRELOAD__SHORT__OPTIONS", '{"a": [1]}')
    monkeypatch.setenv("HOSTD_PRELOAD__MINE__PATH", "/mine")
    found = gather({"preload": {"own": Path("/own"), "none": None}}, file=file, environment=True)
    assert found.config.preload["short"].options == {"a": [1]}
    assert found.config.preload["none"].path is None
    expected = {
        "short.path": str(file),
        "short.options.a": "HOSTD_PRELOAD__SHORT__OPTIONS",
        "mine.path": "HOSTD_PRELOAD__MINE__PATH",
        "own.path": "an argument",
    }
    assert {name: found.origins[f"preload.{name}"] for name in expected} == expected


@pytest.mark.parametrize("value", ["[a]", "text", "5"])
def test_what_is_no_map_of_ids_stops_the_start_and_says_how_one_model_is_declared(tmp_path, monkeypatch, value):
    with pytest.raises(InvalidArgumentError, match=r"preload .*must be a mapping of ids, such as"):
        load_config(file=write(tmp_path, f"preload: {value}\n"), environment=False)
    monkeypatch.setenv("HOSTD_PRELOAD", "/srv/m")
    with pytest.raises(InvalidArgumentError, match="HOSTD_PRELOAD__ID__PATH"):
        load_config()


def test_the_schema_knows_all_forms():
    schema = config_schema()
    forms = schema["properties"]["preload"]["additionalProperties"]["anyOf"]
    assert forms[1:] == [{"type": "string"}, {"type": "null"}]
    entry = schema["$defs"]["PreloadEntry"]["properties"]
    assert "problem" not in entry
    assert all("description" in setting for setting in entry.values())


@pytest.mark.parametrize("home", [None, "/nonexistent", "relative", ""])
def test_without_a_home_the_state_is_in_the_runtime_directory(monkeypatch, tmp_path, home):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr("os.access", lambda path, mode: False)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)
    config = load_config({"name": "b"})
    assert config.state_dir == config.runtime_dir / "state"
    assert load_config({"runtime_dir": tmp_path}).state_dir == tmp_path / "state"


def test_a_home_that_nobody_knows_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(InvalidArgumentError, match=r"state_dir.*'~/state': no home directory is known.* set HOME"):
        load_config({"state_dir": "~/state"})
    monkeypatch.setenv("HOSTD_RUNTIME_DIR", "~/run")
    with pytest.raises(InvalidArgumentError, match="'~/run': no home directory"):
        paths.default_endpoint()
    (tmp_path / "hostd.yaml").write_text("models: {dir: ~/models}")
    with pytest.raises(InvalidArgumentError, match="'~/models': no home directory"):
        load_config(file=tmp_path / "hostd.yaml", environment=False)


def test_a_directory_that_cannot_be_made_is_told_with_the_variable_and_the_setting(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(FailedPreconditionError, match=r"XDG_RUNTIME_DIR is .*/file\).*Not a directory.*--runtime-dir"):
        paths.make_private(load_config().runtime_dir)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(FailedPreconditionError, match=r"XDG_STATE_HOME is .*HOSTD_STATE_DIR"):
        paths.make_state(load_config().state_dir)
    with pytest.raises(FailedPreconditionError, match="is not a directory"):
        paths.make_state(tmp_path / "file")


def test_without_a_temporary_directory_there_is_a_word_about_it(monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nonexistent"])
    with pytest.raises(FailedPreconditionError, match="set XDG_RUNTIME_DIR or TMPDIR"):
        load_config()
