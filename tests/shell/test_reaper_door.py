"""The door of a shared host: what is let in, what has a seat, and when the host is nobody's any more."""

import os
import resource
import select
import shutil
import signal
import socket
from contextlib import ExitStack, contextmanager

import pytest
from helpers import PATIENCE_S

from hostd import paths
from hostd.hosts import lock as runtime_lock
from hostd.shell.reaper import names
from hostd.shell.reaper.door import Door

SAID = b'{"ready": {}}\n'


class Rig:
    """A door in this process: what a reaper does, step by step, and those that come."""

    def __init__(self, directory):
        self._directory = directory
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._stack = ExitStack()
        self._lock_fd = runtime_lock.take(directory)
        self.first, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.first.settimeout(PATIENCE_S)
        self._stack.enter_context(self.first)
        self.door = Door(theirs.detach(), self._lock_fd, str(directory))
        # Of the supervisor, which has one of its own.
        self._ready_fd = os.dup(int(self.door.environment["HOSTD_SUPERVISOR_READY_FD"]))
        self._poller = select.poll()
        self.door.open(self._poller)

    def come(self):
        """Come to the door; whether somebody is let in is the reaper's business."""
        seat = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        seat.settimeout(PATIENCE_S)
        seat.connect(str(self._directory / paths.DOOR_SOCKET))
        return seat

    def start(self, said=SAID):
        """Say of the start what the supervisor says."""
        os.write(self._ready_fd, said)
        self._close_ready()

    def step(self):
        """Have the reaper look at everything that has happened."""
        return self.door.attend({fd for fd, _ in self._poller.poll(0)})

    @contextmanager
    def only_numbers_that_it_gives_back(self):
        """Fill the descriptors' table up to what the reaper has, so that what it opens has a number that it closed."""
        held = [os.dup(2)]
        while held[-1] < self.door._ready_read:
            held.append(os.dup(2))
        yield
        for fd in held:
            os.close(fd)

    def end(self):
        """End as a reaper does when its supervisor has ended."""
        self._close_ready()
        self.door.close()
        self.door.say_farewell()

    def close(self):
        """Give back what a reaper gives back by ending."""
        self.end()
        for seat in [*self.door._connections]:
            self.door._forget(seat)
        os.close(self._lock_fd)
        self._stack.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)

    def _close_ready(self):
        fd, self._ready_fd = self._ready_fd, -1
        if fd >= 0:
            os.close(fd)


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path / "r")
    yield made
    made.close()


def test_what_has_a_seat_is_told_how_the_start_went_now_or_later(rig):
    early = rig.come()
    assert rig.step() == 0
    rig.start()
    together = rig.come()
    with rig.only_numbers_that_it_gives_back():
        assert rig.step() == 0
    late = rig.come()
    assert rig.step() == 0
    assert [seat.recv(100) for seat in (rig.first, early, together, late)] == [SAID] * 4
    for seat in (rig.first, early, together):
        seat.send(b"leave")
        assert rig.step() == 0
        assert seat.recv(100) == b"stays"


def test_an_error_of_the_start_is_told_though_the_supervisor_has_ended(rig):
    joined = rig.come()
    assert rig.step() == 0
    rig.start(b"an error")
    rig.end()
    assert [seat.recv(100) for seat in (rig.first, joined)] == [b"an error"] * 2


def test_what_leaves_others_is_told_so_and_the_last_is_told_of_the_end(rig):
    other = rig.come()
    rig.first.send(b"leave")
    assert rig.step() == 0, "what came is let in before anything leaves"
    assert rig.first.recv(100) == b"stays"
    other.send(b"leave")
    assert rig.step() == signal.SIGTERM
    with pytest.raises(OSError, match="No such file"):
        rig.come()
    assert rig.step() == 0
    rig.end()
    assert other.recv(100) == b"ended"


@pytest.mark.parametrize("how", ["hangs up", "does not want to wait"])
def test_what_goes_without_a_word_leaves_nothing_to_wait_for(rig, how):
    other = rig.come()
    assert rig.step() == 0
    rig.first.close()
    assert rig.step() == 0, "somebody else is there"
    other.send(b"leave")
    assert rig.step() == signal.SIGTERM
    if how == "hangs up":
        other.close()
    else:
        other.send(b"now")
    assert rig.step() == signal.SIGKILL


def test_a_directory_that_was_made_anew_is_not_its_own(rig, tmp_path):
    directory = tmp_path / "r"
    assert rig.door.is_locked(str(directory))
    shutil.rmtree(directory)
    assert not rig.door.is_locked(str(directory))
    fd = runtime_lock.take(directory)
    assert fd is not None
    assert not rig.door.is_locked(str(directory))
    os.close(fd)


def test_the_reaper_knows_the_files_by_their_names():
    assert (names.DOOR, names.LOCK) == (paths.DOOR_SOCKET, runtime_lock.LOCK_FILE)
    assert len(paths.DOOR_SOCKET) == len(paths.WORKER_SOCKET), "its path is as long as those that are checked"
