"""`hostd.Host` inside another program: polite while it runs, and without a trace afterwards."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import (
    PATIENCE_S,
    SOON_S,
    at_most,
    descendants,
    descriptors,
    eventually,
    is_there,
    line_of,
    never,
    program,
    stop,
)

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable


def test_c34_the_block_is_the_life_of_the_host(model_dir: Callable[..., str]) -> None:
    with hostd.Host("mine") as host:
        directory = Path(host.endpoint.removeprefix("ipc://")).parent
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert directory.name.startswith("mine-")
        client = host.client()
        pid = client.load_model("echo", model_dir()).info.workers[0].pid
        assert str(host.pid) in repr(host)
    assert not is_there(pid)
    assert not directory.exists()
    assert "not started" in repr(host)
    with pytest.raises(hostd.FailedPreconditionError, match="not started"):
        _ = host.endpoint
    with pytest.raises(hostd.FailedPreconditionError, match="closed"):
        client.list_models()


def test_the_block_ends_the_host_also_when_it_raises(model_dir: Callable[..., str]) -> None:
    pids = []
    with pytest.raises(ZeroDivisionError), hostd.Host() as host:
        pids += [host.pid, host.client().load_model("echo", model_dir()).info.workers[0].pid]
        raise ZeroDivisionError
    assert not [pid for pid in pids if is_there(pid)]


def test_a_host_can_be_stopped_and_started_again() -> None:
    host = hostd.Host()
    pids = set()
    for _ in range(2):
        with host:
            pids.add(host.pid)
            with pytest.raises(hostd.FailedPreconditionError, match="started already"):
                host.start()
    host.stop()
    assert len(pids) == 2


def test_several_hosts_live_side_by_side(model_dir: Callable[..., str]) -> None:
    with hostd.Host() as first, hostd.Host() as second:
        first.client().load_model("echo", model_dir())
        assert second.client().list_models() == []
        assert first.endpoint != second.endpoint
        second.stop()
        assert first.client().retrieve_model("echo").predict(1) == 1


def test_a_host_works_in_an_asynchronous_block(model_dir: Callable[..., str]) -> None:
    async def use() -> int:
        async with hostd.Host() as host, hostd.AsyncClient(host.endpoint) as client:
            model = await client.load_model("echo", model_dir())
            assert await model.predict(1) == 1
            return host.pid

    assert not is_there(asyncio.run(use()))


def test_an_asynchronous_client_is_closed_with_its_host(model_dir: Callable[..., str]) -> None:
    async def use() -> hostd.AsyncClient:
        async with hostd.Host() as host:
            client = host.async_client(timeout_s=PATIENCE_S)
            model = await client.load_model("echo", model_dir())
            assert await model.predict(1) == 1
        assert "closed" in repr(client)
        return client

    async def use_again(client: hostd.AsyncClient) -> None:
        with pytest.raises(hostd.FailedPreconditionError, match="closed"):
            await client.list_models()

    asyncio.run(use_again(asyncio.run(use())))


@pytest.mark.parametrize("loop_is", ["over", "idle", "running"])
def test_an_asynchronous_client_is_closed_by_a_program_that_is_not_on_its_loop(loop_is: str) -> None:
    loop = asyncio.new_event_loop()
    with hostd.Host() as host:
        client = host.async_client()
        host.async_client()  # one that never connected
        loop.run_until_complete(client.list_models())
        running = threading.Thread(target=loop.run_forever)
        if loop_is == "over":
            loop.close()
        elif loop_is == "running":
            running.start()
    if loop_is == "idle":
        with hostd.Host() as other:  # whose client has the descriptors that the first one gave back
            loop.run_until_complete(other.async_client().list_models())
    if loop_is == "running":
        with pytest.raises(hostd.FailedPreconditionError, match="closed"):
            asyncio.run_coroutine_threadsafe(client.list_models(), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        running.join(PATIENCE_S)
    assert "closed" in repr(client)
    assert not any(channel._connection for channel in client._channels._channels.values())
    loop.close()


def test_the_end_of_the_thread_that_started_a_host_does_not_end_the_host(model_dir: Callable[..., str]) -> None:
    host = hostd.Host()
    starter = threading.Thread(target=host.start)
    starter.start()
    starter.join(PATIENCE_S)
    try:
        client = host.client()
        loader = threading.Thread(target=client.load_model, args=("echo", model_dir()))
        loader.start()
        loader.join(PATIENCE_S)
        never(lambda: not client.retrieve_model("echo").loaded, "the host or the model went with a thread", for_s=0.2)
    finally:
        host.stop()


def test_a_host_leaves_the_signals_of_its_program_alone() -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    wakeup = signal.set_wakeup_fd(-1)
    with hostd.Host() as host:
        host.client().list_models()
        assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
    assert signal.set_wakeup_fd(wakeup) == -1


def test_a_host_reaps_no_child_of_its_program(model_dir: Callable[..., str]) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(7)"]) as child:
        eventually(lambda: os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT), "the child has ended")
        with hostd.Host() as host:
            client = host.client()
            client.load_model("echo", model_dir())
            client.unload_model("echo")
        assert child.wait() == 7


def test_a_terminals_interrupt_is_for_the_program_alone(host: hostd.Host) -> None:
    assert os.getsid(host._process.pid) != os.getsid(0)
    assert os.getpgid(host.pid) != os.getpgid(0)


def test_a_host_starts_in_a_program_with_very_many_descriptors(model_dir: Callable[..., str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"this process may have only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(1500)]
    try:
        with hostd.Host() as host:
            model = host.client().load_model("echo", model_dir())
            assert model.predict(1) == 1
            assert list(model.stream.generate(100)) == list(range(100))
            opened = len(list(Path(f"/proc/{host.pid}/fd").iterdir()))
            assert opened < 100, "the host inherited its program's descriptors"
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors_that_a_program_leaves_inheritable_do_not_reach_the_workers(model_dir: Callable[..., str]) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        with hostd.Host() as host:
            host.client().load_model("echo", model_dir())
            os.close(write)
            write = -1
            assert os.read(read, 1) == b"", "somebody else holds the program's pipe"
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)


def test_settings_that_are_wrong_start_nothing() -> None:
    before = descendants()  # of another test's program, say, which is on its way out
    for wrong in ({"workers": {"drain_timeout_s": -1}}, {"limits": {"nonsense": 1}}, {"memory": 7}):
        with pytest.raises(hostd.InvalidArgumentError, match=next(iter(wrong))):
            hostd.Host(**wrong).start()
    assert set(descendants()) <= set(before)


def test_a_runtime_directory_that_is_too_deep_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(hostd.InvalidArgumentError, match="107"):
        hostd.Host().start()
    assert list(deep.iterdir()) == []


def test_a_program_that_ends_without_a_word_takes_its_host_along() -> None:
    source = """
        import os
        import hostd
        host = hostd.Host()
        host.start()
        print(host.pid, host._process.pid, flush=True)
        os._exit(3)
    """
    with program(source) as embedder:
        pids = [int(word) for word in line_of(embedder).split()]
        assert embedder.wait(PATIENCE_S) == 3
    eventually(lambda: not [pid for pid in pids if is_there(pid)], "supervisor and reaper are gone")


def test_a_child_that_the_program_forks_ends_without_the_host(model_dir: Callable[..., str]) -> None:
    source = """
        import os, sys
        import hostd

        with hostd.Host() as host:
            client = host.client()
            client.load_model("echo", sys.argv[1])
            child = os.fork()
            if child == 0:
                try:
                    client.list_models()
                except hostd.FailedPreconditionError:
                    sys.exit(5)
                sys.exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            print(client.retrieve_model("echo").predict(1), flush=True)
    """
    embedder = program(source, model_dir(), PYTHONWARNINGS="ignore")
    try:
        assert line_of(embedder) == "5", "the child's own client says that it must connect anew"
        assert line_of(embedder) == "1", "the parent's host goes on"
        assert embedder.wait(PATIENCE_S) == 0
    finally:
        stop(embedder)


def test_c34_stopping_is_quick_with_many_models(model_dir: Callable[..., str]) -> None:
    with hostd.Host() as host:
        client = host.client()
        path = model_dir()
        models = [client.load_model(f"m{i}", path, wait=False) for i in range(10)]
        pids = [model.wait(PATIENCE_S).info.workers[0].pid for model in models]
        with at_most(SOON_S, "stopping a host with ten models"):
            host.stop()
        assert not [pid for pid in pids if is_there(pid)]


SLOW = """
    import time
    from pathlib import Path

    class Slow:
        def linger(self, begun):
            Path(begun).touch()
            time.sleep(600)

    def load(path, **options):
        return Slow()
"""


@pytest.mark.parametrize("interrupted", ["a call", "a stop"])
def test_a_signal_handler_may_stop_the_host(model_dir: Callable[..., str], tmp_path: Path, interrupted: str) -> None:
    begun, stopped = tmp_path / "begun", threading.Event()
    with hostd.Host(workers={"drain_timeout_s": 1}) as host:
        pid = host.pid
        client = host.client(timeout_s=None)
        model = client.load_model("slow", model_dir(SLOW))

        def handle(number: int, frame: object) -> None:
            host.stop()
            stopped.set()

        def interrupt() -> None:
            eventually(begun.exists, "the call has begun")
            if interrupted == "a stop":
                eventually(lambda: not host._info, "the host is being stopped")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, handle)
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        try:
            if interrupted == "a call":
                with pytest.raises((hostd.CancelledError, hostd.AbortedError)):
                    model.linger(str(begun))
            else:
                model.submit.linger(str(begun))
                eventually(begun.exists, "the call has begun")
                host.stop()
        finally:
            interrupter.join()
            signal.signal(signal.SIGUSR1, before)
        assert stopped.is_set()
        assert not is_there(pid)


def test_a_stop_that_interrupts_a_stop_with_a_lock_returns_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with hostd.Host() as host:
        pid, process = host.pid, host._process
        try_wait = process._try_wait  # called with the lock that every wait for the process needs

        def interrupted(flags: int) -> tuple[int, int]:
            with at_most(SOON_S, "a stop in a stop"):
                host.stop()
            monkeypatch.undo()
            return try_wait(flags)

        monkeypatch.setattr(process, "_try_wait", interrupted)
        host.stop()
        assert not is_there(pid)


def test_a_host_does_not_keep_the_clients_that_its_program_drops(host: hostd.Host) -> None:
    clients = [host.client() for _ in range(10)]
    before = len(descriptors())
    del clients
    eventually(lambda: len(descriptors()) < before, "their descriptors are given back")


NAMES_THAT_USERS_HAVE = ("workers", "tests", "benchmarks", "helpers", "launch", "config", "client")


def test_packages_of_the_program_may_have_any_name(tmp_path: Path, model_dir: Callable[..., str]) -> None:
    """Celery, Django and RQ projects have a package `workers`, nearly all have `tests`."""
    for name in NAMES_THAT_USERS_HAVE:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OURS = True\n")
    (tmp_path / "program.py").write_text(
        textwrap.dedent(f"""
            import sys
            from importlib import import_module
            import hostd

            if __name__ == "__main__":
                assert all(import_module(name).OURS for name in {NAMES_THAT_USERS_HAVE!r})
                with hostd.Host() as host:
                    model = host.client().load_model("echo", sys.argv[1])
                    try:
                        host.client().get_model_size("none")
                    except hostd.NotFoundError as error:
                        print(model.predict("called"), type(error))
        """)
    )
    program = [sys.executable, "program.py", model_dir()]
    done = subprocess.run(program, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "called <class 'hostd.NotFoundError'>\n", done.stderr
