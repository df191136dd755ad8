"""Threads of the host that yield for others: what the kernel says of them afterwards."""

import ctypes
import os
import platform
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from hostd.shell.linux import scheduling
from hostd.shell.linux.scheduling import give_way

SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
SIZE = 48


def slice_ns():
    """Return the slice of the calling thread, 0 for the kernel's own."""
    buffer = ctypes.create_string_buffer(SIZE)
    ctypes.CDLL(None).syscall(SCHED_GETATTR[platform.machine()], 0, buffer, SIZE, 0)
    return int(struct.unpack("=IIQiIQQQ", buffer.raw)[5])


def in_a_thread():
    return give_way(), slice_ns(), os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.skipif(platform.machine() not in SCHED_GETATTR, reason="the number of the system call is not known here")
def test_a_thread_gives_way_alone_and_keeps_its_share():
    before = slice_ns(), os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(1) as executor:
        gave_way, new_slice_ns, nice = executor.submit(in_a_thread).result()
    assert gave_way
    assert nice == before[1]
    if not new_slice_ns:
        pytest.skip("this kernel has no slices of single tasks")
    assert new_slice_ns > 10_000_000
    assert (slice_ns(), os.getpriority(os.PRIO_PROCESS, 0)) == before, "the other threads are as they were"


def test_where_the_call_is_not_known_nothing_happens(monkeypatch):
    monkeypatch.setattr(scheduling, "_SCHED_SETATTR", {})
    assert give_way() is False
