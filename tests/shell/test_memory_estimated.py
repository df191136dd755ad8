"""Figures that are estimated from an earlier walk over the page tables: true, or not estimated at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers import Told, uss_of_tree

from hostd.shell.memory import process as process_memory
from hostd.shell.memory import tree as memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostd.core.events import Memory

MIB = 1 << 20

reckons = pytest.mark.skipif(
    not process_memory.COUNTS_EXACTLY, reason="this kernel tells RSS only about right, so nothing is estimated"
)

MOODY = """
    import ctypes, mmap, os, sys, tempfile, time
    held = []

    def grow(mib):
        held.append(bytearray(b"x") * (mib << 20))

    def shrink(mib):
        held.pop()

    def read(mib):  # pages of a file, which others may come to share
        file = tempfile.TemporaryFile()
        file.write(b"x" * (mib << 20))
        file.flush()
        held.append(mmap.mmap(file.fileno(), mib << 20, mmap.MAP_PRIVATE, mmap.PROT_READ))
        held.append(held[-1][::4096])

    def share(mib):
        held.append(mmap.mmap(-1, mib << 20))
        held[-1][:] = b"x" * (mib << 20)

    def fork(mib):
        if os.fork() == 0:
            time.sleep(3600)

    def page(mib):
        held.append(mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        held[-1][:] = b"x" * 8192

    print("up", flush=True)
    for line in sys.stdin:
        command, mib = line.split()
        command, _, name = command.partition("_")
        if command == "name":
            ctypes.CDLL(None).prctl(15, bytes.fromhex(name), 0, 0, 0)  # PR_SET_NAME
        else:
            globals()[command](int(mib))
        print("done", flush=True)
"""


class Moody(Told):
    """A process that takes and gives back memory of the kind that it is told."""

    def __init__(self) -> None:
        super().__init__(MOODY)

    def do(self, command: str, mib: int = 0) -> None:
        self.tell(f"{command} {mib}")


@pytest.fixture
def moody() -> Iterator[Moody]:
    made = Moody()
    yield made
    made.end()


def known(moody: Moody, last: Memory | None = None) -> memory.Sample:
    sample = memory.sample_tree(moody.pid, last)
    assert sample is not None
    return sample


@reckons
def test_who_grows_and_shrinks_alone_need_not_be_walked(moody: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    moody.do("grow", 20)
    last, is_walked = known(moody)
    assert is_walked

    def walk(pid: int) -> object:
        raise AssertionError(f"the page tables of {pid} were walked for nothing")

    with monkeypatch.context() as patch:
        patch.setattr(memory, "full_of", walk)
        for command, mib in (("grow", 64), ("grow", 1), ("shrink", 0), ("shrink", 0), ("shrink", 0), ("grow", 8)):
            moody.do(command, mib)
            last, is_walked = known(moody, last)
            assert not is_walked
            assert last.uss_bytes == pytest.approx(uss_of_tree(moody.pid), abs=MIB / 2), command
            assert memory.private_bytes_of([moody.pid], last) == last.held_bytes
    truth, _ = known(moody)
    for name, value in last._asdict().items():
        assert value == pytest.approx(getattr(truth, name), abs=MIB / 2), name


@reckons
def test_what_a_kill_gives_back_is_reckoned_from_what_was_measured_just_now(moody: Moody) -> None:
    last, _ = known(moody)
    moody.do("grow", 64)
    told = last._replace(held_bytes=7)
    assert memory.private_bytes_of([moody.pid], told) == pytest.approx(7 + 64 * MIB, abs=MIB / 2)


@reckons
def test_the_least_growth_is_seen_of_who_need_not_be_walked(moody: Moody) -> None:
    last, _ = known(moody)
    for _ in range(3):
        most_bytes = memory.most_bytes_of([moody.pid])
        moody.do("page")
        last, is_walked = known(moody, last)
        assert not is_walked
        assert last.held_bytes == memory.most_bytes_of([moody.pid]) > most_bytes


def test_what_was_shared_when_it_was_walked_is_not_reckoned_with(moody: Moody) -> None:
    """A child that has just gone, say: half of the pages were its own."""
    moody.do("grow", 64)
    assert process_memory.full_of(moody.pid).anon_bytes > 64 * MIB
    moody.do("fork")
    assert process_memory.full_of(moody.pid).anon_bytes is None


def test_where_the_kernel_counts_only_about_right_everything_is_walked(
    moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "COUNTS_EXACTLY", False)
    last, _ = known(moody)
    moody.do("grow", 8)
    assert known(moody, last).is_walked


@pytest.mark.parametrize(
    ("release", "is_exact"),
    [
        ("6.17.0", True),
        ("6.18.44-fc", True),
        ("7.0-rc1", True),
        ("6.8.0-45-generic", False),
        ("5.15", False),
        ("", False),
    ],
)
def test_kernels_that_count_exactly_are_known_by_their_release(release: str, is_exact: bool) -> None:
    assert process_memory.counts_exactly(release) is is_exact


@pytest.mark.parametrize("name", ["x kB", "7 kB", "a\rRssAnon:  1 kB", "VmRSS:\t1 kB"])
def test_a_process_may_have_any_name(moody: Moody, name: str) -> None:
    before, _ = known(moody)
    moody.do(f"name_{name.encode().hex()}")
    after, _ = known(moody)
    assert after.rss_bytes == pytest.approx(before.rss_bytes, abs=MIB)
    assert after.peak_bytes >= after.rss_bytes


@pytest.mark.parametrize("command", ["read", "share", "fork"])
def test_memory_that_others_may_share_is_never_reckoned(moody: Moody, command: str) -> None:
    last, _ = known(moody)
    moody.do(command, 8)
    moody.do("grow", 64)
    truth, is_walked = known(moody, last)
    assert is_walked
    assert truth.uss_bytes == pytest.approx(uss_of_tree(moody.pid), abs=MIB / 2)


@reckons
def test_small_changes_of_what_is_a_files_do_not_add_up_unseen(moody: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SIGNIFICANT_BYTES", 3 * MIB // 2)
    last, walks = known(moody).memory, []
    for _ in range(2):
        moody.do("read", 1)
        moody.do("grow", 8)
        last, is_walked = known(moody, last)
        walks.append(is_walked)
    assert walks == [False, True]


@reckons
@pytest.mark.parametrize("change", [{"swap_bytes": 4096}, {"anon_bytes": None}, {"file_bytes": None}])
def test_who_was_swapped_out_or_is_not_known_well_enough_is_walked(moody: Moody, change: dict[str, int | None]) -> None:
    last, _ = known(moody)
    moody.do("grow", 8)
    assert not known(moody, last).is_walked
    assert known(moody, last._replace(**change)).is_walked


def test_a_system_that_does_not_tell_anonymous_memory_has_everything_walked(
    moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, _ = known(moody)
    moody.do("grow", 8)
    monkeypatch.setattr(memory, "brief_of", lambda pid: None)
    sample = known(moody, last)
    assert sample.is_walked
    assert sample.memory.peak_bytes is None


@reckons
def test_all_figures_of_a_sample_are_of_one_moment(moody: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that is there for a moment is in RSS, and gone when the page tables are walked."""
    real = memory.rss_of
    monkeypatch.setattr(memory, "rss_of", lambda pid: real(pid) + 100 * MIB)
    last, _ = known(moody)
    assert last.rss_bytes == pytest.approx(real(moody.pid), abs=MIB)
