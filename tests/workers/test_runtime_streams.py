"""Streams of plain generators: credit, turns, cancels, and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from runtime_rig import Rig, cancelled, too_late

from hostd_workers.calls.answers import TRACE
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import InvalidArgumentError, ModelError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Model:
    """Generators of every temper; `log` says what they went through."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def generate(self, n: int, name: str = "g") -> Iterator[Any]:
        try:
            for item in range(n):
                self.log.append(f"{name}{item}")
                yield item
            self.log.append(f"{name} done")
        except GeneratorExit:
            self.log.append(f"{name} closed")
            raise

    def fail_at(self, n: int) -> Iterator[int]:
        yield from range(n)
        raise ValueError(f"failed at {n}")

    def unsendable_at(self, n: int) -> Iterator[Any]:
        try:
            yield from range(n)
            yield {1, 2}
        finally:
            self.log.append("closed")

    def stubborn(self) -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise RuntimeError("will not be closed")

    def traces(self) -> Iterator[str | None]:
        while True:
            yield TRACE.get()

    def exits(self) -> Iterator[int]:
        yield 1
        raise SystemExit(4)

    def numbers(self) -> list[int]:
        return [1, 2]

    def iterator(self) -> Iterator[int]:
        return iter([1, 2])

    def refuses(self, x: int) -> Iterator[int]:
        if x:
            raise ValueError("before the first item")
        return iter([])

    def arrays(self) -> Iterator[Any]:
        array = np.zeros(5000)
        for item in range(3):
            array[:] = item
            yield array.copy()

    def odd(self) -> Any:
        class Odd:
            def __next__(self) -> int:
                return 1

            def __getattr__(self, name: str) -> Any:
                raise RuntimeError(f"asked for {name}")

        return Odd()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def rig(model: Model) -> Rig:
    return Rig(model)


def items(*values: Any, id: int = 1) -> list[tuple[int, str, Any]]:
    return [(id, "ITEM", value) for value in values]


END = (1, "END", None)


def test_a_stream_sends_its_items_and_then_its_end(rig: Rig) -> None:
    rig.stream(1, "generate", 3, window=64)
    assert rig.run().take() == [*items(0, 1, 2), END]


def test_an_empty_stream_only_ends(rig: Rig) -> None:
    rig.stream(1, "generate", 0, window=64)
    assert rig.run().take() == [END]


def test_no_item_is_made_without_credit(rig: Rig, model: Model) -> None:
    rig.stream(1, "generate", 9, window=2)
    assert rig.run().take() == items(0, 1)
    assert model.log == ["g0", "g1"]
    assert not rig.runtime.has_work
    rig.credit(1, 3)
    assert rig.run().take() == items(2, 3, 4)
    rig.credit(1, msg.MAX_CREDIT)
    assert rig.run().take() == [*items(5, 6, 7, 8), END]


def test_the_end_needs_credit_like_an_item_because_nobody_knows_it_before_looking(rig: Rig) -> None:
    rig.stream(1, "generate", 2, window=2)
    assert rig.run().take() == items(0, 1)
    rig.credit(1, 1)
    assert rig.run().take() == [END]


def test_a_window_of_nothing_waits_for_the_first_credit(rig: Rig, model: Model) -> None:
    rig.stream(1, "generate", 2)
    assert rig.run().take() == []
    assert model.log == []
    rig.credit(1, 5)
    assert rig.run().take() == [*items(0, 1), END]


def test_credit_that_comes_while_the_stream_is_still_queued_counts(rig: Rig) -> None:
    rig.stream(1, "generate", 3)
    rig.stream(2, "generate", 3, window=1)
    rig.credit(1, 1)
    rig.credit(1, 1)
    rig.credit(2, 1)
    assert sorted(rig.run().take()) == sorted([*items(0, 1), *items(0, 1, id=2)])
    assert rig.runtime._early_credit == {}


def test_credit_for_a_queued_stream_that_is_cancelled_is_forgotten(rig: Rig) -> None:
    rig.stream(1, "generate", 3)
    rig.credit(1, 5)
    rig.cancel(1)
    assert rig.run().brief() == [cancelled(1)]
    rig.stream(1, "generate", 3)
    assert rig.run().take() == []


def test_streams_and_calls_take_turns(rig: Rig) -> None:
    rig.stream(1, "generate", 2, "a", window=9)
    rig.stream(2, "generate", 2, "b", window=9)
    rig.call(3, "numbers")
    assert [(id, kind) for id, kind, _ in rig.run().take()] == [
        (1, "ITEM"),
        (1, "ITEM"),
        (2, "ITEM"),
        (3, "RESULT"),
        (1, "END"),
        (2, "ITEM"),
        (2, "END"),
    ]


def test_a_cancel_between_two_items_closes_the_generator_there(rig: Rig, model: Model) -> None:
    rig.stream(1, "generate", 100, window=100)
    rig.runtime.step()
    rig.runtime.step()
    rig.cancel(1)
    assert model.log[-1] == "g closed"
    assert rig.run().brief() == [*items(0, 1), cancelled(1)]
    assert not rig.runtime.has_work
    rig.cancel(1)
    rig.credit(1, 1)
    assert rig.run().take() == []


def test_a_stream_past_its_deadline_is_closed_and_ended(rig: Rig, model: Model) -> None:
    rig.stream(1, "generate", 100, window=1, deadline_ms=60_000)
    assert rig.run().take() == items(0)
    rig.runtime._streams[1].expires_s = 0.0
    rig.credit(1, 10)
    assert rig.run().brief() == [too_late(1)]
    assert model.log[-1] == "g closed"


def test_an_error_between_items_ends_the_stream_with_the_models_traceback(rig: Rig) -> None:
    rig.stream(1, "fail_at", 2, window=9)
    *sent, (id, kind, error) = rig.run().take()
    assert sent == items(0, 1)
    assert (id, kind) == (1, "ERROR")
    assert type(error) is ModelError
    assert error.message == "ValueError: failed at 2"
    assert error.traceback.count("File ") == 1
    assert "in fail_at" in error.traceback


def test_an_item_that_cannot_be_sent_ends_the_stream_and_names_the_method(rig: Rig, model: Model) -> None:
    rig.stream(1, "unsendable_at", 1, window=9)
    *sent, (_, kind, error) = rig.run().take()
    assert (sent, kind) == (items(0), "ERROR")
    assert "method 'unsendable_at' returned what cannot be sent" in error.message
    assert model.log == ["closed"]
    assert not rig.runtime.has_work


def test_a_generator_that_fails_when_it_is_closed_harms_nobody(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.stream(1, "stubborn", window=1)
    rig.run().take()
    rig.cancel(1)
    assert rig.brief() == [cancelled(1)]
    assert "will not be closed" in capsys.readouterr().err
    rig.call(2, "numbers")
    assert rig.run().take() == [(2, "RESULT", [1, 2])]


def test_an_iterator_that_is_no_generator_streams_too(rig: Rig) -> None:
    rig.stream(1, "iterator", window=9)
    assert rig.run().take() == [*items(1, 2), END]
    rig.stream(1, "iterator", window=1)
    rig.run().take()
    rig.cancel(1)
    assert not rig.runtime.has_work


def test_an_iterator_that_cannot_be_asked_for_close_harms_nobody(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.stream(1, "odd", window=1)
    assert rig.run().take() == items(1)
    rig.cancel(1)
    assert "asked for close" in capsys.readouterr().err


def test_a_method_that_returns_no_iterator_cannot_be_streamed(rig: Rig) -> None:
    rig.stream(1, "numbers", window=9)
    error = rig.run().error()
    assert type(error) is InvalidArgumentError
    assert error.message == "method 'numbers' returned a list, not an iterator: call it as model.numbers(...)"


def test_what_is_raised_before_the_first_item_is_the_answer(rig: Rig) -> None:
    rig.stream(1, "refuses", 1, window=9)
    assert rig.run().error().message == "ValueError: before the first item"
    rig.stream(2, "refuses", window=9)
    assert type(rig.run().error()) is InvalidArgumentError
    rig.stream(3, "unknown", window=9)
    assert type(rig.run().error()) is UnimplementedError


def test_a_stream_has_its_own_trace_at_every_item(rig: Rig) -> None:
    rig.stream(1, "traces", window=2, trace="one")
    rig.stream(2, "traces", window=2, trace="two")
    rig.stream(3, "traces", window=2)
    assert {(id, value) for id, _, value in rig.run().take()} == {(1, "one"), (2, "two"), (3, None)}


def test_a_generator_that_ends_the_process_is_not_held_back(rig: Rig) -> None:
    rig.stream(1, "exits", window=9)
    with pytest.raises(SystemExit):
        rig.run()
    assert rig.take() == items(1)


def test_items_may_be_arrays(rig: Rig) -> None:
    rig.stream(1, "arrays", window=9)
    *sent, end = rig.run().take()
    assert [value[0] for _, _, value in sent] == [0, 1, 2]
    assert end == END
