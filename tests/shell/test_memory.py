"""Measured memory: of a whole tree, against what another source says; estimated from an earlier walk; and unseen."""

import os
import subprocess
import sys

import pytest
from helpers import line_of, rss_of_tree, tree_of, uss_of_tree
from holding_rig import MIB, Holder
from strangers import needs_root, new_user, program_of

from hostd.core.events import Memory
from hostd.shell.memory import process as process_memory
from hostd.shell.memory import tree as memory
from hostd.shell.memory.process import brief_of


@pytest.fixture
def tree():
    """A process that holds 64 MiB and a fork of it that shares them and holds 32 MiB more."""
    holder = Holder()
    holder.grow(64)
    holder.tell("fork(lambda: grow(32))")
    yield holder.pid
    holder.end()


def members_of(tree):
    return [process.pid for process in tree_of(tree)]


def walked(pid):
    sample = memory.sample_tree(pid)
    assert sample is not None
    assert sample.is_walked
    return sample.memory


def test_the_figures_are_those_of_the_whole_tree(tree):
    sample = walked(tree)
    assert sample.processes == 2
    assert sample.rss_bytes == pytest.approx(rss_of_tree(tree), abs=MIB)
    assert sample.uss_bytes == pytest.approx(uss_of_tree(tree), abs=MIB)
    assert sample.rss_bytes > 160 * MIB, "shared pages count for each process"
    assert sample.uss_bytes < 60 * MIB, "shared pages are nobody's own"
    assert sample.uss_bytes < sample.pss_bytes < sample.rss_bytes
    assert sample.peak_bytes >= sample.rss_bytes
    assert sample.swap_bytes == sum(process.memory_full_info().swap for process in tree_of(tree))
    assert sample.gpu_bytes is None, "nobody was asked"


def test_where_the_kernel_sums_nothing_up_psutil_does(tree, monkeypatch):
    direct = walked(tree)
    monkeypatch.setattr(process_memory, "_HAS_ROLLUP", False)
    by_psutil = walked(tree)
    for name in ("uss_bytes", "pss_bytes", "swap_bytes"):
        assert getattr(by_psutil, name) == pytest.approx(getattr(direct, name), abs=MIB), name
    assert process_memory.full_of(2**22) is None


def test_a_look_sees_every_process_it_is_asked_for(tree):
    whole = members_of(tree)
    own_bytes = sum(brief_of(pid).anon_bytes for pid in whole)
    assert memory.most_bytes_of(whole) == pytest.approx(own_bytes, abs=MIB), "what is shared counts for each process"
    assert memory.most_bytes_of([tree]) < memory.most_bytes_of(whole)


def test_what_the_processes_of_a_tree_hold_on_devices_is_summed(tree):
    _, child = members_of(tree)
    sample, _ = memory.sample_tree(tree, None, {tree: 5 * MIB, child: 7 * MIB, 1: MIB})
    assert sample.gpu_bytes == 12 * MIB
    assert memory.sample_tree(tree, sample, {tree: 5 * MIB, child: 7 * MIB}) == (sample, False)
    assert memory.sample_tree(tree, sample, {}) == (sample._replace(gpu_bytes=0), False), "the rest is not read again"
    assert memory.sample_tree(tree, sample, None).memory.gpu_bytes is None
    assert memory.sample_tree(tree, sample, {tree: 5 * MIB, child: None}).memory.gpu_bytes is None, "not all is known"


def test_what_a_kill_gives_back_includes_what_only_the_tree_itself_shares(tree):
    own = [process.memory_full_info() for process in tree_of(tree)]
    shared_bytes = sum(info.pss - info.uss for info in own)
    held_bytes = memory.private_bytes_of(members_of(tree))
    assert held_bytes == pytest.approx(uss_of_tree(tree) + shared_bytes, abs=20 * MIB), "but for pages of libraries"
    assert held_bytes > uss_of_tree(tree) + 50 * MIB
    sample = walked(tree)
    assert sample.charge_bytes == pytest.approx(held_bytes + sample.swap_bytes, abs=MIB)
    assert memory.private_bytes_of([]) == 0
    assert process_memory.full_of(members_of(tree)[1]).uss_bytes == pytest.approx(own[1].uss, abs=MIB), "of one alone"


def test_a_sample_is_taken_again_when_it_has_changed(tree, monkeypatch):
    last = walked(tree)
    for change in ({"processes": 1}, {"rss_bytes": 0}):
        again = memory.sample_tree(tree, last._replace(uss_bytes=7, **change))
        assert again.is_walked
        assert again.memory.uss_bytes != 7

    def walk(pid):
        raise AssertionError("the page tables were walked for nothing")

    monkeypatch.setattr(memory, "full_of", walk)
    assert memory.sample_tree(tree, last) == (last, False)


def test_what_a_tree_would_give_back_is_known_from_a_sample_unless_it_has_changed(tree):
    last = walked(tree)
    pids = members_of(tree)
    told = last._replace(held_bytes=7)
    assert memory.private_bytes_of(pids, told) == 7
    measured = pytest.approx(last.held_bytes, abs=MIB)
    for other in (None, told._replace(processes=1), told._replace(rss_bytes=0), last._replace(held_bytes=None)):
        assert memory.private_bytes_of(pids, other) == measured


@pytest.mark.parametrize("is_reaped", [True, False], ids=["gone", "a zombie"])
def test_nothing_is_measured_of_a_process_that_has_ended(is_reaped):
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        if is_reaped:
            child.wait()
        assert memory.sample_tree(child.pid) is None, "or it would be remembered that such a model needs nothing"
        assert memory.sample_tree(child.pid, Memory(1, 1, 1, 1, 1)) is None
        assert memory.most_bytes_of([child.pid]) == 0
        assert memory.private_bytes_of([child.pid, 2**22]) == 0


HELD_MIB = 64
UNSEEN = """
    import ctypes, os, signal, sys
    from hostd.shell.memory.tree import private_bytes_of, sample_tree

    held_mib, is_alone = int(sys.argv[1]), sys.argv[2] == "alone"
    PR_SET_DUMPABLE = 4

    def hold(ready):
        held = bytearray(os.urandom(1 << 20) * held_mib)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        os.write(ready, b".")
        signal.pause()

    def start(work):
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
            work(write)
        os.read(read, 1)
        return pid

    def parent(ready):
        start(hold)
        os.write(ready, b".")
        signal.pause()

    pid = start(hold if is_alone else parent)
    memory = sample_tree(pid).memory
    pids = [pid, *map(int, open(f"/proc/{pid}/task/{pid}/children").read().split())]
    print(memory.charge_bytes, private_bytes_of(pids), memory.uss_bytes, flush=True)
    signal.pause()
"""


@needs_root
@pytest.mark.parametrize("how", ["alone", "child"])
def test_what_may_not_be_looked_at_is_charged_by_what_anybody_may_know(how):
    with program_of(new_user(), UNSEEN, HELD_MIB, how) as program:
        charged, freed, uss = line_of(program).split()
    assert HELD_MIB * MIB < int(charged) < (HELD_MIB + 40) * MIB
    assert int(freed) == pytest.approx(int(charged), abs=2 * MIB)
    assert uss == "None", "which takes a walk"


estimates = pytest.mark.skipif(
    not process_memory.COUNTS_EXACTLY, reason="this kernel tells RSS only about right, so nothing is estimated"
)


@pytest.fixture
def moody():
    """A process that takes and gives back memory."""
    made = Holder()
    yield made
    made.end()


@estimates
def test_a_process_that_grows_and_shrinks_alone_need_not_be_walked(moody, monkeypatch):
    moody.grow(20)
    last, is_walked = moody.seen()
    assert is_walked

    def walk(pid):
        raise AssertionError(f"the page tables of {pid} were walked for nothing")

    with monkeypatch.context() as patch:
        patch.setattr(memory, "full_of", walk)
        for command in ("grow(64)", "grow(1)", "held.pop()", "held.pop()", "held.pop()", "grow(8)"):
            moody.tell(command)
            last, is_walked = moody.seen(last)
            assert not is_walked
            assert last.uss_bytes == pytest.approx(uss_of_tree(moody.pid), abs=MIB / 2), command
            assert memory.private_bytes_of([moody.pid], last) == last.held_bytes
    truth, _ = moody.seen()
    for name, value in last._asdict().items():
        # The pages of an interpreter's files are divided among all that run meanwhile.
        most_bytes = 8 * MIB if name == "pss_bytes" else MIB / 2
        assert value == pytest.approx(getattr(truth, name), abs=most_bytes), name


@estimates
def test_the_least_growth_is_seen_of_a_process_that_need_not_be_walked(moody):
    last, _ = moody.seen()
    for _ in range(3):
        most_bytes = memory.most_bytes_of([moody.pid])
        moody.tell("write(mapped(-1, ALONE, size=8192))")
        last, is_walked = moody.seen(last)
        assert not is_walked
        assert last.held_bytes == memory.most_bytes_of([moody.pid]) > most_bytes
    moody.grow(64)
    freed_bytes = memory.private_bytes_of([moody.pid], last._replace(held_bytes=7))
    assert freed_bytes == pytest.approx(7 + 64 * MIB, abs=MIB / 2), "what a kill gives back is estimated from it"


def test_what_was_shared_when_it_was_walked_is_not_estimated_from(moody):
    """A child that has just gone, say: half of the pages were its own."""
    moody.grow(64)
    assert process_memory.full_of(moody.pid).anon_bytes > 64 * MIB
    moody.tell("fork(lambda: None)")
    assert process_memory.full_of(moody.pid).anon_bytes is None


@estimates
@pytest.mark.parametrize("change", [{"swap_bytes": 4096}, {"anon_bytes": None}, {"file_bytes": None}])
def test_a_process_that_was_swapped_out_or_is_not_known_well_enough_is_walked(moody, change):
    last, _ = moody.seen()
    moody.grow(8)
    assert not moody.seen(last).is_walked
    assert moody.seen(last._replace(**change)).is_walked


@pytest.mark.parametrize("what", ["COUNTS_EXACTLY", "brief_of"], ids=["about right", "anonymous memory not at all"])
def test_where_the_kernel_tells(moody, monkeypatch, what):
    """Then everything is walked."""
    if what == "COUNTS_EXACTLY":
        monkeypatch.setattr(memory, what, False)
    last, _ = moody.seen()
    moody.grow(8)
    if what == "brief_of":
        monkeypatch.setattr(memory, what, lambda pid: None)
    sample = moody.seen(last)
    assert sample.is_walked
    assert (sample.memory.peak_bytes is None) is (what == "brief_of")


def test_kernels_that_count_exactly_are_known_by_their_release():
    for release in ("6.17.0", "6.18.44-fc", "7.0-rc1"):
        assert process_memory.counts_exactly(release), release
    for release in ("6.8.0-45-generic", "5.15", ""):
        assert not process_memory.counts_exactly(release), release


@pytest.mark.parametrize("name", ["x kB", "7 kB", "a\rRssAnon:  1 kB", "VmRSS:\t1 kB"])
def test_a_process_may_have_any_name(moody, name):
    before, _ = moody.seen()
    moody.tell(f"libc.prctl(15, {name.encode()!r}, 0, 0, 0)")  # PR_SET_NAME
    after, _ = moody.seen()
    assert after.rss_bytes == pytest.approx(before.rss_bytes, abs=MIB)
    assert after.peak_bytes >= after.rss_bytes


READ = "read(mapped(file({0}), PRIVATE, READ, {0} * MIB))"


@pytest.mark.parametrize(
    "how",
    [READ.format(8), "write(mapped(-1, size=8 * MIB))", "fork(lambda: None)"],
    ids=["a file", "shared", "a child"],
)
def test_memory_that_others_may_share_is_never_estimated(moody, how):
    last, _ = moody.seen()
    moody.tell(how)
    moody.grow(64)
    truth, is_walked = moody.seen(last)
    assert is_walked
    assert truth.uss_bytes == pytest.approx(uss_of_tree(moody.pid), abs=MIB / 2)


@estimates
def test_small_changes_of_what_is_a_files_do_not_add_up_unseen(moody, monkeypatch):
    monkeypatch.setattr(memory, "SIGNIFICANT_BYTES", 3 * MIB // 2)
    last, walks = moody.sample(), []
    for _ in range(2):
        moody.tell(READ.format(1))
        moody.grow(8)
        last, is_walked = moody.seen(last)
        walks.append(is_walked)
    assert walks == [False, True]


@estimates
def test_all_figures_of_a_sample_are_of_one_moment(moody, monkeypatch):
    """A buffer that is there for a moment is in RSS, and gone when the page tables are walked."""
    real = memory.rss_of
    monkeypatch.setattr(memory, "rss_of", lambda pid: real(pid) + 100 * MIB)
    last, _ = moody.seen()
    assert last.rss_bytes == pytest.approx(real(moody.pid), abs=MIB)
