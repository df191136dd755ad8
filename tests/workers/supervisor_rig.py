"""The other end of a worker's conversation, for tests that start real workers."""

import os
import subprocess
import sys
import textwrap

import zmq
from helpers import REPOSITORY

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode_call
from hostd_workers.wire.errors import ModelError, from_wire

RUN = REPOSITORY / "workers" / "_bootstrap" / "run.py"
PATIENCE_S = 60
TOKEN = b"\1" + b"t" * 15


class Supervisor:
    """A ROUTER for one worker, and a way to start it."""

    def __init__(self, directory):
        self.directory = directory
        self.endpoint = f"ipc://{directory}/w.ipc"
        self.started = []
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(self.endpoint)

    def close(self):
        for process in self.started:
            process.kill()
            process.wait()
            process.stderr.close()
        self._socket.close()
        self._context.term()

    def environment(self, **changes):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HOSTD_", "PYTHONPATH"))}
        return {
            **kept,
            "HOSTD_SUPERVISOR_PID": str(os.getpid()),
            "HOSTD_WORKER_ENDPOINT": self.endpoint,
            "HOSTD_WORKER_TOKEN": TOKEN.hex(),
            "HOSTD_MODEL_ID": "a-model-of-a-long-name",
            **changes,
        }

    def start(self, code=RUN, stdout=None, pass_fds=(), **changes):
        process = subprocess.Popen(
            [sys.executable, str(code)],
            env=self.environment(**changes),
            cwd=self.directory,
            stdout=stdout,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
        )
        self.started.append(process)
        return process

    def serve(self, source, **start):
        """Start a worker and have it load a model; returns its hello."""
        self.start(**start)
        hello = self.receive()
        assert self.load(source).kind == msg.LOADED
        return hello

    def ended(self):
        """Return the exit code of the worker and what it said on standard error."""
        _, said = self.started[0].communicate(timeout=PATIENCE_S)
        return self.started[0].returncode, said.decode()

    def last_words(self):
        """Return the error that is the worker's next message, its last."""
        words = self.receive()
        assert words.kind == msg.LAST_WORDS
        body = msg.unpack_map(words)
        error = from_wire([body[name] for name in ("status", "kind", "message", "details")])
        assert isinstance(error, ModelError)
        return error

    def receive(self):
        (message,) = self.receive_all()
        return message

    def receive_all(self):
        """Return the next message, or all of the next batch."""
        assert self._socket.poll(PATIENCE_S * 1000), "the worker says nothing"
        identity, *frames = self._socket.recv_multipart()
        assert identity == TOKEN
        if frames[0][:1] == bytes([wire.BATCH]):
            return [wire.unpack([message]) for message in wire.unpack_batch(frames[0])]
        return [wire.unpack(frames)]

    def send(self, frames):
        self._socket.send_multipart([TOKEN, *frames])

    def load(self, source, **more):
        (self.directory / "model.py").write_text(textwrap.dedent(source))
        path = str(self.directory)
        told = {"model_id": "m", "path": path, "loader": "python", "options": {}, **more}
        self.send(msg.pack_map(msg.LOAD, 0, told))
        return self.receive()

    def call(self, method, *args, kind=msg.CALL, id=1):
        body, buffers = encode_call(args, {})
        self.send(wire.pack(kind, id, msg.pack_target(msg.Target("m", method, window=2)), body, buffers))

    def result(self, method, *args):
        self.call(method, *args)
        answer = self.receive()
        assert answer.kind == msg.RESULT, msg.unpack_error(answer)
        return decode(answer.body, answer.buffers)
