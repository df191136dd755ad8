"""Loads that fail for a reason that the model's owner can mend: the error says which, and no try is wasted on it."""

import importlib.util
import os
import sys

import pytest
from helpers import PATIENCE_S, lines_of, program
from models_rig import causes

import hostd

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123456\n"

NOTING = """
    import pathlib, sys, warnings

    def load(path, log="", body="pass"):
        if log:
            with open(log, "a") as file:
                file.write("try\\n")
        place = pathlib.Path(path)
        exec(body)
        return lambda name: len(open(name).read())
"""


@pytest.fixture(scope="module")
def shared_host():
    with hostd.Host(workers={"retry_backoff_s": 0.01}) as host:
        yield host


def saved(file, source):
    """Run a program that saves a model, in a process of its own: libraries bring threads."""
    with program(source, file) as writer:
        assert writer.wait(3 * PATIENCE_S) == 0
    return file


@pytest.fixture
def refused(shared, model_dir, tmp_path):
    """Load a model that fails, with two retries, and return the error and how often it was tried."""

    def load(body, files=None):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        path = model_dir(NOTING, files=files)
        with pytest.raises(hostd.HostError) as caught:
            shared.load_model("m", path, retries=2, options={"log": str(log), "body": body})
        return caught.value, len(lines_of(log))

    return load


def test_a_model_beside_a_pointer_of_git_lfs_says_so_and_is_tried_once(refused):
    error, tries = refused("raise KeyError(118)", files={"weights.joblib": LFS.decode(), "notes.md": LFS.decode()})
    assert "KeyError: 118" in error.message
    assert "weights.joblib is a pointer of Git LFS, not the file itself (of 123456 bytes): run 'git lfs pull'" in str(
        error
    )
    assert isinstance(error, hostd.ModelError)
    assert "model.py" in error.traceback
    assert tries == 1
    error, tries = refused("raise OSError('the network is down')", files={"weights.joblib": "whole"})
    assert (error.message, tries) == ("loading failed: OSError: the network is down", 3)


def test_a_load_whose_files_were_changed_under_it_is_tried_again(refused, shared, model_dir):
    change = "file = place / 'weights.bin'; file.write_text(file.read_text() + 'more')"
    cut = "from hostd_workers.wire.errors import InvalidArgumentError as Cut; raise Cut('it ends too early')"
    error, tries = refused(f"{change}; {cut}", files={"weights.bin": ""})
    assert error.message.endswith("Perhaps because its files were changed while it was loaded")
    assert tries == 3
    model = shared.load_model("m", model_dir(NOTING, files={"weights.bin": "x"}), options={"body": change})
    assert model.info.warnings == (
        "its files were changed while it was loaded: what serves may be of both; load it again",
    )


def test_a_missing_module_names_the_interpreter_and_what_to_do(refused):
    error, tries = refused("import yaml_of_nobody.parts")
    assert f"The worker runs {sys.executable}" in error.message
    assert f"{sys.executable} -m pip install yaml_of_nobody, or name an interpreter" in error.message
    assert "'python:' in model.yaml" in error.message
    assert tries == 1
    error, _ = refused("import json.no_such_part")
    assert error.message == "loading failed: ModuleNotFoundError: No module named 'json.no_such_part'"


def test_a_relative_file_that_is_not_there_names_the_directory_it_was_looked_for_in(refused, shared, model_dir):
    error, _ = refused("open('weights.bin')")
    where = f"The worker's current directory is {os.getcwd()}, not the model's: build the path from"
    assert where in error.message
    model = shared.load_model("m", model_dir(NOTING))
    with pytest.raises(hostd.ModelError) as caught:
        model("vocabulary.txt")
    assert where in caught.value.message
    with pytest.raises(hostd.ModelError) as caught:
        model("/no/such/file")
    assert "current directory" not in caught.value.message


WRONG = {
    "def lod(path):\n    pass\n": r"model\.py has no load; define load\(path, \*\*options\) in it",
    "def load(path):\n    pass\n": r"load in .*model\.py returned None; it must return the model",
    "def load(path):\n    return object()\n": "no public method",
    "def load(path:\n    pass\n": r"SyntaxError: .*model\.py, line 1\)",
    "def load(path)\n    pass\n": r"^loading failed: SyntaxError: expected ':' \(.*/model\.py, line 1\)$",
    "from json import no_such_name\n": "cannot import name 'no_such_name'",
    "load = 7\n": r"must be a function load\(path, \*\*options\), got int",
}


def test_a_wrong_model_py_says_what_is_wrong_and_is_tried_once(shared, model_dir):
    for number, (source, says) in enumerate(WRONG.items()):
        with pytest.raises(hostd.HostError, match=says):
            shared.load_model(f"wrong-{number}", model_dir(source), retries=2)
        assert causes(shared, f"wrong-{number}").count("SPAWN") == 1, source
    with pytest.raises(hostd.UnavailableError, match="exit code 3"):
        shared.load_model("wrong", model_dir("raise SystemExit(3)\n"))
    assert shared.list_models() == []


def test_warnings_of_a_load_are_in_the_models_record(shared, model_dir):
    body = "for n in range(40): warnings.warn(f'number {n}' + 'x' * n * 60, stacklevel=n % 2 + 1)"
    body += "\nimport logging; logging.captureWarnings(True)"
    model = shared.load_model("m", model_dir(NOTING), options={"body": body})
    warned = model.info.warnings
    assert warned[:2] == ("UserWarning: number 0", "UserWarning: number 1" + 60 * "x")
    assert warned[-1] == "and 25 more in the model's log"
    assert (len(warned), max(map(len, warned))) == (16, 500)
    assert "number 39" in shared.model_logs("m")
    assert shared.load_model("n", model_dir()).info.warnings == ()


@pytest.mark.skipif(importlib.util.find_spec("joblib") is None, reason="saves a model with joblib")
def test_a_class_of_the_script_that_saved_the_model_says_where_to_put_it(shared, tmp_path, model_dir):
    source = """
        import sys, joblib
        class Doubler:
            def predict(x):
                return 2 * x
        joblib.dump(Doubler(), sys.argv[1])
    """
    file = saved(tmp_path / "m.joblib", source)
    says = "Doubler was a part of the script that saved the model: put it into a module .*, or write a model.py"
    with pytest.raises(hostd.InvalidArgumentError, match=says):
        shared.load_model("doubler", file)
    loads = f"import joblib\ndef load(path):\n    return joblib.load({str(file)!r})\n"
    with pytest.raises(hostd.ModelError, match=says):
        shared.load_model("doubler", model_dir(loads), retries=1)
    assert "RETRY" not in causes(shared, "doubler")
