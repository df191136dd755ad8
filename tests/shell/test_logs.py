"""The logs of models: capped, drained whatever the model does, and never in the way of another model."""

import errno
import os

import pytest
from helpers import PATIENCE_S, SOON_S, at_most, eventually
from log_rig import CAP_BYTES, piped
from walking_rig import again_and_again

import hostd
from hostd import paths
from hostd.shell.processes import logs, losses
from hostd.shell.processes.logs import LogDrain, ModelLog


@pytest.fixture
def drain(tmp_path):
    with LogDrain(tmp_path / "logs", CAP_BYTES) as running:
        yield running


class Pipe:
    """The writing end of a worker's output."""

    def __init__(self, drain, model_id="m"):
        self.log = drain.log_of(model_id)
        self.output, self.fd = piped(drain, model_id)

    def write(self, data):
        while data:
            data = data[os.write(self.fd, data) :]

    def close(self):
        os.close(self.fd)


def test_what_is_written_is_kept_in_order_and_the_newest_under_the_cap(drain, tmp_path):
    pipe = Pipe(drain)
    wanted = "".join(f"{number}\n" for number in range(100)).encode()
    for line in wanted.splitlines(keepends=True):
        pipe.write(line)
    eventually(lambda: pipe.log.tail(CAP_BYTES) == wanted, "all lines are in the log")
    assert pipe.log.tail(3) == b"99\n"
    assert pipe.log.tail(0) == drain.log_of("nobody").tail(100) == b""
    for _ in range(100):
        pipe.write((b"x" * 99 + b"\n") * 100)
    pipe.write(b"the last line\n")
    pipe.close()
    eventually(lambda: pipe.log.tail(14) == b"the last line\n", "the newest line is there")
    assert pipe.output.ended.wait(PATIENCE_S), "nothing is renamed any more"
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "logs").iterdir()}
    assert CAP_BYTES // 2 <= sum(sizes.values()) <= CAP_BYTES
    assert {"m.log.1"} <= set(sizes) <= {"m.log", "m.log.1"}


def test_the_logs_of_different_models_never_meet(drain, tmp_path):
    names = ["a", "a/b", "a%2Fb", "a.log", "A", "ü" * 100, "ü" * 99 + "ä", "x" * 200, "x" * 199 + "/y", "é" * 256]
    pipes = [Pipe(drain, name) for name in names]
    for name, pipe in zip(names, pipes, strict=True):
        pipe.write(name.encode())
        pipe.close()
    for name, pipe in zip(names, pipes, strict=True):
        eventually(lambda name=name, pipe=pipe: pipe.log.tail(CAP_BYTES) == name.encode(), f"the log of {name}")
    assert {file.parent for file in (tmp_path / "logs").rglob("*")} == {tmp_path / "logs"}


def test_the_end_of_an_output_is_known_when_its_last_writer_is_gone(drain):
    before = len(os.listdir("/proc/self/fd"))
    pipe, other = Pipe(drain), Pipe(drain)
    second = os.dup(pipe.fd)
    pipe.close()
    os.write(second, b"x" * 100_000 + b"\xff the last line\n")
    other.write(b"of the same model\n")
    os.close(second)
    with at_most(PATIENCE_S / 2, "the end of what was written"):
        last = pipe.output.last(PATIENCE_S)
    assert last == "x" * (logs._LAST_BYTES - 16) + "\ufffd the last line\n"
    assert pipe.output.ended.is_set()
    eventually(lambda: other.output.last(0), "what was written is read")
    assert other.output.last(0.01) == "of the same model\n", "what is still written is not waited for without end"
    assert not other.output.ended.is_set()
    other.close()
    eventually(lambda: len(os.listdir("/proc/self/fd")) == before, "the reading ends are closed")


def test_a_flood_does_not_starve_the_others(drain):
    flood, other = Pipe(drain, "flood"), Pipe(drain, "other")
    with again_and_again(lambda: flood.write(b"x" * 65536)):
        for number in range(20):
            wanted = f"{number}\n".encode()
            other.write(wanted)
            eventually(
                lambda wanted=wanted: other.log.tail(100).endswith(wanted), "the other model's line", within_s=SOON_S
            )
    flood.close()
    other.close()


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


def test_logs_do_not_follow_links(tmp_path, caplog):
    logs, precious = tmp_path / "logs", tmp_path / "precious"
    logs.mkdir(mode=0o700)
    precious.write_text("precious")
    for name in ("m.log", "n.log.1"):
        (logs / name).symlink_to(precious)
    ModelLog(logs, "m", CAP_BYTES).append(b"evil\n")
    full = ModelLog(logs, "n", 4)
    for _ in range(5):
        full.append(b"x" * 65536)
    assert precious.read_text() == "precious"
    assert "cannot write" in caplog.text
    logs.rename(tmp_path / "elsewhere")
    logs.symlink_to(tmp_path / "elsewhere")
    ModelLog(logs, "o", CAP_BYTES).append(b"evil\n")
    assert not (tmp_path / "elsewhere" / "o.log").exists()
    with pytest.raises(hostd.FailedPreconditionError, match=r"logs.*cannot be used"):
        paths.make_own(logs)


def test_a_flood_on_a_full_disk_is_one_warning_and_one_when_it_is_over(tmp_path, caplog, monkeypatch):
    directory = tmp_path / "logs"
    directory.mkdir(mode=0o700)
    trouble = losses.Losses()
    models = [ModelLog(directory, name, CAP_BYTES, trouble) for name in ("a", "b")]
    for log in models:
        log.append(b"before, and half a li")
    monkeypatch.setattr(os, "open", _full(os.open))
    for _ in range(5_000):
        for log in models:
            log.append(b"x" * 100)
    monkeypatch.undo()
    assert len(caplog.records) == 1
    assert f"is being lost: cannot write {directory}/a.log: No space left on device" in caplog.text
    models[0].append(b"after\n")
    assert len(caplog.records) == 1, "it may be full again in a moment"
    monkeypatch.setattr(losses, "OVER_AFTER_S", 0.0)
    models[1].append(b"after\n")
    assert "is kept again" in caplog.records[1].getMessage()
    assert "in 10000 writes were lost (No space left on device)" in caplog.records[1].getMessage()
    models[1].append(b"more\n")
    assert len(caplog.records) == 2
    for log in models:
        assert b"before, and half a li" in log.page(0, 0).data
        assert b"bytes before this are lost" in log.page(0, 0).data
        assert log.tail(1000).splitlines()[:2] == [b"before, and half a li", b"after"]


def _full(real):
    def refuse(path, flags, mode=0o777, *, dir_fd=None):
        if str(path).endswith(".log") and flags & os.O_CREAT:
            raise OSError(28, "No space left on device")
        return real(path, flags, mode, dir_fd=dir_fd)

    return refuse


def test_a_trouble_of_one_file_does_not_hide_that_of_another(tmp_path, caplog):
    trouble = losses.Losses()
    for name in ("a", "b"):
        (tmp_path / f"{name}.log").mkdir()
        for _ in range(100):
            ModelLog(tmp_path, name, CAP_BYTES, trouble).append(b"x")
    assert [record.getMessage().partition(".log")[0][-1] for record in caplog.records] == ["a", "b"]


def test_output_that_is_no_text_is_shown_and_a_model_works_on_when_its_output_ends(shared, model_dir):
    source = (
        "import os\nos.write(1, bytes(range(256)))\nos.close(1)\nos.close(2)\ndef load(path):\n    return lambda x: x\n"
    )
    assert shared.load_model("bytes", model_dir(source))(3) == 3
    text = eventually(lambda: shared.model_logs("bytes"), "the output is in the log")
    assert "ABC" in text
    assert "\ufffd" in text
    assert shared.unload_model("bytes").processes == 1


def test_a_crash_in_a_library_leaves_its_python_traceback_in_the_log(shared, model_dir):
    source = """
        import ctypes
        class M:
            def crash(self):
                ctypes.string_at(0)
        def load(path):
            return M()
    """
    with pytest.raises(hostd.UnavailableError, match="SIGSEGV"):
        shared.load_model("crash", model_dir(source)).crash()
    log = eventually(lambda: "in crash" in (text := shared.model_logs("crash")) and text, "the traceback is in the log")
    assert "Segmentation fault" in log
