"""Models for the tests of the runtime: one of plain methods, one of coroutines."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from hostd_workers.calls.answers import TRACE
from hostd_workers.wire.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Model:
    """A model that does as it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def predict(self, x: Any, scale: int = 1, *, bias: int = 0) -> Any:
        self.calls.append(x)
        return x * scale + bias

    def echo(self, x: Any) -> Any:
        self.calls.append(x)
        return x

    def trace(self) -> str | None:
        return TRACE.get()

    def raise_(self, error: str, text: str = "why") -> None:
        raise {"value": ValueError, "type": TypeError, "stop": StopIteration}[error](text)

    def raise_inside(self) -> None:
        def helper(a: int) -> int:
            return a

        helper()  # type: ignore[call-arg]

    def raise_typed(self) -> None:
        raise NotFoundError("no such label", details={"label": 7})

    def raise_chained(self) -> None:
        try:
            self.raise_("value", "the cause")
        except ValueError as error:
            raise RuntimeError("the effect") from error

    def recurse(self) -> None:
        self.recurse()

    def make(self, what: str) -> Any:
        return MADE[what]()

    def half_used(self) -> Iterator[int]:
        def generator() -> Iterator[int]:
            try:
                yield 1
            finally:
                raise ValueError("raised when it was closed")

        made = generator()
        next(made)
        return made

    def generate(self, n: int) -> Iterator[int]:
        yield from range(n)


class Lazy(dict):  # type: ignore[type-arg]
    """A mapping that fails when it is read."""

    def keys(self) -> Any:
        raise RuntimeError("the file behind this is gone")

    __iter__ = keys


class Curious:
    """An object that fails when it is asked what it can do."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"asked for {name}")


MADE: dict[str, Any] = {
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

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.log: list[str] = []
        self.inside = 0
        self.most_inside = 0

    async def wait(self, x: Any) -> Any:
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

    async def trace(self) -> tuple[str | None, str | None]:
        before = TRACE.get()
        await asyncio.sleep(0)
        return before, TRACE.get()

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("failed")

    async def time_out(self) -> None:
        raise asyncio.TimeoutError("the model's own timeout")

    async def awaits_what_was_cancelled(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def shrugs_off_cancels(self) -> str:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            return "late"
        return "open"

    async def unsendable(self) -> Any:
        return {1}

    async def exits(self) -> None:
        raise SystemExit(5)

    def plain(self, x: Any) -> Any:
        return x

    def numbers(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def generate(self, n: int, fails: str = "") -> AsyncIterator[Any]:
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

    def iterator(self) -> AsyncIterator[int]:
        class Counting:
            def __init__(self) -> None:
                self.count = 0

            def __aiter__(self) -> Counting:
                return self

            async def __anext__(self) -> int:
                self.count += 1
                if self.count > 2:
                    raise StopAsyncIteration
                return self.count

        return Counting()
