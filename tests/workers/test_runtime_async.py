"""Coroutine methods: many at a time on one loop, cancelled for real, and answered whatever happens inside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
from runtime_rig import Rig

from workers.answers import TRACE
from workers.wire import messages as msg
from workers.wire.errors import InvalidArgumentError, ModelError


class Model:
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


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def rig(model: Model) -> Rig:
    return Rig(model)


Body = Callable[[], Coroutine[Any, Any, None]]


def run(body: Body) -> None:
    asyncio.run(asyncio.wait_for(body(), 30))


async def settle(rig: Rig) -> Rig:
    """Let everything run that can."""
    for _ in range(50):
        rig.run()
        await asyncio.sleep(0)
    return rig


async def until(check: Callable[[], bool]) -> None:
    while not check():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0)


def test_coroutines_run_many_at_a_time(rig: Rig, model: Model) -> None:
    async def body() -> None:
        for id in range(1, 101):
            rig.call(id, "wait", id)
        await settle(rig)
        assert rig.take() == []
        assert model.most_inside == 100
        model.gate.set()
        await until(lambda: len(rig.sent) == 100)
        assert sorted(rig.take()) == [(id, "RESULT", id) for id in range(1, 101)]
        await settle(rig)
        assert (rig.runtime._tasks._tasks, rig.runtime._tasks._credits) == ({}, {})

    run(body)


def test_plain_methods_and_generators_of_the_same_model_still_work(rig: Rig, model: Model) -> None:
    async def body() -> None:
        rig.call(1, "wait", 1)
        rig.call(2, "plain", 2)
        rig.stream(3, "numbers", 2, window=9)
        await settle(rig)
        assert rig.take() == [(2, "RESULT", 2), (3, "ITEM", 0), (3, "ITEM", 1), (3, "END", None)]
        model.gate.set()
        await settle(rig)
        assert rig.take() == [(1, "RESULT", 1)]

    run(body)


def test_a_cancel_reaches_the_coroutine_and_nothing_is_answered(rig: Rig, model: Model) -> None:
    async def body() -> None:
        rig.call(1, "wait", 1)
        rig.call(2, "wait", 2)
        await settle(rig)
        rig.cancel(1)
        rig.cancel(1)
        await settle(rig)
        assert model.log == ["cancelled 1"]
        model.gate.set()
        assert (await settle(rig)).take() == [(2, "RESULT", 2)]

    run(body)


def test_a_cancel_before_the_first_step_of_the_task_leaves_no_coroutine_behind(rig: Rig, model: Model) -> None:
    async def body() -> None:
        rig.call(1, "wait", 1)
        rig.runtime.step()
        rig.cancel(1)
        assert (await settle(rig)).take() == []
        assert model.log == []

    run(body)


def test_a_deadline_cancels_the_coroutine_without_a_word(rig: Rig, model: Model) -> None:
    async def body() -> None:
        rig.call(1, "wait", 1, deadline_ms=1)
        rig.call(2, "wait", 2, deadline_ms=60_000)
        rig.run()
        await until(lambda: model.log == ["cancelled 1"] or 1 not in rig.runtime._tasks)
        model.gate.set()
        assert (await settle(rig)).take() == [(2, "RESULT", 2)]

    run(body)


def test_a_coroutine_that_shrugs_off_its_cancel_is_late_and_the_host_drops_it(rig: Rig) -> None:
    async def body() -> None:
        rig.call(1, "shrugs_off_cancels")
        await settle(rig)
        rig.cancel(1)
        assert (await settle(rig)).take() == [(1, "RESULT", "late")]

    run(body)


def test_a_cancel_inside_of_the_model_is_an_error_and_not_silence(rig: Rig) -> None:
    async def body() -> None:
        for deadline_ms in (60_000, 0xFFFFFFFF):
            rig.call(1, "awaits_what_was_cancelled", deadline_ms=deadline_ms)
            error = (await settle(rig)).error()
            assert type(error) is ModelError
            assert error.details["type"] == "CancelledError"

    run(body)


def test_the_end_of_the_loop_answers_nobody(rig: Rig) -> None:
    async def body() -> None:
        rig.call(1, "wait", 1)
        rig.stream(2, "generate", 9, window=1)
        await settle(rig)
        rig.take()

    run(body)
    assert rig.take() == []


def test_a_deadline_that_is_over_when_a_cancelled_thing_is_awaited_stays_silent(rig: Rig) -> None:
    async def body() -> None:
        rig.call(1, "wait", 1, deadline_ms=5)
        rig.run()
        began_s = time.monotonic()
        await until(lambda: time.monotonic() - began_s > 0.02 and not rig.runtime._tasks)
        assert rig.take() == []

    run(body)


@pytest.mark.parametrize(
    ("method", "message"),
    [("fail", "ValueError: failed"), ("time_out", "TimeoutError: the model's own timeout")],
)
def test_what_a_coroutine_raises_comes_with_its_own_traceback(rig: Rig, method: str, message: str) -> None:
    async def body() -> None:
        rig.call(1, method, deadline_ms=60_000)
        error = (await settle(rig)).error()
        assert isinstance(error, ModelError)
        assert error.message.endswith(message)
        assert error.traceback.count("File ") == 1

    run(body)


def test_wrong_arguments_of_a_coroutine_are_the_callers_error(rig: Rig) -> None:
    async def body() -> None:
        rig.call(1, "wait")
        error = (await settle(rig)).error()
        assert type(error) is InvalidArgumentError
        assert "wait(x: 'Any')" in error.message

    run(body)


def test_a_result_of_a_coroutine_that_cannot_be_sent_is_an_error_of_the_model(rig: Rig) -> None:
    async def body() -> None:
        rig.call(1, "unsendable")
        assert "returned what cannot be sent" in (await settle(rig)).error().message

    run(body)


def test_a_coroutine_that_ends_the_process_is_not_held_back(rig: Rig) -> None:
    async def body() -> None:
        rig.call(1, "exits")
        await settle(rig)

    with pytest.raises(SystemExit):
        run(body)


def test_every_call_has_its_own_trace(rig: Rig) -> None:
    async def body() -> None:
        rig.call(1, "trace", trace="one")
        rig.call(2, "trace")
        rig.call(3, "trace", trace="three")
        assert sorted((await settle(rig)).take()) == [
            (1, "RESULT", ("one", "one")),
            (2, "RESULT", (None, None)),
            (3, "RESULT", ("three", "three")),
        ]

    run(body)


# Asynchronous streams


def test_an_async_generator_sends_items_as_far_as_its_credit_reaches(rig: Rig, model: Model) -> None:
    async def body() -> None:
        rig.stream(1, "generate", 4, window=2)
        assert (await settle(rig)).take() == [(1, "ITEM", 0), (1, "ITEM", 1)]
        rig.credit(1, 1)
        assert (await settle(rig)).take() == [(1, "ITEM", 2)]
        rig.credit(1, msg.MAX_CREDIT)
        assert (await settle(rig)).take() == [(1, "ITEM", 3), (1, "END", None)]
        assert model.log[-1] == "closed"

    run(body)


def test_a_great_deal_of_credit_is_taken_in_at_once(rig: Rig) -> None:
    async def body() -> None:
        rig.stream(1, "generate", 3)
        await settle(rig)
        began_s = time.perf_counter()
        for _ in range(1000):
            rig.credit(1, msg.MAX_CREDIT)
        assert time.perf_counter() - began_s < 1
        assert len((await settle(rig)).take()) == 4

    run(body)


def test_credit_for_an_async_stream_that_is_still_queued_counts(rig: Rig) -> None:
    async def body() -> None:
        rig.stream(1, "generate", 2)
        rig.credit(1, 9)
        assert len((await settle(rig)).take()) == 3

    run(body)


@pytest.mark.parametrize("waits_for", ["credit", "the model"])
def test_a_cancel_closes_an_async_generator(rig: Rig, model: Model, waits_for: str) -> None:
    async def body() -> None:
        rig.stream(1, "generate", 10**6, window=1 if waits_for == "credit" else 10**6)
        rig.runtime.step()
        await until(lambda: bool(rig.sent))
        rig.cancel(1)
        await until(lambda: model.log[-1] == "closed")
        count = len((await settle(rig)).take())
        assert (await settle(rig)).take() == []
        assert count == 1 or waits_for != "credit"

    run(body)


def test_an_async_generator_that_fails_answers_once_with_its_own_traceback(rig: Rig) -> None:
    async def body() -> None:
        rig.stream(1, "generate", 1, "raise", window=9)
        item, (_, kind, error) = (await settle(rig)).take()
        assert item == (1, "ITEM", 0)
        assert (kind, error.message) == ("ERROR", "ValueError: failed at the end")
        assert error.traceback.count("File ") == 1

    run(body)


def test_an_async_item_that_cannot_be_sent_ends_the_stream(rig: Rig, model: Model) -> None:
    async def body() -> None:
        rig.stream(1, "generate", 1, "unsendable", window=9)
        _, (_, kind, error) = (await settle(rig)).take()
        assert kind == "ERROR"
        assert "method 'generate' returned what cannot be sent" in error.message
        assert model.log == ["0", "closed"]

    run(body)


def test_an_async_generator_that_is_called_is_refused(rig: Rig, model: Model) -> None:
    async def body() -> None:
        rig.call(1, "generate", 3)
        assert "model.stream.generate(...)" in (await settle(rig)).error().message
        assert model.log == []

    run(body)


def test_a_coroutine_cannot_be_streamed_and_leaves_nothing_unawaited(rig: Rig) -> None:
    async def body() -> None:
        rig.stream(1, "wait", 1, window=9)
        error = (await settle(rig)).error()
        assert type(error) is InvalidArgumentError
        assert "returned a coroutine, not an iterator: call it as model.wait(...)" in error.message

    run(body)


def test_an_async_iterator_of_its_own_class_streams_if_its_method_says_it_is_one() -> None:
    class Own(Model):
        async def stream(self) -> AsyncIterator[int]:
            async for item in self.iterator():
                yield item

    own = Rig(Own())

    async def body() -> None:
        own.stream(1, "stream", window=9)
        assert (await settle(own)).take() == [(1, "ITEM", 1), (1, "ITEM", 2), (1, "END", None)]

    run(body)
