"""Wrong `model.yaml`s: each is refused, and says where it is wrong."""

import os
import stat

import pytest
from model_files import made, spec_of

from hostd.config.model_yaml import MAX_BYTES
from hostd.finders import ModelSpec, find_spec
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError

BAD = [
    ("loder: python", "unknown key 'loder'; did you mean 'loader'"),
    ("replicas: 2", "unknown key 'replicas'; known are: cpu_threads, default_method, env"),
    ("memory_limit: much", "memory_limit must be bytes or a size with a unit, such as 400MB.*got 'much'"),
    ("evictable: maybe", "evictable must be true or false, got 'maybe'"),
    ("idle_ttl_s: -1", "idle_ttl_s must be seconds, 0 for never, got -1"),
    ("cpu_threads: 0", "cpu_threads must be a number of threads from 1 to 4096, got 0"),
    ("yes: 1", "unknown key True"),
    ("- loader", "must be a map with the keys loader.*got a list"),
    ("just text", r"got 'just text' \(str\)"),
    ("loader: 3", "loader must be a loader's name"),
    ("loader: ''", "loader must be"),
    ("loader: a:b:c", "loader must be"),
    ("loader: ../x", "loader must be"),
    ("loader: [python]", "loader must be .*got a list"),
    ("options: [1]", "options must be a map"),
    ("options: {1: a}", r"options has the name 1 \(int\)"),
    ("options: {a: [{2: b}]}", r"options\.a\.0 has the name 2"),
    ("options: {day: 2024-01-31}", r"options\.day must be .*quotes.*got a date"),
    ("options: {raw: !!binary aGk=}", r"options\.raw must be"),
    ("options: {raw: !!set {a}}", r"options\.raw must be"),
    ("options: &o {again: *o}", "line 1, column 21: aliases are not read"),
    ("env: {A: x}\nloader: python\nenv: {B: y}", "line 3, column 1: 'env' is there twice"),
    ("env: {A: x, A: y}", "line 1, column 13: 'A' is there twice"),
    ("options: {a: " + "[" * 40 + "]" * 40 + "}", "nested more than 32 deep"),
    ("python: 3.11", r"python must be the path .*got 3\.11 \(float\)"),
    ("python: no/such/python", r"python: no/such/python is no .* nothing at /.*/no/such/python: /.*/no is missing\."),
    ("python: /no/such/python", "python: /no/such/python is no .* nothing at /no/such/python: /no is missing"),
    ("python: model.yaml", r"python: model\.yaml is no Python interpreter: /.*/model\.yaml is no program"),
    ("python: .", r"python: \. is no Python interpreter: /.* is no program that user id \d+ may run"),
    ("python: ''", "python must be the path"),
    ("env: [A]", "env must be a map"),
    ("env: {A: true}", r"env\.A must be text \(put it in quotes\), got True \(bool\)"),
    ("env: {A: 1.10}", r"env\.A must be text"),
    ("env: {A: }", r"env\.A must be text .*got a NoneType"),
    ('env: {A: "x\\0"}', r"env\.A must be text without null"),
    ("env: {A=B: x}", "'A=B' .*no variable's name"),
    ("env: {1: x}", "no variable's name"),
    ("methods: predict", "methods must be a list"),
    ("methods: []", "methods must be a list"),
    ("methods: [a, a]", "list of different names"),
    ("methods: [_private]", "names of public methods, got '_private'"),
    ("methods: [not a name]", "names of public methods"),
    ("methods: [class]", "names of public methods"),
    ("methods: [1]", "names of public methods"),
    ("methods: {predict: {batch: 3}}", r"methods\.predict must be empty"),
    ("initializer: 3", "initializer must be an initializer's name"),
    ("initializer: {config: {}}", r"initializer\.type must be an initializer's name .*got a NoneType"),
    ("initializer: {type: a, conf: {}}", r"initializer has 'conf' \(str\); it takes type and config"),
    ("initializer: {type: a, config: [1]}", r"initializer\.config must be a map"),
    ("initializer: {type: a, config: {d: 2024-01-31}}", r"initializer\.config\.d must be .*quotes"),
    ("size: much", r"size must be bytes or a size with a unit, such as 400MB or 2GiB, got 'much'"),
    ("size: 0", "size must be bytes"),
    ("size: -1", "size must be bytes"),
    ("size: true", "size must be bytes"),
    ("size: 3G", "size must be bytes"),
    ("size: '" + "9" * 400 + ".5MB'", "size must be bytes"),
    ("default_method: [a]", "default_method must be"),
    ("methods: [a]\ndefault_method: b", r"default_method 'b' is not one of methods \(a\)"),
    ("loader: python\noptions: {a: 1", "line 2"),
    ("loader: python\n\tx: 1", "line 2, column 1: .*cannot start any token"),
    ("loader: !!python/object/apply:os.system [ls]", "line 1, column 9: could not determine a constructor"),
    ("a: 1\nb: \x01", "line 2, column 4: special characters"),
    ("loader: 2024-99-99", "not valid YAML: ValueError"),
    ("loader: !!int ''", "not valid YAML: "),
    ("loader: !!bool x", "not valid YAML: KeyError"),
    ("loader: !!timestamp x", "not valid YAML: AttributeError"),
    ("[" * 5000, "not valid YAML: RecursionError"),
    ("? [a]\n: 1", "line 1, column 3: .*unhashable"),
    ("a: 1\n---\nb: 2", "expected a single document"),
]


@pytest.mark.parametrize(("yaml", "words"), BAD, ids=[words[:30] for _, words in BAD])
def test_a_wrong_model_yaml_says_where(tmp_path, yaml, words):
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        spec_of(tmp_path, yaml)
    assert str(caught.value).startswith(str(tmp_path / "model.yaml"))
    assert len(str(caught.value)) < 1000


def test_bytes_that_are_no_text_say_their_line(tmp_path):
    (tmp_path / "model.yaml").write_bytes(b"loader: python\n# \xff\xfe\n")
    with pytest.raises(InvalidArgumentError, match="line 2, column 3: invalid start byte") as caught:
        find_spec("m", str(tmp_path))
    assert caught.value.details["line"] == 2


@pytest.mark.parametrize("use", ["[*a, *a]", "{<<: [*a, *a]}"])
def test_aliases_are_refused_before_they_multiply(tmp_path, use):
    lines = ["options:", "  a: &a {x: 1}"]
    lines += [f"  {name}: &{name} {use}".replace("*a", f"*{before}") for before, name in zip("ab", "bc", strict=True)]
    with pytest.raises(InvalidArgumentError, match=r"line 3, column \d+: aliases are not read here"):
        spec_of(tmp_path, "\n".join(lines))


def test_a_model_yaml_that_is_too_large_is_not_parsed(tmp_path):
    (tmp_path / "model.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidArgumentError, match="larger than 65536 bytes"):
        find_spec("m", str(tmp_path))
    (tmp_path / "model.yaml").write_bytes(b"loader: python\n" + b"#" * (MAX_BYTES - 15))
    assert find_spec("m", str(tmp_path)) == ModelSpec("python")


def test_a_model_yaml_that_is_no_regular_file_does_not_block(tmp_path):
    from hostd.config.model_yaml import read_settings

    os.mkfifo(tmp_path / "model.yaml")
    with pytest.raises(InvalidArgumentError, match="regular file"):
        read_settings(tmp_path / "model.yaml")
    with pytest.raises(InvalidArgumentError, match="looks for"):
        find_spec("m", str(tmp_path))


def test_a_model_yaml_that_cannot_be_read_is_a_typed_error(tmp_path):
    from hostd.config.model_yaml import read_settings

    (tmp_path / "model.yaml").symlink_to("model.yaml")
    assert stat.S_ISLNK(os.lstat(tmp_path / "model.yaml").st_mode)
    with pytest.raises(FailedPreconditionError, match=r"cannot read .*model\.yaml"):
        read_settings(tmp_path / "model.yaml")


@pytest.mark.parametrize("name", ["model.yml", "Model.yaml"])
def test_a_misspelt_model_yaml_is_not_passed_over(tmp_path, name):
    with pytest.raises(InvalidArgumentError, match=r"rename it to model\.yaml"):
        find_spec("m", made(tmp_path, name, "model.py"))
