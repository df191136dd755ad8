"""Shared memory of a lane: written once, read in place, and not written again while anything refers to it."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from hostd_workers.wire.errors import ProtocolError
from hostd_workers.wire.lane import regions, spare
from hostd_workers.wire.lane.regions import OtherRegions, OwnRegions
from hostd_workers.wire.lane.spare import Spare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

np = pytest.importorskip("numpy")

SIZE = 100_000
ROUNDED = -(-SIZE // mmap.PAGESIZE) * mmap.PAGESIZE
REGION = 131_072


class Ends:
    """Both ends in one process."""

    def __init__(self) -> None:
        self.spare = Spare()
        self.own, self.other = OwnRegions(self.spare), OtherRegions()

    def send(self, *buffers: bytes) -> list[memoryview]:
        placed = self.own.place(buffers)
        assert placed is not None
        for number in placed.given_up:
            self.other.drop(number)
        if placed.fd is not None:
            self.other.add(placed.region, os.dup(placed.fd), placed.size_bytes)
        return [
            self.other.view(placed.region, offset, len(buffer))
            for offset, buffer in zip(placed.offsets, buffers, strict=True)
        ]

    def settle(self) -> list[int]:
        freed = list(self.other.unused())
        for number in freed:
            self.own.unused(number)
        return freed


@pytest.fixture
def ends() -> Iterator[Ends]:
    gc.collect()
    before = os.listdir("/proc/self/fd")
    ends = Ends()
    yield ends
    ends.own.close()
    ends.other.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_was_written_is_read_in_place_and_the_region_is_used_again(ends: Ends) -> None:
    views = ends.send(b"a" * SIZE, b"b" * 77)
    assert [bytes(view) for view in views] == [b"a" * SIZE, b"b" * 77]
    assert ends.settle() == []
    del views
    assert ends.settle() == [1]
    [view] = ends.send(b"c" * SIZE)
    assert view == b"c" * SIZE
    assert len(ends.own) == 1


@pytest.mark.parametrize(
    "keep",
    [
        lambda view: view,
        lambda view: view[5:10],
        lambda view: np.frombuffer(view, "u1"),
        lambda view: np.ndarray((SIZE,), "u1", view),
        lambda view: np.ndarray((SIZE,), "u1", view)[::2].reshape(2, -1).T,
        lambda view: memoryview(np.ndarray((SIZE,), "u1", view)),
        lambda view: [{"deep": (np.frombuffer(view, "u1"),)}],
    ],
    ids=["view", "slice", "frombuffer", "ndarray", "view of an array", "buffer of an array", "inside"],
)
def test_what_is_kept_in_any_form_never_changes(ends: Ends, keep: object) -> None:
    kept = keep(ends.send(b"a" * SIZE)[0])
    assert ends.settle() == []
    for _ in range(3):
        ends.send(b"b" * SIZE)
        ends.settle()
    flat = kept[0]["deep"][0] if isinstance(kept, list) else kept
    assert bytes(memoryview(np.asarray(flat)).tobytes()).strip(b"a") == b""
    del kept, flat
    assert ends.settle() == [1]


def test_an_exception_that_refers_to_an_array_keeps_it(ends: Ends) -> None:
    def fail(array: object) -> None:
        raise ValueError(array)

    try:
        fail(np.frombuffer(ends.send(b"a" * SIZE)[0], "u1"))
    except ValueError as error:
        kept = error
    assert ends.settle() == []
    del kept
    assert ends.settle() == [1]


def test_many_messages_that_are_kept_have_a_limit_and_then_go_the_ordinary_way(ends: Ends) -> None:
    kept = [ends.send(bytes(SIZE)) for _ in range(regions.MAX_REGIONS)]
    assert ends.own.place([bytes(SIZE)]) is None
    kept.clear()
    assert len(ends.settle()) == regions.MAX_REGIONS
    ends.send(bytes(SIZE))


def test_one_message_longer_than_all_that_is_allowed_fits_alone(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "MAX_BYTES", 2 * SIZE)
    view = ends.send(bytes(4 * SIZE))
    assert ends.own.place([bytes(SIZE)]) is None
    del view
    ends.settle()
    kept = ends.send(bytes(4 * SIZE))
    del kept
    ends.settle()
    ends.send(bytes(8 * SIZE))
    assert len(ends.own) == len(ends.other) == 1


def used_bytes(ends: Ends) -> int:
    """Return how many bytes of memory the regions of an end have."""
    return sum(os.fstat(region.fd).st_blocks * 512 for region in ends.own._regions.values())


def test_of_what_is_not_in_use_pages_are_kept_up_to_a_limit(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "KEPT_BYTES", 3 * REGION)
    kept = [ends.send(b"x" * SIZE) for _ in range(5)]
    assert used_bytes(ends) == 5 * ROUNDED
    kept.clear()
    ends.settle()
    assert (used_bytes(ends), ends.spare.size_bytes) == (3 * ROUNDED, 3 * REGION)
    [view] = ends.send(b"y" * SIZE)
    assert view == b"y" * SIZE
    ends.spare.rest()
    assert (used_bytes(ends), len(ends.own)) == (ROUNDED, 5)
    assert view == b"y" * SIZE


def test_after_a_while_without_use_all_pages_go_back(ends: Ends) -> None:
    later: list[Callable[[], None]] = []
    ends.spare.later = lambda _, what: later.append(what) or Mock()
    ends.send(b"x" * SIZE)
    ends.settle()
    later.pop()()
    assert used_bytes(ends) == ROUNDED
    ends.send(b"x" * SIZE)
    ends.settle()
    later.pop()()
    assert used_bytes(ends) == ROUNDED, "it was used meanwhile"
    later.pop()()
    assert (used_bytes(ends), later) == (0, [])


def test_what_was_closed_gives_pages_back_when_it_is_used_again(ends: Ends) -> None:
    later: list[Callable[[], None]] = []
    ends.spare.later = lambda _, what: later.append(what) or Mock()
    for _ in range(2):
        ends.send(b"x" * SIZE)
        ends.settle()
        ends.spare.close()
    assert len(later) == 2


def test_a_region_that_is_given_up_while_it_is_in_use_is_forgotten_and_what_refers_to_it_stays(ends: Ends) -> None:
    [view] = ends.send(b"a" * SIZE)
    ends.other.drop(1)
    assert (ends.settle(), ends.other.has_used) == ([], False)
    assert view == b"a" * SIZE


def test_regions_that_are_not_safe_are_refused_and_leave_no_descriptor(ends: Ends) -> None:
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, 4096)
    with pytest.raises(ProtocolError, match="sealed"):
        ends.other.add(1, unsealed, 4096)
    empty = os.memfd_create("empty", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(empty, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with pytest.raises(ProtocolError, match="empty"):
        ends.other.add(1, empty, 0)
    with pytest.raises(ProtocolError, match="mapped"):
        ends.other.add(1, os.open("/dev/null", os.O_RDWR), 4096)
    kept = ends.send(bytes(SIZE))
    for number, offset, length in ((2, 0, 1), (1, 0, 1 << 20), (1, 1 << 31, 1)):
        with pytest.raises(ProtocolError, match="no region"):
            ends.other.view(number, offset, length)
    with pytest.raises(ProtocolError, match="not in use"):
        ends.own.unused(7)
    del kept
    ends.settle()
    with pytest.raises(ProtocolError, match="not in use"):
        ends.own.unused(1)
