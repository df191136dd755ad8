"""The runtime directory: private, and held by one process at a time."""

import asyncio
import os
import socket
import stat

import pytest
from helpers import eventually, line_of, program, stop

import hostd
from hostd.hosts.lock import LOCK_FILE, take_state
from hostd.shell import place
from hostd.shell.place import Place
from hostd.shell.rundir import AlreadyRunningError, RuntimeDirectory, StateDirectory


def test_it_is_made_for_its_user_alone_with_its_parents(tmp_path):
    with RuntimeDirectory(tmp_path / "a" / "b") as directory:
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
        assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
        assert (directory.path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
        assert "held" in repr(directory)
    assert "free" in repr(directory)


def test_the_mask_of_the_process_does_not_matter(tmp_path):
    before = os.umask(0)
    try:
        with RuntimeDirectory(tmp_path / "r") as directory:
            assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
            assert stat.S_IMODE((directory.path / LOCK_FILE).stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path):
    with RuntimeDirectory(tmp_path / "r"):
        with pytest.raises(AlreadyRunningError) as caught:
            RuntimeDirectory(tmp_path / "r").__enter__()
        assert caught.value.details == {"pid": os.getpid(), "runtime_dir": str(tmp_path / "r")}
        assert str(os.getpid()) in caught.value.message
        assert caught.value.status is hostd.Status.FAILED_PRECONDITION
        assert (tmp_path / "r" / LOCK_FILE).read_text() == f"{os.getpid()}\n", "the refused one wrote into it"
    with RuntimeDirectory(tmp_path / "r"):
        pass


def test_a_holder_that_was_killed_holds_nothing(tmp_path):
    source = """
        import sys, time
        from pathlib import Path
        from hostd.shell.rundir import RuntimeDirectory
        with RuntimeDirectory(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(3600)
    """
    holder = program(source, tmp_path / "r")
    try:
        assert line_of(holder) == "held"
        with pytest.raises(AlreadyRunningError, match=str(holder.pid)):
            RuntimeDirectory(tmp_path / "r").__enter__()
    finally:
        stop(holder)
    with RuntimeDirectory(tmp_path / "r"):
        assert (tmp_path / "r" / LOCK_FILE).read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", ["", "nonsense", "-1", "9" * 100, "12 34"])
def test_a_lock_file_with_any_content_is_no_obstacle(tmp_path, content):
    (tmp_path / "r").mkdir(mode=0o700)
    (tmp_path / "r" / LOCK_FILE).write_text(content)
    with RuntimeDirectory(tmp_path / "r"):
        assert (tmp_path / "r" / LOCK_FILE).read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", ["", "nonsense", "²"])
def test_a_held_lock_without_a_number_is_still_held(tmp_path, content):
    with RuntimeDirectory(tmp_path / "r"):
        (tmp_path / "r" / LOCK_FILE).write_text(content)
        with pytest.raises(AlreadyRunningError) as caught:
            RuntimeDirectory(tmp_path / "r").__enter__()
        assert caught.value.details["pid"] is None


def test_stale_sockets_are_removed_and_so_are_its_own(tmp_path):
    directory = tmp_path / "r"
    directory.mkdir(mode=0o700)
    for name in ("client.ipc", "workers.ipc", "members.ipc"):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(directory / name))
    with RuntimeDirectory(directory):
        assert [entry.name for entry in directory.iterdir()] == [LOCK_FILE]
        with socket.socket(socket.AF_UNIX) as own:
            own.bind(str(directory / "client.ipc"))
    assert [entry.name for entry in directory.iterdir()] == [LOCK_FILE]


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling link"])
def test_what_is_no_socket_is_never_removed(tmp_path, kind):
    (tmp_path / "r").mkdir(mode=0o700)
    place, precious = tmp_path / "r" / "client.ipc", tmp_path / "precious"
    if kind != "dangling link":
        precious.write_text("precious")
    if kind == "file":
        place.write_text("precious")
    elif kind == "directory":
        place.mkdir()
    else:
        place.symlink_to(precious)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(hostd.FailedPreconditionError, match=r"client\.ipc is in the way"):
        RuntimeDirectory(tmp_path / "r").__enter__()
    assert place.is_symlink() or place.exists()
    assert kind == "dangling link" or precious.read_text() == "precious"
    assert sorted(os.listdir("/proc/self/fd")) == before, "the lock is held although the start failed"


def test_a_link_is_not_followed_to_another_lock(tmp_path):
    (tmp_path / "r").mkdir(mode=0o700)
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "r" / LOCK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=LOCK_FILE):
        RuntimeDirectory(tmp_path / "r").__enter__()
    assert (tmp_path / "elsewhere").read_text() == "precious"


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o777])
def test_a_directory_that_is_open_to_others_is_refused_with_what_to_do(tmp_path, mode):
    (tmp_path / "r").mkdir()
    (tmp_path / "r").chmod(mode)
    with pytest.raises(hostd.FailedPreconditionError, match="chmod 0700"):
        RuntimeDirectory(tmp_path / "r").__enter__()


def test_a_link_to_a_directory_is_refused(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "r").symlink_to(tmp_path / "real")
    with pytest.raises(hostd.FailedPreconditionError, match="not a directory"):
        RuntimeDirectory(tmp_path / "r").__enter__()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_somebody_elses_directory_is_refused(tmp_path):
    (tmp_path / "r").mkdir(mode=0o700)
    os.chown(tmp_path / "r", 12345, 12345)
    with pytest.raises(hostd.FailedPreconditionError, match="belongs to user 12345"):
        RuntimeDirectory(tmp_path / "r").__enter__()


def test_a_directory_that_cannot_be_looked_at_is_a_trouble_like_others(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "PERIOD_S", 0.01)
    state, away = tmp_path / "state", tmp_path / "away"
    state.mkdir(mode=0o700)
    other = take_state(state)
    assert other is not None

    async def run(places):
        async def until(words):
            await asyncio.to_thread(eventually, lambda: any(words in trouble for trouble in places.troubles), words)

        following = asyncio.create_task(places.follow(asyncio.to_thread))
        await until("another host")
        state.rename(away)
        await until("cannot be looked at: No such file")
        away.rename(state)
        await until("another host")
        following.cancel()

    try:
        with StateDirectory(state, may_be_shared=True) as directory:
            asyncio.run(run(Place(directory)))
    finally:
        os.close(other)
