"""Streams of plain generators: credit, turns, cancels, and ends."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from runtime_rig import Rig, cancelled, items, too_late

from hostd_workers.calls.answers import TRACE
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import InvalidArgumentError, ModelError, UnimplementedError

END = (1, "END", None)


class Model:
    """Generators of every temper; `log` says what they went through."""

    def __init__(self):
        self.log = []

    def generate(self, n, name="g"):
        try:
            for item in range(n):
                self.log.append(f"{name}{item}")
                yield item
            self.log.append(f"{name} done")
        except GeneratorExit:
            self.log.append(f"{name} closed")
            raise

    def fail_at(self, n):
        yield from range(n)
        raise ValueError(f"failed at {n}")

    def unsendable_at(self, n):
        try:
            yield from range(n)
            yield {1, 2}
        finally:
            self.log.append("closed")

    def stubborn(self):
        try:
            yield 1
            yield 2
        finally:
            raise RuntimeError("will not be closed")

    def traces(self):
        while True:
            yield TRACE.get()

    def exits(self):
        yield 1
        raise SystemExit(4)

    def numbers(self):
        return [1, 2]

    def iterator(self):
        return iter([1, 2])

    def refuses(self, x):
        if x:
            raise ValueError("before the first item")
        return iter([])

    def arrays(self):
        array = np.zeros(5000)
        for item in range(3):
            array[:] = item
            yield array.copy()

    def odd(self):
        class Odd:
            def __next__(self):
                return 1

            def __getattr__(self, name):
                raise RuntimeError(f"asked for {name}")

        return Odd()


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def rig(model):
    return Rig(model)


@pytest.mark.parametrize("count", [0, 3])
def test_a_stream_sends_its_items_and_then_its_end(rig, count):
    rig.stream(1, "generate", count, window=64)
    assert rig.run().take() == [*items(*range(count)), END]


def test_items_may_be_arrays(rig):
    rig.stream(1, "arrays", window=9)
    *sent, end = rig.run().take()
    assert ([value[0] for _, _, value in sent], end) == ([0, 1, 2], END)


def test_no_item_is_made_without_credit(rig, model):
    rig.stream(1, "generate", 9)
    assert rig.run().take() == model.log == []
    rig.credit(1, 2)
    assert rig.run().take() == items(0, 1)
    assert model.log == ["g0", "g1"]
    assert not rig.runtime.has_work
    rig.credit(1, 3)
    assert rig.run().take() == items(2, 3, 4)
    rig.credit(1, msg.MAX_CREDIT)
    assert rig.run().take() == [*items(5, 6, 7, 8), END]


def test_the_end_needs_credit_like_an_item_because_nobody_knows_it_before_looking(rig):
    rig.stream(1, "generate", 2, window=2)
    assert rig.run().take() == items(0, 1)
    rig.credit(1, 1)
    assert rig.run().take() == [END]


def test_credit_that_comes_while_the_stream_is_still_queued_counts_once(rig):
    rig.stream(1, "generate", 3)
    rig.stream(2, "generate", 3, window=1)
    rig.credit(1, 1)
    rig.credit(1, 1)
    rig.credit(2, 1)
    assert sorted(rig.run().take()) == sorted([*items(0, 1), *items(0, 1, id=2)])
    rig.cancel(1)
    assert rig.brief() == [cancelled(1)]
    rig.stream(1, "generate", 3)
    assert rig.run().take() == []


def test_credit_for_a_queued_stream_that_is_cancelled_is_forgotten(rig):
    rig.stream(1, "generate", 3)
    rig.credit(1, 5)
    rig.cancel(1)
    assert rig.run().brief() == [cancelled(1)]
    rig.stream(1, "generate", 3)
    assert rig.run().take() == []


def test_streams_and_calls_take_turns(rig):
    rig.stream(1, "generate", 2, "a", window=9)
    rig.stream(2, "generate", 2, "b", window=9)
    rig.call(3, "numbers")
    turns = " ".join(f"{id}-{kind}" for id, kind, _ in rig.run().take())
    assert turns == "1-ITEM 1-ITEM 2-ITEM 3-RESULT 1-END 2-ITEM 2-END"


def test_a_cancel_between_two_items_closes_the_generator_there(rig, model):
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


def test_a_stream_past_its_deadline_is_closed_and_ended(rig, model, monkeypatch):
    rig.stream(1, "generate", 100, window=1, deadline_ms=60_000)
    assert rig.run().take() == items(0)
    monkeypatch.setattr(
        "hostd_workers.calls.runtime.time", SimpleNamespace(monotonic_ns=lambda: time.monotonic_ns() + 60 * 10**9)
    )
    rig.credit(1, 10)
    assert rig.run().brief() == [too_late(1)]
    assert model.log[-1] == "g closed"


def test_an_error_between_items_ends_the_stream_with_the_models_traceback(rig):
    rig.stream(1, "fail_at", 2, window=9)
    *sent, (id, kind, error) = rig.run().take()
    assert (sent, id, kind) == (items(0, 1), 1, "ERROR")
    assert (type(error), error.message) == (ModelError, "ValueError: failed at 2")
    assert error.traceback.count("File ") == 1
    assert "in fail_at" in error.traceback


def test_an_item_that_cannot_be_sent_ends_the_stream_and_names_the_method(rig, model):
    rig.stream(1, "unsendable_at", 1, window=9)
    *sent, (_, kind, error) = rig.run().take()
    assert (sent, kind) == (items(0), "ERROR")
    assert "method 'unsendable_at' returned what cannot be sent" in error.message
    assert model.log == ["closed"]
    assert not rig.runtime.has_work


@pytest.mark.parametrize(("method", "says"), [("stubborn", "will not be closed"), ("odd", "asked for close")])
def test_what_fails_when_it_is_closed_harms_nobody(rig, capsys, method, says):
    rig.stream(1, method, window=1)
    assert rig.run().take() == items(1)
    rig.cancel(1)
    assert rig.brief() == [cancelled(1)]
    assert says in capsys.readouterr().err
    rig.call(2, "numbers")
    assert rig.run().take() == [(2, "RESULT", [1, 2])]


def test_an_iterator_that_is_no_generator_streams_too(rig):
    rig.stream(1, "iterator", window=9)
    assert rig.run().take() == [*items(1, 2), END]
    rig.stream(1, "iterator", window=1)
    rig.run().take()
    rig.cancel(1)
    assert not rig.runtime.has_work


@pytest.mark.parametrize(
    ("method", "args", "cls", "says"),
    [
        ("numbers", [], InvalidArgumentError, "returned a list, not an iterator: call it as model.numbers(...)"),
        ("refuses", [1], ModelError, "ValueError: before the first item"),
        ("refuses", [], InvalidArgumentError, "wrong arguments"),
        ("unknown", [], UnimplementedError, "no method 'unknown'"),
    ],
)
def test_what_cannot_be_streamed_is_answered_before_the_first_item(rig, method, args, cls, says):
    rig.stream(1, method, *args, window=9)
    error = rig.run().error()
    assert type(error) is cls
    assert says in error.message


def test_a_stream_has_its_own_trace_at_every_item(rig):
    for id, trace in ((1, "one"), (2, "two"), (3, None)):
        rig.stream(id, "traces", window=2, trace=trace)
    assert {(id, value) for id, _, value in rig.run().take()} == {(1, "one"), (2, "two"), (3, None)}


def test_a_generator_that_ends_the_process_is_not_held_back(rig):
    rig.stream(1, "exits", window=9)
    with pytest.raises(SystemExit):
        rig.run()
    assert rig.take() == items(1)
