"""The other end of a worker's conversation, for tests that start real workers."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import IO, TYPE_CHECKING, Any

import zmq
from helpers import REPOSITORY

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode_call

if TYPE_CHECKING:
    from pathlib import Path

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

    def start(self, code: Path = RUN, stdout: IO[bytes] | None = None, **changes: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(code)],
            env=self.environment(**changes),
            cwd=self.directory,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def receive(self) -> wire.Envelope:
        assert self._socket.poll(PATIENCE_MS), "the worker says nothing"
        identity, *frames = self._socket.recv_multipart()
        assert identity == TOKEN
        return wire.unpack(frames)

    def receive_all(self) -> list[wire.Envelope]:
        """Return the next message, or all of the next batch."""
        assert self._socket.poll(PATIENCE_MS), "the worker says nothing"
        _, *frames = self._socket.recv_multipart()
        if frames[0][:1] == bytes([wire.BATCH]):
            return [wire.unpack([message]) for message in wire.unpack_batch(frames[0])]
        return [wire.unpack(frames)]

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


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return the exit code and what was said on standard error."""
    _, said = process.communicate(timeout=PATIENCE_MS / 1000)
    return process.returncode, said.decode()
