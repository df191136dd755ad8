"""ZMTP 3.0 by hand over a UNIX socket (https://rfc.zeromq.org/spec/23), because libzmq keeps its users from bad faith.

A `RawPeer` claims any identity, sends any frames, with or without end, and reads or does not.
"""

import contextlib
import os
import select
import socket
import struct
import time
from collections import deque

from attacks.attack import MIB, PATIENCE_S
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4

_STEP_MS = 50
_KEPT = 64


def frame(data, flags=0):
    """Return a frame of a message or a command."""
    if len(data) < 256:
        return bytes((flags, len(data))) + bytes(data)
    return struct.pack(">BQ", flags | LONG, len(data)) + bytes(data)


def announced(length):
    """Return the header of a long frame, the last of its message."""
    return struct.pack(">BQ", LONG, length)


def message(frames):
    """Return a whole message."""
    return b"".join([*(frame(data, MORE) for data in frames[:-1]), frame(frames[-1])])


def ready(identity):
    """Return the command by which a DEALER names itself."""
    properties = ((b"Socket-Type", b"DEALER"), (b"Identity", identity))
    pairs = (struct.pack(">B", len(name)) + name + struct.pack(">I", len(value)) + value for name, value in properties)
    return frame(b"\x05READY" + b"".join(pairs), COMMAND)


class RawPeer:
    """A connection that sends what it likes. `is_closed` when the host has ended it; what came last is `received`.

    With `handshake` it says READY as `identity` and waits until the host does: libzmq ends connections that do not wait.
    """

    def __init__(self, path, *, identity=b"", handshake=True):
        self._socket = socket.socket(socket.AF_UNIX)
        # Not `settimeout`, with which a full queue of those that wait to be accepted is an error at once.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(PATIENCE_S), 0))
        self._socket.connect(path)
        self._socket.setblocking(False)
        self.reads = True
        self.is_closed = self.is_ready = False
        self.received = deque(maxlen=_KEPT)
        self.messages = 0
        self._buffer = bytearray()
        self._frames = []
        self._is_greeted = False
        self._awaited = None
        self._poll = select.poll()
        if handshake:
            self.push(GREETING + ready(identity), lambda: False)
            self.read_until(lambda: self.is_ready)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._socket.close()

    def fileno(self):
        """Return its descriptor, for `select`."""
        return self._socket.fileno()

    def greet(self):
        """Say HELLO and wait for the answer."""
        hello = {"versions": [wire.VERSION], "pid": os.getpid(), "batches": True}
        self.push(message(msg.pack_map(msg.HELLO, 1, hello)), lambda: False)
        if not self.read_until(lambda: self.messages):
            raise ConnectionError("the host does not answer a HELLO")
        return self

    def push(self, data, is_over, within_s=PATIENCE_S):
        """Send as much as the host takes, reading meanwhile if this peer reads; returns how many bytes it took."""
        view, deadline_s = memoryview(data), time.monotonic() + within_s
        while view and not self.is_closed and not is_over() and time.monotonic() < deadline_s:
            if self._wait(select.POLLOUT) & select.POLLOUT:
                with contextlib.suppress(BlockingIOError):
                    try:
                        view = view[self._socket.send(view) :]
                    except (BrokenPipeError, ConnectionResetError):
                        self._look_at_the_end()
        return len(data) - len(view)

    def read_until(self, check, within_s=PATIENCE_S):
        """Read until something is so, or the connection is closed; say whether it is so."""
        deadline_s, self.reads = time.monotonic() + within_s, True
        while not check() and not self.is_closed and time.monotonic() < deadline_s:
            self._wait(0)
        return bool(check())

    def told(self):
        """Return what the host said or did about this peer: the last error, or that it closed the connection."""
        errors = [f"{type(error).__name__}: {error.message}" for error in self.errors()]
        return errors[-1] if errors else "the connection was closed" if self.is_closed else ""

    def errors(self):
        """Return the errors among what came last."""
        return [error for one in self.received for error in _errors_in(one)]

    def await_answer(self, request_id):
        """Read until a request is answered; say whether it is."""
        self._awaited = request_id
        return self.read_until(lambda: self._awaited is None)

    def _wait(self, events):
        self._poll.register(self._socket, events | (select.POLLIN if self.reads else 0))
        seen = sum(happened for _, happened in self._poll.poll(_STEP_MS))
        if seen & select.POLLIN:
            self._read()
        elif seen & (select.POLLHUP | select.POLLERR):
            self._look_at_the_end()
        return seen

    def _read(self):
        try:
            data = self._socket.recv(MIB)
        except (BlockingIOError, TimeoutError):
            return
        except ConnectionResetError:
            data = b""
        if data:
            self._buffer += data
            self._parse()
        else:
            self.is_closed = True

    def _look_at_the_end(self):
        """Read what the host said before it closed the connection."""
        while not self.is_closed:
            before = len(self._buffer), self.messages
            self._read()
            self.is_closed = self.is_closed or before == (len(self._buffer), self.messages)

    def _parse(self):
        buffer = self._buffer
        start = 0
        if not self._is_greeted:
            if len(buffer) < len(GREETING):
                return
            start, self._is_greeted = len(GREETING), True
        while len(buffer) >= start + 2:
            flags = buffer[start]
            head = 9 if flags & LONG else 2
            if len(buffer) < start + head:
                break
            size = struct.unpack_from(">Q", buffer, start + 1)[0] if flags & LONG else buffer[start + 1]
            if len(buffer) < start + head + size:
                break
            if flags & COMMAND:
                self.is_ready = True
            else:
                self._frames.append(bytes(buffer[start + head : start + head + size]))
                if not flags & MORE:
                    self._take()
            start += head + size
        del buffer[:start]

    def _take(self):
        frames, self._frames = self._frames, []
        self.messages += 1
        self.received.append(frames)
        if self._awaited is not None and any(wire.id_of(one[0]) == self._awaited for one in _each(frames)):
            self._awaited = None


def _each(frames):
    if frames[0][:1] == bytes([wire.BATCH]):
        return [[single] for single in wire.unpack_batch(frames[0])]
    return [frames]


def _errors_in(frames):
    for envelope in map(wire.unpack, _each(frames)):
        if envelope.kind == msg.ERROR:
            yield msg.unpack_error(envelope)


def batch(messages):
    """Return a message that is a batch of messages of one frame each."""
    return message([wire.pack_batch(messages)])


def call(model_id, method, request_id, body=b"\x92\x90\x80", **more):
    """Return the frames of a CALL; the body is one without arguments."""
    return wire.pack(msg.CALL, request_id, msg.pack_target(msg.Target(model_id, method)), body, **more)


def stream(model_id, method, request_id, window):
    """Return the frames of a STREAM without arguments."""
    target = msg.Target(model_id, method, window=window)
    return wire.pack(msg.STREAM, request_id, msg.pack_target(target), b"\x92\x90\x80")


def verb(name, request_id, **arguments):
    """Return the frames of a VERB."""
    return msg.pack_map(msg.VERB, request_id, arguments, header=msg.pack_verb(name))
