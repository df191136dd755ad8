"""The lock on a runtime directory, while others come and go."""

import fcntl
import os
import shutil

import pytest

import hostd
from hostd.hosts import lock as runtime_lock
from hostd.shell.processes import reaper


@pytest.fixture
def when_it_locks(monkeypatch):
    """Have something happen between the opening of the lock file and the lock, by the number of the try."""
    tries = iter(range(1000))
    lock = fcntl.flock

    def do(what):
        monkeypatch.setattr(fcntl, "flock", lambda fd, flags: (what(next(tries)), lock(fd, flags)))

    return do


@pytest.mark.parametrize("again", [False, True], ids=["it is gone", "another is there"])
def test_the_lock_of_a_file_that_was_removed_meanwhile_is_none(tmp_path, when_it_locks, *, again):
    directory = tmp_path / "r"

    def end_of_another(number):
        if number == 0:
            shutil.rmtree(directory)
            if again:
                directory.mkdir(mode=0o700)
                (directory / runtime_lock.LOCK_FILE).touch(0o600)

    when_it_locks(end_of_another)
    fd = runtime_lock.take(directory)
    assert fd is not None
    assert os.path.samestat(os.fstat(fd), (directory / runtime_lock.LOCK_FILE).stat())
    assert runtime_lock.take(directory) is None
    assert runtime_lock.holder_of(directory) == os.getpid()
    os.close(fd)


def test_a_directory_that_never_stays_is_given_up(tmp_path, when_it_locks):
    when_it_locks(lambda _: shutil.rmtree(tmp_path / "r"))
    with pytest.raises(hostd.FailedPreconditionError, match="goes away again and again"):
        runtime_lock.take(tmp_path / "r")


def test_what_a_host_left_is_removed_unless_there_is_a_host(tmp_path):
    directory = tmp_path / "r"
    fd = runtime_lock.take(directory)
    assert fd is not None
    (directory / "client.ipc").touch()
    runtime_lock.remove_if_free(directory)
    assert (directory / "client.ipc").exists()
    os.close(fd)
    runtime_lock.remove_if_free(directory)
    assert not directory.exists()


@pytest.mark.parametrize("who", [reaper.remove, runtime_lock.remove_if_free])
def test_the_lock_is_removed_last_because_another_host_may_come_then(tmp_path, monkeypatch, who):
    directory = tmp_path / "r"
    directory.mkdir(mode=0o700)
    for name in ("client.ipc", "hostd.lock", "workers.ipc"):
        (directory / name).touch(0o600)
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path: (unlink(path), _come(path, directory)))
    who(directory)
    assert [entry.name for entry in directory.iterdir()] == ["workers.ipc"], "the other host's socket"


def _come(path, directory):
    if str(path).endswith("hostd.lock"):
        (directory / "workers.ipc").touch()
