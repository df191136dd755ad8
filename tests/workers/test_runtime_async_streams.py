"""Streams of asynchronous generators: credit, cancels, and ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from helpers import SOON_S
from runtime_loop import run, settle, until
from runtime_models import AsyncModel
from runtime_rig import Rig, cancelled

from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def model() -> AsyncModel:
    return AsyncModel()


@pytest.fixture
def rig(model: AsyncModel) -> Rig:
    return Rig(model)


def test_an_async_generator_sends_items_as_far_as_its_credit_reaches(rig: Rig, model: AsyncModel) -> None:
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
        assert time.perf_counter() - began_s < SOON_S
        assert len((await settle(rig)).take()) == 4

    run(body)


def test_credit_for_an_async_stream_that_is_still_queued_counts(rig: Rig) -> None:
    async def body() -> None:
        rig.stream(1, "generate", 2)
        rig.credit(1, 9)
        assert len((await settle(rig)).take()) == 3

    run(body)


@pytest.mark.parametrize("waits_for", ["credit", "the model"])
def test_a_cancel_closes_an_async_generator(rig: Rig, model: AsyncModel, waits_for: str) -> None:
    async def body() -> None:
        rig.stream(1, "generate", 10**6, window=1 if waits_for == "credit" else 10**6)
        rig.runtime.step()
        await until(lambda: bool(rig.sent))
        rig.cancel(1)
        await until(lambda: model.log[-1] == "closed")
        *sent, end = (await settle(rig)).brief()
        assert end == cancelled(1)
        assert (await settle(rig)).take() == []
        assert len(sent) == 1 or waits_for != "credit"

    run(body)


def test_an_async_generator_that_fails_answers_once_with_its_own_traceback(rig: Rig) -> None:
    async def body() -> None:
        rig.stream(1, "generate", 1, "raise", window=9)
        item, (_, kind, error) = (await settle(rig)).take()
        assert item == (1, "ITEM", 0)
        assert (kind, error.message) == ("ERROR", "ValueError: failed at the end")
        assert error.traceback.count("File ") == 1

    run(body)


def test_an_async_item_that_cannot_be_sent_ends_the_stream(rig: Rig, model: AsyncModel) -> None:
    async def body() -> None:
        rig.stream(1, "generate", 1, "unsendable", window=9)
        _, (_, kind, error) = (await settle(rig)).take()
        assert kind == "ERROR"
        assert "method 'generate' returned what cannot be sent" in error.message
        assert model.log == ["0", "closed"]

    run(body)


def test_an_async_generator_that_is_called_is_refused(rig: Rig, model: AsyncModel) -> None:
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
    class Own(AsyncModel):
        async def stream(self) -> AsyncIterator[int]:
            async for item in self.iterator():
                yield item

    own = Rig(Own())

    async def body() -> None:
        own.stream(1, "stream", window=9)
        assert (await settle(own)).take() == [(1, "ITEM", 1), (1, "ITEM", 2), (1, "END", None)]

    run(body)
