"""What /proc tells about families of processes, with children files and without."""

import errno
import os
import subprocess
import sys

import psutil
import pytest
from helpers import eventually, line_of, program, state_of, stop

from hostd.shell.linux import proc

MANY = 900
"""Children whose numbers take more than a page of 4 KiB, by which the kernel tells of them."""

FAMILY = """
    import os, sys, threading, time

    def child():
        pid = os.fork()
        if pid == 0:
            time.sleep(3600)
        return pid

    found = []
    found.append(child())
    thread = threading.Thread(target=lambda: found.append(child()))
    thread.start()
    thread.join()
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.write(write, b"%d" % child())
        time.sleep(3600)
    print(*found, middle, int(os.read(read, 20)), flush=True)
    time.sleep(3600)
"""


needs_files = pytest.mark.skipif(not proc._HAS_CHILDREN_FILES, reason="the kernel has no children files")


@pytest.fixture(params=[True, False], ids=["children files", "process table"])
def by_files(request, monkeypatch):
    if request.param and not proc._HAS_CHILDREN_FILES:
        pytest.skip("this kernel has no children files (CONFIG_PROC_CHILDREN)")
    monkeypatch.setattr(proc, "_HAS_CHILDREN_FILES", request.param)
    return request.param


@pytest.fixture
def family():
    """A process, and its two children, third child and grandchild."""
    root = program(FAMILY, PYTHONWARNINGS="ignore")
    members = [int(word) for word in line_of(root).split()]
    yield root.pid, members
    for pid in members:
        os.kill(pid, 9)
    stop(root)


def test_children_of_every_thread_are_found(by_files, family):
    root, (first, second, middle, grandchild) = family
    assert sorted(proc.children_of(root)) == sorted([first, second, middle])
    assert proc.children_of(middle) == [grandchild]
    assert proc.children_of(grandchild) == []


def test_descendants_come_after_their_parents(by_files, family):
    root, members = family
    found = proc.descendants_of(root)
    assert sorted(found) == sorted(members)
    assert found.index(members[2]) < found.index(members[3])


@needs_files
def test_more_children_than_fit_into_a_page_are_found():
    source = f"""
        import os, signal
        for _ in range({MANY}):
            if os.fork() == 0:
                signal.pause()
        print("up", flush=True)
        signal.pause()
    """
    parent = program(source)
    try:
        assert line_of(parent) == "up"
        found = proc.descendants_of(parent.pid)
    finally:
        for child in psutil.Process(parent.pid).children():
            child.kill()
        stop(parent)
    assert len(set(found)) == MANY


@needs_files
def test_more_adopted_children_than_fit_into_a_page_are_found():
    source = f"""
        import ctypes, os, signal
        from hostd.shell.linux.proc import adopted_children
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        if (middle := os.fork()) == 0:
            os.setpgid(0, 0)
            for _ in range({MANY}):
                if os.fork() == 0:
                    signal.pause()
            os._exit(0)
        os.waitpid(middle, 0)
        found = adopted_children()
        os.killpg(middle, signal.SIGKILL)
        print(len(set(found)), flush=True)
    """
    parent = program(source)
    try:
        assert line_of(parent) == str(MANY)
    finally:
        stop(parent)


def test_a_zombie_is_still_a_child(by_files):
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        eventually(lambda: state_of(child.pid) == "Z", "the child is a zombie")
        assert child.pid in proc.children_of(os.getpid())


def test_who_is_gone_has_no_children(by_files):
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        child.wait()
    assert proc.children_of(child.pid) == []
    assert proc.descendants_of(child.pid) == []


def test_whose_children_are_hidden_has_none(monkeypatch, family):
    """A program of another user, where proc(5) is mounted with hidepid=1; its parent must be ended all the same."""
    root, (first, second, middle, _) = family
    listdir = os.listdir

    def hidden(path):
        if path == f"/proc/{middle}/task":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return listdir(path)

    monkeypatch.setattr(proc, "_HAS_CHILDREN_FILES", True)
    monkeypatch.setattr(os, "listdir", hidden)
    assert sorted(proc.descendants_of(root)) == sorted([first, second, middle])


def test_without_a_descriptor_left_there_is_an_error_and_not_nobody(monkeypatch):
    """Whoever wants the proof that nobody is left must not take "cannot look" for it."""

    def no_descriptor(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(proc, "_HAS_CHILDREN_FILES", True)
    monkeypatch.setattr(os, "open", no_descriptor)
    with pytest.raises(OSError, match="Too many open files"):
        proc.children_of(os.getpid())
