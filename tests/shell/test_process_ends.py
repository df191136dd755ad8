"""Ends of workers that are hard: what cannot be killed or looked at, numbers that come again, groups of the kernel's."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from control_groups import members_of, own_group
from helpers import PATIENCE_S, descendants, eventually, is_there, line_of, program, state_of, stop
from process_rig import WITH_A_HELPER, output_of

from hostd.core.events import WorkerId
from hostd.shell.linux import cgroups
from hostd.shell.linux.cgroups import end_group
from hostd.shell.memory import tree as memory
from hostd.shell.processes import spawner as processes
from hostd.shell.processes.ending import StillThereError

NAP = [sys.executable, "-S", "-c", "import signal; signal.pause()"]


def test_a_number_that_is_used_again_is_not_forgotten(ours, spawn, monkeypatch):
    """A new worker may get the number of a process that another thread has just reaped, and is still noting."""
    process = spawn()
    reaped = threading.Event()
    real = processes.reap

    def reap(pidfd):
        real(pidfd)
        reaped.set()
        spawning.append(pool.submit(ours.spawn, WorkerId(9), sys.executable, dict(os.environ)))

    spawning = []
    monkeypatch.setattr(processes, "reap", reap)
    monkeypatch.setattr(os, "posix_spawn", lambda *args, **kwargs: process.pid)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(os, "pidfd_open", lambda pid: os.open("/dev/null", os.O_RDONLY))
        ours.end(process)
        again = spawning[0].result(PATIENCE_S)
        monkeypatch.undo()
    assert reaped.is_set()
    assert str(process.pid) in repr(ours), "the new worker would be killed as nobody's child"
    ours._workers.discard(process.pid)
    os.close(again.pidfd)
    os.close(again.log_fd)


def test_what_is_hard_to_kill_is_named_and_its_proof_is_asked_for_again(ours, spawn, monkeypatch):
    process = spawn()
    with monkeypatch.context() as hanging:
        real = signal.pidfd_send_signal
        hanging.setattr(signal, "pidfd_send_signal", lambda fd, number: number is signal.SIGKILL or real(fd, number))
        hanging.setattr(os, "killpg", lambda *_: None)
        for _ in range(2):
            with pytest.raises(StillThereError, match=f"process {process.pid} .* has not ended") as raised:
                ours.end(process, patience_s=0.01)
            assert (raised.value.slow, raised.value.refused) == ([process.pid], [])
            assert is_there(process.pid), "the end was reported without the proof"
    assert ours.end(process)[1] == 1


MANY = """
    import ctypes, os, signal

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    for _ in range(300):
        if os.fork() == 0:
            signal.pause()
    os.write(1, b"up\\n")
    signal.pause()
"""


@pytest.fixture
def many(spawn):
    """A worker with more helpers than a test may have descriptors."""
    yield spawn(MANY)
    assert descendants() == []


def test_a_tree_may_have_more_members_than_we_may_have_descriptors(ours, many):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, hard))
    try:
        assert ours.end(many)[1] == 301
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_end_goes_on_where_the_system_had_no_descriptor(ours, many, monkeypatch):
    real, left = os.pidfd_open, iter(range(3))

    def refuse(pid):
        if next(left, None) is None:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(pid)

    with monkeypatch.context() as few:
        few.setattr(os, "pidfd_open", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="Too many"):
                ours.end(many)
    assert ours.end(many)[1] == 301


UNTOUCHABLE = """
    import os, signal

    if os.fork() == 0:
        {before}
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        os.write(1, b"%d up\\n" % os.getpid())
        signal.pause()
    signal.pause()
"""


@pytest.fixture
def is_untouchable(monkeypatch):
    """The processes to which this one may send no signal, as those of another user; what is here, may be changed."""
    pids = set()
    send, kill_group = signal.pidfd_send_signal, os.killpg

    def refuse(pidfd, number):
        pid = re.search(r"^Pid:\t(-?\d+)$", Path(f"/proc/self/fdinfo/{pidfd}").read_text(), re.MULTILINE)
        assert pid is not None
        if int(pid[1]) in pids:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        send(pidfd, number)

    def refuse_group(group, number):
        if any(os.getpgid(pid) == group for pid in pids):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        kill_group(group, number)

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    monkeypatch.setattr(os, "killpg", refuse_group)
    return pids


@pytest.mark.parametrize("before", ["pass", "os.setsid()"], ids=["in its session", "in a session of its own"])
def test_what_may_not_be_ended_is_named_and_holds_up_nothing_else(ours, spawn, is_untouchable, before):
    process, other, dead = spawn(UNTOUCHABLE.format(before=before), b""), spawn(), spawn()
    is_untouchable.add(untouchable := int(output_of(process, b"up").split()[0]))
    for _ in range(3):
        with pytest.raises(StillThereError, match=f"process {untouchable} .* may not end it") as raised:
            ours.end(process)
        assert raised.value.refused == [untouchable]
    assert not is_there(process.pid), "the rest of the tree is gone"
    assert os.readlink(f"/proc/self/fd/{process.pidfd}") == "anon_inode:[pidfd]", "or another could get its number"
    os.kill(dead.pid, signal.SIGKILL)
    eventually(lambda: state_of(dead.pid) == "Z", "it has ended by itself")
    assert [ours.end(one)[1] for one in (other, dead)] == [1, 1]
    assert state_of(untouchable) == "S"
    os.kill(untouchable, signal.SIGKILL)
    eventually(lambda: state_of(untouchable) == "Z", "somebody else has ended it")
    assert ours.end(process)[1] == 2
    assert not is_there(untouchable)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(process.pidfd)


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


def test_what_has_not_ended_in_a_group_is_told_and_one_that_is_gone_tells_nothing(said):
    assert end_group(said, 0.0) == {1, 2, 3}
    assert (said / "cgroup.kill").read_text().strip() == "1"
    for lacks in ("cgroup.events", "cgroup.kill"):
        (said / lacks).unlink()
        assert end_group(said, PATIENCE_S) == set()


def test_a_workers_end_is_that_of_all_in_its_group(ours, spawn, group):
    process = spawn(WITH_A_HELPER)
    near = subprocess.Popen(NAP)  # in this session: by its descent alone it might be a finder's
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
    process = spawn(WITH_A_HELPER)

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
def test_a_worker_with_a_group_that_cannot_be_killed_ends_as_one_without(ours, spawn, said, monkeypatch, number):
    def refuse(file, value):
        raise OSError(number, os.strerror(number), str(file))

    monkeypatch.setattr(cgroups, "_write", refuse)
    assert ours.end(spawn(WITH_A_HELPER), group=said)[1] == 2
    assert descendants() == []


LAST = Path("/proc/sys/kernel/ns_last_pid")
"""The next process gets the number after that (proc(5))."""


TRIES = 1000
"""Other programs of the machine take numbers too."""


FAMILY = """
    import os, signal
    if os.fork():
        signal.pause()
    child = os.fork()
    if not child:
        signal.pause()
    os.write(1, b"%d up" % child)
    os.waitpid(child, 0)
    signal.pause()
"""


def began(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def started_as(number, after):
    """Start a process with that number, at another tick of the clock: numbers do not come back within one."""
    for _ in range(TRIES):
        LAST.write_text(str(number - 1))
        stranger = subprocess.Popen(NAP)
        if stranger.pid == number and began(number) != after:
            return stranger
        stranger.kill()
        stranger.wait()
    pytest.skip(f"{number} is never given")


@pytest.mark.skipif(not os.access(LAST, os.W_OK), reason="only root may say which number is given next")
def test_what_gets_the_number_of_a_member_that_has_ended_is_left_alone(ours, spawn, monkeypatch):
    """A helper goes on while its worker is stopped, and reaps: a number is anybody's between the list and the kill."""
    process = spawn(FAMILY, b"")
    child = int(output_of(process, b"up").split()[0])
    strangers = []
    measure = memory.private_bytes_of

    def measured(*args, **how):
        if not strangers:
            before = began(child)
            os.kill(child, 9)
            eventually(lambda: not is_there(child), "its parent reaps it")
            strangers.append(started_as(child, before))
        return measure(*args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(memory, "private_bytes_of", measured)
    ours.end(process)
    try:
        assert strangers[0].poll() is None, "somebody else's process was killed"
    finally:
        strangers[0].kill()
        strangers[0].wait()
