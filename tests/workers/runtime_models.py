"""Models for the tests of the runtime: one of plain methods, one of coroutines."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import numpy as np

from hostd_workers.calls.answers import TRACE
from hostd_workers.wire.errors import NotFoundError


class Model:
    """A model that does as it is told."""

    def __init__(self):
        self.calls = []

    def predict(self, x: Any, scale: int = 1, *, bias: int = 0):
        self.calls.append(x)
        return x * scale + bias

    def echo(self, x):
        self.calls.append(x)
        return x

    def trace(self):
        return TRACE.get()

    def raise_(self, error, text="why"):
        raise {"value": ValueError, "type": TypeError, "stop": StopIteration}[error](text)

    def raise_inside(self):
        self.echo()

    def raise_typed(self):
        raise NotFoundError("no such label", details={"label": 7})

    def raise_chained(self):
        try:
            self.raise_("value", "the cause")
        except ValueError as error:
            raise RuntimeError("the effect") from error

    def recurse(self):
        self.recurse()

    def make(self, what):
        return MADE[what]()

    def half_used(self):
        def generator():
            try:
                yield 1
            finally:
                raise ValueError("raised when it was closed")

        made = generator()
        next(made)
        return made

    def generate(self, n):
        yield from range(n)


class Lazy(dict):
    """A mapping that fails when it is read."""

    def keys(self):
        raise RuntimeError("the file behind this is gone")

    __iter__ = keys


class Curious:
    """An object that fails when it is asked what it can do."""

    def __getattr__(self, name):
        raise RuntimeError(f"asked for {name}")


MADE = {
    "set": lambda: {1},
    "object": object,
    "lazy": lambda: Lazy(a=1),
    "view with gaps": lambda: memoryview(b"abcdef")[::2],
    "surrogate": lambda: "\udcff",
    "huge integer": lambda: 2**70,
    "objects": lambda: np.array([object()]),
    "curious": Curious,
    "too many arrays": lambda: [np.zeros(5000, np.uint8)] * 5000,
    "itself": lambda: functools.reduce(lambda loop, _: (loop.append(loop), loop)[1], [0], []),
}


class AsyncModel:
    """Coroutines that meet at `gate`, and methods of every other kind."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.log = []
        self.inside = 0
        self.most_inside = 0

    async def wait(self, x: Any):
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.log.append(f"cancelled {x}")
            raise
        finally:
            self.inside -= 1
        return x

    async def trace(self):
        before = TRACE.get()
        await asyncio.sleep(0)
        return before, TRACE.get()

    async def fail(self):
        await asyncio.sleep(0)
        raise ValueError("failed")

    async def time_out(self):
        raise asyncio.TimeoutError("the model's own timeout")

    async def awaits_what_was_cancelled(self):
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def shrugs_off_cancels(self):
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            return "late"
        return "open"

    async def unsendable(self):
        return {1}

    async def exits(self):
        raise SystemExit(5)

    def plain(self, x):
        return x

    def numbers(self, n):
        yield from range(n)

    async def generate(self, n, fails=""):
        try:
            for item in range(n):
                self.log.append(str(item))
                yield item
                await asyncio.sleep(0)
            if fails == "raise":
                raise ValueError("failed at the end")
            if fails == "unsendable":
                yield {1}
                self.log.append("never")
        finally:
            self.log.append("closed")

    def iterator(self):
        class Counting:
            def __init__(self):
                self.count = 0

            def __aiter__(self):
                return self

            async def __anext__(self):
                self.count += 1
                if self.count > 2:
                    raise StopAsyncIteration
                return self.count

        return Counting()
