"""What a person reads when a model cannot be loaded or has died: what is wrong, where that was set, and what helps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hostd

ModelDir = Callable[..., str]

OK = "def load(path):\n    return len\n"
CRASHES = """
    import ctypes

    class Model:
        def crash(self):
            ctypes.string_at(0)

        def crash_in_a_thread(self):
            import threading
            thread = threading.Thread(target=self.crash)
            thread.start()
            thread.join()

        def abort(self):
            import os
            os.abort()

        def fill(self, size):
            self.held = b"x" * size

    def load(path, at_once=False):
        if at_once:
            ctypes.string_at(0)
        return Model()
"""


@pytest.mark.parametrize(
    ("method", "signal", "what", "where"),
    [
        ("crash", "SIGSEGV", "Segmentation fault", "in crash"),
        ("crash_in_a_thread", "SIGSEGV", "Segmentation fault", "in crash"),
        ("abort", "SIGABRT", "Aborted", "in abort"),
    ],
)
def test_a_crash_quotes_the_stack_and_names_the_log(
    shared: hostd.Client, model_dir: ModelDir, method: str, signal: str, what: str, where: str
) -> None:
    model = shared.load_model("m", model_dir(CRASHES))
    with pytest.raises(hostd.UnavailableError) as caught:
        model.call(method)
    first, fatal, *frames = caught.value.message.splitlines()
    assert first == f"the worker of model 'm' died: killed by {signal}; hostd logs m has its whole stack"
    assert fatal == f"Fatal Python error: {what}"
    assert any(frame.endswith(where) for frame in frames)
    assert not any("hostd_workers" in frame or "/workers/" in frame for frame in frames)
    assert shared.get_model("m").reason == caught.value.message


def test_a_crash_during_the_load_quotes_the_stack(shared: hostd.Client, model_dir: ModelDir) -> None:
    with pytest.raises(hostd.UnavailableError, match=r"hostd logs m has its whole stack\n.*\n.*\n.*line \d+ in load"):
        shared.load_model("m", model_dir(CRASHES), options={"at_once": True})


def test_a_model_that_was_killed_at_its_limit_is_told_where_that_was_set(
    shared: hostd.Client, model_dir: ModelDir
) -> None:
    path = model_dir(CRASHES, settings="memory_limit: 80MB\n")
    model = shared.load_model("m", path)
    with pytest.raises(hostd.ResourceExhaustedError) as caught:
        model.fill(300_000_000)
    assert caught.value.message.endswith(f"which {path}/model.yaml sets. Raise memory_limit there, or have it use less")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("{base}/no/such/model", "{base}/no is missing"),
        ("{base}/modle-1", "{base} has no modle-1; did you mean model-1?"),
        ("{base}/model-1/model.py/x", "{base}/model-1/model.py is a file, not a directory"),
        ("{base}/link", "it is a link to {base}/gone, which is missing"),
    ],
)
def test_a_path_where_nothing_is_says_which_part_of_it_is_missing(
    shared: hostd.Client, model_dir: ModelDir, tmp_path: Path, path: str, why: str
) -> None:
    model_dir(OK)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    asked = path.format(base=tmp_path)
    for ask in (shared.load_model, shared.plan_load, shared.estimate_model_size):
        with pytest.raises(hostd.NotFoundError) as caught:
            ask("m", asked)
        assert caught.value.message == f"there is nothing at {asked}: {why.format(base=tmp_path)}"


def test_a_wrong_interpreter_is_told_with_its_full_path_and_where_it_was_set(
    shared: hostd.Client, model_dir: ModelDir
) -> None:
    path = model_dir(OK, settings="python: venv/bin/python\n")
    with pytest.raises(hostd.InvalidArgumentError) as caught:
        shared.load_model("m", path)
    assert caught.value.message == (
        f"{path}/model.yaml: python: venv/bin/python is no Python interpreter: there is nothing at "
        f"{path}/venv/bin/python: {path}/venv is missing. A relative path begins at {path}"
    )
    interpreter = Path(path, "venv/bin/python")
    interpreter.parent.mkdir(parents=True)
    interpreter.symlink_to("/usr/bin/python0.9")
    with pytest.raises(hostd.InvalidArgumentError, match=r"it is a link to /usr/bin/python0\.9, which is missing"):
        shared.load_model("m", path)
    interpreter.unlink()
    interpreter.write_text("#!/no/such/interpreter\n")
    interpreter.chmod(0o755)
    with pytest.raises(hostd.UnavailableError) as started:
        shared.load_model("m", path)
    assert f"cannot start the interpreter {interpreter} (python: {path}/model.yaml)" in started.value.message


@pytest.mark.parametrize("source", ["import no_such_module\n" + OK, "def load(path):\n    import no_such_module\n"])
def test_a_missing_module_names_the_interpreter_and_the_setting(
    shared: hostd.Client, model_dir: ModelDir, source: str
) -> None:
    with pytest.raises(hostd.ModelError) as caught:
        shared.load_model("m", model_dir(source))
    assert f"'no_such_module'. The worker runs {sys.executable}" in caught.value.message
    assert "'python:' in model.yaml" in caught.value.message


def test_a_syntax_error_is_told_in_one_line(shared: hostd.Client, model_dir: ModelDir) -> None:
    path = model_dir("def load(path)\n    return len\n")
    with pytest.raises(hostd.ModelError) as caught:
        shared.load_model("m", path)
    assert caught.value.message == f"loading failed: SyntaxError: expected ':' ({path}/model.py, line 1)"


def test_a_directory_that_is_no_model_says_what_was_looked_for_and_what_is_there(
    shared: hostd.Client, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "readme.txt").touch()
    with pytest.raises(hostd.InvalidArgumentError, match=r"it has readme\.txt, sub/\. It looks for a model\.yaml, "):
        shared.load_model("m", tmp_path)
    with pytest.raises(hostd.InvalidArgumentError, match=r"/sub: it is empty\. It looks for"):
        shared.load_model("m", tmp_path / "sub")


def test_time_outs_name_the_setting_and_the_log(model_dir: ModelDir) -> None:
    slow = model_dir("import time\n" + OK.replace("    return", "    time.sleep(3600)\n    return"))
    silent = model_dir(OK, settings="python: python\n", files={"python": "#!/bin/sh\nexec sleep 3600\n"})
    Path(silent, "python").chmod(0o755)
    with hostd.Host(workers={"spawn_timeout_s": 2, "load_timeout_s": 2}) as host:
        client = host.client()
        with pytest.raises(hostd.DeadlineExceededError, match=r"\(workers\.load_timeout_s\)\. hostd logs slow has"):
            client.load_model("slow", slow)
        with pytest.raises(hostd.DeadlineExceededError) as caught:
            client.load_model("silent", silent)
        assert "(workers.spawn_timeout_s). hostd logs silent has what it printed" in caught.value.message
        assert caught.value.message.endswith(f"its interpreter is {silent}/python")
