"""Headers, control bodies and errors: what is said comes back, and what is not of the protocol is refused."""

import reprlib

import msgpack
import numpy as np
import pytest

from hostd_workers.wire import codec
from hostd_workers.wire import errors as err
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.arrays import ArrayView
from hostd_workers.wire.messages import Target

# Headers


@pytest.mark.parametrize(
    "header",
    [
        ["m", "predict"],
        ["m", "predict", "00-trace-01"],
        ["m", "generate", None, 64],
        ["m", "generate", "t", msg.MAX_CREDIT],
        ["m", "total", None, 0, 1, 64],
        ["m", "double", "t", 64, "items", 1],
        ["grüße/🦉", ""],
    ],
    ids=repr,
)
def test_a_target_is_the_shortest_array_and_comes_back(header):
    packed = msg.pack_target(Target(*header))
    assert packed == msgpack.packb(header)
    assert msg.unpack_target(packed) == Target(*header)
    assert msg.has_feed(packed) == (len(header) == 6)


def test_a_window_of_zero_may_be_written_out():
    assert msg.unpack_target(msgpack.packb(["m", "x", None, 0])) == Target("m", "x")


NAMES = [None, [], ["m"], "mx", {"m": "x"}, ["m", 1], [1, "x"], [b"m", "x"], ["m", ["x"]], [[[[["m"]]]], "x"]]
MORE = [[1], [None, "64"], [None, -1], [None, msg.MAX_CREDIT + 1], [None, 1.0], [None, 1, 1]]
FEEDS = [[0, 0], [0, 65], [-1, 1], [None, 1], [0.0, 1], ["items", "1"]]
HEADERS = [*NAMES, *(["m", "x", *more] for more in MORE), ["m", "x" * (16 * 1024 + 1)]]
HEADERS += [["m", "x", None, 0, *feed] for feed in FEEDS]


@pytest.mark.parametrize("header", HEADERS, ids=lambda value: repr(value)[:40])
def test_another_header_of_a_call_is_refused(header):
    with pytest.raises(err.InvalidArgumentError):
        msg.unpack_target(msgpack.packb(header))


@pytest.mark.parametrize("target", [Target("\ud800", "x"), Target("m", "\ud800"), Target("m", object)], ids=ascii)
def test_names_that_cannot_travel_are_refused(target):
    with pytest.raises(err.InvalidArgumentError, match="must be text"):
        msg.pack_target(target)


def test_a_verb_and_a_credit_come_back_and_anything_else_is_refused():
    assert msg.unpack_verb(msg.pack_verb("load_model")) == "load_model"
    for header in (None, [], ["a", "b"], [1], "load_model", {"verb": 1}):
        with pytest.raises(err.ProtocolError, match=r"must be \[verb\]"):
            msg.unpack_verb(msgpack.packb(header))
    with pytest.raises(err.InvalidArgumentError):
        msg.unpack_verb(b"")
    envelope = wire.unpack(msg.pack_credit(9, 32))
    assert (envelope.kind, envelope.id, msg.unpack_credit(envelope.header)) == (msg.CREDIT, 9, 32)
    assert [msg.unpack_credit(msgpack.packb(items)) for items in (0, msg.MAX_CREDIT)] == [0, msg.MAX_CREDIT]
    for items in (-1, msg.MAX_CREDIT + 1, True, 1.0, "1", None, [1]):
        with pytest.raises(err.ProtocolError, match="must be a count"):
            msg.unpack_credit(msgpack.packb(items))


# Maps


def test_a_map_comes_back_with_its_arrays():
    body = {"a": 1, "array": np.arange(5000)}
    envelope = wire.unpack(msg.pack_map(msg.LOAD, 3, body, b"header"))
    assert (envelope.kind, envelope.id, envelope.header) == (msg.LOAD, 3, b"header")
    assert (msg.unpack_map(envelope)["array"] == body["array"]).all()


@pytest.mark.parametrize("body", [None, [], 1, {1: 2}, {"a": 1, None: 2}], ids=repr)
def test_a_body_that_is_no_map_of_names_is_refused(body):
    with pytest.raises(err.ProtocolError, match="map with string keys"):
        msg.unpack_map(wire.unpack(wire.pack(msg.VERB, 1, body=codec.encode(body)[0])))


def test_a_map_over_its_limits_is_refused():
    envelope = wire.unpack(msg.pack_map(msg.HELLO, 1, {str(n): n for n in range(100)}))
    assert len(msg.unpack_map(envelope)) == 100
    with pytest.raises(err.InvalidArgumentError):
        msg.unpack_map(envelope, msg.HEADER_LIMITS)


def test_a_model_with_more_methods_than_a_host_listens_to_is_refused_by_its_worker():
    method = {"name": "m", "streams": False, "is_async": False, "signature": "()", "doc": ""}

    def loaded(count, **more):
        return {"methods": {str(n): {**method, **more} for n in range(count)}, "loader": "x", "default_method": None}

    frames = msg.pack_map(msg.LOADED, 0, loaded(msg.MAX_METHODS))
    assert len(msg.unpack_map(wire.unpack(frames), msg.LOADED_LIMITS)["methods"]) == msg.MAX_METHODS
    for body in (loaded(msg.MAX_METHODS + 1), loaded(msg.MAX_METHODS, doc="é" * 300)):
        with pytest.raises(err.InvalidArgumentError, match="at most 1000 methods and 524288 bytes are possible: name"):
            msg.pack_map(msg.LOADED, 0, body)


def test_ten_thousand_files_can_be_deployed_at_once():
    names = [f"{'directory/' * 7}layer-{number:05d}.bin" for number in range(10_000)]
    body = {"model_id": "m", "files": [[name, 2**40] for name in names], "options": {"n": list(range(1000))}}
    envelope = wire.unpack(msg.pack_map(msg.VERB, 1, body, msg.pack_verb("deploy_begin")))
    assert msg.unpack_map(envelope, msg.limits_of("deploy_begin")) == body
    with pytest.raises(err.InvalidArgumentError, match="at most 262144 are allowed"):
        msg.unpack_map(envelope, msg.limits_of("load_model"))


@pytest.mark.parametrize("is_buffer", [True, False])
def test_a_piece_of_a_file_may_be_a_buffer_or_in_the_body(is_buffer):
    data = bytes(1 << 20)
    value, buffers = (msgpack.ExtType(codec.EXT_BYTES_BUFFER, b"\0"), [data]) if is_buffer else (data, [])
    envelope = wire.unpack(wire.pack(msg.VERB, 1, body=msgpack.packb({"data": value}), buffers=buffers))
    assert msg.unpack_map(envelope, msg.limits_of("deploy_write")) == {"data": data}
    with pytest.raises(err.InvalidArgumentError, match="are allowed here"):
        msg.unpack_map(envelope, msg.limits_of("load_model"))


# Errors

CLASSES = [kind for kind in vars(err).values() if isinstance(kind, type) and issubclass(kind, err.HostError)]


def sent(error, unpack=msg.unpack_error):
    return unpack(wire.unpack(msg.pack_error(5, error)))


def read(body, unpack=msg.unpack_error):
    return unpack(wire.Envelope(msg.ERROR, 0, 1, b"", body, ()))


@pytest.mark.parametrize("cls", CLASSES[1:], ids=lambda cls: cls.__name__)
def test_every_error_comes_back_as_itself(cls):
    error = cls("what was wrong: do this", details={"n": 1, "names": ["a"]})
    back = sent(error)
    assert type(back) is cls
    assert (str(back), back.message, back.details) == (error.message, error.message, error.details)
    assert back.status is cls.status
    assert wire.unpack(msg.pack_error(5, error))[:3:2] == (msg.ERROR, 5)


def test_statuses_have_the_numbers_of_grpc():
    names = "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED"
    names += " RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE"
    names += " DATA_LOSS UNAUTHENTICATED"
    assert [(status.name, status.value) for status in err.Status] == list(zip(names.split(), range(17), strict=True))


def test_the_traceback_of_a_model_is_at_hand():
    assert err.ModelError("x", details={"traceback": "Traceback ..."}).traceback == "Traceback ..."
    assert err.ModelError("x").traceback == ""


@pytest.mark.parametrize(
    ("status", "kind", "cls"),
    [
        (int(err.Status.RESOURCE_EXHAUSTED), "QuotaError", err.ResourceExhaustedError),
        (14, "NotFoundError", err.UnavailableError),
        *((status, "NewError", err.HostError) for status in (0, 11, 15, 99, -1)),
    ],
    ids=["unknown kind", "kind of another status", *["unknown status"] * 5],
)
def test_what_this_version_does_not_know_becomes_the_general_error_of_its_status(status, kind, cls):
    back = err.from_wire([status, kind, "full", {"left": 0}])
    assert (type(back), back.details) == (cls, {"left": 0})


def test_a_refinement_with_a_constructor_of_its_own_comes_back():
    class TooManyWheelsError(err.ResourceExhaustedError):
        def __init__(self, wheels):
            super().__init__(f"{wheels} wheels", details={"wheels": wheels})

    back = sent(TooManyWheelsError(5))
    assert (type(back), back.message, back.details) == (TooManyWheelsError, "5 wheels", {"wheels": 5})


def test_a_class_of_the_same_name_elsewhere_does_not_replace_ours():
    theirs = type("ModelError", (err.ModelError,), {})
    assert type(err.from_wire([2, "ModelError", "raised", {}])) is err.ModelError
    assert issubclass(theirs, err.ModelError)


LONGER = [["1", "a", "b", {}], [1, None, "b", {}], [1, "a", b"b", {}], [1, "a", "b", []]]


@pytest.mark.parametrize(
    "body", [None, [], "error", [1, "a", "b"], [1, "a", "b", {}, 5], *LONGER, {"status": 1}], ids=repr
)
def test_a_malformed_error_becomes_one_that_shows_it(body):
    back = read(msgpack.packb(body))
    assert type(back) is err.InternalError
    assert reprlib.repr(body) in back.message


def test_a_malformed_error_of_data_that_cannot_be_shown_becomes_one_all_the_same():
    array = np.frombuffer(b"\xff" * 40, "<U1")
    with pytest.raises(SystemError):
        repr(array)
    assert type(err.from_wire([array])) is err.InternalError
    encoded, _ = codec.encode([array])
    for unpack in (msg.unpack_target, msg.unpack_verb):
        with pytest.raises(err.ProtocolError):
            unpack(encoded)


def test_a_host_reads_an_error_as_everybody_does_but_without_numpy():
    details = {"a": np.arange(5000), "n": 1, "names": ["a"], "at": (1, 2)}
    back = sent(err.NotFoundError("x", details=details), msg.unpack_error_metered)
    assert (type(back), type(back.details["a"])) == (err.NotFoundError, ArrayView)
    onward = sent(back)
    assert (onward.details.pop("a") == details.pop("a")).all()
    assert onward.details == details
    for unpack in (msg.unpack_error, msg.unpack_error_metered):
        broken = read(b"\xc1", unpack)
        assert type(broken) is err.InternalError
        assert "cannot be read: the body is not valid msgpack" in broken.message


DETAILS = {
    "object": object(),
    "surrogate": "\ud800",
    "too long": b"x" * (5 << 20),
    "too many": list(range(5000)),
    "too deep": [[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]],
}


@pytest.mark.parametrize("detail", DETAILS)
def test_details_that_cannot_travel_are_left_out_and_the_error_arrives(detail):
    back = sent(err.NotFoundError("gone", details={"d": DETAILS[detail]}))
    assert (type(back), back.message, back.details) == (err.NotFoundError, "gone", {})


@pytest.mark.parametrize(
    ("message", "arrives"),
    [("no file \udcff", "no file \\udcff"), (404, "404"), ("x" * (5 << 20), "x" * err.MAX_MESSAGE_CHARS)],
    ids=["surrogate", "number", "endless"],
)
def test_any_message_arrives(message, arrives):
    back = sent(err.NotFoundError(message))
    assert (type(back), back.message) == (err.NotFoundError, arrives)
