"""When to look at a directory: notifications, periods, directories that go and come back, and clean ends."""

import asyncio
import itertools
import os
import shutil
import tempfile
import threading
from contextlib import aclosing, asynccontextmanager

import pytest
from helpers import PATIENCE_S, line_of, program
from loops import on_a_loop
from walking_rig import again_and_again

from hostd.shell.repository import notifications as watching
from hostd.shell.repository.notifications import NOTIFICATION, PERIOD, changes
from hostd.shell.repository.scanner import Scanner

NO_PERIOD_S = 1000.0
"""A period that no test lives to see."""


@pytest.fixture(autouse=True)
def _checks_often(monkeypatch):
    monkeypatch.setattr(watching, "CHECK_S", 0.02)
    monkeypatch.setattr(watching, "QUIET_MS", 20)


class Causes:
    """The causes that were yielded so far."""

    def __init__(self):
        self._queue = asyncio.Queue()
        self.stop = asyncio.Event()

    async def take(self, directory, period_s):
        async for cause in changes(directory, period_s, self.stop):
            self._queue.put_nowait(cause)

    async def next(self):
        return await asyncio.wait_for(self._queue.get(), PATIENCE_S)

    async def none_for(self, seconds):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(self._queue.get(), seconds)

    async def quiet(self):
        """Let what belongs together come: a change may be notified in two."""
        with pytest.raises(asyncio.TimeoutError):
            while await asyncio.wait_for(self._queue.get(), 0.3):
                pass


@asynccontextmanager
async def watched(directory, period_s=NO_PERIOD_S, first=NOTIFICATION):
    """Watch a directory; watching has begun."""
    causes = Causes()
    task = asyncio.create_task(causes.take(directory, period_s))
    assert await causes.next() == first
    yield causes
    causes.stop.set()
    await asyncio.wait_for(task, PATIENCE_S)
    assert not is_watching()


def is_watching():
    return "hostd-watch" in {thread.name for thread in threading.enumerate()}


CHANGES = {
    "a directory came": lambda d: (d / "new").mkdir(),
    "a file came": lambda d: (d / "new").touch(),
    "a directory went": lambda d: (d / "old").rmdir(),
    "a directory was renamed": lambda d: (d / "old").rename(d / "other"),
    "a hidden directory was installed": lambda d: (d / ".hidden").rename(d / "other"),
    "a file was written": lambda d: (d / "file").write_text("2"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@on_a_loop
async def test_c26_it_is_notified_that(change, models):
    for name in ("old", ".hidden"):
        (models / name).mkdir()
    (models / "file").touch()
    async with watched(models) as causes:
        change(models)
        assert await causes.next() == NOTIFICATION


@on_a_loop
async def test_c26_neither_hidden_entries_nor_scans_are_notified(models):
    async with watched(models) as causes:
        (models / ".hostd-staging").mkdir()
        (models / ".hostd-staging" / "model").mkdir()
        for _ in range(5):
            Scanner(models, lambda *_: True).scan({}, False)
        await causes.none_for(1.0)


@on_a_loop
async def test_c26_without_changes_the_period_says_so_again_and_again_and_once_stopped_nothing_does(models):
    async with watched(models, 0.05) as causes:
        assert [await causes.next() for _ in range(5)] == [PERIOD] * 5
    assert [cause async for cause in changes(models, 0.05, causes.stop)] == []


@on_a_loop
async def test_c26_changes_that_never_end_are_notified_all_the_same(models, monkeypatch):
    monkeypatch.setattr(watching, "GATHER_MS", 100)
    numbers = itertools.count()

    def write():
        number = next(numbers)
        (models / f"{number}.onnx").touch()
        (models / f"{number - 1}.onnx").unlink(missing_ok=True)

    with again_and_again(write):
        async with watched(models) as causes:
            assert [await causes.next() for _ in range(4)] == [NOTIFICATION] * 4


@pytest.mark.parametrize("name", ["models", ".models"])
@on_a_loop
async def test_c25_a_directory_that_vanishes_and_comes_back_is_watched_again(name, tmp_path):
    directory = tmp_path / name
    directory.mkdir()
    async with watched(directory) as causes:
        for change in [shutil.rmtree, os.mkdir, lambda path: (path / "new").mkdir()] * 2:
            change(directory)
            assert await causes.next() == NOTIFICATION
            await causes.quiet()


@on_a_loop
async def test_c25_a_directory_behind_a_link_that_is_turned_is_watched_again(models, tmp_path):
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to(models)
    other.mkdir()
    async with watched(link) as causes:
        (tmp_path / "turned").symlink_to(other)
        (tmp_path / "turned").rename(link)
        assert await causes.next() == NOTIFICATION
        await causes.quiet()
        (other / "new").mkdir()
        assert await causes.next() == NOTIFICATION


@on_a_loop
async def test_c25_a_directory_that_is_not_there_yet_is_waited_for(models):
    models.rmdir()
    async with watched(models, 0.3, PERIOD) as causes:
        assert await causes.next() == PERIOD
        os.mkdir(models)
        while await causes.next() != NOTIFICATION:
            pass


WITHOUT = """
    import asyncio, logging, os, resource, sys
    from pathlib import Path
    import watchfiles
    from hostd.shell.repository import notifications as watching

    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    watching.CHECK_S = 0.001

    async def main():
        stop = asyncio.Event()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
        seen = 0
        async for cause in watching.changes(Path(sys.argv[1]), 0.05, stop):
            print(cause)
            seen += 1
            if seen == 5:
                stop.set()

    asyncio.run(main())
    print("ended")
"""


def test_c26_where_nothing_can_be_watched_the_period_does_it_and_the_log_says_so_once(models):
    with program(WITHOUT, models) as process:
        lines = list(iter(lambda: line_of(process), "ended"))
    warnings = [line for line in lines if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert str(models) in warnings[0]
    assert "models.poll_period_s" in warnings[0]
    assert [line for line in lines if line not in warnings] == [PERIOD] * 5


@on_a_loop
async def test_watching_ends_when_its_loop_is_left_or_cancelled(models):
    async with aclosing(changes(models, NO_PERIOD_S, asyncio.Event())) as causes:
        async for _ in causes:
            break
    assert not is_watching()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    left = Causes()
    task = asyncio.create_task(left.take(models, NO_PERIOD_S))
    await left.next()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_watching()


def test_the_thread_ends_when_its_loop_takes_no_calls_any_more(models):
    asked = itertools.count()

    def refuse():
        next(asked)
        raise RuntimeError("Event loop is closed")

    watch = watching._Watch(str(models), 0.01, refuse, refuse)
    watch.start()
    watch.join(PATIENCE_S)
    assert not watch.is_alive()
    assert next(asked) == 2


@on_a_loop
async def test_c26_without_a_thread_for_it_the_period_does_it(models, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(watching._Watch, "start", refuse)
    async with watched(models, 0.01, PERIOD) as causes:
        assert await causes.next() == PERIOD


AT_THE_LIMIT = """
    import asyncio, os, resource, sys
    from contextlib import aclosing
    from pathlib import Path
    from watchfiles import _rust_notify
    from hostd.shell.repository import notifications as watching

    watching.CHECK_S = 0.01

    async def main():
        causes = watching.changes(Path(sys.argv[1]), 0.2, asyncio.Event())
        async with aclosing(causes):
            first = await anext(causes)
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
            os.rename(sys.argv[1], sys.argv[1] + ".old")
            os.mkdir(sys.argv[1])
            seen = [first, *[await anext(causes) for _ in range(5)]]
            print(seen[0], watching.PERIOD in seen)

    os.setgid(778_123)
    os.setuid(778_123)
    asyncio.run(main())
"""
"""The library that watches aborts the process if it gets no thread, when a directory is another one than before."""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_c26_a_directory_that_is_exchanged_at_the_limit_of_processes_aborts_nobody():
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        os.chown(place, 778_123, 778_123)
        os.mkdir(f"{place}/models")
        with program(AT_THE_LIMIT, f"{place}/models") as watcher:
            assert line_of(watcher) == f"{NOTIFICATION} True"
            assert watcher.wait(PATIENCE_S) == 0


def test_a_directory_that_hangs_does_not_keep_the_end_waiting(models, monkeypatch):
    """As one of a file server that is gone."""
    hangs, back = threading.Event(), threading.Event()

    def stat(_):
        hangs.set()
        back.wait()

    monkeypatch.setattr(watching._Watch, "_identity", stat)
    monkeypatch.setattr(watching, "END_S", 0.05)

    async def run():
        stop = asyncio.Event()
        watch = asyncio.ensure_future(anext(changes(models, NO_PERIOD_S, stop), None))
        await asyncio.to_thread(hangs.wait, PATIENCE_S)
        stop.set()
        done, _ = await asyncio.wait({watch}, timeout=PATIENCE_S)
        back.set()
        assert done, "it waits for the thread"
        assert await watch is None

    asyncio.run(run())
    for thread in threading.enumerate():
        if thread.name == "hostd-watch":
            thread.join(PATIENCE_S)
