"""What goes wrong in a call: the caller's mistakes, the model's own errors, and results that cannot travel."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_models import MADE, Model
from runtime_rig import Rig

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    InvalidArgumentError,
    MessageTooLargeError,
    ModelError,
    NotFoundError,
    UnimplementedError,
)


@pytest.fixture
def rig() -> Rig:
    return Rig(Model())


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
