"""A worker process as it really starts, with the test as its supervisor."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from helpers import REPOSITORY, eventually, is_there, state_of

from hostd_workers.main import EXIT_FATAL
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode_call
from hostd_workers.wire.errors import ModelError, from_wire

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = REPOSITORY / "workers" / "_bootstrap" / "run.py"
PATIENCE_MS = 20_000
TOKEN = b"\1" + b"t" * 15


class Supervisor:
    """A ROUTER for one worker, and a way to start it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.endpoint = f"ipc://{directory}/w.ipc"
        self.started: list[subprocess.Popen[bytes]] = []
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[Any] = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(self.endpoint)

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
        self._socket.close()
        self._context.term()

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HOSTD_", "PYTHONPATH"))}
        return {
            **kept,
            "HOSTD_SUPERVISOR_PID": str(os.getpid()),
            "HOSTD_WORKER_ENDPOINT": self.endpoint,
            "HOSTD_WORKER_TOKEN": TOKEN.hex(),
            "HOSTD_MODEL_ID": "a-model-of-a-long-name",
            **changes,
        }

    def start(self, code: Path = RUN, **changes: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(code)],
            env=self.environment(**changes),
            cwd=self.directory,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def receive(self) -> wire.Envelope:
        assert self._socket.poll(PATIENCE_MS), "the worker says nothing"
        identity, *frames = self._socket.recv_multipart()
        assert identity == TOKEN
        return wire.unpack(frames)

    def send(self, frames: list[wire.Buffer]) -> None:
        self._socket.send_multipart([TOKEN, *frames])

    def load(self, source: str) -> wire.Envelope:
        (self.directory / "model.py").write_text(textwrap.dedent(source))
        path = str(self.directory)
        self.send(msg.pack_map(msg.LOAD, 0, {"model_id": "m", "path": path, "loader": "python", "options": {}}))
        return self.receive()

    def call(self, method: str, *args: Any, kind: int = msg.CALL, id: int = 1) -> None:
        body, buffers = encode_call(args, {})
        self.send(wire.pack(kind, id, msg.pack_target(msg.Target("m", method, window=2)), body, buffers))

    def result(self, method: str, *args: Any) -> Any:
        self.call(method, *args)
        answer = self.receive()
        assert answer.kind == msg.RESULT, msg.unpack_error(answer)
        return decode(answer.body, answer.buffers)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    directory = Path(tempfile.mkdtemp(prefix="hostd-w-"))  # a socket's path must be short
    made = Supervisor(directory)
    yield made
    made.close()
    shutil.rmtree(directory)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return the exit code and what was said on standard error."""
    _, said = process.communicate(timeout=PATIENCE_MS / 1000)
    return process.returncode, said.decode()


SELF_AWARE = """
    import ctypes, os, resource, sys

    class Model:
        def look(self):
            import hostd_workers
            flag = ctypes.c_int()
            ctypes.CDLL(None).prctl(37, ctypes.byref(flag), 0, 0, 0)
            signal = ctypes.c_int()
            ctypes.CDLL(None).prctl(2, ctypes.byref(signal), 0, 0, 0)
            return {
                "path": sys.path,
                "workers": hostd_workers.__path__[0],
                "variables": sorted(name for name in os.environ if name.startswith("HOSTD_")),
                "name": open("/proc/self/comm").read().strip(),
                "adopts orphans": flag.value,
                "signal at death of parent": signal.value,
                "parent": os.getppid(),
                "oom score": int(open("/proc/self/oom_score_adj").read()),
                "data limit": resource.getrlimit(resource.RLIMIT_DATA)[0],
            }

        def take(self, size_bytes):
            return len(bytearray(size_bytes))

        def fault(self):
            import faulthandler
            return faulthandler.is_enabled()

        def count(self, n):
            for item in range(n):
                yield item

        def leave(self, code):
            sys.exit(code)

        def burst(self):
            raise KeyboardInterrupt("burst")

    class Later(Model):
        async def later(self, x):
            return x

    def load(path):
        return Model()
"""


def test_a_worker_says_hello_under_its_token_with_its_own_pid(supervisor: Supervisor) -> None:
    process = supervisor.start()
    hello = supervisor.receive()
    assert hello.kind == msg.WORKER_HELLO
    body = msg.unpack_map(hello)
    assert (body["token"], body["versions"], body["pid"]) == (TOKEN.hex(), [wire.VERSION], process.pid)


def test_a_worker_is_tied_to_its_supervisor_and_sees_nothing_of_ours_but_its_own_package(
    supervisor: Supervisor,
) -> None:
    supervisor.start()
    supervisor.receive()
    assert supervisor.load(SELF_AWARE).kind == msg.LOADED
    seen = supervisor.result("look")
    assert seen["workers"] == str(REPOSITORY / "workers")
    assert not {str(RUN.parent), str(REPOSITORY), str(REPOSITORY / "workers")} & set(seen["path"])
    assert seen["variables"] == ["HOSTD_MODEL_ID"], "what ties it to the supervisor is nobody else's business"
    assert seen["name"] == "hostd:a-model-o"
    assert seen["adopts orphans"] == 1
    assert seen["signal at death of parent"] == signal.SIGKILL
    assert seen["parent"] == os.getpid()
    assert supervisor.result("fault") is True


def test_a_worker_makes_itself_the_first_to_be_killed_and_bounds_what_it_can_have(supervisor: Supervisor) -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    supervisor.start(HOSTD_OOM_SCORE_ADJ=str(own + 7), HOSTD_DATA_LIMIT_BYTES=str(1 << 30))
    supervisor.receive()
    assert supervisor.load(SELF_AWARE).kind == msg.LOADED
    seen = supervisor.result("look")
    assert (seen["oom score"], seen["data limit"]) == (own + 7, 1 << 30)
    assert seen["variables"] == ["HOSTD_MODEL_ID"]
    supervisor.call("take", 2 << 30)
    answer = supervisor.receive()
    assert answer.kind == msg.ERROR
    assert "MemoryError" in msg.unpack_error(answer).message
    assert supervisor.result("take", 1000) == 1000


@pytest.mark.parametrize("value", ["", "much", str(1 << 80), "-5"])
def test_bounds_that_cannot_be_are_gone_without(supervisor: Supervisor, value: str) -> None:
    supervisor.start(HOSTD_OOM_SCORE_ADJ=value, HOSTD_DATA_LIMIT_BYTES=value)
    supervisor.receive()
    assert supervisor.load(SELF_AWARE).kind == msg.LOADED
    assert supervisor.result("look")["variables"] == ["HOSTD_MODEL_ID"]


def test_the_code_may_be_reached_through_a_link(supervisor: Supervisor) -> None:
    link = supervisor.directory / "elsewhere"
    link.symlink_to(RUN.parent)
    supervisor.start(link / "run.py")
    assert supervisor.receive().kind == msg.WORKER_HELLO


def test_a_worker_whose_supervisor_is_gone_already_ends_without_a_word(supervisor: Supervisor) -> None:
    code, said = ended(supervisor.start(HOSTD_SUPERVISOR_PID="1"))
    assert (code, said) == (1, "")


def test_a_worker_dies_with_its_supervisor(supervisor: Supervisor) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            (
                "import os, subprocess, sys\n"
                "os.environ['HOSTD_SUPERVISOR_PID'] = str(os.getpid())\n"
                "subprocess.Popen([sys.executable, sys.argv[1]]).wait()"
            ),
            str(RUN),
        ],
        env=supervisor.environment(),
        stderr=subprocess.PIPE,
    )
    supervisor.started.append(parent)
    worker = msg.unpack_map(supervisor.receive())["pid"]
    watched = os.pidfd_open(worker)
    try:
        parent.kill()
        assert select.select([watched], [], [], PATIENCE_MS / 1000)[0], "the worker lives on"
    finally:
        os.close(watched)
    eventually(lambda: not is_there(worker) or state_of(worker) == "Z", "the worker is dead")


def test_code_that_is_not_where_it_should_be_is_named(supervisor: Supervisor) -> None:
    lonely = supervisor.directory / "lonely" / "_bootstrap"
    lonely.mkdir(parents=True)
    shutil.copy(RUN, lonely)
    code, said = ended(supervisor.start(lonely / "run.py"))
    assert code == 1
    assert f"the worker's code is not at {lonely.parent}: reinstall hostd" in said


# The loop around the session


def test_a_worker_loads_calls_and_streams(supervisor: Supervisor) -> None:
    supervisor.start()
    supervisor.receive()
    supervisor.load(SELF_AWARE)
    supervisor.call("count", 3, kind=msg.STREAM, id=7)
    assert [supervisor.receive().kind for _ in range(2)] == [msg.ITEM, msg.ITEM]
    supervisor.send(msg.pack_credit(7, 5))
    assert [supervisor.receive().kind for _ in range(2)] == [msg.ITEM, msg.END]


def test_a_model_with_coroutines_serves_on_a_loop_plain_methods_too(supervisor: Supervisor) -> None:
    supervisor.start()
    supervisor.receive()
    supervisor.load(SELF_AWARE.replace("return Model()", "return Later()"))
    big = bytes(3 << 20)
    assert supervisor.result("later", big) == big
    assert supervisor.result("fault") is True
    for id in range(100):
        supervisor.call("later", id, id=id)
    answers = [supervisor.receive() for _ in range(100)]
    assert {(answer.id, decode(answer.body)) for answer in answers} == {(id, id) for id in range(100)}


@pytest.mark.parametrize("model", ["Model", "Later"])
def test_a_model_that_exits_has_last_words_and_its_own_exit_code(supervisor: Supervisor, model: str) -> None:
    process = supervisor.start()
    supervisor.receive()
    supervisor.load(SELF_AWARE.replace("return Model()", f"return {model}()"))
    supervisor.call("leave", 9)
    words = supervisor.receive()
    assert words.kind == msg.LAST_WORDS
    body = msg.unpack_map(words)
    error = from_wire([body[name] for name in ("status", "kind", "message", "details")])
    assert isinstance(error, ModelError)
    assert error.message == "SystemExit: 9"
    assert "in leave" in error.traceback
    assert ended(process)[0] == 9


def test_a_worker_that_fails_itself_says_so_and_leaves_its_traceback(supervisor: Supervisor) -> None:
    process = supervisor.start()
    supervisor.receive()
    supervisor.load(SELF_AWARE)
    supervisor.call("burst")
    assert supervisor.receive().kind == msg.LAST_WORDS
    code, said = ended(process)
    assert code == EXIT_FATAL
    assert "KeyboardInterrupt: burst" in said


def test_a_message_that_is_none_ends_the_worker_with_last_words(supervisor: Supervisor) -> None:
    process = supervisor.start()
    supervisor.receive()
    supervisor.send([b"no message"])
    assert supervisor.receive().kind == msg.LAST_WORDS
    assert ended(process)[0] == EXIT_FATAL
