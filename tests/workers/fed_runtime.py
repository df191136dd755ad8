"""A runtime whose model is fed, and short ways to feed it."""

import threading
import time

import pytest
from runtime_rig import Rig

from hostd_workers.calls.fed import TURN_S
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode, encode_call
from hostd_workers.wire.errors import (
    AbortedError,
    FailedPreconditionError,
    HostError,
)
from hostd_workers.wire.feeds import FEED_WINDOW

ABORTED = AbortedError("the caller's input failed: ValueError: no")
METHODS = pytest.mark.parametrize("prefix", ["", "async_"])


class Model:
    """Methods of both kinds; `log` says what they went through."""

    def __init__(self):
        self.log = []

    def ready(self):
        return "ready"

    def total(self, items, start=0):
        return start + sum(items)

    async def async_total(self, items, start=0):
        async for item in items:
            start += item
        return start

    def double(self, items):
        try:
            for item in items:
                yield 2 * item
        finally:
            self.log.append("closed")

    async def async_double(self, items):
        try:
            async for item in items:
                yield 2 * item
        finally:
            self.log.append("closed")

    def insists(self, items):
        try:
            yield from items
        finally:
            until_s = time.monotonic() + 2 * TURN_S
            while time.monotonic() < until_s:
                pass
            try:
                next(items)
            except HostError as error:
                self.log.append(error.status.name)

    def first(self, items):
        return next(items)

    async def async_first(self, items):
        return await items.__anext__()

    def catching(self, items):
        try:
            return sum(items)
        except Exception as error:
            self.log.append(repr(error))
            raise

    async def async_catching(self, items):
        try:
            async for _ in items:
                pass
        except Exception as error:
            self.log.append(repr(error))
            raise

    def forgiving(self, items):
        try:
            return sum(items)
        except HostError:
            return "never mind"

    def keep(self, items):
        self.kept = items

    def take_kept(self):
        return next(self.kept)

    def elsewhere(self, items):
        found = []

        def take():
            try:
                next(items)
            except FailedPreconditionError as error:
                found.append(str(error))

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        return found[0]

    def sums(self, items):
        return [float(array.sum()) for array in items]

    def generates(self, items):
        yield from items

    def exits(self, items):
        next(items)
        raise SystemExit(4)


class FedRig(Rig):
    def feed(
        self,
        id,
        method,
        kind=msg.CALL,
        args=(None,),
        kwargs=None,
        place=0,
        ahead=FEED_WINDOW,
        window=0,
        deadline_ms=wire.MAX_DEADLINE_MS,
    ):
        body, buffers = encode_call(args, kwargs or {})
        header = msg.pack_target(msg.Target("m", method, None, window, place, ahead))
        self.accept(wire.pack(kind, id, header, body, buffers, deadline_ms))
        return self

    def item(self, id, *values):
        for value in values:
            body, buffers = encode(value)
            self.accept(wire.pack(msg.ITEM, id, body=body, buffers=buffers))
        return self

    def end(self, id):
        self.accept(wire.pack(msg.END, id, body=encode(None)[0]))
        return self

    def fail(self, id):
        self.accept(msg.pack_error(id, ABORTED))
        return self

    def credits(self):
        """Return the credits that were sent since the last time, when nothing else was."""
        taken, self.sent[:] = list(self.sent), []
        assert {envelope.kind for envelope in taken} <= {msg.CREDIT}
        return [(envelope.id, msg.unpack_credit(envelope.header)) for envelope in taken]
