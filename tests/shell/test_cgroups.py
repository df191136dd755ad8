"""Control groups of our own: on directories that behave as the kernel's do, and on the kernel's where it lets us."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PATIENCE_S

from hostd.core.values import WorkerId
from hostd.shell.linux import cgroups
from hostd.shell.linux.cgroups import Cgroups
from hostd.shell.linux.groups import groups_of
from hostd.shell.linux.marks import mark_of_host
from hostd.shell.linux.oom import Deaths
from hostd.shell.processes.limits import MemoryLimits

MIB = 1 << 20
FILES = ("memory.max", "memory.swap.max", "memory.oom.group", "memory.events", "cgroup.procs", "cgroup.subtree_control")
FILES += ("cgroup.kill", "cgroup.events")
LEAF, WORKERS = f"hostd-{mark_of_host()}-host", f"hostd-{mark_of_host()}-workers"
FIRST = f"{WORKERS}/1"
STAT = "anon 100\nfile 5000\nkernel 70\nkernel_stack 8\npagetables 9\npercpu 1\nsock 4\nshmem 2000\n"
SLABS = "slab_reclaimable 40\nslab_unreclaimable 11\nslab 51\n"


class Kernel:
    """Control groups as directories: they come with their files and go with them, and processes are in one at a time."""

    def __init__(self, directory, monkeypatch):
        self.top, self.process = directory / "cgroup", directory / "self"
        self._mkdir, self._rmdir, self._write = Path.mkdir, Path.rmdir, cgroups._write
        self.lacks = set()
        self.refuses = {}
        self._mkdir(self.process)
        (self.process / "cgroup").write_text("0::/unit\n")
        (self.process / "mountinfo").write_text(f"30 23 0:29 / {self.top} rw - cgroup2 cgroup2 rw\n")
        self._mkdir(self.top)
        monkeypatch.setattr(Path, "mkdir", lambda path, **_: self.mkdir(path))
        monkeypatch.setattr(Path, "rmdir", lambda path, **_: self.rmdir(path))
        monkeypatch.setattr(cgroups, "_write", lambda file, value: self.write(file, str(value)))
        self.unit = self.top / "unit"
        self.unit.mkdir()
        (self.unit / "cgroup.controllers").write_text("cpu memory pids\n")

    def mkdir(self, path):
        if "mkdir" in self.refuses and self.top in path.parents:
            raise OSError(self.refuses["mkdir"], "no", str(path))
        self._mkdir(path)
        for name in set(FILES) - self.lacks:
            (path / name).write_text("")

    def rmdir(self, path):
        if self.pids(path):
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        for name in FILES:
            (path / name).unlink(missing_ok=True)
        self._rmdir(path)

    def write(self, file, value):
        if file.name in self.refuses:
            raise OSError(self.refuses[file.name], "no", str(file))
        if file.name == "cgroup.subtree_control" and str(value)[0] == "+" and self.pids(file.parent):
            raise OSError(errno.EBUSY, "Device or resource busy", str(file))
        if file.name == "cgroup.procs":
            for other in self.top.rglob("cgroup.procs"):
                other.write_text("".join(f"{pid}\n" for pid in self.pids(other.parent) if pid != int(str(value))))
        if file.name == "cgroup.kill":
            for procs in file.parent.rglob("cgroup.procs"):
                procs.write_text("")
        self._write(file, value)

    def pids(self, path):
        return [int(pid) for pid in (path / "cgroup.procs").read_text().split()]

    def groups(self):
        return sorted(path.name for path in self.unit.iterdir() if path.is_dir())


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    return Kernel(tmp_path, monkeypatch)


@pytest.fixture
def groups(kernel):
    """Groups of a host; what is in the first one has ended when they end."""
    with Cgroups.open(kernel.process) as opened:
        yield opened
        if (kernel.unit / FIRST / "cgroup.procs").exists():
            (kernel.unit / FIRST / "cgroup.procs").write_text("")


def test_a_worker_gets_a_group_with_its_limit_that_dies_as_a_whole(kernel, groups):
    groups.add(WorkerId(1), 4711, 400 * MIB)
    group = kernel.unit / FIRST
    settings = {name: (group / name).read_text().strip() for name in FILES[:3]}
    assert settings == {"memory.max": str(400 * MIB), "memory.swap.max": "0", "memory.oom.group": "1"}
    assert kernel.pids(group) == [4711]
    assert groups.oom_kills(WorkerId(1)) == 0
    (group / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 1\n")
    assert (groups.oom_kills(WorkerId(1)), groups.oom_kills(WorkerId(2))) == (2, 0)
    assert "1" in repr(groups)
    (group / "cgroup.procs").write_text("")
    assert groups.group_of(WorkerId(1)) == group
    for _ in range(2):
        groups.remove(WorkerId(1))
    assert groups.group_of(WorkerId(1)) is None
    assert not group.exists()
    assert (groups.directory / "cgroup.subtree_control").read_text() == "+memory\n"
    groups.__exit__(None, None, None)
    assert kernel.groups() == []


def test_a_process_that_became_a_worker_keeps_the_group_that_was_reserved_for_it(kernel, groups):
    for pid in (4711, 4712):
        groups.reserve(pid)
    reserved = groups.directory / "spare-1"
    assert kernel.pids(reserved) == [4711]
    groups.add(WorkerId(1), 4711, MIB)
    assert groups.group_of(WorkerId(1)) == reserved
    assert (reserved / "memory.max").read_text().strip() == str(MIB)
    groups.release(4711)
    assert reserved.exists(), "it is the worker's now"
    (reserved / "cgroup.procs").write_text("")
    groups.remove(WorkerId(1))
    (groups.directory / "spare-2" / "cgroup.procs").write_text("")
    groups.add(WorkerId(2), 4712, None)
    assert groups.group_of(WorkerId(2)) == groups.directory / "2", "what was reserved was another process's"
    groups.reserve(4713)
    assert {path.name for path in groups.directory.iterdir() if path.is_dir()} == {"2", "spare-3"}
    kernel.refuses = {"cgroup.procs": errno.ESRCH}
    with pytest.raises(OSError, match="no"):
        groups.reserve(4714)
    kernel.refuses = {}
    (groups.directory / "spare-3" / "cgroup.procs").write_text("")
    for pid in (4713, 4714):
        groups.release(pid)
    assert {path.name for path in groups.directory.iterdir() if path.is_dir()} == {"2"}
    (groups.directory / "2" / "cgroup.procs").write_text("")


def test_a_worker_without_a_limit_gets_a_group_that_only_ends_with_it(kernel, groups):
    groups.add(WorkerId(1), 4711, None)
    group = groups.group_of(WorkerId(1))
    assert kernel.pids(group) == [4711]
    assert [(group / name).read_text() for name in FILES[:3]] == ["", "", ""]
    (group / "memory.events").write_text("oom_kill 2\n")
    (group / "memory.stat").write_text(STAT + SLABS)
    assert groups.oom_kills(WorkerId(1)) == 0, "it cannot have reached a limit of its own"
    assert groups.held_bytes(WorkerId(1)) is None
    (group / "memory.stat").unlink()


@pytest.mark.parametrize(
    ("stat", "held_bytes"),
    [
        (STAT + SLABS, 100 + 2000 + 4 + 70 - 40),
        ((STAT + SLABS).replace("kernel 70\n", ""), 100 + 2000 + 4 + 8 + 9 + 1 + 11),
        ("anon 100\n", None),
        ("anon none\n", None),
    ],
)
def test_a_group_tells_what_it_holds_that_cannot_be_reclaimed(kernel, groups, stat, held_bytes):
    groups.add(WorkerId(1), 4711, MIB)
    assert groups.held_bytes(WorkerId(1)) is None, "there is no such file"
    (kernel.unit / FIRST / "memory.stat").write_text(stat)
    assert groups.held_bytes(WorkerId(1)) == held_bytes
    assert groups.held_bytes(WorkerId(2)) is None
    (kernel.unit / FIRST / "memory.stat").unlink()


def test_the_limits_are_set_before_the_process_comes_and_a_group_that_cannot_be_removed_is_said(kernel, groups, caplog):
    written, write = [], kernel.write
    kernel.write = lambda file, value: (written.append(file.name), write(file, value))
    groups.add(WorkerId(1), 4711, MIB)
    assert written[0] == "memory.max"
    assert written[-1] == "cgroup.procs"
    groups.remove(WorkerId(1))
    assert f"{FIRST} cannot be removed" in caplog.text


def test_a_kernel_without_swap_will_do_and_groups_that_a_worker_made_in_its_own_go_with_it(kernel):
    kernel.lacks = {"memory.swap.max"}
    with Cgroups.open(kernel.process) as groups:
        groups.add(WorkerId(1), 4711, MIB)
        assert kernel.pids(kernel.unit / FIRST) == [4711]
        (kernel.unit / FIRST / "cgroup.procs").write_text("")
        (kernel.unit / FIRST / "inner").mkdir()
    assert kernel.groups() == []


def test_a_host_alone_in_its_group_moves_into_a_leaf_and_back(kernel):
    (kernel.unit / "cgroup.procs").write_text("11\n12\n")
    with Cgroups.open(kernel.process, {11, 12, 13}):
        assert kernel.groups() == [LEAF, WORKERS]
        assert kernel.pids(kernel.unit / LEAF) == [11, 12]
        assert (kernel.unit / "cgroup.subtree_control").read_text() == "+memory\n"
    assert kernel.groups() == []
    assert kernel.pids(kernel.unit) == [11, 12]
    assert (kernel.unit / "cgroup.subtree_control").read_text() == "+memory\n-memory\n"


def ends_only(kernel, groups):
    """Check that groups keep no limits and are there all the same."""
    assert not groups.keeps_limits
    assert kernel.groups() == [WORKERS]
    groups.add(WorkerId(1), 4711, MIB)
    group = groups.group_of(WorkerId(1))
    assert kernel.pids(group) == [4711]
    assert (group / "memory.max").read_text() == ""
    (group / "cgroup.procs").write_text("")


def test_a_group_that_others_are_in_or_that_counts_already_is_left_as_it_is(kernel, caplog):
    caplog.set_level("DEBUG", "hostd.shell.linux.cgroups")
    (kernel.unit / "cgroup.procs").write_text("11\n99\n")
    with Cgroups.open(kernel.process, {11}) as groups:
        assert kernel.pids(kernel.unit) == [11, 99]
        ends_only(kernel, groups)
    assert "other processes are in it, such as 99" in caplog.text
    (kernel.unit / "cgroup.subtree_control").write_text("cpu memory\n")
    with Cgroups.open(kernel.process):
        assert (kernel.unit / "cgroup.subtree_control").read_text() == "cpu memory\n"


def test_a_leaf_that_does_not_help_is_undone(kernel):
    (kernel.unit / "cgroup.procs").write_text("11\n")
    tries, write = [], kernel.write

    def busy(file, value):
        if str(value) == "+memory":
            tries.append(value)
            raise OSError(errno.EBUSY, "no", str(file))
        write(file, value)

    kernel.write = busy
    with Cgroups.open(kernel.process, {11}) as groups:
        assert len(tries) == 2
        assert kernel.pids(kernel.unit) == [11]
        ends_only(kernel, groups)


@pytest.mark.parametrize("counted", ["", "cpu memory\n"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_where_none_can_be_made_there_are_no_groups(kernel, counted, number):
    (kernel.unit / "cgroup.subtree_control").write_text(counted)
    kernel.refuses = {"mkdir": number}
    assert Cgroups.open(kernel.process) is None
    assert kernel.groups() == []


LACKING = {
    **{f"refused with {errno.errorcode[code]}": ("memory\n", code) for code in (errno.EACCES, errno.EPERM)},
    **{f"controllers {text!r}": (text, None) for text in ("cpu pids\n", "")},
}


@pytest.mark.parametrize(("controllers", "code"), LACKING.values(), ids=LACKING)
def test_children_that_may_not_count_memory_only_end_workers(kernel, controllers, code):
    (kernel.unit / "cgroup.controllers").write_text(controllers)
    kernel.refuses = {"cgroup.subtree_control": code} if code else {}
    with Cgroups.open(kernel.process) as groups:
        ends_only(kernel, groups)
    assert kernel.groups() == []
    kernel.lacks, kernel.refuses = {"cgroup.kill"}, {}
    if not code:
        assert Cgroups.open(kernel.process) is None, "of what use would they be?"
        assert kernel.groups() == []
        return
    with Cgroups.open(kernel.process) as groups:
        assert groups.keeps_limits, "also where groups cannot be killed"


@pytest.mark.parametrize(
    ("limit_bytes", "controllers", "level"),
    [(MIB, "memory\n", "WARNING"), (None, "memory\n", "DEBUG"), (MIB, "\n", "DEBUG")],
    ids=["with a limit", "without", "where it is not kept"],
)
def test_only_a_limit_that_the_kernel_does_not_keep_is_worth_a_warning(kernel, caplog, limit_bytes, controllers, level):
    caplog.set_level("DEBUG", "hostd.shell.processes.limits")
    (kernel.unit / "cgroup.controllers").write_text(controllers)
    with MemoryLimits(Cgroups.open(kernel.process), Deaths()) as guard:
        assert guard.groups == kernel.unit / WORKERS
        kernel.refuses = {"cgroup.procs": errno.EOPNOTSUPP}
        guard.began(WorkerId(1), os.getpid(), limit_bytes)
        assert [record.levelname for record in caplog.records] == [level]
        assert guard.group_of(WorkerId(1)) == kernel.unit / FIRST
        guard.ended(WorkerId(1), os.getpid())
        assert guard.group_of(WorkerId(1)) is None


def test_values_are_written_in_one_go_and_only_to_what_is_there(tmp_path):
    (tmp_path / "file").write_text("")
    cgroups._write(tmp_path / "file", 5)
    assert (tmp_path / "file").read_text() == "5\n"
    with pytest.raises(FileNotFoundError):
        cgroups._write(tmp_path / "absent", 5)
    assert Cgroups.open(tmp_path) is None, "without cgroup v2 there are none"


def test_workers_of_a_killed_host_are_ended_and_what_may_be_somebodys_stays(kernel):
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as gone:
        gone.wait()
    namespace, pid, began = mark_of_host().split(".")
    dead = f"{namespace}.{gone.pid}.1"
    ended = [f"hostd-{dead}-workers", f"hostd-{namespace}.{pid}.{int(began) - 1}-workers"]
    stay = [f"hostd-{dead}-host", f"hostd-{namespace}0.{gone.pid}.1-workers", "hostd-x-workers", "own"]
    stay.append(f"hostd-{namespace}.{os.getppid()}.{began_of(os.getppid())}-workers")
    for name in (*ended, *stay):
        (kernel.unit / name).mkdir()
        (kernel.unit / name / "1").mkdir()
        (kernel.unit / name / "1" / "cgroup.procs").write_text("4711\n")
    with Cgroups.open(kernel.process):
        assert kernel.groups() == sorted([*stay, WORKERS])
    assert all(kernel.pids(kernel.unit / name / "1") == [4711] for name in stay)


def began_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_the_kernel_kills_a_worker_that_passes_its_limit():
    group = next((group for group in groups_of("memory") if group.version == 2), None)
    if group is None or "memory" not in (group.read("cgroup.controllers") or "").split():
        pytest.skip("there is no memory controller of cgroup v2 here")
    groups = Cgroups.open()
    if groups is None:
        pytest.skip("this process may not divide its control group")
    source = "import sys; sys.stdin.readline(); held = b'x' * (256 << 20)"
    with groups, subprocess.Popen([sys.executable, "-S", "-c", source], stdin=subprocess.PIPE) as worker:
        groups.add(WorkerId(1), worker.pid, 32 * MIB)
        worker.stdin.write(b"\n")
        worker.stdin.flush()
        assert worker.wait(PATIENCE_S) == -signal.SIGKILL
        assert groups.oom_kills(WorkerId(1)) >= 1
