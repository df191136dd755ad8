"""Directories of a host's own: private, whatever was there before, and held by one process at a time."""

import asyncio
import fcntl
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest
from helpers import eventually, line_of, program, stop
from strangers import needs_root, new_user

import hostd
from hostd import paths
from hostd.hosts import lock as runtime_lock
from hostd.hosts.lock import LOCK_FILE, take_state
from hostd.shell import place
from hostd.shell.place import Place
from hostd.shell.reaper import collecting
from hostd.shell.rundir import AlreadyRunningError, RuntimeDirectory, StateDirectory


def modes(directory):
    return {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (directory, *directory.rglob("*"))}


def refused(directory):
    with pytest.raises(AlreadyRunningError) as caught:
        RuntimeDirectory(directory).__enter__()
    return caught.value


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "r").mkdir(mode=0o700)
    return tmp_path / "r"


def test_what_is_made_is_for_its_user_alone_with_its_parents_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        with RuntimeDirectory(tmp_path / "a" / "b") as directory:
            assert (directory.path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
            assert "held" in repr(directory)
        for _ in range(2):
            paths.make_private(tmp_path / "c" / "d")
            paths.make_state(tmp_path / "e" / "f")
    finally:
        os.umask(before)
    assert "free" in repr(directory)
    found = modes(tmp_path)
    assert {found.pop(LOCK_FILE), *(found[name] for name in "abcdef")} == {0o600, 0o700}


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o777])
@pytest.mark.parametrize("make", [paths.make_private, lambda path: RuntimeDirectory(path).__enter__()])
def test_a_directory_that_is_open_to_others_is_refused_with_what_to_do_and_left_as_it_is(directory, mode, make):
    directory.chmod(mode)
    with pytest.raises(hostd.FailedPreconditionError, match="chmod 0700"):
        make(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == mode


def test_a_link_to_a_directory_is_refused(tmp_path, directory):
    (tmp_path / "link").symlink_to(directory)
    for make in (paths.make_private, lambda path: RuntimeDirectory(path).__enter__()):
        with pytest.raises(hostd.FailedPreconditionError, match="is not a directory"):
            make(tmp_path / "link")


@needs_root
@pytest.mark.parametrize("what", ["itself", "above"])
def test_a_directory_of_another_user_is_refused(directory, what):
    os.chown(directory, 12345, -1)
    words = "belongs to user 12345" if what == "itself" else "under the control of other users"
    with pytest.raises(hostd.FailedPreconditionError, match=words):
        paths.make_private(directory if what == "itself" else directory / "default")


def test_a_directory_in_one_that_anybody_may_write_is_refused_unless_it_is_sticky(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(hostd.FailedPreconditionError, match="under the control of other users"):
        paths.make_private(tmp_path / "run")
    tmp_path.chmod(0o1777)
    paths.make_private(tmp_path / "run")


@pytest.mark.parametrize("before", [None, 0o755, 0o750, 0o2750], ids=["none", "0755", "0750", "setgid"])
def test_what_a_host_keeps_is_for_its_user_alone_whatever_the_umask(tmp_path, serve, model_dir, before):
    state = tmp_path / "state"
    if before is not None:
        (state / "logs").mkdir(parents=True)
        state.chmod(before)
        (state / "logs").chmod(0o777)
    mask = os.umask(0)
    try:
        service = serve(memory={"remember": "host"}, state_dir=state)
        with hostd.connect(service.endpoint) as client:
            client.load_model("m", model_dir("def load(path): print('hello', flush=True); return print"))
            eventually(lambda: {"m.log", "sizes.sqlite"} <= set(modes(state)), "log and size are written")
            client.shutdown()
        assert service.ended() == 0
    finally:
        os.umask(mask)
    found = {name: mode & 0o777 for name, mode in modes(state).items()}
    assert found == {name: 0o700 if name in ("state", "logs") else 0o600 for name in found}


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o755])
def test_a_state_directory_that_others_may_write_or_with_other_things_in_it_is_refused(directory, mode):
    """It is not closed behind its user's back."""
    directory.chmod(mode)
    (directory / "thesis").touch()
    words = r"may be written by others.*chmod 0700.*--state-dir"
    if mode == 0o755:
        words = r"it holds thesis; choose one in it, such as .*/r/hostd"
    with pytest.raises(hostd.FailedPreconditionError, match=words):
        paths.make_state(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == mode
    directory.chmod(0o700)
    paths.make_state(directory)


@needs_root
@pytest.mark.parametrize("what", ["state", "above", "link", "logs"])
def test_what_another_user_made_first_is_refused(tmp_path, what):
    state, user = tmp_path / "above" / "state", new_user()
    (state / "logs").mkdir(mode=0o700, parents=True)
    state.chmod(0o700)
    wrong = {"state": state, "above": state.parent, "link": tmp_path / "link", "logs": state / "logs"}[what]
    if what == "link":
        wrong.symlink_to(state)
        state = wrong
    os.lchown(wrong, user, user)
    with pytest.raises(hostd.FailedPreconditionError, match=f"belongs to user {user}|control of other users"):
        paths.make_state(state)
        paths.make_own(state / "logs")


def test_a_second_holder_is_refused_and_told_the_first(directory):
    with RuntimeDirectory(directory):
        error = refused(directory)
        assert error.details == {"pid": os.getpid(), "runtime_dir": str(directory)}
        assert str(os.getpid()) in error.message
        assert error.status is hostd.Status.FAILED_PRECONDITION
        assert (directory / LOCK_FILE).read_text() == f"{os.getpid()}\n", "the refused one wrote into it"
        for content in ("", "nonsense", "²"):
            (directory / LOCK_FILE).write_text(content)
            assert refused(directory).details["pid"] is None, "it is held all the same"
    with RuntimeDirectory(directory):
        pass


def test_a_holder_that_was_killed_holds_nothing(directory):
    source = """
        import sys, time
        from pathlib import Path
        from hostd.shell.rundir import RuntimeDirectory
        with RuntimeDirectory(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(3600)
    """
    holder = program(source, directory)
    try:
        assert line_of(holder) == "held"
        assert str(holder.pid) in refused(directory).message
    finally:
        stop(holder)
    with RuntimeDirectory(directory):
        assert (directory / LOCK_FILE).read_text() == f"{os.getpid()}\n"


def test_a_lock_file_with_any_content_is_no_obstacle_and_a_link_is_not_followed_to_another_lock(directory, tmp_path):
    for content in ("", "nonsense", "-1", "9" * 100, "12 34"):
        (directory / LOCK_FILE).write_text(content)
        with RuntimeDirectory(directory):
            assert (directory / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    (tmp_path / "elsewhere").write_text("precious")
    (directory / LOCK_FILE).unlink(missing_ok=True)
    (directory / LOCK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=LOCK_FILE):
        RuntimeDirectory(directory).__enter__()
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_stale_sockets_are_removed_and_so_are_its_own(directory):
    def bind(name):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(directory / name))

    for name in ("client.ipc", "workers.ipc", "members.ipc"):
        bind(name)
    with RuntimeDirectory(directory):
        assert [entry.name for entry in directory.iterdir()] == [LOCK_FILE]
        bind("client.ipc")
    assert [entry.name for entry in directory.iterdir()] == [LOCK_FILE]


MAKE = {
    "file": lambda place, precious: place.write_text("precious"),
    "directory": lambda place, precious: place.mkdir(),
    "link": lambda place, precious: place.symlink_to(precious),
    "dangling link": lambda place, precious: place.symlink_to("nowhere"),
}


@pytest.mark.parametrize("kind", MAKE)
def test_what_is_no_socket_is_never_removed(directory, tmp_path, kind):
    place, precious = directory / "client.ipc", tmp_path / "precious"
    precious.write_text("precious")
    MAKE[kind](place, precious)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(hostd.FailedPreconditionError, match=r"client\.ipc is in the way"):
        RuntimeDirectory(directory).__enter__()
    assert place.is_symlink() or place.exists()
    assert precious.read_text() == "precious"
    assert sorted(os.listdir("/proc/self/fd")) == before, "the lock is held although the start failed"


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


@pytest.fixture
def when_it_locks(monkeypatch):
    """Have something happen between the opening of the lock file and the lock, by the number of the try."""
    tries = iter(range(1000))
    lock = fcntl.flock

    def do(what):
        monkeypatch.setattr(fcntl, "flock", lambda fd, flags: (what(next(tries)), lock(fd, flags)))

    return do


@pytest.mark.parametrize("again", [False, True], ids=["it is gone", "another is there"])
def test_the_lock_of_a_file_that_was_removed_meanwhile_is_none(directory, when_it_locks, *, again):

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


def test_a_directory_that_never_stays_is_given_up(directory, when_it_locks):
    when_it_locks(lambda _: shutil.rmtree(directory))
    with pytest.raises(hostd.FailedPreconditionError, match="goes away again and again"):
        runtime_lock.take(directory)


def test_what_a_host_left_is_removed_unless_there_is_a_host(directory):
    fd = runtime_lock.take(directory)
    assert fd is not None
    (directory / "client.ipc").touch()
    runtime_lock.remove_if_free(directory)
    assert (directory / "client.ipc").exists()
    os.close(fd)
    runtime_lock.remove_if_free(directory)
    assert not directory.exists()


@pytest.mark.parametrize("remove", [collecting.remove, runtime_lock.remove_if_free])
def test_the_lock_is_removed_last_because_another_host_may_come_then(directory, monkeypatch, remove):
    for name in ("client.ipc", "hostd.lock", "workers.ipc"):
        (directory / name).touch(0o600)
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path: (unlink(path), _come(path, directory)))
    monkeypatch.setattr(Path, "unlink", lambda path, **_: os.unlink(path))  # Python 3.10 has its own
    remove(directory)
    assert [entry.name for entry in directory.iterdir()] == ["workers.ipc"], "the other host's socket"


def _come(path, directory):
    if str(path).endswith("hostd.lock"):
        (directory / "workers.ipc").touch()
