"""Loads that end with their callers: by a timeout, a cancel, or the death of the caller's process."""

import asyncio
import contextlib
import subprocess
import sys
import textwrap

import pytest
from helpers import PATIENCE_S, descendants, eventually, is_there
from models_rig import GATED, HANGS, states

import hostd


def worker_of(client):
    """Return the process that loads the model, once there is one."""
    (pid,) = eventually(
        lambda: [worker.pid for model in client.list_models() for worker in model.workers if worker.pid],
        "a process loads it",
    )
    return pid


def assert_nothing_is_left(client, pid):
    eventually(lambda: states(client) == {}, "the load has ended")
    assert not is_there(pid)
    assert client.list_models(all=True) == []
    assert client.memory_info().reserved_bytes == 0
    story = client.explain_model("m")["story"]
    assert "nobody waits for its load any more (cancel_on_timeout)" in [step["reason"] for step in story]


@contextlib.contextmanager
def program(host, path):
    """Run a process that loads a model, and kill it after the block."""
    source = f"""
        import hostd
        hostd.connect({host.endpoint!r}).load_model("m", {str(path)!r}, cancel_on_timeout=True)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("way")
def test_a_load_ends_when_the_time_of_its_caller_is_over(shared, rig):
    path = rig.make(HANGS)
    with pytest.raises(hostd.DeadlineExceededError):
        shared.load_model("m", path, cancel_on_timeout=True, timeout_s=2)
    eventually(lambda: states(shared) == {}, "the load has ended")
    assert shared.list_models(all=True) == []
    assert "cancel_on_timeout" in str(shared.explain_model("m")["story"])
    with pytest.raises(hostd.DeadlineExceededError):
        shared.load_model("m", path, timeout_s=0.5)
    assert states(shared) == {"m": "LOADING"}, "as loads do that are not asked to end"
    for how in ({"wait": False}, {"reload": True}):
        with pytest.raises(hostd.InvalidArgumentError, match="cancel_on_timeout does not go with"):
            shared.load_model("other", path, cancel_on_timeout=True, **how)


def test_a_load_ends_with_the_process_of_its_caller(rig):
    with hostd.Host() as host:
        client, path = host.client(), rig.make(HANGS)
        with program(host, path):
            pid = worker_of(client)
            assert pid in descendants()
        assert_nothing_is_left(client, pid)


def test_a_load_ends_with_the_task_that_waits_for_it(rig):
    with hostd.Host() as host:
        client, path = host.client(), rig.make(HANGS)

        async def cancelled():
            async with hostd.AsyncClient(host.endpoint) as waiting:
                task = asyncio.ensure_future(waiting.load_model("m", path, cancel_on_timeout=True))
                pid = await asyncio.to_thread(worker_of, client)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await asyncio.to_thread(assert_nothing_is_left, client, pid)

        asyncio.run(cancelled())


def test_a_load_that_others_have_joined_goes_on(rig):
    with hostd.Host() as host:
        client, path = host.client(), rig.make(GATED)
        with program(host, path) as process:
            pid = worker_of(client)
            joined = client.load_model("m", path, wait=False)
            process.kill()
            process.wait()
        assert joined.info.state == "LOADING"
        rig.let_go("../workshop/0")
        assert client.retrieve_model("m", timeout_s=PATIENCE_S).pid() == pid
