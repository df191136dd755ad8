"""How many cores there are to be divided: of a made-up machine with control groups, and of this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY
from machine_rig import V2, Machine, limited

from hostd.shell.linux.cores import usable_cores

V1_CPU = "cgroup cgroup rw,cpu,cpuacct"


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def cores(machine, allowed=64):
    return usable_cores(machine.process, allowed=allowed)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("400000 100000", 4),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("9900000 100000", 64),
        ("max 100000", 64),
        ("", 64),
        ("0 100000", 64),
        ("100000 0", 64),
        ("-1 100000", 64),
        ("100000", 64),
        ("nonsense here", 64),
    ],
)
def test_the_time_that_a_group_has_is_so_many_cores(machine, tmp_path, quota, expected):
    limited(machine.mount(tmp_path / "cgroup", V2), quota, "cpu.max")
    machine.member_of("0::/")
    assert cores(machine) == expected


def test_the_least_of_all_ancestors_counts_and_never_more_than_it_may_run_on(machine, tmp_path):
    top = machine.mount(tmp_path / "cgroup", V2)
    machine.member_of("0::/pod/container")
    limited(top / "pod", "300000 100000", "cpu.max")
    limited(top / "pod/container", "800000 100000", "cpu.max")
    assert cores(machine) == 3
    assert cores(machine, allowed=2) == 2


def test_version_1_has_two_files(machine, tmp_path):
    top = machine.mount(tmp_path / "cpu", V1_CPU)
    machine.mount(tmp_path / "memory", "cgroup cgroup rw,memory")
    machine.member_of("5:memory:/other", "2:cpu,cpuacct:/box")
    limited(top / "box", 250000, "cpu.cfs_quota_us")
    limited(top / "box", 50000, "cpu.cfs_period_us")
    assert cores(machine) == 5
    limited(top / "box", -1, "cpu.cfs_quota_us")
    assert cores(machine) == 64


def test_without_groups_it_is_what_it_may_run_on(machine):
    assert cores(machine, allowed=7) == 7
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.fixture
def half_a_core():
    """A real group with half a core's time; skips where none can be made."""
    unified, of_cpus = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")
    for parent, name, quota in ((unified, "cpu.max", "50000 100000"), (of_cpus, "cpu.cfs_quota_us", "50000")):
        if not (parent / "cgroup.procs").exists():
            continue
        group = parent / f"hostd-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / name).exists():
                (group / name).write_text(quota)
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("no control group with a quota can be made here")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core anyway")
def test_a_real_quota_is_seen(half_a_core):
    program = "from hostd.shell.linux.cores import usable_cores; print(usable_cores())"
    join = f"echo $$ > {half_a_core}/cgroup.procs && exec {sys.executable} -c '{program}'"
    found = subprocess.run(["sh", "-c", join], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
