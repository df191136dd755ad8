"""The settings of declared models: their forms, where they come from, and entries that are wrong."""

from pathlib import Path

import pytest

from hostd.config.loading import config_from_json, load_config
from hostd.config.schema import config_schema
from hostd.config.sources import gather
from hostd_workers.wire.errors import InvalidArgumentError

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
    preload = load_config(file=file, environment=False).preload
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


def test_they_survive_the_way_to_the_supervisor(file):
    config = load_config(file=file, environment=False)
    assert config_from_json(config.to_json()) == config


def test_each_setting_says_where_it_comes_from(file, monkeypatch):
    monkeypatch.setenv("HOSTD_PRELOAD__SHORT__OPTIONS", '{"a": [1]}')
    monkeypatch.setenv("HOSTD_PRELOAD__MINE__PATH", "/mine")
    found = gather({"preload": {"own": Path("/own"), "none": None}}, file=file, environment=True)
    origins = {
        name: found.origins[f"preload.{name}"] for name in ("short.path", "short.options.a", "mine.path", "own.path")
    }
    assert origins == {
        "short.path": str(file),
        "short.options.a": "HOSTD_PRELOAD__SHORT__OPTIONS",
        "mine.path": "HOSTD_PRELOAD__MINE__PATH",
        "own.path": "an argument",
    }
    assert found.config.preload["short"].options == {"a": [1]}
    assert found.config.preload["none"].path is None


@pytest.mark.parametrize("value", ["[a]", "text", "5"])
def test_what_is_no_map_of_ids_stops_the_start(tmp_path, value):
    (tmp_path / "hostd.yaml").write_text(f"preload: {value}\n")
    with pytest.raises(InvalidArgumentError, match=r"preload .*must be a mapping of ids, such as"):
        load_config(file=tmp_path / "hostd.yaml", environment=False)


def test_a_variable_that_is_no_json_says_how_one_model_is_declared(monkeypatch):
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
