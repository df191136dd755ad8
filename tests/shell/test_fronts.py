"""Fronts without their program: when they are started again, and what the host's start hears."""

import asyncio
import errno
import os
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from helpers import PATIENCE_S
from loops import on_a_loop

import hostd
from hostd.config.settings import HostConfig
from hostd.shell import fronts as module
from hostd.shell.fronts import Fronts
from hostd_workers.wire.errors import FailedPreconditionError


@pytest.fixture
def no_process(monkeypatch):
    """Let no front be started; return what was tried."""
    tried = []

    def spawned(front, order):
        tried.append(order["name"])
        raise OSError(errno.EAGAIN, "no process is left")

    monkeypatch.setattr(module, "_spawned", spawned)
    return tried


@pytest.fixture
def often(monkeypatch):
    """Have fronts beat and be looked at often; they may be silent for as long as a busy machine makes them."""
    monkeypatch.setattr(module, "_LOOK_S", 0.05)
    monkeypatch.setattr(module, "_STARTING_LOOKS", 1200)
    monkeypatch.setattr(module, "_SILENT_LOOKS", 100)


@pytest.fixture
def behind():
    """What the fronts are clients of."""
    with hostd.Host(memory={"budget": "1GB"}, workers={"templates": "off"}) as host:
        yield host


def fronts_of(directory, *names):
    config = HostConfig(runtime_dir=directory, fronts=dict.fromkeys(names or ("http",), "127.0.0.1:0"))
    return Fronts(asyncio.get_running_loop(), config)


@asynccontextmanager
async def running(host, *names):
    with fronts_of(host.client().host_info().runtime_dir, *names) as fronts:
        await asyncio.wait_for(fronts.start(), PATIENCE_S)
        yield fronts, *fronts._known.values()


async def until(is_so, what):
    """Let the loop run until something is so."""
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end_s, what
        await asyncio.sleep(module._LOOK_S / 10)


def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_a_front_that_cannot_be_spawned_ends_the_hosts_start(tmp_path, no_process):
    async def start():
        with fronts_of(tmp_path) as fronts, pytest.raises(FailedPreconditionError, match="no process is left"):
            await asyncio.wait_for(fronts.start(), 60)

    asyncio.run(start())
    assert no_process == ["http"]


def test_however_often_a_front_has_ended_it_is_started_again(tmp_path, no_process):
    async def end():
        with fronts_of(tmp_path) as fronts:
            [front] = fronts._known.values()
            front.ends = 5_000
            fronts._start(front)
            [waiting] = fronts._waiting.values()
            return waiting.when() - asyncio.get_running_loop().time()

    assert 0 < asyncio.run(end()) <= 10


def test_a_front_that_nobody_could_watch_is_ended(tmp_path, monkeypatch):
    def pidfd_open(_):
        raise OSError(errno.EMFILE, "no descriptor is left")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    before = children()

    async def start():
        with fronts_of(tmp_path) as fronts, pytest.raises(FailedPreconditionError, match="no descriptor is left"):
            await asyncio.wait_for(fronts.start(), PATIENCE_S)

    asyncio.run(start())
    assert children() == before


@pytest.mark.parametrize("name", ["http", "grpc", "modelmesh"])
@on_a_loop
async def test_a_front_that_stands_still_is_told_and_started_again(behind, often, name):
    async with running(behind, name) as (fronts, front):
        pid = front.pid
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: fronts.troubles, "it is told")
        [trouble] = fronts.troubles
        assert f"the {name} front (process {pid}) does not answer: its event loop stands still for" in trouble
        os.kill(pid, signal.SIGCONT)
        await until(lambda: not fronts.troubles, "it goes on")
        assert front.ends == 0
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: front.ends, "it is ended")
        assert front.last_end.startswith("its event loop stands still for 5 s")
        await until(lambda: front.pidfd >= 0 and front.allowed_looks == module._SILENT_LOOKS, "another one serves")
        assert front.pid != pid
        await until(lambda: not fronts.troubles, "it is not told any more")


@on_a_loop
async def test_a_supervisor_that_stood_still_blames_no_front(behind, often, monkeypatch):
    loop = asyncio.get_running_loop()
    async with running(behind) as (fronts, front):
        os.kill(front.pid, signal.SIGSTOP)
        for stall_s in (1_000, 10_000):
            seen = front.silent_looks
            monkeypatch.setattr(loop, "time", lambda stall_s=stall_s: time.monotonic() + stall_s)
            await until(lambda seen=seen: front.silent_looks > seen, "it has looked")
        assert front.silent_looks < module._SILENT_LOOKS / 2
        os.kill(front.pid, signal.SIGCONT)
        await until(lambda: not fronts.troubles, "it goes on")
        assert front.ends == 0


@on_a_loop
async def test_fronts_that_do_not_end_have_one_deadline_together(behind, often, monkeypatch):
    deadlines = []
    see_it_end = module._see_it_end
    monkeypatch.setattr(module, "_END_S", 0.2)
    monkeypatch.setattr(module, "_see_it_end", lambda front, end_s: (deadlines.append(end_s), see_it_end(front, end_s)))
    async with running(behind, "http", "grpc") as (_, *both):
        for front in both:
            os.kill(front.pid, signal.SIGSTOP)
    assert len(deadlines) == 2
    assert deadlines[0] == deadlines[1]
    assert [front.pidfd for front in both] == [-1, -1]
