"""Workers whose control group the kernel kills at once: what comes of it, and what is done where it fails."""

import ctypes
import errno
import os
import select
import signal
import subprocess
import sys

import pytest
from control_groups import members_of, own_group
from helpers import PATIENCE_S, descendants, eventually, is_there, line_of, program, state_of, stop

from hostd.core.events import WorkerId
from hostd.shell.linux import cgroups
from hostd.shell.linux.cgroups import end_group
from hostd.shell.processes.ending import StillThereError
from hostd.shell.processes.spawner import Processes

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def group():
    with own_group() as directory:
        yield directory


@pytest.fixture
def said(tmp_path):
    """A directory that says of itself what a group in which a process does not end would say."""
    directory = tmp_path / "group"
    (directory / "inner").mkdir(parents=True)
    (directory / "cgroup.kill").write_text("")
    (directory / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    (directory / "cgroup.procs").write_text("1\n")
    (directory / "inner" / "cgroup.procs").write_text("2\n3\n")
    return directory


@pytest.fixture
def ours():
    assert descendants() == [], "these tests kill every child of this process that they do not know"
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield Processes()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def spawn(ours, tmp_path):
    """Start a worker with one helper."""
    logs = []

    def start():
        interpreter = tmp_path / "python"
        interpreter.write_text("#!/bin/sh\nsleep 3600 & echo up; wait\n")
        interpreter.chmod(0o755)
        process = ours.spawn(WorkerId(1), str(interpreter), dict(os.environ))
        logs.append(process.log_fd)
        assert select.select([process.log_fd], [], [], PATIENCE_S)[0]
        return process

    yield start
    for fd in logs:
        os.close(fd)


# A group


def test_all_that_is_in_a_group_has_ended_when_its_end_is_told(group):
    (group / "inner").mkdir()
    source = """
        import os, signal
        from pathlib import Path

        group, held = Path({group!r}), b"x" * (200 << 20)  # so that the end of each takes a while
        for place in (group, group / "inner"):
            for _ in range(2):
                if os.fork() == 0:
                    (place / "cgroup.procs").write_text("0")
                    held = b"y" * (50 << 20)
                    os.write(1, b"in\\n")
                    signal.pause()
        print("out")
        signal.pause()
    """
    family = program(source.format(group=str(group)))
    try:
        assert sorted(line_of(family) for _ in range(5)) == ["in"] * 4 + ["out"]
        pids = members_of(group) + members_of(group / "inner")
        assert len(pids) == 4
        assert end_group(group, PATIENCE_S) == set()
        assert [state_of(pid) for pid in pids] == ["Z"] * 4
        assert family.poll() is None, "what is not in the group goes on"
    finally:
        stop(family)


def test_what_has_not_ended_in_a_group_is_told(said):
    assert end_group(said, 0.0) == {1, 2, 3}
    assert (said / "cgroup.kill").read_text().strip() == "1"


@pytest.mark.parametrize("lacks", ["cgroup.kill", "cgroup.events"])
def test_a_group_that_is_gone_tells_nothing(said, lacks):
    (said / lacks).unlink()
    assert end_group(said, PATIENCE_S) == set()


# Workers


def test_a_workers_end_is_that_of_all_in_its_group(ours, spawn, group):
    process = spawn()
    command = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
    near = subprocess.Popen(command)  # in this session: by its descent alone it might be a finder's
    try:
        for pid in (process.pid, *descendants(process.pid), near.pid):
            (group / "cgroup.procs").write_text(str(pid))
        freed_bytes, count = ours.end(process, group=group)
        assert near.wait(PATIENCE_S) == -signal.SIGKILL
    finally:
        stop(near)
    assert freed_bytes > 0, "it was measured before"
    assert count == 2
    assert not is_there(process.pid)
    assert descendants() == []


def test_a_worker_has_not_ended_before_all_in_its_group_has(ours, spawn, said):
    process = spawn()

    def left():
        (said / "cgroup.kill").write_text("")
        with pytest.raises(StillThereError) as raised:
            ours.end(process, patience_s=0.01, group=said)
        assert (said / "cgroup.kill").read_text().strip() == "1", "it is killed again each time"
        return raised.value.refused, raised.value.slow

    eventually(lambda: left() == ([], [1, 2, 3]), "only what is in the group is left")
    assert left() == ([], [1, 2, 3])
    (said / "cgroup.events").write_text("populated 0\n")
    assert ours.end(process, group=said)[1] == 2
    assert descendants() == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.EROFS, errno.EOPNOTSUPP])
def test_a_worker_whose_group_cannot_be_killed_ends_as_one_without(ours, spawn, said, monkeypatch, number):
    def refuse(file, value):
        raise OSError(number, os.strerror(number), str(file))

    monkeypatch.setattr(cgroups, "_write", refuse)
    assert ours.end(spawn(), group=said)[1] == 2
    assert descendants() == []
