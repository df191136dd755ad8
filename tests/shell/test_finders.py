"""Finders: what is recognised, and what model.yaml may say; each wrong one is refused, and says where it is wrong."""

import importlib
import os
import shutil
import sys

import pytest
from helpers import named
from walking_rig import made, spec_of

from hostd.config.model_yaml import MAX_BYTES, read_settings
from hostd.finders import FINDERS, FilesFinder, ModelSpec, MultiFinder, find_spec
from hostd.finders.files import LOADER_BY_SUFFIX
from hostd_workers.plugins import builtin_loaders
from hostd_workers.wire.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError

RECOGNISED = {
    "python": ["model.py", "model.py weights.pkl net.onnx", "model.py snapshots/1/weights.bin"],
    "sklearn": ["a.joblib", "a.pkl", "a.pickle", "a.SKOPS"],
    "onnx": ["a.onnx a.onnx.data README.md", "a.onnx .hidden.pkl sub/b.pkl"],
    "torch": ["a.pt", "a.pt2", "a.pth config.json", "a.ts"],
    "xgboost": ["a.ubj features.json", "a.xgb"],
    "lightgbm": ["a.lgb requirements.txt", "a.lightgbm"],
    "transformers": [
        *(
            "config.json model.safetensors",
            "config.json pytorch_model-00001-of-00002.bin",
            "config.json tokenizer.json",
        ),
        "config.json model.safetensors.index.json",
        "config.json model.safetensors optimizer.pt scheduler.pt rng_state_0.pth",
    ],
    "mlflow": ["MLmodel model.pkl conda.yaml"],
}


@pytest.mark.parametrize(("loader", "names"), [(loader, each) for loader, all_ in RECOGNISED.items() for each in all_])
def test_a_directory_is_recognised_by_its_files(tmp_path, loader, names):
    assert find_spec("m", made(tmp_path, *names.split())) == ModelSpec(loader)


def test_a_file_is_recognised_by_its_suffix(tmp_path):
    for name, loader in (("x.py", "python"), ("x.joblib", "sklearn"), ("x.Onnx", "onnx")):
        assert find_spec("m", f"{made(tmp_path, name)}/{name}") == ModelSpec(loader)


def test_the_finder_and_the_loaders_know_the_same_suffixes():
    said_elsewhere = {".json", ".txt", ".model"}  # too common to say which loader
    known = {}
    for loader in builtin_loaders():
        suffixes = getattr(importlib.import_module(f"hostd_workers.loaders.{loader}"), "SUFFIXES", ())
        known |= dict.fromkeys(set(suffixes) - said_elsewhere, loader)
    assert known == LOADER_BY_SUFFIX


NOTHING = ["", "README.md", "other.py", "model.py/x", ".model.py", "model.json", "config.json", "model.safetensors"]


@pytest.mark.parametrize("name", [*NOTHING, "pytorch_model.bin", "model.txt", ".MLmodel"])
def test_what_is_not_recognised_says_what_was_looked_for_and_that_it_can_be_said(tmp_path, name):
    looked_for = r"'team/m' at .*a model\.yaml, an MLmodel, a model\.py, .*, or a file \*\.joblib"
    with pytest.raises(InvalidArgumentError, match=rf"{looked_for}.*else say it with 'loader' in a model\.yaml"):
        find_spec("team/m", made(tmp_path, *name.split()))
    assert spec_of(tmp_path, "loader: xgboost") == ModelSpec("xgboost")


def test_a_plain_file_that_is_not_known_is_nothing_to_the_finder(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    assert FilesFinder().find("m", f"{made(tmp_path, 'notes.txt')}/notes.txt") is None
    assert FilesFinder().find("m", str(tmp_path / "pipe.onnx")) is None
    assert FilesFinder().find("m", None) is None
    with pytest.raises(InvalidArgumentError, match="at no path"):
        find_spec("m", None)


def test_each_part_of_the_default_finder_can_be_asked_alone_and_a_directory_of_two_kinds_is_not_guessed(tmp_path):
    path = made(tmp_path, "MLmodel", "a.onnx", yaml="loader: python")
    found = {name: find_spec("m", path, name).loader for name in FINDERS}
    assert found == {"default": "python", "model_yaml": "python", "mlflow": "mlflow", "files": "onnx"}
    for name in ("MLmodel", "model.yaml"):
        (tmp_path / name).unlink()
    with pytest.raises(InvalidArgumentError, match=r"a\.onnx \(onnx\) and b\.pkl \(sklearn\): say which"):
        find_spec("m", made(tmp_path, "b.pkl"))
    assert find_spec("m", made(tmp_path, yaml="loader: onnx")) == ModelSpec("onnx")


def test_a_path_that_is_not_there_or_cannot_be_looked_at_is_shown(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to("loop")
    made(tmp_path, "file")
    for path in ("absent", "dangling", "file/below"):
        with pytest.raises(NotFoundError, match=path) as caught:
            find_spec("m", str(tmp_path / path))
        assert caught.value.details["path"] == str(tmp_path / path)
    for path, words in (("x" * 300, "too long"), ("loop", "symbolic links")):
        with pytest.raises(FailedPreconditionError, match=words):
            find_spec("m", str(tmp_path / path))
    with pytest.raises(InvalidArgumentError, match="null byte"):
        find_spec("m", "/a\0b")


def test_another_finder_can_be_asked_by_name():
    class Wrong(Catalogue):
        def find(self, model_id, path):
            return {"loader": "python"}

    finders = {**FINDERS, "catalogue": Catalogue(), "wrong": Wrong()}
    assert find_spec("known", None, "catalogue", finders=finders).options == {"id": "known"}
    with pytest.raises(InvalidArgumentError, match=r"'catalogue' recognises no model 'other' at no path.*an id of"):
        find_spec("other", None, "catalogue", finders=finders)
    with pytest.raises(TypeError, match=r"Wrong\.find must return a ModelSpec or None, got {'loader'"):
        find_spec("m", None, "wrong", finders=finders)
    with pytest.raises(InvalidArgumentError, match="no finder 'fils'; known are default, files, mlflow, model_yaml"):
        find_spec("m", None, "fils")


def test_model_yaml_says_everything(tmp_path):
    made(tmp_path, "venv/bin/python")
    (tmp_path / "venv/bin/python").chmod(0o755)
    spec = spec_of(
        tmp_path,
        """
loader: my.package-1:Loader.load
options: {scale: 1.5, names: [a, null, true], nested: {deep: [1]}}
python: venv/bin/python
env: {OMP_NUM_THREADS: 1, MODE: fast}
methods: [predict, __call__]
default_method: predict
signature:
  predict:
    inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]
    example: {x: [[1, 2]]}
initializer: {type: my.package:warmed, config: {rounds: 3}}
size: 400MB
""",
    )
    assert spec == ModelSpec(
        loader="my.package-1:Loader.load",
        options={"scale": 1.5, "names": ["a", None, True], "nested": {"deep": [1]}},
        python=str(tmp_path / "venv/bin/python"),
        env={"OMP_NUM_THREADS": "1", "MODE": "fast"},
        methods=("predict", "__call__"),
        default_method="predict",
        signature={
            "predict": {
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                "example": {"x": [[1, 2]]},
            }
        },
        initializer="my.package:warmed",
        initializer_config={"rounds": 3},
        size_bytes=400_000_000,
    )


def test_methods_may_be_a_map_and_an_initializer_and_a_size_be_written_shortly(tmp_path):
    assert spec_of(tmp_path, "loader: python\nmethods: {predict: , embed: {}}").methods == ("predict", "embed")
    spec = spec_of(tmp_path, "loader: python\ninitializer: warmed\nsize: 4096")
    assert (spec.initializer, spec.initializer_config, spec.size_bytes) == ("warmed", {}, 4096)
    assert spec_of(tmp_path, "loader: python\ninitializer: {type: a, config: }").initializer_config == {}


@pytest.mark.parametrize("yaml", ["", "# nothing\n", "options:\n", "loader:\n"])
def test_a_setting_left_out_is_its_default(tmp_path, yaml):
    made(tmp_path, "model.py")
    assert spec_of(tmp_path, yaml) == ModelSpec("python")


def test_without_a_loader_the_files_decide(tmp_path):
    with pytest.raises(InvalidArgumentError, match="names no loader"):
        spec_of(tmp_path, "env: {A: b}")
    made(tmp_path, "a.onnx")
    assert spec_of(tmp_path, "env: {A: b}") == ModelSpec("onnx", env={"A": "b"})
    made(tmp_path, "MLmodel")
    assert spec_of(tmp_path, "env: {A: b}") == ModelSpec("mlflow", env={"A": "b"})


def test_a_text_is_a_lightgbm_model_only_if_it_begins_like_one(tmp_path):
    (tmp_path / "model.txt").write_text("tree\nversion=v4\n")
    assert find_spec("m", str(tmp_path)) == ModelSpec("lightgbm")
    assert find_spec("m", str(tmp_path / "model.txt")) == ModelSpec("lightgbm")
    for other in ("trees are green\n", "", "a\ntree\n"):
        (tmp_path / "model.txt").write_text(other)
        assert FilesFinder().find("m", str(tmp_path)) is None
    (tmp_path / "model.txt").write_text("tree\n")
    (tmp_path / "model.txt").rename(tmp_path / "notes.txt")
    assert FilesFinder().find("m", str(tmp_path / "notes.txt")) is None


class Catalogue:
    looks_for = "an id of the catalogue"

    def find(self, model_id, path):
        return ModelSpec("lib.nets:load", {"id": model_id}) if model_id == "known" else None


def test_a_finder_that_needs_no_path_is_asked_though_nothing_is_at_the_path(tmp_path):
    multi = MultiFinder([FilesFinder(), Catalogue()])
    assert multi.looks_for.endswith("*.lightgbm, an id of the catalogue")
    assert multi.find("known", str(tmp_path / "absent")) == ModelSpec("lib.nets:load", {"id": "known"})
    with pytest.raises(NotFoundError, match=r"there is nothing at .*absent"):
        multi.find("other", str(tmp_path / "absent"))
    assert multi.find("other", None) is None


def test_the_first_finder_that_knows_wins_and_one_that_complains_ends_it(tmp_path):
    made(tmp_path, "a.onnx")
    assert MultiFinder([FilesFinder(), Catalogue()]).find("known", str(tmp_path)) == ModelSpec("onnx")
    assert MultiFinder([Catalogue(), FilesFinder()]).find("known", str(tmp_path)).loader == "lib.nets:load"
    made(tmp_path, "b.pkl")
    with pytest.raises(InvalidArgumentError, match="say which"):
        MultiFinder([FilesFinder(), Catalogue()]).find("known", str(tmp_path))


def test_the_interpreter_may_be_absolute_and_stays_a_link(tmp_path, monkeypatch):
    assert spec_of(tmp_path, f"loader: python\npython: {sys.executable}").python == sys.executable
    (tmp_path / "py").symlink_to(sys.executable)
    assert spec_of(tmp_path, "loader: python\npython: ./py").python == str(tmp_path / "py")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert spec_of(tmp_path, "loader: python\npython: ~/py").python == str(tmp_path / "py")


def test_a_path_in_the_hosts_own_working_directory_is_nobodys_model(tmp_path, monkeypatch):
    made(tmp_path, "model.py")
    monkeypatch.chdir(tmp_path.parent)
    for path in (tmp_path.name, f"./{tmp_path.name}", "."):
        with pytest.raises(NotFoundError, match="nothing at"):
            find_spec("m", path)


@pytest.mark.parametrize("yaml", [None, "loader: transformers"])
def test_a_directory_of_the_hubs_cache_names_the_snapshot_to_load(tmp_path, yaml):
    cache = tmp_path / "models--org--net"
    one, two = (cache / "snapshots" / commit for commit in ("4d7a", "9fc1"))
    for directory in (one, two, cache / "blobs", cache / "refs"):
        directory.mkdir(parents=True)
        (directory / "config.json").touch()
    if yaml:
        (cache / "model.yaml").write_text(yaml)

    with pytest.raises(InvalidArgumentError, match="is a directory of the hub's cache"):
        FilesFinder().find("m", str(cache))

    def refusal():
        with pytest.raises(InvalidArgumentError, match="is a directory of the hub's cache, not a model") as caught:
            find_spec("m", str(cache))
        return caught.value

    assert refusal().message.endswith(f"; load its snapshot: {one} or {two}")
    (cache / "refs" / "main").write_text("9fc1\n")
    assert refusal().details["snapshots"] == [str(two)]
    (cache / "refs" / "main").write_text("gone")
    assert refusal().details["snapshots"] == [str(one), str(two)]
    for snapshot in (one, two):
        shutil.rmtree(snapshot)
    assert refusal().message.endswith("it has no snapshot yet: download it again")


BAD = {
    "unknown key 'loder'; did you mean 'loader'": ["loder: python"],
    "unknown key 'replicas'; known are: cpu_threads, default_method, env": ["replicas: 2"],
    "memory_limit must be bytes or a size with a unit, such as 400MB.*got 'much'": ["memory_limit: much"],
    "evictable must be true or false, got 'maybe'": ["evictable: maybe"],
    "idle_ttl_s must be seconds, 0 for never, got -1": ["idle_ttl_s: -1"],
    "cpu_threads must be a number of threads from 1 to 4096, got 0": ["cpu_threads: 0"],
    "unknown key True": ["yes: 1"],
    "must be a map with the keys loader.*got a list": ["- loader"],
    "got a str": ["just text"],
    "loader must be a loader's name": ["loader: 3"],
    "loader must be": ["loader: ''", "loader: a:b:c", "loader: ../x"],
    "loader must be .*got a list": ["loader: [python]"],
    "options must be a map": ["options: [1]"],
    r"options has the name 1 \(int\)": ["options: {1: a}"],
    r"options\.a\.0 has the name 2": ["options: {a: [{2: b}]}"],
    r"options\.day must be .*quotes.*got a date": ["options: {day: 2024-01-31}"],
    r"options\.raw must be": ["options: {raw: !!binary aGk=}", "options: {raw: !!set {a}}"],
    "line 1, column 21: aliases are not read": ["options: &o {again: *o}"],
    "line 3, column 1: 'env' is there twice": ["env: {A: x}\nloader: python\nenv: {B: y}"],
    "line 1, column 13: 'A' is there twice": ["env: {A: x, A: y}"],
    "nested more than 32 deep": ["options: {a: " + "[" * 40 + "]" * 40 + "}"],
    r"python must be the path .*got 3\.11 \(float\)": ["python: 3.11"],
    r"python: no/such/python is no .* nothing at /.*/no/such/python: /.*/no is missing\.": ["python: no/such/python"],
    "python: /no/such/python is no .* nothing at /no/such/python: /no is missing": ["python: /no/such/python"],
    r"python: model\.yaml is no Python interpreter: /.*/model\.yaml is no program": ["python: model.yaml"],
    r"python: \. is no Python interpreter: /.* is no program that user id \d+ may run": ["python: ."],
    "python must be the path": ["python: ''"],
    "env must be a map": ["env: [A]"],
    r"env\.A must be text \(put it in quotes\) .*, got True \(bool\)": ["env: {A: true}"],
    r"env\.A must be text": ["env: {A: 1.10}"],
    r"env\.A must be text .*got a NoneType": ["env: {A: }"],
    r"env\.A must be text .* without null": ['env: {A: "x\\0"}'],
    r"env\.A=B must be named as a variable may be": ["env: {A=B: x}"],
    r"env\.1 must be named as a variable may be, got 1 \(int\)": ["env: {1: x}"],
    "methods must be a list": ["methods: predict", "methods: []"],
    "list of different names": ["methods: [a, a]"],
    r"methods\.0 must be the name of a public method, got '_private'": ["methods: [_private]"],
    "the name of a public method": ["methods: [not a name]", "methods: [class]", "methods: [1]"],
    r"methods\.predict must be empty": ["methods: {predict: {batch: 3}}"],
    r"initializer\.type must be an initializer's name": ["initializer: 3"],
    r"initializer\.type must be an initializer's name .*got ''": ["initializer: {config: {}}"],
    r"initializer\.conf is unknown; did you mean 'config'": ["initializer: {type: a, conf: {}}"],
    r"initializer\.config must be a map": ["initializer: {type: a, config: [1]}"],
    r"initializer\.config\.d must be .*quotes": ["initializer: {type: a, config: {d: 2024-01-31}}"],
    r"size must be bytes or a size with a unit, such as 400MB or 2GiB, got 'much'": ["size: much"],
    "size must be bytes": ["size: 0", "size: -1", "size: true", "size: 3G", "size: '" + "9" * 400 + ".5MB'"],
    "default_method must be": ["default_method: [a]"],
    "signature.predict.batch is unknown; did you mean 'batch_axis'": ["signature: {predict: {batch: 0}}"],
    "signature.predict.inputs.0.shapes is unknown; did you mean 'shape'": [
        "signature: {predict: {inputs: [{name: x, shapes: []}]}}"
    ],
    r"signature.predict.inputs.0.datatype must be one of BOOL, .*, got 'float'": [
        "signature: {predict: {inputs: [{name: x, datatype: float}]}}"
    ],
    "signature.predict.inputs.0.shape.0: Input should be greater": [
        "signature: {predict: {inputs: [{name: x, shape: [-2]}]}}"
    ],
    "signature.predict.example.x": ["signature: {predict: {example: {x: 2024-01-01}}}"],
    "signature._f must be the name of a public method": ["signature: {_f: {}}"],
    r"default_method 'b' is not one of methods \(a\)": ["methods: [a]\ndefault_method: b"],
    "line 2": ["loader: python\noptions: {a: 1"],
    "line 2, column 1: .*cannot start any token": ["loader: python\n\tx: 1"],
    "line 1, column 9: could not determine a constructor": ["loader: !!python/object/apply:os.system [ls]"],
    "line 2, column 4: special characters": ["a: 1\nb: \x01"],
    "not valid YAML: ": [
        *("loader: 2024-99-99", "loader: !!int ''", "loader: !!bool x", "loader: !!timestamp x", "[" * 5000),
    ],
    "line 1, column 3: .*unhashable": ["? [a]\n: 1"],
    "expected a single document": ["a: 1\n---\nb: 2"],
}


@pytest.mark.parametrize(("yaml", "words"), [(yaml, words) for words, each in BAD.items() for yaml in each], ids=named)
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


def test_a_model_yaml_that_is_no_regular_file_or_cannot_be_read_does_not_block_and_is_a_typed_error(tmp_path):
    file = tmp_path / "model.yaml"
    os.mkfifo(file)
    with pytest.raises(InvalidArgumentError, match="regular file"):
        read_settings(file)
    with pytest.raises(InvalidArgumentError, match="looks for"):
        find_spec("m", str(tmp_path))
    file.unlink()
    file.symlink_to("model.yaml")
    with pytest.raises(FailedPreconditionError, match=r"cannot read .*model\.yaml"):
        read_settings(file)


@pytest.mark.parametrize("name", ["model.yml", "Model.yaml"])
def test_a_misspelt_model_yaml_is_not_passed_over(tmp_path, name):
    with pytest.raises(InvalidArgumentError, match=r"rename it to model\.yaml"):
        find_spec("m", made(tmp_path, name, "model.py"))
