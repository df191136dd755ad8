"""`hostd.Host` inside another program: polite while it runs, and without a trace afterwards."""

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

import psutil
import pytest
from helpers import (
    PATIENCE_S,
    SOON_S,
    at_most,
    descriptors,
    eventually,
    is_there,
    line_of,
    never,
    program,
)

import hostd


def test_c34_the_block_is_the_life_of_the_host(model_dir):
    path, pids = model_dir(), []
    host = hostd.Host("mine")
    for _ in range(2):  # it can be started again
        with pytest.raises(ZeroDivisionError), host:
            directory = Path(host.endpoint.removeprefix("ipc://")).parent
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert directory.name.startswith("mine-")
            client = host.client()
            models = [client.load_model(f"m{i}", path, wait=False) for i in range(5)]
            pids += [host.pid, *[model.wait(PATIENCE_S).info.workers[0].pid for model in models]]
            assert str(host.pid) in repr(host)
            with pytest.raises(hostd.FailedPreconditionError, match="started already"):
                host.start()
            with hostd.Host() as other:  # side by side
                assert other.client().list_models() == []
                assert other.endpoint != host.endpoint
            assert client.retrieve_model("m0").predict(1) == 1
            raise ZeroDivisionError
        assert not [pid for pid in pids if is_there(pid)]
        assert not directory.exists()
        assert "not started" in repr(host)
        with pytest.raises(hostd.FailedPreconditionError, match="not started"):
            _ = host.endpoint
        with pytest.raises(hostd.FailedPreconditionError, match="closed"):
            client.list_models()
    assert len(set(pids)) == 12


def test_a_host_and_its_clients_work_in_an_asynchronous_block(model_dir):
    async def use():
        async with hostd.Host() as host:
            client = host.async_client(timeout_s=PATIENCE_S)
            model = await client.load_model("echo", model_dir())
            assert await model.predict(1) == 1
            pid = host.pid
        assert "closed" in repr(client)
        return pid, client

    pid, client = asyncio.run(use())
    assert not is_there(pid)
    with pytest.raises(hostd.FailedPreconditionError, match="closed"):
        asyncio.run(client.list_models())


@pytest.mark.parametrize("loop_is", ["over", "idle", "running"])
def test_an_asynchronous_client_is_closed_by_a_program_that_is_not_on_its_loop(loop_is):
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
        with hostd.Host() as other:  # its client has the descriptors that the first one gave back
            loop.run_until_complete(other.async_client().list_models())
    if loop_is == "running":
        with pytest.raises(hostd.FailedPreconditionError, match="closed"):
            asyncio.run_coroutine_threadsafe(client.list_models(), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        running.join(PATIENCE_S)
    assert "closed" in repr(client)
    loop.close()  # that the connections are closed is seen after each test


def test_a_host_leaves_its_program_as_it_was(model_dir):
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    wakeup = signal.set_wakeup_fd(-1)
    read, write = os.pipe()
    os.set_inheritable(write, True)
    with subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(7)"]) as child:
        eventually(lambda: os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT), "the child has ended")
        with hostd.Host() as host:
            client = host.client()
            client.load_model("echo", model_dir())
            assert {number: signal.getsignal(number) for number in signal.valid_signals()} == signals
            reaper = psutil.Process(host.pid).ppid()
            assert os.getsid(reaper) != os.getsid(0), "a terminal's interrupt is for the program alone"
            assert os.getpgid(host.pid) != os.getpgid(0)
            os.close(write)
            assert os.read(read, 1) == b"", "somebody else holds the program's pipe"
            client.unload_model("echo")
            clients = [host.client() for _ in range(10)]
            before = len(descriptors())
            del clients
            eventually(lambda: len(descriptors()) < before, "the descriptors of clients that were dropped come back")
        assert child.wait() == 7, "the host has reaped a child of its program"
    os.close(read)
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == signals
    assert signal.set_wakeup_fd(wakeup) == -1


def test_a_host_outlives_the_thread_that_started_it_and_inherits_no_descriptors(model_dir):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"this process may have only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(1500)]
    host = hostd.Host()
    try:
        in_a_thread(host.start)
        client = host.client()
        in_a_thread(lambda: client.load_model("echo", model_dir()))
        never(lambda: not client.retrieve_model("echo").loaded, "the host or the model went with a thread", for_s=0.2)
        assert list(client.retrieve_model("echo").stream.generate(100)) == list(range(100))
        assert len(os.listdir(f"/proc/{host.pid}/fd")) < 100, "the host inherited its program's descriptors"
    finally:
        host.stop()
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def in_a_thread(act):
    thread = threading.Thread(target=act)
    thread.start()
    thread.join(PATIENCE_S)


def test_a_section_that_is_misspelt_is_named_with_the_nearest_one():
    with pytest.raises(hostd.InvalidArgumentError) as caught:
        hostd.Host(wrokers={}, shard=True)
    problems = ["hostd.Host has no section 'wrokers'; did you mean 'workers'?"]
    problems += ["hostd.Host has no section 'shard'; did you mean 'shared'?"]
    assert (caught.value.message, caught.value.details) == ("; ".join(problems), {"problems": problems})


def test_a_runtime_directory_that_is_too_deep_is_refused(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 100)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(hostd.InvalidArgumentError, match="107"):
        hostd.Host().start()
    assert list(deep.iterdir()) == []


def test_a_program_that_forks_and_ends_without_a_word_takes_its_host_along(model_dir):
    source = """
        import os, sys
        import hostd, psutil

        host = hostd.Host()
        host.start()
        client = host.client()
        client.load_model("echo", sys.argv[1])
        print(host.pid, psutil.Process(host.pid).ppid(), flush=True)
        child = os.fork()
        if child == 0:
            try:
                client.list_models()
            except hostd.FailedPreconditionError:
                sys.exit(5)
            sys.exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        print(client.retrieve_model("echo").predict(1), flush=True)
        os._exit(3)
    """
    with program(source, model_dir(), PYTHONWARNINGS="ignore") as embedder:
        pids = [int(word) for word in line_of(embedder).split()]
        assert line_of(embedder) == "5", "the child's own client says that it must connect anew"
        assert line_of(embedder) == "1", "the parent's host goes on"
        assert embedder.wait(PATIENCE_S) == 3
    eventually(lambda: not [pid for pid in pids if is_there(pid)], "supervisor and reaper are gone")


@pytest.mark.parametrize("interrupted", ["a call", "a stop"])
def test_a_signal_handler_may_stop_the_host(rig, tmp_path, interrupted):
    begun, stopped = tmp_path / "begun", threading.Event()
    with hostd.Host(workers={"drain_timeout_s": 1}) as host:
        pid, client = host.pid, host.client(timeout_s=None)
        model = client.load_model("slow", rig.make())

        def handle(number, frame):
            host.stop()
            stopped.set()

        def interrupt():
            eventually(begun.exists, "the call has begun")
            if interrupted == "a stop":
                eventually(lambda: "not started" in repr(host), "the host is being stopped")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, handle)
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        try:
            if interrupted == "a call":
                with pytest.raises((hostd.CancelledError, hostd.AbortedError)):
                    model.work(str(begun), str(tmp_path / "never"))
            else:
                model.submit.work(str(begun), str(tmp_path / "never"))
                eventually(begun.exists, "the call has begun")
                host.stop()
        finally:
            interrupter.join()
            signal.signal(signal.SIGUSR1, before)
        assert stopped.is_set()
        assert not is_there(pid)


def test_a_stop_that_interrupts_a_stop_with_a_lock_returns_at_once(monkeypatch):
    with hostd.Host() as host:
        pid, process = host.pid, host._process
        try_wait = process._try_wait  # called with the lock that every wait for the process needs

        def interrupted(flags):
            with at_most(SOON_S, "a stop in a stop"):
                host.stop()
            monkeypatch.undo()
            return try_wait(flags)

        monkeypatch.setattr(process, "_try_wait", interrupted)
        host.stop()
        assert not is_there(pid)


NAMES_THAT_USERS_HAVE = ("workers", "tests", "benchmarks", "helpers", "launch", "config", "client")


def test_packages_of_the_program_may_have_any_name(tmp_path, model_dir):
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
