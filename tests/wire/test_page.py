"""The page of figures: what a worker writes is what its host reads, and no worker can hurt its host with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgpack
import pytest

from hostd_workers.wire.lane import page

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = [f"m{number:02}" for number in range(20)]


@pytest.fixture
def fd() -> Iterator[int]:
    fd = page.new()
    yield fd
    os.close(fd)


def test_the_host_reads_what_the_worker_counts(fd: int) -> None:
    writer, reader = page.Writer(fd, METHODS), page.Page(fd, METHODS)
    assert reader.figures() == page.Figures(0, 0, 0, 0, 0.0, 0)
    writer.connected(2)
    for _ in range(3):
        writer.begun(100)
    writer.ended("m01", 100, 2_000_000, 5_000_000_000, page.SUCCEEDED)
    writer.ended("m00", 100, 3_000_000_000, 6_000_000_000, page.FAILED)
    figures = reader.figures()
    assert figures == page.Figures(3, 2, 1, 100, 6.0, 2, 1, 0, 2_000_000, 3_000_000_000)
    assert figures.in_flight == 1
    assert reader.figures() is figures, "an unchanged page is not taken apart again"
    assert reader.durations_s() == [0.002, 3.0]
    first, second = reader.by_method()
    assert (first.method, first.sum_s, sum(first.counts), first.counts[2]) == ("m01", 0.002, 1, 1)
    assert (second.method, second.sum_s, sum(second.counts), second.counts[12]) == ("m00", 3.0, 1, 1)
    reader.close()


def test_what_ran_and_what_was_cancelled_is_counted_beside(fd: int) -> None:
    writer, reader = page.Writer(fd, METHODS), page.Page(fd, METHODS)
    writer.ran(5, 70)
    writer.ran(6, 80)
    writer.begun(1)
    writer.ended("m00", 1, 9, 1, page.CANCELLED)
    figures = reader.figures()
    assert (figures.executions, figures.queue_ns, figures.compute_ns) == (2, 11, 150)
    assert (figures.cancelled, figures.failed, figures.succeeded) == (1, 0, 0)
    assert (figures.success_ns, figures.fail_ns) == (0, 0)
    reader.close()


def test_methods_without_a_slot_are_counted_together(fd: int) -> None:
    writer, reader = page.Writer(fd, METHODS), page.Page(fd, METHODS)
    for method in METHODS:
        writer.begun(1)
        writer.ended(method, 1, 100, 1, page.SUCCEEDED)
    found = reader.by_method()
    assert [each.method for each in found] == [*METHODS[: page.MAX_METHODS], None]
    assert [sum(each.counts) for each in found] == [*[1] * page.MAX_METHODS, len(METHODS) - page.MAX_METHODS]


def test_the_window_holds_the_last_durations(fd: int) -> None:
    writer, reader = page.Writer(fd, METHODS), page.Page(fd, METHODS)
    for duration_ns in range(page.WINDOW + 10):
        writer.begun(0)
        writer.ended("m00", 0, duration_ns, 1, page.SUCCEEDED)
    assert sorted(reader.durations_s()) == [number / 1e9 for number in range(10, page.WINDOW + 10)]


def test_nobody_can_make_it_shorter_or_longer(fd: int) -> None:
    for size in (0, page.PAGE_BYTES * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)


def test_a_page_that_cannot_be_made_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no memory")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="no memory"):
        page.new()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_nonsense_is_shown_and_harms_nobody(fd: int) -> None:
    reader = page.Page(fd, METHODS)
    os.pwrite(fd, b"\xff" * page.PAGE_BYTES, 0)
    figures = reader.figures()
    counts = (figures.begun, figures.ended, figures.failed, figures.bytes_in_flight, figures.connections)
    more = (figures.succeeded, figures.cancelled, figures.executions)
    assert {*counts, *more} == {page.MOST}
    sums_ns = (figures.success_ns, figures.fail_ns, figures.queue_ns, figures.compute_ns)
    assert {*sums_ns} == {1 << 60}
    assert figures.in_flight == 0
    os.pwrite(fd, bytes(8), 16)  # none has ended
    assert msgpack.unpackb(msgpack.packb(reader.figures().in_flight + 1000)) == page.MOST + 1000
    os.pwrite(fd, b"\xff" * 8, 16)
    assert all(max(each.counts) == page.MOST for each in reader.by_method())
    assert len(reader.durations_s()) == page.WINDOW
    assert {each.method for each in reader.by_method()} == {None}
