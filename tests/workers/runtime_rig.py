"""A runtime with a model and nothing else: messages go in by hand, and what is sent is kept."""

import asyncio
import functools

from hostd_workers.calls.runtime import Runtime
from hostd_workers.methods import methods_of
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode_call
from hostd_workers.wire.errors import HostError
from hostd_workers.wire.lane.page import Writer


class Rig:
    """A runtime around `model`, the messages that it sent, and short ways to send it some."""

    def __init__(self, model, send=None, **limits):
        self.sent = []
        send = send or (lambda frames: self.sent.append(wire.unpack(frames)))
        self.runtime = Runtime(methods_of(model, None), send, Writer(None, ()), **limits)

    def call(self, id, method, *args, kind=msg.CALL, trace=None, window=0, kwargs=None, deadline_ms=None):
        body, buffers = encode_call(args, kwargs or {})
        deadline_ms = wire.MAX_DEADLINE_MS if deadline_ms is None else deadline_ms
        header = msg.pack_target(msg.Target("m", method, trace, window))
        self.accept(wire.pack(kind, id, header, body, buffers, deadline_ms))

    def stream(self, id, method, *args, **options):
        self.call(id, method, *args, kind=msg.STREAM, **options)

    def credit(self, id, items):
        self.accept(msg.pack_credit(id, items))

    def cancel(self, id):
        self.accept(wire.pack(msg.CANCEL, id))

    def accept(self, frames):
        self.runtime.accept(wire.unpack(frames))

    def run(self):
        """Step until there is nothing to do."""
        for _ in range(10_000):
            if not self.runtime.has_work:
                return self
            self.runtime.step()
        raise AssertionError("the runtime never comes to rest")

    async def settle(self):
        """Let everything run that can, on the loop too."""
        for _ in range(50):
            self.run()
            await asyncio.sleep(0)
        return self

    def take(self):
        """Return what was sent since the last time: (id, kind, value or error)."""
        taken, self.sent[:] = list(self.sent), []
        return [(envelope.id, _NAMES[envelope.kind], _value(envelope)) for envelope in taken]

    def brief(self):
        """Return what was sent since the last time, errors by the names of their statuses."""
        return [
            (id, kind, value.status.name if isinstance(value, HostError) else value) for id, kind, value in self.take()
        ]

    def error(self):
        """Return the only message that was sent, which must be an error."""
        ((_, kind, error),) = self.take()
        assert kind == "ERROR", (kind, error)
        return error


def cancelled(id):
    return (id, "ERROR", "CANCELLED")


def too_late(id):
    return (id, "ERROR", "DEADLINE_EXCEEDED")


def items(*values, id=1):
    return [(id, "ITEM", value) for value in values]


def on_a_loop(test):
    """Run a test that is a coroutine."""

    @functools.wraps(test)
    def run(**fixtures):
        asyncio.run(test(**fixtures))

    return run


async def until(check):
    while not check():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0)


_NAMES = {msg.RESULT: "RESULT", msg.ITEM: "ITEM", msg.END: "END", msg.ERROR: "ERROR"}


def _value(envelope):
    if envelope.kind == msg.ERROR:
        return msg.unpack_error(envelope)
    return decode(envelope.body, envelope.buffers)
