"""Figures that are estimated from an earlier walk over the page tables: true, or not estimated at all."""

import pytest
from helpers import uss_of_tree
from holding_rig import MIB, Holder

from hostd.shell.memory import process as process_memory
from hostd.shell.memory import tree as memory

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
        assert value == pytest.approx(getattr(truth, name), abs=MIB / 2), name


@estimates
def test_what_a_kill_gives_back_is_estimated_from_what_was_measured_just_now(moody):
    last, _ = moody.seen()
    moody.grow(64)
    told = last._replace(held_bytes=7)
    assert memory.private_bytes_of([moody.pid], told) == pytest.approx(7 + 64 * MIB, abs=MIB / 2)


@estimates
def test_the_least_growth_is_seen_of_a_process_that_need_not_be_walked(moody):
    last, _ = moody.seen()
    for _ in range(3):
        most_bytes = memory.most_bytes_of([moody.pid])
        moody.tell("write(mapped(-1, ALONE, size=8192))")
        last, is_walked = moody.seen(last)
        assert not is_walked
        assert last.held_bytes == memory.most_bytes_of([moody.pid]) > most_bytes


def test_what_was_shared_when_it_was_walked_is_not_estimated_from(moody):
    """A child that has just gone, say: half of the pages were its own."""
    moody.grow(64)
    assert process_memory.full_of(moody.pid).anon_bytes > 64 * MIB
    moody.tell("fork(lambda: None)")
    assert process_memory.full_of(moody.pid).anon_bytes is None


def test_where_the_kernel_counts_only_about_right_everything_is_walked(moody, monkeypatch):
    monkeypatch.setattr(memory, "COUNTS_EXACTLY", False)
    last, _ = moody.seen()
    moody.grow(8)
    assert moody.seen(last).is_walked


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
@pytest.mark.parametrize("change", [{"swap_bytes": 4096}, {"anon_bytes": None}, {"file_bytes": None}])
def test_a_process_that_was_swapped_out_or_is_not_known_well_enough_is_walked(moody, change):
    last, _ = moody.seen()
    moody.grow(8)
    assert not moody.seen(last).is_walked
    assert moody.seen(last._replace(**change)).is_walked


def test_a_system_that_does_not_tell_anonymous_memory_has_everything_walked(moody, monkeypatch):
    last, _ = moody.seen()
    moody.grow(8)
    monkeypatch.setattr(memory, "brief_of", lambda pid: None)
    sample = moody.seen(last)
    assert sample.is_walked
    assert sample.memory.peak_bytes is None


@estimates
def test_all_figures_of_a_sample_are_of_one_moment(moody, monkeypatch):
    """A buffer that is there for a moment is in RSS, and gone when the page tables are walked."""
    real = memory.rss_of
    monkeypatch.setattr(memory, "rss_of", lambda pid: real(pid) + 100 * MIB)
    last, _ = moody.seen()
    assert last.rss_bytes == pytest.approx(real(moody.pid), abs=MIB)
