"""What a person reads when a model cannot be loaded or has died: what is wrong, where that was set, and what helps."""

from pathlib import Path

import pytest

import hostd

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


CRASHED = {
    "crash": ("SIGSEGV", "Segmentation fault", "in crash"),
    "crash_in_a_thread": ("SIGSEGV", "Segmentation fault", "in crash"),
    "abort": ("SIGABRT", "Aborted", "in abort"),
}


def test_a_crash_quotes_the_stack_and_names_the_log_and_a_limit_where_it_was_set(shared, model_dir):
    path = model_dir(CRASHES, settings="memory_limit: 80MB\n")
    for method, (signal, what, where) in CRASHED.items():
        model = shared.load_model("m", path)
        with pytest.raises(hostd.UnavailableError) as caught:
            model.call(method)
        first, fatal, *frames = caught.value.message.splitlines()
        assert first == f"the worker of model 'm' died: killed by {signal}; hostd logs m has its whole stack"
        assert fatal == f"Fatal Python error: {what}"
        assert any(frame.endswith(where) for frame in frames)
        assert not any("hostd_workers" in frame or "/workers/" in frame for frame in frames)
        assert shared.get_model("m").reason == caught.value.message
    with pytest.raises(hostd.UnavailableError, match=r"hostd logs n has its whole stack\n.*\n.*\n.*line \d+ in load"):
        shared.load_model("n", path, options={"at_once": True})
    with pytest.raises(hostd.ResourceExhaustedError) as limited:
        shared.load_model("m", path).fill(300_000_000)
    assert limited.value.message.endswith(
        f"which {path}/model.yaml sets. Raise memory_limit there, or have it use less"
    )


MISSING = {
    "{base}/no/such/model": "{base}/no is missing",
    "{base}/modle-1": "{base} has no modle-1; did you mean model-1?",
    "{base}/model-1/model.py/x": "{base}/model-1/model.py is a file, not a directory",
    "{base}/link": "it is a link to {base}/gone, which is missing",
}


def test_a_path_where_nothing_is_says_which_part_of_it_is_missing(shared, model_dir, tmp_path):
    model_dir(OK)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for path, why in MISSING.items():
        asked = path.format(base=tmp_path)
        for ask in (shared.load_model, shared.plan_load, shared.estimate_model_size):
            with pytest.raises(hostd.NotFoundError) as caught:
                ask("m", asked)
            assert caught.value.message == f"there is nothing at {asked}: {why.format(base=tmp_path)}"


def test_a_wrong_interpreter_is_told_with_its_full_path_and_where_it_was_set(shared, model_dir):
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


def test_a_directory_that_is_no_model_says_what_was_looked_for_and_what_is_there(shared, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "readme.txt").touch()
    with pytest.raises(hostd.InvalidArgumentError, match=r"it has readme\.txt, sub/\. It looks for a model\.yaml, "):
        shared.load_model("m", tmp_path)
    with pytest.raises(hostd.InvalidArgumentError, match=r"/sub: it is empty\. It looks for"):
        shared.load_model("m", tmp_path / "sub")
    for path in (tmp_path / "readme.txt", None):
        with pytest.raises(hostd.InvalidArgumentError, match=r"model\.py"):
            shared.load_model("m", path)
