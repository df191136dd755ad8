"""Headers, control bodies and errors: what is said comes back, and what is not of the protocol is refused."""

from __future__ import annotations

import reprlib
from typing import Any

import msgpack
import numpy as np
import pytest

from hostd_workers.wire import codec
from hostd_workers.wire import errors as err
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.arrays import ArrayView
from hostd_workers.wire.messages import Target


def through(frames: list[wire.Buffer]) -> wire.Envelope:
    return wire.unpack(frames)


# Headers


@pytest.mark.parametrize(
    ("target", "header"),
    [
        (Target("m", "predict"), ["m", "predict"]),
        (Target("m", "predict", "00-trace-01"), ["m", "predict", "00-trace-01"]),
        (Target("m", "generate", None, 64), ["m", "generate", None, 64]),
        (Target("m", "generate", "t", msg.MAX_CREDIT), ["m", "generate", "t", msg.MAX_CREDIT]),
        (Target("grüße/🦉", ""), ["grüße/🦉", ""]),
    ],
)
def test_a_target_is_the_shortest_array_and_comes_back(target: Target, header: list[Any]) -> None:
    packed = msg.pack_target(target)
    assert packed == msgpack.packb(header)
    assert msg.unpack_target(packed) == target


def test_a_window_of_zero_may_be_written_out() -> None:
    assert msg.unpack_target(msgpack.packb(["m", "x", None, 0])) == Target("m", "x")


@pytest.mark.parametrize(
    "header",
    [
        None,
        [],
        ["m"],
        "mx",
        {"m": "x"},
        ["m", 1],
        [1, "x"],
        [b"m", "x"],
        ["m", "x", 1],
        ["m", "x", None, "64"],
        ["m", "x", None, -1],
        ["m", "x", None, msg.MAX_CREDIT + 1],
        ["m", "x", None, 1.0],
        ["m", "x", None, 1, 1],
        ["m", ["x"]],
        ["m", "x" * (16 * 1024 + 1)],
        [[[[["m"]]]], "x"],
    ],
    ids=lambda value: repr(value)[:40],
)
def test_another_header_of_a_call_is_refused(header: object) -> None:
    with pytest.raises(err.InvalidArgumentError):
        msg.unpack_target(msgpack.packb(header))


@pytest.mark.parametrize("target", [Target("\ud800", "x"), Target("m", "\ud800"), Target("m", object())])  # type: ignore[arg-type]
def test_names_that_cannot_travel_are_refused(target: Target) -> None:
    with pytest.raises(err.InvalidArgumentError, match="must be text"):
        msg.pack_target(target)


def test_a_verb_comes_back_and_anything_else_is_refused() -> None:
    assert msg.unpack_verb(msg.pack_verb("load_model")) == "load_model"
    for header in (None, [], ["a", "b"], [1], "load_model", {"verb": 1}):
        with pytest.raises(err.ProtocolError, match=r"must be \[verb\]"):
            msg.unpack_verb(msgpack.packb(header))
    with pytest.raises(err.InvalidArgumentError):
        msg.unpack_verb(b"")


def test_a_credit_comes_back_and_anything_else_is_refused() -> None:
    envelope = through(msg.pack_credit(9, 32))
    assert (envelope.kind, envelope.id, msg.unpack_credit(envelope.header)) == (msg.CREDIT, 9, 32)
    for items in (-1, msg.MAX_CREDIT + 1, True, 1.0, "1", None, [1]):
        with pytest.raises(err.ProtocolError, match="must be a count"):
            msg.unpack_credit(msgpack.packb(items))


def test_a_map_comes_back_with_its_arrays() -> None:
    body = {"a": 1, "array": np.arange(5000)}
    envelope = through(msg.pack_map(msg.LOAD, 3, body, b"header"))
    back = msg.unpack_map(envelope)
    assert (envelope.kind, envelope.id, envelope.header) == (msg.LOAD, 3, b"header")
    assert (back["array"] == body["array"]).all()


@pytest.mark.parametrize("body", [None, [], 1, {1: 2}, {"a": 1, None: 2}])
def test_a_body_that_is_no_map_of_names_is_refused(body: object) -> None:
    encoded, _ = codec.encode(body)
    with pytest.raises(err.ProtocolError, match="map with string keys"):
        msg.unpack_map(through(wire.pack(msg.VERB, 1, body=encoded)))


def test_a_map_over_its_limits_is_refused() -> None:
    envelope = through(msg.pack_map(msg.HELLO, 1, {str(n): n for n in range(100)}))
    assert len(msg.unpack_map(envelope)) == 100
    with pytest.raises(err.InvalidArgumentError):
        msg.unpack_map(envelope, msg.HEADER_LIMITS)


def test_a_model_with_more_methods_than_a_host_listens_to_is_refused_by_its_worker() -> None:
    method = {"name": "m", "streams": False, "is_async": False, "signature": "()", "doc": ""}

    def loaded(count: int, **more: Any) -> dict[str, Any]:
        return {"methods": {str(n): {**method, **more} for n in range(count)}, "loader": "x", "default_method": None}

    frames = msg.pack_map(msg.LOADED, 0, loaded(msg.MAX_METHODS))
    assert len(msg.unpack_map(through(frames), msg.LOADED_LIMITS)["methods"]) == msg.MAX_METHODS
    for body in (loaded(msg.MAX_METHODS + 1), loaded(msg.MAX_METHODS, doc="é" * 300)):
        with pytest.raises(err.InvalidArgumentError, match="at most 1000 methods and 524288 bytes are possible: name"):
            msg.pack_map(msg.LOADED, 0, body)


def test_ten_thousand_files_can_be_deployed_at_once() -> None:
    names = [f"{'directory/' * 7}layer-{number:05d}.bin" for number in range(10_000)]
    body = {"model_id": "m", "files": [[name, 2**40] for name in names], "options": {"n": list(range(1000))}}
    envelope = through(msg.pack_map(msg.VERB, 1, body, msg.pack_verb("deploy_begin")))
    assert msg.unpack_map(envelope, msg.limits_of("deploy_begin")) == body
    with pytest.raises(err.InvalidArgumentError, match="at most 262144 are allowed"):
        msg.unpack_map(envelope, msg.limits_of("load_model"))


@pytest.mark.parametrize("is_buffer", [True, False])
def test_a_piece_of_a_file_may_be_a_buffer_or_in_the_body(is_buffer: bool) -> None:
    data = bytes(1 << 20)
    value = msgpack.ExtType(codec.EXT_BYTES_BUFFER, b"\0") if is_buffer else data
    envelope = through(wire.pack(msg.VERB, 1, body=msgpack.packb({"data": value}), buffers=[data] if is_buffer else []))
    assert msg.unpack_map(envelope, msg.limits_of("deploy_write")) == {"data": data}
    with pytest.raises(err.InvalidArgumentError, match="are allowed here"):
        msg.unpack_map(envelope, msg.limits_of("load_model"))


# Errors

CLASSES = [
    value
    for value in vars(err).values()
    if isinstance(value, type) and issubclass(value, err.HostError) and value is not err.HostError
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_comes_back_as_itself(cls: type[err.HostError]) -> None:
    sent = cls("what was wrong: do this", details={"n": 1, "names": ["a"]})
    envelope = through(msg.pack_error(5, sent))
    back = msg.unpack_error(envelope)
    assert (envelope.kind, envelope.id) == (msg.ERROR, 5)
    assert type(back) is cls
    assert (str(back), back.message, back.details, back.status) == (
        sent.message,
        sent.message,
        sent.details,
        cls.status,
    )


def test_statuses_have_the_numbers_of_grpc() -> None:
    names = "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED"
    names += " RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE"
    names += " DATA_LOSS UNAUTHENTICATED"
    assert [(status.name, status.value) for status in err.Status] == list(zip(names.split(), range(17), strict=True))


def test_the_traceback_of_a_model_is_at_hand() -> None:
    assert err.ModelError("x", details={"traceback": "Traceback ..."}).traceback == "Traceback ..."
    assert err.ModelError("x").traceback == ""


def test_an_unknown_kind_becomes_the_general_error_of_its_status() -> None:
    back = err.from_wire([int(err.Status.RESOURCE_EXHAUSTED), "QuotaError", "full", {"left": 0}])
    assert type(back) is err.ResourceExhaustedError
    assert back.details == {"left": 0}


def test_a_kind_with_another_status_than_its_own_is_not_believed() -> None:
    assert type(err.from_wire([14, "NotFoundError", "gone", {}])) is err.UnavailableError


@pytest.mark.parametrize("status", [0, 11, 15, 99, -1])
def test_a_status_without_a_class_becomes_the_base(status: int) -> None:
    assert type(err.from_wire([status, "NewError", "new", {}])) is err.HostError


def test_a_refinement_with_a_constructor_of_its_own_comes_back() -> None:
    class TooManyWheelsError(err.ResourceExhaustedError):
        def __init__(self, wheels: int) -> None:
            super().__init__(f"{wheels} wheels", details={"wheels": wheels})

    back = msg.unpack_error(through(msg.pack_error(1, TooManyWheelsError(5))))
    assert type(back) is TooManyWheelsError
    assert (back.message, back.details) == ("5 wheels", {"wheels": 5})


def test_a_class_of_the_same_name_elsewhere_does_not_replace_ours() -> None:
    theirs = type("ModelError", (err.ModelError,), {})
    assert type(err.from_wire([2, "ModelError", "raised", {}])) is err.ModelError
    assert issubclass(theirs, err.ModelError)


@pytest.mark.parametrize(
    "sent",
    [
        None,
        [],
        "error",
        [1, "a", "b"],
        [1, "a", "b", {}, 5],
        ["1", "a", "b", {}],
        [1, None, "b", {}],
        [1, "a", b"b", {}],
        [1, "a", "b", []],
        {"status": 1},
    ],
    ids=repr,
)
def test_a_malformed_error_becomes_one_that_shows_it(sent: object) -> None:
    back = msg.unpack_error(wire.Envelope(msg.ERROR, 0, 1, b"", msgpack.packb(sent), ()))
    assert type(back) is err.InternalError
    assert reprlib.repr(sent) in back.message


def test_a_malformed_error_of_data_that_cannot_be_shown_becomes_one_all_the_same() -> None:
    array = np.frombuffer(b"\xff" * 40, "<U1")
    with pytest.raises(SystemError):
        repr(array)
    assert type(err.from_wire([array])) is err.InternalError
    encoded, _ = codec.encode([array])
    for read in (msg.unpack_target, msg.unpack_verb):
        with pytest.raises(err.ProtocolError):
            read(encoded)


def test_an_error_that_is_no_msgpack_becomes_one_that_says_so() -> None:
    back = msg.unpack_error(wire.Envelope(msg.ERROR, 0, 1, b"", b"\xc1", ()))
    assert type(back) is err.InternalError
    assert "not valid msgpack" in back.message


def test_a_host_reads_an_error_as_everybody_does_but_without_numpy() -> None:
    details = {"a": np.arange(5000), "n": 1, "names": ["a"], "at": (1, 2)}
    envelope = through(msg.pack_error(1, err.NotFoundError("x", details=details)))
    back = msg.unpack_error_metered(envelope)
    assert type(back) is err.NotFoundError
    assert type(back.details["a"]) is ArrayView
    onward = msg.unpack_error(through(msg.pack_error(2, back)))
    assert (onward.details.pop("a") == details.pop("a")).all()
    assert onward.details == details
    assert "cannot be read" in msg.unpack_error_metered(wire.Envelope(msg.ERROR, 0, 1, b"", b"\xc1", ())).message


def test_details_with_a_big_array_arrive() -> None:
    back = msg.unpack_error(through(msg.pack_error(1, err.NotFoundError("x", details={"a": np.arange(5000)}))))
    assert type(back) is err.NotFoundError
    assert back.details["a"].shape == (5000,)


@pytest.mark.parametrize(
    "detail",
    [object(), "\ud800", b"x" * (5 << 20), list(range(5000)), [[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]],
    ids=["object", "surrogate", "too long", "too many", "too deep"],
)
def test_details_that_cannot_travel_are_left_out_and_the_error_arrives(detail: object) -> None:
    back = msg.unpack_error(through(msg.pack_error(1, err.NotFoundError("gone", details={"d": detail}))))
    assert type(back) is err.NotFoundError
    assert (back.message, back.details) == ("gone", {})


@pytest.mark.parametrize(
    ("message", "arrives"),
    [
        ("no file \udcff", "no file \\udcff"),
        (404, "404"),
        ("x" * (5 << 20), "x" * err.MAX_MESSAGE_CHARS),
    ],
    ids=["surrogate", "number", "endless"],
)
def test_any_message_arrives(message: Any, arrives: str) -> None:
    back = msg.unpack_error(through(msg.pack_error(1, err.NotFoundError(message))))
    assert type(back) is err.NotFoundError
    assert back.message == arrives
