"""What there is to be divided, memory and cores, on directories that look as containers and machines do."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from helpers import REPOSITORY
from machine_rig import V1, V2, limited

from hostd.shell.linux.cores import usable_cores
from hostd.shell.linux.groups import groups_of
from hostd.shell.memory.budget import budget_of, whole_memory
from hostd_workers.wire.errors import FailedPreconditionError

GIB = 1 << 30
TOTAL = 64 * GIB
NO_LIMIT_V1 = "9223372036854771712\n"


def whole(machine):
    return whole_memory(machine.process, TOTAL).size_bytes


def test_a_limit_of_any_ancestor_counts_and_the_least_wins(machine, tmp_path):
    top = machine.mount(tmp_path / "cgroup", V2)
    machine.member_of("0::/system.slice/hostd.service/inner")
    for group, limit in (("", 16 * GIB), ("hostd.service", 8 * GIB), ("hostd.service/inner", "max")):
        limited(top / "system.slice" / group, limit)
    limited(top / "other.slice", GIB)
    assert whole(machine) == 8 * GIB
    assert "hostd.service (8.0 GiB)" in whole_memory(machine.process, TOTAL).source


def test_in_a_container_without_a_namespace_the_mount_begins_at_its_group(machine, tmp_path):
    top = machine.mount(tmp_path / "memory", V1, root="/docker/abc")
    machine.member_of("5:memory:/docker/abc/inner", "2:cpu,cpuacct:/docker/abc")
    limited(top, 4 * GIB, "memory.limit_in_bytes")
    for limit, expected in ((NO_LIMIT_V1, 4 * GIB), (3 * GIB, 3 * GIB)):
        limited(top / "inner", limit, "memory.limit_in_bytes")
        assert whole(machine) == expected


@pytest.mark.parametrize(
    ("root", "path"),
    [("/", "/"), ("/", "/../outside"), ("/docker/abc", "/elsewhere")],
    ids=["namespace", "out", "other"],
)
def test_a_container_in_a_namespace_is_at_the_root_and_a_group_outside_of_what_is_mounted_leaves_what_is(
    machine, tmp_path, root, path
):
    top = machine.mount(tmp_path / "cgroup", V2, root=root)
    machine.member_of(f"0::{path}")
    limited(top, 4 * GIB)
    limited(tmp_path / "outside", GIB)
    assert whole(machine) == 4 * GIB


def test_on_a_hybrid_system_both_count(machine, tmp_path):
    unified = machine.mount(tmp_path / "unified", V2)
    memory = machine.mount(tmp_path / "with space" / "memory", V1)
    machine.mount(tmp_path / "cpu", "cgroup cgroup rw,cpu,cpuacct")
    machine.member_of("4:memory:/a/b", "3:cpu,cpuacct:/a", "0::/u")
    limited(unified / "u", 9 * GIB)
    limited(memory / "a", 7 * GIB, "memory.limit_in_bytes")
    limited(memory / "a/b", NO_LIMIT_V1, "memory.limit_in_bytes")
    assert [group.version for group in groups_of("memory", machine.process)] == [2, 1]
    assert whole(machine) == 7 * GIB


@pytest.mark.parametrize("text", ["max", NO_LIMIT_V1, str(TOTAL), "", "0", "-1", "nonsense", "٣"])
def test_what_limits_nothing_is_no_limit(machine, tmp_path, text):
    top = machine.mount(tmp_path / "cgroup", V2)
    machine.member_of("0::/")
    limited(top, text)
    found = whole_memory(machine.process, TOTAL)
    assert found == (TOTAL, "the machine's memory (64 GiB)")


def test_files_that_are_missing_unreadable_or_damaged_limit_nothing(machine, tmp_path):
    assert whole(machine) == TOTAL
    machine.member_of("0::/gone", "", "nonsense", "1:")
    assert whole(machine) == TOTAL
    top = machine.mount(tmp_path / "cgroup", V2)
    with (machine.process / "mountinfo").open("a") as mounts:
        mounts.write("\n1 2\n - \n5 6 7 8 9 - cgroup\n")
    assert whole(machine) == TOTAL
    (top / "memory.max").mkdir()
    assert whole(machine) == TOTAL


def test_here_the_groups_of_this_process_are_found():
    for group in groups_of("memory"):
        assert group.directory.is_dir()
        assert str(group.directory).startswith(str(group.root))
    assert 0 < whole_memory().size_bytes <= psutil.virtual_memory().total
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("budget", "reserve", "expected", "words"),
    [
        ("none", "10%", None, "none is set"),
        (5 * GIB, "10%", 5 * GIB, "set (memory.budget)"),
        ("50%", "10%", 4 * GIB, "50% of the limit of the control group"),
        ("auto", "25%", 6 * GIB, "less 25% (memory.reserve)"),
        ("auto", GIB, 7 * GIB, "less 1.0 GiB (memory.reserve)"),
        (500 * GIB, GIB, 500 * GIB, "set (memory.budget)"),
    ],
)
def test_a_budget_says_where_it_comes_from(machine, tmp_path, budget, reserve, expected, words):
    limited(machine.mount(tmp_path / "cgroup", V2), 8 * GIB)
    machine.member_of("0::/")
    found, source = budget_of(budget, reserve, process=machine.process, total_bytes=TOTAL)
    assert found == expected
    assert words in source


def test_a_reserve_that_leaves_nothing_is_refused_with_what_to_do(machine):
    with pytest.raises(FailedPreconditionError, match=r"memory.reserve \(100 GiB\) leaves nothing.*lower it"):
        budget_of("auto", 100 * GIB, process=machine.process, total_bytes=TOTAL)


V1_CPU = "cgroup cgroup rw,cpu,cpuacct"


def cores(machine, allowed=64):
    return usable_cores(machine.process, allowed=allowed)


QUOTAS = {"400000 100000": 4, "150000 100000": 2, "10000 100000": 1, "9900000 100000": 64}
NO_QUOTAS = ["max 100000", "", "0 100000", "100000 0", "-1 100000", "100000", "nonsense here"]


@pytest.mark.parametrize("quota", [*QUOTAS, *NO_QUOTAS])
def test_the_time_that_a_group_has_is_so_many_cores(machine, tmp_path, quota):
    assert cores(machine, allowed=7) == 7, "without groups it is what it may run on"
    limited(machine.mount(tmp_path / "cgroup", V2), quota, "cpu.max")
    machine.member_of("0::/")
    assert cores(machine) == QUOTAS.get(quota, 64)


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
