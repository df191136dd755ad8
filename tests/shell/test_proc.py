"""What /proc tells about families of processes, and what hosts left that were killed together with their reapers."""

import errno
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers import PATIENCE_S, eventually, is_there, line_of, program, state_of, stop

from hostd import paths
from hostd.hosts import lock as runtime_lock
from hostd.shell.linux import proc
from hostd.shell.linux.marks import mark_of_host
from hostd.shell.processes import leftovers
from hostd.shell.processes.leftovers import end_leftovers, remove_leftovers

MANY = 900
"""Children with numbers that take more than a page of 4 KiB, by which the kernel tells of them."""

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


def test_children_of_every_thread_are_found_and_descendants_come_after_their_parents(by_files, family):
    root, members = family
    _, _, middle, grandchild = members
    assert sorted(proc.children_of(root)) == sorted(members[:3])
    assert proc.children_of(middle) == [grandchild]
    assert proc.children_of(grandchild) == []
    found = proc.descendants_of(root)
    assert sorted(found) == sorted(members)
    assert found.index(middle) < found.index(grandchild)


@needs_files
def test_more_children_than_fit_into_a_page_are_found_adopted_ones_too():
    source = f"""
        import ctypes, os, signal
        from hostd.shell.linux.proc import adopted_children, descendants_of
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        if (middle := os.fork()) == 0:
            os.setpgid(0, 0)
            for _ in range({MANY}):
                if os.fork() == 0:
                    signal.pause()
            print(len(set(descendants_of(os.getpid()))), flush=True)
            os._exit(0)
        os.waitpid(middle, 0)
        found = adopted_children()
        os.killpg(middle, signal.SIGKILL)
        print(len(set(found)), flush=True)
    """
    with program(source) as parent:
        assert [line_of(parent), line_of(parent)] == [str(MANY)] * 2


def test_a_zombie_is_still_a_child_and_what_is_gone_has_none(by_files):
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        eventually(lambda: state_of(child.pid) == "Z", "the child is a zombie")
        assert child.pid in proc.children_of(os.getpid())
    assert proc.children_of(child.pid) == proc.descendants_of(child.pid) == []


def test_a_process_with_hidden_children_has_none(monkeypatch, family):
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
    """What wants the proof that nothing is left must not take "cannot look" for it."""

    def no_descriptor(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(proc, "_HAS_CHILDREN_FILES", True)
    monkeypatch.setattr(os, "open", no_descriptor)
    with pytest.raises(OSError, match="Too many open files"):
        proc.children_of(os.getpid())


VARIABLE = f"HOSTD_TEST_HOST_{os.getpid()}"
"""Not the real one: hosts that other tests start at the same time would end what is marked with that."""

MINE = mark_of_host()
NAMESPACE, PID, BEGAN = MINE.split(".")
START, _, INODE = NAMESPACE.rpartition("-")


@pytest.fixture(autouse=True)
def variable(monkeypatch):
    monkeypatch.setattr(leftovers, "HOST_VARIABLE", VARIABLE)


@pytest.fixture
def marked():
    """Start processes that say to which host they belong."""
    with ExitStack() as stack:

        def start(mark):
            source = "import time; print('up'); time.sleep(600)"
            process = program(source, **{VARIABLE: mark})
            stack.callback(stop, process)
            assert line_of(process) == "up"
            return process

        yield start


def ended(pid):
    """Return the mark of a host that has ended, and began when this one did not."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() if is_there(pid) else []
    return f"{NAMESPACE}.{pid}.{fields[19] if fields else 1}"


def test_what_a_host_left_that_is_no_more_is_ended(marked):
    zombie = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # its parent may be one that does not wait for it
    left = [marked(ended(zombie.pid)), marked(f"{NAMESPACE}.{PID}.{int(BEGAN) - 1}")]
    assert end_leftovers() == 2
    assert is_there(zombie.pid)
    zombie.wait()
    left.append(marked(ended(zombie.pid)))
    assert end_leftovers() == 1
    for process in left:
        process.wait(PATIENCE_S)


OTHERS = {
    "a living host's": MINE,
    "of another namespace": f"{START}-{int(INODE) + 1}.{PID}.1",
    "of another machine": f"{START[::-1]}-{INODE}.{PID}.1",
    "short": f"{NAMESPACE}.{PID}",
    "no time": f"{NAMESPACE}.{PID}.x",
    "no process": f"{NAMESPACE}.-1.1",
    "empty": "",
    "nonsense": "x",
}


@pytest.mark.parametrize("mark", OTHERS.values(), ids=OTHERS)
def test_what_may_be_somebodys_is_left_alone(marked, mark):
    process = marked(mark)
    end_leftovers()
    assert process.poll() is None


def test_a_host_that_has_inherited_such_a_mark_ends_neither_itself_nor_what_started_it():
    """As one that a batch job starts which a model has submitted."""
    started = program(
        f"""
            import subprocess, sys
            code = (
                "from hostd.shell.processes import leftovers; leftovers.HOST_VARIABLE = {VARIABLE!r}; "
                "leftovers.end_leftovers(); print('there')"
            )
            said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            print(said.returncode, said.stdout.strip(), flush=True)
        """,
        **{VARIABLE: f"{NAMESPACE}.{PID}.{int(BEGAN) - 1}"},
    )
    with started:
        assert line_of(started) == "0 there"


def test_the_runtime_directories_of_private_hosts_that_were_killed_with_all_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with program("") as gone:
        gone.wait(PATIENCE_S)
    left, held = f"embedded-{gone.pid}-0123abcd", f"my-app-{gone.pid}-0123abce"
    others = [f"embedded-{os.getpid()}-0123abcd", "default", f"embedded-{gone.pid}-0123abcdef"]
    for name in (left, held, *others):
        directory = paths.runtime_dir(name)
        (directory / "state" / "logs").mkdir(parents=True)
        for part in (tmp_path / "hostd", directory):
            part.chmod(0o700)
        (directory / paths.CLIENT_SOCKET).touch()
    lock_fd = runtime_lock.take(paths.runtime_dir(held))
    remove_leftovers()
    os.close(lock_fd)
    assert {place.name for place in paths.hosts_dir().iterdir()} == {held, *others}
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    remove_leftovers()
