"""Declared models (`preload`): loaded at the start and by syncs, with what their entries say; one bad entry is told."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from deploy_rig import PLACES, refusal
from helpers import eventually
from models_rig import states

import hostd
from hostd.units import parse_size

CODE = """
import os

class Model:
    def __init__(self, path, word):
        self.path, self.word = path, word

    def say(self):
        return self.word

    def grow(self, size):
        self.ballast = b"x" * size

    def where(self):
        return self.path

def load(path, word="plain"):
    if os.path.exists(os.path.join(path, "fail")):
        raise ValueError("it fails")
    return Model(path, word)
"""


def put(place):
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.py").write_text(CODE)
    return place


def models_of(base, **more):
    (base / "models").mkdir(exist_ok=True)
    return {**PLACES, "dir": base / "models", "lazy_load_retries": 0, **more}


WAITING = {"wait_for_initial_loads": True}


def test_what_is_declared_is_loaded_at_the_start_as_its_entry_says(tmp_path):
    place = put(tmp_path / "a")
    put(tmp_path / "models" / "inside")
    entry = {
        "path": place,
        "type": "talker",
        "options": {"word": "declared"},
        "pin": True,
        "memory_limit": "400MB",
        "idle_ttl_s": 99,
        "cpu_threads": 3,
    }
    preload = {"a": entry, "short": str(place), "inside": {"options": {"word": "in"}}}
    settings = models_of(tmp_path, load_on_start=False, **WAITING)
    with hostd.Host(models=settings, preload=preload) as host:
        client = host.client()
        assert states(client) == {"a": "READY", "short": "READY", "inside": "READY"}
        info = client.get_model("a")
        assert (info.type, info.pinned, info.memory_limit) == ("talker", True, parse_size("400MB"))
        assert (info.idle_ttl_s, info.cpu_threads, info.path) == (99, 3, str(place))
        said = {name: client.retrieve_model(name).say() for name in preload}
        assert said == {"a": "declared", "short": "plain", "inside": "in"}
        assert client.load_model("a", place).already_loaded  # the path alone means it as declared
        with pytest.raises(hostd.AlreadyExistsError, match="word"):
            client.load_model("a", place, options={"word": "other"})
        error = refusal(lambda: client.retrieve_model("a").grow(parse_size("800MB")))
        assert "memory_limit" in error.message


def test_a_bad_entry_is_told_and_stops_nothing(tmp_path, capfd):
    place = put(tmp_path / "good")
    put(tmp_path / "bad")
    (tmp_path / "bad" / "fail").touch()
    preload = {
        "good": place,
        "typo": {"path": place, "optoins": {}},
        "size": {"path": place, "memory_limit": "much"},
        "list": [1],
        "../x": place,
        "nowhere": None,
        "missing": tmp_path / "missing",
        "bad": {"path": tmp_path / "bad", "retries": 1},
    }
    with hostd.Host(models=WAITING, preload=preload) as host:
        client = host.client()
        assert client.retrieve_model("good").say() == "plain"
        entries = {model.id: model for model in client.list_models(all=True)}
        assert {name: entry.state for name, entry in entries.items()} == {
            **dict.fromkeys(preload, "FAILED"),
            "good": "READY",
        }
        words = {
            "typo": "optoins: no such setting; did you mean 'options'?",
            "size": "memory_limit: 'much' is not a size",
            "list": "it must be a path, or a map",
            "../x": "cannot be a model id",
            "nowhere": "no models directory",
            "missing": "there is nothing at",
            "bad": "it fails",
        }
        for name, said in words.items():
            assert said in entries[name].reason, name
        report = client.sync_local_models(wait=True)
        assert (set(report.failed), report.loaded) == (set(words), ())
        (tmp_path / "bad" / "fail").unlink()
        put(tmp_path / "missing")
        report = client.sync_local_models(wait=True)
        assert set(report.loaded) == {"bad", "missing"}
        assert client.retrieve_model("bad").say() == "plain"
    said = capfd.readouterr().err
    assert "did you mean 'options'" in said
    assert "model bad, which is declared (preload), could not be loaded" in said


def test_an_unloaded_or_evicted_one_comes_back_as_it_was_declared(tmp_path):
    evicted = {"path": put(tmp_path / "a"), "options": {"word": "declared"}, "idle_ttl_s": 0.1}
    preload = {"a": evicted, "b": put(tmp_path / "b")}
    with hostd.Host(models=WAITING, preload=preload, memory={"min_residence_s": 0}) as host:
        client = host.client()
        client.unload_model("b")
        assert isinstance(refusal(lambda: client.retrieve_model("b")), hostd.NotFoundError)  # without lazy loading
        eventually(lambda: not client.list_models(), "it is evicted", within_s=60)
        listed = [(model.id, model.state) for model in client.list_models(all=True)]
        assert listed == [("a", "EVICTED"), ("b", "AVAILABLE")]
        assert [(model_id, client.get_model(model_id, all=True).state) for model_id in "ab"] == listed
        assert isinstance(refusal(lambda: client.get_model("a")), hostd.NotFoundError)
        assert isinstance(refusal(lambda: client.get_model("c", all=True)), hostd.NotFoundError)
        assert client.sync_local_models(wait=True).loaded == ("b",)
        assert client.retrieve_model("a").say() == "declared"


@contextmanager
def served(directory, *arguments, **environment):
    """A host that `hostd serve` has started in a directory."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HOSTD_")}
    name = ["--name", f"preload-{os.getpid()}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hostd", "serve", "--json", *name, *arguments],
        cwd=directory,
        env={**clean, **environment},
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            with hostd.connect(json.loads(process.stdout.readline())["ready"]["endpoint"]) as client:
                yield client
        finally:
            process.terminate()
            process.wait(60)
    shutil.rmtree(os.path.join(os.environ["XDG_RUNTIME_DIR"], "hostd", name[1]), ignore_errors=True)


def test_a_sync_reads_the_file_again_and_unloads_what_is_not_declared_any_more(tmp_path):
    for name in ("a", "b", "c", "d"):
        put(tmp_path / "house" / name)
    file = tmp_path / "house" / "hostd.yaml"
    file.write_text("models: {wait_for_initial_loads: true}\npreload: {a: a, b: {path: ./b, options: {word: one}}}\n")
    variables = {"HOSTD_PRELOAD__C__PATH": str(tmp_path / "house" / "c")}
    with served(
        tmp_path, "--config", str(file), "--set", f"preload.d.path={tmp_path / 'house' / 'd'}", **variables
    ) as client:
        assert states(client) == dict.fromkeys("abcd", "READY")
        assert client.get_model("a").path == str(tmp_path / "house" / "a")  # relative to the file
        file.write_text("preload: {b: {path: b, options: {word: two}}, e: {path: a, pin: true}}\n")
        report = client.sync_local_models(wait=True)
        assert (report.unloaded, report.loaded, report.failed) == (("a",), ("e",), {})
        assert states(client) == dict.fromkeys("bcde", "READY")
        assert client.get_model("e").pinned
        assert client.retrieve_model("b").say() == "one"  # it holds from the next load on
        assert client.load_model("b", None, reload=True).say() == "two"
        file.write_text("preload: {b: [}\n")
        report = client.sync_local_models(wait=True)
        assert list(report.failed) == [str(file)]
        assert states(client) == dict.fromkeys("bcde", "READY")
        file.write_text("{}\n")
        assert set(client.sync_local_models(wait=True).unloaded) == {"b", "e"}
