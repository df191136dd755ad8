"""What goes wrong in a call: the caller's mistakes, the model's own errors, and results that cannot travel."""

import re

import numpy as np
import pytest
from runtime_models import MADE, Model
from runtime_rig import Rig

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    MessageTooLargeError,
    ModelError,
    NotFoundError,
    UnimplementedError,
)


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class KeptError(NotFoundError):
    pass


class Odd(Model):
    """Raises what is rarely raised."""

    iterate = staticmethod(iter)  # without a signature
    count = staticmethod(len)

    def raise_this(self, error):
        raise RAISED[error]


RAISED = {
    "unicode": FileNotFoundError("no file \udcff"),
    "silent": SilentError(),
    "late": DeadlineExceededError("the model's own backend was too slow"),
    "kept": KeptError("gone", details={"label": 7}),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
}


@pytest.fixture
def rig():
    return Rig(Odd())


@pytest.mark.parametrize("args", [((), {}), ((1, 2, 3), {}), ((1,), {"nope": 1}), ((1,), {"x": 2})], ids=repr)
def test_wrong_arguments_are_the_callers_error_and_name_the_signature(rig, args):
    rig.call(1, "predict", *args[0], kwargs=args[1])
    error = rig.run().error()
    assert type(error) is InvalidArgumentError
    assert "wrong arguments for method 'predict'" in error.message
    assert "predict(x: 'Any', scale: 'int' = 1, *, bias: 'int' = 0)" in error.message
    assert "traceback" not in error.details


@pytest.mark.parametrize(
    ("method", "args", "cls", "message"),
    [
        ("iterate", [5], InvalidArgumentError, "wrong arguments for method 'iterate': 'int' object is not iterable"),
        ("count", [5], ModelError, r"TypeError: object of type 'int' has no len\(\)"),
        ("raise_", ["type"], ModelError, "TypeError: why"),
        ("raise_inside", [], ModelError, "TypeError: .*missing 1 required"),
        ("predict", [None, 3], ModelError, "TypeError: unsupported operand"),
        ("raise_", ["stop"], ModelError, "StopIteration: why"),
        ("raise_typed", [], NotFoundError, "no such label"),
        ("raise_this", ["silent"], ModelError, ".*SilentError"),
        ("raise_this", ["unicode"], ModelError, r"FileNotFoundError: no file \\udcff"),
        ("raise_this", ["late"], DeadlineExceededError, "the model's own backend was too slow"),
        ("raise_this", ["kept"], KeptError, "gone"),
        ("half_used", [], ModelError, "ValueError: raised when it was closed"),
        ("generate", [3], InvalidArgumentError, r".*call it as model\.stream\.generate\(\.\.\.\)"),
        ("predikt", [1], UnimplementedError, "the model has no method 'predikt'; it has: count, echo, generate,"),
    ],
)
def test_whose_error_it_is_and_what_it_says(rig, method, args, cls, message):
    rig.call(1, method, *args)
    error = rig.run().error()
    assert type(error) is cls
    assert re.match(message, error.message), error.message
    if cls is ModelError:
        assert error.details["type"] in error.message.partition(":")[0]
    if cls in (NotFoundError, KeptError):
        assert error.details == {"label": 7}
    if cls is UnimplementedError:
        assert "predict" in error.details["methods"]


def test_what_the_model_raised_comes_with_the_models_own_traceback_only(rig):
    rig.call(1, "raise_", "value", "no such digit")
    error = rig.run().error()
    assert error.message == "ValueError: no such digit"
    assert error.traceback.startswith("Traceback (most recent call last):\n")
    assert "in raise_" in error.traceback
    assert "workers/" not in error.traceback.replace("tests/workers/", "")
    rig.call(1, "raise_chained")
    error = rig.run().error()
    assert error.message == "RuntimeError: the effect"
    assert "ValueError: the cause" in error.traceback
    rig.call(1, "raise_this", "unicode")
    assert "\\udcff" in rig.run().error().traceback


def test_an_endless_traceback_keeps_its_end(rig):
    rig.call(1, "recurse")
    assert "RecursionError" in rig.run().error().traceback
    rig.call(2, "raise_", "value", "x" * 200_000)
    long = rig.run().error()
    assert len(long.traceback) == msg.MAX_TRACEBACK_CHARS + 1
    assert long.traceback.startswith("…xxx")
    assert len(long.message) == 2000


@pytest.mark.parametrize("what", MADE)
def test_a_result_that_cannot_be_sent_is_an_error_of_the_model_and_the_next_call_works(rig, what):
    rig.call(1, "make", what)
    error = rig.run().error()
    assert type(error) is ModelError
    if what not in ("lazy", "curious"):
        assert "method 'make' returned what cannot be sent" in error.message
    if what == "lazy":
        assert error.message == "RuntimeError: the file behind this is gone"
        assert "in keys" in error.traceback
        assert "codec.py" not in error.traceback
    rig.call(2, "echo", 1)
    assert rig.run().take() == [(2, "RESULT", 1)]


def test_a_result_over_the_hosts_limit_is_an_error_with_both_numbers():
    rig = Rig(Model(), max_message_bytes=50_000)
    rig.call(1, "echo", np.zeros(5000))
    assert rig.run().take()[0][1] == "RESULT"
    rig.call(2, "predict", np.zeros(5000), kwargs={"bias": np.zeros((2, 5000))})
    error = rig.run().error()
    assert type(error) is MessageTooLargeError
    assert 80_000 < error.details["size_bytes"] < 80_200
    assert error.details["limit_bytes"] == 50_000


ECHO = msg.pack_target(msg.Target("m", "echo"))
BODIES = [b"", b"\xc1", b"\x90", b"\x92\x90\x90", b"\x93\x90\x80\x80", b"\x92\x90\x81\x01\x02"]


@pytest.mark.parametrize(("header", "body"), [*((ECHO, body) for body in BODIES), (b"\xc1", b"\x92\x90\x80")])
def test_a_header_or_a_body_that_is_none_is_the_callers_error(rig, header, body):
    rig.accept(wire.pack(msg.CALL, 1, header, body))
    assert isinstance(rig.run().error(), InvalidArgumentError)


@pytest.mark.parametrize(("error", "cls"), [("exit", SystemExit), ("interrupt", KeyboardInterrupt)])
def test_a_model_that_ends_the_process_is_not_held_back(rig, error, cls):
    rig.call(1, "raise_this", error)
    with pytest.raises(cls):
        rig.run()
    assert rig.take() == []
