"""Fronts without their program: when they are started again, and what the host's start hears."""

import asyncio
import errno

import pytest

from hostd.config.settings import HostConfig
from hostd.shell import fronts as module
from hostd.shell.fronts import Fronts
from hostd_workers.wire.errors import FailedPreconditionError


@pytest.fixture
def no_process(monkeypatch):
    """Let no front be started; return what was tried."""
    tried = []

    def spawned(front, order):
        tried.append(order["kind"])
        raise OSError(errno.EAGAIN, "no process is left")

    monkeypatch.setattr(module, "_spawned", spawned)
    return tried


async def fronts_of(tmp_path):
    config = HostConfig(runtime_dir=tmp_path, fronts={"http": "127.0.0.1:0"})
    return Fronts(asyncio.get_running_loop(), config)


def test_a_front_that_cannot_be_spawned_ends_the_hosts_start(tmp_path, no_process):
    async def start():
        with await fronts_of(tmp_path) as fronts, pytest.raises(FailedPreconditionError, match="no process is left"):
            await asyncio.wait_for(fronts.start(), 60)

    asyncio.run(start())
    assert no_process == ["http"]


def test_however_often_a_front_has_ended_it_is_started_again(tmp_path, no_process):
    async def end():
        with await fronts_of(tmp_path) as fronts:
            [front] = fronts._known.values()
            front.ends = 5_000
            fronts._start(front)
            [waiting] = fronts._waiting.values()
            return waiting.when() - asyncio.get_running_loop().time()

    assert 0 < asyncio.run(end()) <= 10
