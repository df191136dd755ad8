"""Calls: one at a time, each answered once, whatever the model does."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from runtime_rig import Rig

from workers.answers import TRACE
from workers.wire import frames as wire
from workers.wire import messages as msg
from workers.wire.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    MessageTooLargeError,
    ModelError,
    NotFoundError,
    UnimplementedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Model:
    """A model that does as it is told."""

    cleaned = 0

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
        try:
            yield from range(n)
        finally:
            Model.cleaned += 1


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


@pytest.fixture
def rig() -> Rig:
    return Rig(Model())


def test_a_call_is_answered_with_what_the_method_returned(rig: Rig) -> None:
    rig.call(7, "predict", 3, kwargs={"bias": 1})
    assert rig.take() == []
    assert rig.runtime.has_work
    rig.runtime.step()
    assert rig.take() == [(7, "RESULT", 4)]
    assert not rig.runtime.has_work


def test_arrays_go_in_and_come_out(rig: Rig) -> None:
    rig.call(1, "predict", np.arange(5000.0), 2)
    ((_, kind, result),) = rig.run().take()
    assert kind == "RESULT"
    np.testing.assert_array_equal(result, np.arange(5000.0) * 2)


def test_calls_run_one_at_a_time_in_the_order_of_their_arrival(rig: Rig) -> None:
    for id in range(1, 5):
        rig.call(id, "echo", id)
    for id in range(1, 5):
        rig.runtime.step()
        assert rig.take() == [(id, "RESULT", id)]


def test_a_step_without_work_does_nothing(rig: Rig) -> None:
    rig.runtime.step()
    assert rig.take() == []


def test_messages_of_other_kinds_are_no_work(rig: Rig) -> None:
    rig.accept(wire.pack(msg.HELLO, 1))
    rig.accept(wire.pack(99, 1))
    assert not rig.runtime.has_work


# Errors


def test_wrong_arguments_are_the_callers_error_and_name_the_signature(rig: Rig) -> None:
    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"nope": 1}), ((1,), {"x": 2})):
        rig.call(1, "predict", *args, kwargs=kwargs)
        error = rig.run().error()
        assert type(error) is InvalidArgumentError
        assert "wrong arguments for method 'predict'" in error.message
        assert "predict(x: 'Any', scale: 'int' = 1, *, bias: 'int' = 0)" in error.message
        assert "traceback" not in error.details


def test_a_type_error_inside_of_the_model_is_the_models(rig: Rig) -> None:
    for method, args in (("raise_", ["type"]), ("raise_inside", []), ("predict", [None, 3])):
        rig.call(1, method, *args)
        error = rig.run().error()
        assert type(error) is ModelError
        assert error.details["type"] == "TypeError"


def test_a_callable_without_signature_that_refuses_its_arguments_blames_them() -> None:
    class Built:
        iterate = staticmethod(iter)

    rig = Rig(Built())
    rig.call(1, "iterate", 5)
    assert type(rig.run().error()) is InvalidArgumentError


def test_a_type_error_of_a_callable_written_in_c_with_fitting_arguments_is_the_models() -> None:
    class Built:
        count = staticmethod(len)

    rig = Rig(Built())
    rig.call(1, "count", 5)
    error = rig.run().error()
    assert type(error) is ModelError
    assert error.message == "TypeError: object of type 'int' has no len()"


def test_what_the_model_raised_comes_with_the_models_own_traceback_only(rig: Rig) -> None:
    rig.call(1, "raise_", "value", "no such digit")
    error = rig.run().error()
    assert type(error) is ModelError
    assert error.message == "ValueError: no such digit"
    assert error.details["type"] == "ValueError"
    assert error.traceback.startswith("Traceback (most recent call last):\n")
    assert "in raise_" in error.traceback
    assert "workers/" not in error.traceback.replace("tests/workers/", "")


def test_the_cause_of_an_error_is_in_its_traceback(rig: Rig) -> None:
    rig.call(1, "raise_chained")
    error = rig.run().error()
    assert isinstance(error, ModelError)
    assert error.message == "RuntimeError: the effect"
    assert "ValueError: the cause" in error.traceback


def test_an_endless_traceback_keeps_its_end(rig: Rig) -> None:
    rig.call(1, "recurse")
    rig.call(2, "raise_", "value", "x" * 200_000)
    rig.runtime.step()
    recursion = rig.error()
    assert isinstance(recursion, ModelError)
    assert "RecursionError" in recursion.traceback
    rig.runtime.step()
    long = rig.error()
    assert isinstance(long, ModelError)
    assert len(long.traceback) == msg.MAX_TRACEBACK_CHARS + 1
    assert long.traceback.startswith("…xxx")
    assert len(long.message) == 2000


def test_a_text_that_is_no_unicode_does_not_end_the_worker() -> None:
    class Files:
        def open(self) -> None:
            raise FileNotFoundError("no file \udcff")

    rig = Rig(Files())
    rig.call(1, "open")
    error = rig.run().error()
    assert isinstance(error, ModelError)
    assert error.message == "FileNotFoundError: no file \\udcff"
    assert "\\udcff" in error.traceback


def test_a_typed_error_of_the_model_passes_through(rig: Rig) -> None:
    rig.call(1, "raise_typed")
    error = rig.run().error()
    assert type(error) is NotFoundError
    assert (error.message, error.details) == ("no such label", {"label": 7})


def test_an_error_that_cannot_say_what_it_is_is_answered_too() -> None:
    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Mute:
        def speak(self) -> None:
            raise SilentError

    rig = Rig(Mute())
    rig.call(1, "speak")
    assert type(rig.run().error()) is ModelError


def test_stop_iteration_of_a_plain_method_is_an_error_like_any_other(rig: Rig) -> None:
    rig.call(1, "raise_", "stop")
    assert rig.run().error().message == "StopIteration: why"


@pytest.mark.parametrize("what", MADE)
def test_a_result_that_cannot_be_sent_is_an_error_of_the_model_and_the_next_call_works(rig: Rig, what: str) -> None:
    rig.call(1, "make", what)
    error = rig.run().error()
    assert type(error) is ModelError
    if what not in ("lazy", "curious"):
        assert "method 'make' returned what cannot be sent" in error.message
    rig.call(2, "echo", 1)
    assert rig.run().take() == [(2, "RESULT", 1)]


def test_what_is_raised_while_a_result_is_read_has_the_models_traceback(rig: Rig) -> None:
    rig.call(1, "make", "lazy")
    error = rig.run().error()
    assert isinstance(error, ModelError)
    assert error.message == "RuntimeError: the file behind this is gone"
    assert "in keys" in error.traceback
    assert "codec.py" not in error.traceback


def test_a_result_over_the_hosts_limit_is_an_error_with_both_numbers() -> None:
    rig = Rig(Model(), max_message_bytes=50_000)
    rig.call(1, "echo", np.zeros(5000))
    assert rig.run().take()[0][1] == "RESULT"
    rig.call(2, "predict", np.zeros(5000), kwargs={"bias": np.zeros((2, 5000))})
    error = rig.run().error()
    assert type(error) is MessageTooLargeError
    assert 80_000 < error.details["size_bytes"] < 80_200
    assert error.details["limit_bytes"] == 50_000


def test_an_unknown_method_lists_the_known(rig: Rig) -> None:
    rig.call(1, "predikt", 1)
    error = rig.run().error()
    assert type(error) is UnimplementedError
    assert "no method 'predikt'; it has: echo, generate," in error.message
    assert "predict" in error.details["methods"]


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", b"\x92\x90\x90", b"\x93\x90\x80\x80", b"\x92\x90\x81\x01\x02"])
def test_a_body_that_is_no_arguments_is_the_callers_error(rig: Rig, body: bytes) -> None:
    rig.accept(wire.pack(msg.CALL, 1, msg.pack_target(msg.Target("m", "echo")), body))
    assert isinstance(rig.run().error(), InvalidArgumentError)


def test_a_header_that_is_no_target_is_the_callers_error(rig: Rig) -> None:
    rig.accept(wire.pack(msg.CALL, 1, b"\xc1", b"\x92\x90\x80"))
    assert isinstance(rig.run().error(), InvalidArgumentError)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_model_that_ends_the_process_is_not_held_back(error: BaseException) -> None:
    class Ending:
        def end(self) -> None:
            raise error

    rig = Rig(Ending())
    rig.call(1, "end")
    with pytest.raises(type(error)):
        rig.run()
    assert rig.take() == []


# Generators where a value was wanted


def test_a_generator_that_is_called_is_refused_and_never_begun(rig: Rig) -> None:
    rig.call(1, "generate", 3)
    error = rig.run().error()
    assert type(error) is InvalidArgumentError
    assert "call it as model.stream.generate(...)" in error.message


def test_a_generator_that_fails_when_it_is_closed_is_answered_all_the_same(rig: Rig) -> None:
    rig.call(1, "half_used")
    assert rig.run().error().message == "ValueError: raised when it was closed"


# Deadlines and cancels


def test_a_call_whose_deadline_has_passed_is_not_begun(rig: Rig) -> None:
    rig.call(1, "echo", 1, deadline_ms=0)
    rig.call(2, "echo", 2, deadline_ms=60_000)
    assert rig.run().take() == [(2, "RESULT", 2)]


def test_a_cancelled_call_is_not_begun_and_its_id_is_forgotten(rig: Rig) -> None:
    rig.call(1, "echo", 1)
    rig.call(2, "echo", 2)
    rig.cancel(1)
    assert rig.run().take() == [(2, "RESULT", 2)]
    rig.call(1, "echo", 1)
    assert rig.run().take() == [(1, "RESULT", 1)]


def test_a_cancel_of_what_is_not_there_is_forgotten(rig: Rig) -> None:
    rig.cancel(1)
    rig.credit(1, 5)
    rig.call(1, "echo", 1)
    assert rig.run().take() == [(1, "RESULT", 1)]


def test_a_model_may_raise_the_errors_of_a_deadline() -> None:
    class Slow:
        def wait(self) -> None:
            raise DeadlineExceededError("the model's own backend was too slow")

    rig = Rig(Slow())
    rig.call(1, "wait")
    assert type(rig.run().error()) is DeadlineExceededError


# Trace context


def test_the_trace_of_a_call_is_there_while_it_runs_and_not_after(rig: Rig) -> None:
    for trace in ("00-aaaa-01", None, "00-bbbb-01"):
        rig.call(1, "trace", trace=trace)
        assert rig.run().take() == [(1, "RESULT", trace)]


def test_headers_with_traces_are_not_remembered(rig: Rig) -> None:
    for number in range(2000):
        rig.call(1, "trace", trace=f"00-{number}-01")
    rig.call(1, "trace")
    rig.run()
    assert len(rig.runtime._targets) == 1


def test_the_memory_of_headers_is_bounded(rig: Rig) -> None:
    for number in range(1500):
        header = msg.pack_target(msg.Target(f"m{number}", "echo"))
        rig.accept(wire.pack(msg.CALL, 1, header, b"\x92\x91\x01\x80"))
    rig.run()
    assert len(rig.runtime._targets) == 1024
    assert len(rig.take()) == 1500
