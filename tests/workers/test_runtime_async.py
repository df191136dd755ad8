"""Coroutine methods: many at a time on one loop, cancelled for real, and answered whatever happens inside."""

from __future__ import annotations

import time

import pytest
from runtime_loop import run, settle, until
from runtime_models import AsyncModel
from runtime_rig import Rig, cancelled, too_late

from hostd_workers.wire.errors import InvalidArgumentError, ModelError


@pytest.fixture
def model() -> AsyncModel:
    return AsyncModel()


@pytest.fixture
def rig(model: AsyncModel) -> Rig:
    return Rig(model)


def test_coroutines_run_many_at_a_time(rig: Rig, model: AsyncModel) -> None:
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
        assert not rig.runtime._tasks

    run(body)


def test_plain_methods_and_generators_of_the_same_model_still_work(rig: Rig, model: AsyncModel) -> None:
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


def test_a_cancel_reaches_the_coroutine_which_ends(rig: Rig, model: AsyncModel) -> None:
    async def body() -> None:
        rig.call(1, "wait", 1)
        rig.call(2, "wait", 2)
        await settle(rig)
        rig.cancel(1)
        rig.cancel(1)
        await settle(rig)
        assert model.log == ["cancelled 1"]
        model.gate.set()
        assert (await settle(rig)).brief() == [cancelled(1), (2, "RESULT", 2)]

    run(body)


def test_a_cancel_before_the_first_step_of_the_task_leaves_no_coroutine_behind(rig: Rig, model: AsyncModel) -> None:
    async def body() -> None:
        rig.call(1, "wait", 1)
        rig.runtime.step()
        rig.cancel(1)
        assert (await settle(rig)).brief() == [cancelled(1)]
        assert model.log == []

    run(body)


def test_a_deadline_cancels_the_coroutine(rig: Rig, model: AsyncModel) -> None:
    async def body() -> None:
        rig.call(1, "wait", 1, deadline_ms=1)
        rig.call(2, "wait", 2, deadline_ms=60_000)
        rig.run()
        await until(lambda: model.log == ["cancelled 1"] or 1 not in rig.runtime._tasks)
        model.gate.set()
        assert sorted((await settle(rig)).brief()) == [too_late(1), (2, "RESULT", 2)]

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


def test_a_deadline_that_is_over_when_a_cancelled_thing_is_awaited_is_the_end(rig: Rig) -> None:
    async def body() -> None:
        rig.call(1, "wait", 1, deadline_ms=5)
        rig.run()
        began_s = time.monotonic()
        await until(lambda: time.monotonic() - began_s > 0.02 and not rig.runtime._tasks)
        assert rig.brief() == [too_late(1)]

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
