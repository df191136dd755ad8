"""Deaths that the kernel caused, told apart from those that somebody else did. With a real kill where there can be one."""

import os
import signal
import subprocess
import sys

import pytest
from helpers import PATIENCE_S, at_most, new_tag, program

from hostd.core.values import Death
from hostd.shell.linux import oom
from hostd.shell.linux.groups import groups_of
from hostd.shell.linux.oom import Deaths

MIB = 1 << 20
CHOSEN = (
    "6,416,595876444,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),oom_memcg=/x,task=python3,pid={pid},uid=0\n"
)
KILLED = "3,417,595876469,-;{cause}: Killed process {pid} (python3) total-vm:221368kB, anon-rss:39552kB, UID:0\n"
NOISE = "4,339,595873503,-;python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0\n SUBSYSTEM=memory\n"


class Kernel:
    """A log, a count of kills and a control group, as files that a test writes."""

    def __init__(self, directory, version):
        self.log, self.counters, self.process = directory / "kmsg", directory / "vmstat", directory / "self"
        self._group, self._version = directory / "group", version
        self.process.mkdir()
        self._group.mkdir()
        line, kind = ("0::/", "cgroup2 cgroup rw") if version == 2 else ("4:memory:/", "cgroup cgroup rw,memory")
        (self.process / "cgroup").write_text(f"{line}\n")
        (self.process / "mountinfo").write_text(f"36 31 0:33 / {self._group} rw,relatime - {kind}\n")
        self.log.write_text(KILLED.format(cause="Out of memory", pid=7))
        self.kills(0)

    def kills(self, count, *, of_group=None):
        self.counters.write_text(f"pgfault 5\noom_kill {count}\noom_kill_other 3\n")
        count = count if of_group is None else of_group
        if self._version == 2:
            (self._group / "memory.events").write_text(f"low 0\noom 9\noom_kill {count}\noom_group_kill 0\n")
        else:
            (self._group / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n")

    def says(self, text):
        with self.log.open("a") as log:
            log.write(text)

    def deaths(self, *, with_log=True):
        return Deaths(self.log, self.counters, self.process, is_first_namespace=with_log)


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def kernel(request, tmp_path):
    return Kernel(tmp_path, request.param)


@pytest.mark.parametrize(
    "cause", ["Out of memory", "Memory cgroup out of memory", "Out of memory (oom_kill_allocating_task)"]
)
def test_a_kill_that_the_log_names_is_explained_by_its_line_once(kernel, cause):
    with kernel.deaths() as deaths:
        deaths.began(7)
        kernel.kills(1)
        killed = KILLED.format(cause=cause, pid=7) + KILLED.format(cause=cause, pid=77)
        kernel.says(NOISE + CHOSEN.format(pid=7) + killed + CHOSEN.format(pid=9))
        assert deaths.explain(8)[0] is Death.UNEXPLAINED
        death, words = deaths.explain(7)
        assert death is Death.OUT_OF_MEMORY
        assert f"{cause}: Killed process 7" in words
        assert deaths.explain(7)[0] is Death.UNEXPLAINED
        assert deaths.explain(9)[0] is Death.OUT_OF_MEMORY, "the choice alone is enough"


@pytest.mark.parametrize("is_new", [True, False], ids=["of another process", "before the host began"])
def test_what_was_said_before_a_process_began_was_about_another_one(kernel, is_new):
    with kernel.deaths() as deaths:
        kernel.kills(1)
        if is_new:
            kernel.says(KILLED.format(cause="Out of memory", pid=7))
            deaths.began(7)
            kernel.kills(2)
        assert deaths.explain(7)[0] is Death.UNEXPLAINED


def test_a_line_that_a_program_wrote_is_not_believed(kernel):
    with kernel.deaths() as deaths:
        kernel.kills(1)
        kernel.says("12,418,595876469,-;Out of memory: Killed process 7 (python3) total-vm:1kB\n")
        kernel.says("6,419,595876470,-;say: 3,1,1,-;Out of memory: Killed process 7 (x)\n")
        assert deaths.explain(7)[0] is Death.UNEXPLAINED


def test_without_any_kill_on_the_machine_nothing_waits_for_the_log(kernel, monkeypatch, tmp_path):
    monkeypatch.setattr(oom, "LOG_PATIENCE_S", PATIENCE_S * 2)
    unseen = Deaths(tmp_path / "a", tmp_path / "b", tmp_path / "c", is_first_namespace=True)
    for each in (kernel.deaths(), unseen):
        with each as deaths, at_most(PATIENCE_S, "an explanation"):
            deaths.began(7)
            assert deaths.explain(7) == (Death.UNEXPLAINED, "SIGKILL by somebody else")
            deaths.forget(7)


def test_without_the_log_a_kill_in_our_group_is_taken_for_the_death_once(kernel):
    with kernel.deaths(with_log=False) as deaths:
        deaths.began(7)
        kernel.says(KILLED.format(cause="Out of memory", pid=8))
        kernel.kills(4, of_group=1)
        death, words = deaths.explain(7)
        assert death is Death.OUT_OF_MEMORY
        assert "control group" in words
        assert deaths.explain(8)[0] is Death.UNEXPLAINED


@pytest.mark.parametrize("where", ["elsewhere", "long ago"])
def test_without_the_log_a_kill_explains_nothing_that_was(kernel, monkeypatch, where):
    monkeypatch.setattr(oom, "LATELY_S", -1.0 if where == "long ago" else oom.LATELY_S)
    with kernel.deaths(with_log=False) as deaths:
        kernel.kills(4, of_group=0 if where == "elsewhere" else 1)
        assert deaths.explain(7)[0] is Death.UNEXPLAINED


@pytest.fixture
def limited():
    """A control group of v1 that may have 32 MiB; it is removed afterwards."""
    group = next((found for found in groups_of("memory") if found.version == 1), None)
    if group is None:
        pytest.skip("there is no memory controller of cgroup v1 here")
    directory = group.directory / f"test-{new_tag()}"
    try:
        directory.mkdir()
        (directory / "memory.limit_in_bytes").write_text(str(32 * MIB))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield directory
    directory.rmdir()


GREEDY = """
    import os, sys, time

    open(sys.argv[1], "w").write(str(os.getpid()))
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.002)
    held = b"x" * (256 << 20)
"""


@pytest.mark.parametrize("with_log", [True, False], ids=["by the log", "by the group's count"])
def test_a_kill_by_the_kernel_is_told_apart_from_one_by_somebody_else(limited, tmp_path, with_log):
    if with_log and not oom._is_first_namespace():
        pytest.skip("the kernel's log knows processes by other numbers than ours")
    root = limited.parent
    (tmp_path / "cgroup").write_text(f"4:memory:/{limited.name}\n")
    (tmp_path / "mountinfo").write_text(f"36 31 0:33 / {root} rw - cgroup cgroup rw,memory\n")
    with Deaths(process=tmp_path, is_first_namespace=with_log) as deaths:
        if with_log and deaths._fd is None:
            pytest.skip("the kernel's log may not be read here")
        with subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]) as other:
            deaths.began(other.pid)
            with program(GREEDY, limited / "cgroup.procs", tmp_path / "go") as greedy:
                deaths.began(greedy.pid)
                (tmp_path / "go").touch()
                assert greedy.wait(PATIENCE_S) == -signal.SIGKILL
            death, words = deaths.explain(greedy.pid)
            os.kill(other.pid, signal.SIGKILL)
            other.wait()
        assert death is Death.OUT_OF_MEMORY
        assert "out of memory" in words
        assert deaths.explain(other.pid)[0] is Death.UNEXPLAINED
