"""The logs of models: capped, drained whatever the model does, and never in the way of another model."""

import contextlib
import errno
import os
import threading
from pathlib import Path

import pytest
from helpers import PATIENCE_S, SOON_S, at_most, eventually, never

import hostd
from hostd.shell.processes import logs
from hostd.shell.processes.logs import LogDrain, ModelLog

CAP_BYTES = 256 * 1024


@pytest.fixture
def drain(tmp_path):
    with LogDrain(tmp_path / "logs", CAP_BYTES) as running:
        yield running


class Pipe:
    """The writing end of a worker's output."""

    def __init__(self, drain, model_id="m"):
        self.log = drain.log_of(model_id)
        read, self.fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        self.output = drain.add(model_id, read)

    def write(self, data):
        while data:
            data = data[os.write(self.fd, data) :]

    def close(self):
        os.close(self.fd)


def test_what_is_written_is_kept_in_order(drain):
    pipe = Pipe(drain)
    for number in range(100):
        pipe.write(f"{number}\n".encode())
    pipe.close()
    wanted = "".join(f"{number}\n" for number in range(100)).encode()
    eventually(lambda: pipe.log.tail(CAP_BYTES) == wanted, "all lines are in the log")
    assert pipe.log.tail(3) == b"99\n"
    assert pipe.log.tail(0) == b""


def test_a_log_that_was_never_written_is_empty(drain):
    assert drain.log_of("nobody").tail(100) == b""


def test_a_log_keeps_the_newest_and_stays_under_its_cap(drain, tmp_path):
    pipe = Pipe(drain)
    line = b"x" * 99 + b"\n"
    for _ in range(100):
        pipe.write(line * 100)
    pipe.write(b"the last line\n")
    pipe.close()
    eventually(lambda: pipe.log.tail(14) == b"the last line\n", "the newest line is there")
    assert pipe.output.ended.wait(PATIENCE_S), "nothing is renamed any more"
    files = list((tmp_path / "logs").iterdir())
    kept = sum(file.stat().st_size for file in files)
    assert CAP_BYTES // 2 <= kept <= CAP_BYTES
    assert {"m.log.1"} <= {file.name for file in files} <= {"m.log", "m.log.1"}


def test_the_logs_of_different_models_never_meet(drain, tmp_path):
    names = ["a", "a/b", "a%2Fb", "a.log", "A", "ü" * 100, "ü" * 99 + "ä", "x" * 200, "x" * 199 + "/y", "é" * 256]
    pipes = [Pipe(drain, name) for name in names]
    for name, pipe in zip(names, pipes, strict=True):
        pipe.write(name.encode())
        pipe.close()
    for name, pipe in zip(names, pipes, strict=True):
        eventually(lambda name=name, pipe=pipe: pipe.log.tail(CAP_BYTES) == name.encode(), f"the log of {name}")
    assert {file.parent for file in (tmp_path / "logs").rglob("*")} == {tmp_path / "logs"}


def test_a_pipe_is_closed_when_its_last_writer_is_gone(drain):
    before = len(os.listdir("/proc/self/fd"))
    pipe = Pipe(drain)
    second = os.dup(pipe.fd)
    pipe.close()
    os.write(second, b"still here")
    eventually(lambda: pipe.log.tail(100) == b"still here", "the second writer is heard")
    os.close(second)
    eventually(lambda: len(os.listdir("/proc/self/fd")) == before, "the reading end is closed")


def test_the_end_of_an_output_is_known_when_its_last_writer_is_gone(drain):
    pipe, other = Pipe(drain), Pipe(drain)
    pipe.write(b"x" * 100_000 + b"\xff the last line\n")
    other.write(b"of the same model\n")
    pipe.close()
    with at_most(PATIENCE_S / 2, "the end of what was written"):
        last = pipe.output.last(PATIENCE_S)
    assert last == "x" * (logs._LAST_BYTES - 16) + "\ufffd the last line\n"
    assert pipe.output.ended.is_set()
    eventually(lambda: other.output.last(0), "what was written is read")
    assert other.output.last(0.01) == "of the same model\n", "who still writes is not waited for without end"
    assert not other.output.ended.is_set()
    other.close()


def test_a_flood_does_not_starve_the_others(drain):
    flood, other = Pipe(drain, "flood"), Pipe(drain, "other")
    over = threading.Event()

    def write():
        while not over.is_set():
            flood.write(b"x" * 65536)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(20):
            other.write(f"{number}\n".encode())
            wanted = f"{number}\n".encode()
            eventually(
                lambda wanted=wanted: other.log.tail(100).endswith(wanted), "the other model's line", within_s=SOON_S
            )
    finally:
        over.set()
        writer.join(PATIENCE_S)
        flood.close()
        other.close()


def test_a_full_disk_loses_output_and_says_so(tmp_path, caplog):
    log = ModelLog(tmp_path / "absent", "m", CAP_BYTES)
    log.append(b"lost")
    assert "cannot write" in caplog.text
    (tmp_path / "absent").mkdir()
    log.append(b"kept")
    assert log.tail(100) == b"kept"


@pytest.mark.parametrize("step", ["register", "append"])
def test_what_the_system_lacks_for_a_moment_ends_nobodys_output(drain, monkeypatch, step):
    """Such as room in its table of watched files (epoll(7), max_user_watches), or memory."""
    monkeypatch.setattr(logs, "_AFTER_FAILURE_S", 0.01)
    target, failures = (drain._selector if step == "register" else logs.Output), [OSError(errno.ENOSPC, "no room")]
    real = getattr(target, step)

    def scarce(*arguments):
        if failures:
            raise failures.pop()
        return real(*arguments)

    monkeypatch.setattr(target, step, scarce)
    pipe = Pipe(drain)
    pipe.write(b"one\n")
    eventually(lambda: not failures, "it has failed")
    pipe.write(b"two\n")
    eventually(lambda: pipe.log.tail(4) == b"two\n", "what is printed is read again")
    pipe.close()
    assert pipe.output.ended.wait(PATIENCE_S)


def test_ending_does_not_wait_for_writers(tmp_path):
    with at_most(SOON_S, "beginning and ending a drain"), LogDrain(tmp_path / "logs", CAP_BYTES) as drain:
        pipe = Pipe(drain)
        pipe.write(b"x")
        eventually(lambda: pipe.log.tail(1) == b"x", "the pipe is watched")
    with pytest.raises(BrokenPipeError):
        os.write(pipe.fd, b"nobody reads this")
    pipe.close()


def test_a_pipe_that_came_just_before_the_end_is_closed_too(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with LogDrain(tmp_path / "logs", CAP_BYTES) as drain:
            pipe = Pipe(drain)
        pipe.close()
    assert len(os.listdir("/proc/self/fd")) == before


# With real workers


FLOOD = """
    import os, sys, threading

    class Flood:
        def start(self):
            def write():
                while True:
                    os.write(1, b"x" * 4096)
                    os.write(2, b"y" * 4096)
            threading.Thread(target=write, daemon=True).start()

        def predict(self, x):
            return x

    def load(path):
        return Flood()
"""


def test_a_model_that_floods_its_output_slows_nobody_down(shared, shared_host, model_dir):
    flood = shared.load_model("flood", model_dir(FLOOD))
    other = shared.load_model("other", model_dir())
    flood.start()
    for number in range(200):
        with at_most(SOON_S, "a call beside a flood"):
            assert other.predict(number) == number
    assert flood.options(timeout_s=PATIENCE_S).predict(1) == 1
    directory = Path(shared.host_info().state_dir, "logs")

    def size_bytes():
        found = 0
        for file in directory.glob("flood*"):
            with contextlib.suppress(FileNotFoundError):  # it was just renamed
                found += file.stat().st_size
        return found

    eventually(lambda: size_bytes() > 2**19, "the log is full")
    never(lambda: size_bytes() > 2**20, "the log went over its cap", for_s=0.2)
    with at_most(SOON_S, "the unload of a model that floods"):
        shared.unload_model("flood")


def test_output_that_is_no_text_is_shown_all_the_same(shared, model_dir):
    shared.load_model(
        "bytes", model_dir("import os\nos.write(1, bytes(range(256)))\ndef load(path):\n    return print\n")
    )
    text = eventually(lambda: shared.model_logs("bytes"), "the output is in the log")
    assert "ABC" in text
    assert "\ufffd" in text


def test_a_model_whose_output_ends_works_on(shared, model_dir):
    source = "import os\nos.close(1)\nos.close(2)\ndef load(path):\n    return lambda x: x\n"
    assert shared.load_model("silent", model_dir(source))(3) == 3
    assert shared.unload_model("silent").processes == 1


def test_a_crash_in_a_library_leaves_its_python_traceback_in_the_log(shared, model_dir):
    source = (
        "import ctypes\nclass M:\n    def crash(self):\n        ctypes.string_at(0)\ndef load(path):\n    return M()\n"
    )
    with pytest.raises(hostd.UnavailableError, match="SIGSEGV"):
        shared.load_model("crash", model_dir(source)).crash()
    log = eventually(
        lambda: (text := shared.model_logs("crash")) and "in crash" in text and text, "the traceback is in the log"
    )
    assert "Segmentation fault" in log
