"""Nothing that we start imports from the caller's directory, and a model's own files never stand in for the library's."""

import json
import os
import subprocess
import sys
import textwrap
from importlib.machinery import PathFinder
from pathlib import Path

from helpers import PATIENCE_S, REPOSITORY

OTHERS = ("zmq", "msgpack", "psutil", "pydantic", "yaml", "click", "rich", "hostd", "hostd_workers", "numpy")


def set_traps(directory, names):
    """Write a module of each name that says so when it is imported, and fails; return the file in which it says so."""
    caught = directory / "caught"
    for name in names:
        (directory / f"{name}.py").write_text(
            f"import sys\nopen({str(caught)!r}, 'a').write(f'{name} {{sys.argv}}\\n')\nraise ImportError('a trap')\n"
        )
    return caught


USE = """
    import sys
    import hostd

    with hostd.Host() as host:
        model = host.client().load_model("m", sys.argv[1])
        print(model.predict(3), flush=True)
"""


def test_no_process_of_ours_imports_from_the_callers_directory(model_dir, tmp_path):
    here, program = tmp_path / "here", tmp_path / "program.py"
    here.mkdir()
    caught = set_traps(here, {*sys.stdlib_module_names, *OTHERS})
    program.write_text(textwrap.dedent(USE))
    done = subprocess.run(
        [sys.executable, program, model_dir()],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert not caught.exists(), caught.read_text()
    assert done.stdout == b"3\n"


def test_the_command_as_a_module_does_not_import_from_there_either(tmp_path):
    # Others are imported by Python itself, or by `import hostd`, before a line of ours can run.
    names = ("queue", "logging", "random", "zmq", "msgpack", "click", "asyncio", "socket", "secrets")
    caught = set_traps(tmp_path, names)
    host = subprocess.Popen(
        [sys.executable, "-m", "hostd", "serve", "--json", "--runtime-dir", tmp_path / "r"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
    )
    with host:
        line = host.stdout.readline()
        host.terminate()
        assert not caught.exists(), caught.read_text()
        assert "ready" in json.loads(line)


def test_what_pythonpath_names_is_imported(serve, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("class Finder:\n    pass\nraise ImportError('mine was imported')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    said = serve(finders={"default": {"type": "mine:Finder"}}).said
    assert "mine was imported" in str(said), said


NEIGHBOURS = """
    import sys
    import multiprocessing
    import queue, random, json, select, math
    import helper, telling

    def names():
        import queue, helper
        return queue.Empty.__module__, helper.__file__

    class Model:
        def predict(self):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return [list(names()), list(pool.apply(names)), telling.WORD, random.choice([7])]

    def load(path):
        return Model()
"""


def test_a_model_finds_its_neighbours_but_not_in_place_of_the_library(client, model_dir):
    path = Path(model_dir(NEIGHBOURS, files={"helper.py": "", "telling.py": "WORD = 'told'\n"}))
    caught = set_traps(path, {name for name in sys.stdlib_module_names if PathFinder.find_spec(name)})
    model = client.load_model("m", str(path))
    here = ["_queue", str(path / "helper.py")]
    assert model.predict() == [here, here, "told", 7]
    assert not caught.exists(), caught.read_text()
