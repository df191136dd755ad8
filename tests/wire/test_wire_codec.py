"""Values other than arrays: what travels, what it becomes, and what is refused with a reason."""

import contextlib
import datetime as dt
import gc

import msgpack
import pytest
from helpers import line_of, named, program, stop

from hostd_workers.wire import codec
from hostd_workers.wire.codec import Limits, decode, encode, encode_call
from hostd_workers.wire.errors import InvalidArgumentError

UTC = dt.timezone.utc
BIG = b"\xa5" * (codec.INLINE_BYTES + 1)


def there_and_back(value):
    return decode(*encode(value))


def refused(body, says=".", limits=codec.DEFAULT_LIMITS):
    with pytest.raises(InvalidArgumentError, match=says):
        decode(body, limits=limits)


PLAIN = [None, True, False, 0, -(2**63), 2**64 - 1, 1.5, float("inf"), "", "grüße 🦉 \0", b"", b"\0\xff"]
KEYS = {1: "int", None: "none", b"x": "bytes", (1, "a"): "tuple", 1.5: "float"}
DEEP = {"k": [(1, {"deep": (b"x", (None,))})], "t": ([1], {"a": ()})}
CONTAINERS = [[], [1, [2, [None]]], {}, {"a": {"b": [1]}, "": 0}, KEYS, (), (1, (2, [(3,)])), [(), ((),)], DEEP]


@pytest.mark.parametrize("value", PLAIN + CONTAINERS, ids=repr)
def test_plain_values_come_back_equal_and_of_the_same_type(value):
    back = there_and_back(value)
    assert (repr(back), type(back)) == (repr(value), type(value))


def test_a_timestamp_of_another_language_becomes_an_aware_datetime_or_is_refused():
    sent = msgpack.packb(msgpack.Timestamp(1_700_000_000, 500_000_000))
    assert decode(sent) == dt.datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)
    refused(msgpack.packb(msgpack.Timestamp(2**62, 0)))


def released():
    view = memoryview(b"x")
    view.release()
    return view


def looping(wrap):
    loop = []
    loop.append(wrap(loop))
    return loop


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (2**64, "outside of 64 bits"),
        (-(2**63) - 1, "outside of 64 bits"),
        ("\ud800", "not valid Unicode"),
        (object(), r"a builtins\.object cannot be sent: use None"),
        (lambda: None, "cannot be sent"),
        ([{"deep": [object()]}], "cannot be sent"),
        (looping(lambda loop: loop), "contains itself"),
        (looping(lambda loop: (loop,)), "contains itself"),
        (released(), "cannot be sent"),
        (memoryview(b"abcdef")[::2], "cannot be sent"),
        ([memoryview(b"abcdef")[::2]], "cannot be sent"),
        (memoryview(bytes(2 * len(BIG)))[::2], "cannot be sent"),
    ],
    ids=lambda value: named(value)[:30],
)
def test_what_cannot_travel_is_refused_with_a_reason(value, says):
    with pytest.raises(InvalidArgumentError, match=says):
        encode(value)


# Big byte strings


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, codec.INLINE_BYTES, codec.INLINE_BYTES + 1])
def test_byte_strings_of_every_kind_and_size_arrive_as_bytes(kind, size):
    body, buffers = encode(kind(b"\xa5" * size))
    assert len(buffers) == (size > codec.INLINE_BYTES)
    back = decode(body, buffers)
    assert (back, type(back)) == (b"\xa5" * size, bytes)


def test_big_byte_strings_at_the_top_become_buffers_and_are_not_copied():
    body, buffers = encode(BIG)
    assert buffers[0] is BIG
    assert len(body) < 8
    body, buffers = encode_call([BIG, 1, bytearray(BIG)], {"blob": BIG, "n": 2})
    assert len(buffers) == 3
    assert decode(body, buffers) == [[BIG, 1, BIG], {"blob": BIG, "n": 2}]
    assert decode(*encode_call([], {})) == [[], {}]
    body, buffers = encode([BIG])
    assert (buffers, decode(body)) == ([], [BIG]), "deeper inside they travel in the body"


@pytest.mark.parametrize("view", [memoryview(b"\0" * 16).cast("B", (4, 4)), memoryview(bytearray(16)).cast("d")])
def test_a_memoryview_of_any_shape_travels_as_its_bytes(view):
    assert there_and_back(view) == view.tobytes()


# Limits


def nested(make, levels):
    value = 0
    for _ in range(levels):
        value = make(value)
    return value


def nested_tuples(levels, inner=b"\xc0"):
    """Return the body of tuples inside each other, as a peer may make it that counts nothing."""
    body = inner
    for _ in range(levels):
        body = msgpack.packb(msgpack.ExtType(codec.EXT_TUPLE, b"\x91" + body))
    return body


def test_the_depth_limit_counts_every_container():
    for make in (lambda v: [v], lambda v: {"k": v}):
        assert there_and_back(nested(make, 64)) == nested(make, 64)
        refused(encode(nested(make, 65))[0], "at most 64 containers")
    for levels, limit in ((22, 3 * 22 - 1), (13, 3 * 13 - 1)):
        body, _ = encode(nested(lambda v: [{"k": [v]}], levels))
        refused(body, f"at most {limit} containers", Limits(depth=limit))
        assert decode(body, limits=Limits(depth=limit + 1))
    refused(encode(nested(lambda v: [{"k": (v,)}], 13))[0], "at most 38 containers", Limits(depth=38))


def test_tuples_inside_each_other_have_a_limit_of_their_own():
    value = nested(lambda v: (v,), codec.MAX_TUPLES)
    assert there_and_back([value, value]) == [value, value]
    for make in (lambda v: (v,), lambda v: [{"k": (v,)}]):
        with pytest.raises(InvalidArgumentError, match=r"at most 16 tuples may be inside each other.*send lists"):
            encode(nested(make, codec.MAX_TUPLES + 1))
    assert decode(nested_tuples(codec.MAX_TUPLES, b"\0")) == value
    refused(nested_tuples(codec.MAX_TUPLES + 1), "at most 16 tuples")


@pytest.mark.parametrize("inner", [b"", b"\xc0\xc0", b"\x90\xc0", b"\x91", b"\xc1", b"\x92\xc0", b"\x80", b"\xc0"])
def test_a_malformed_tuple_is_refused_at_every_level(inner):
    for levels in range(1, codec.MAX_TUPLES):
        refused(nested_tuples(levels, bytes([0xC7, len(inner), codec.EXT_TUPLE]) + inner))


SMALL_STACK = """
    import threading
    from hostd_workers.wire.codec import MAX_TUPLES, decode, encode
    from hostd_workers.wire.errors import InvalidArgumentError

    def use():
        value = 0
        for _ in range(MAX_TUPLES - 1):
            value = (value, (1.5, "x"))
        if decode(*encode(value)) != value:
            raise AssertionError("not the same")
        loop = []
        loop.append(((loop,),))
        for wrong in (((value,),), loop):
            try:
                encode(wrong)
            except InvalidArgumentError:
                continue
            raise AssertionError("not refused")
        print("done")

    threading.stack_size(512 * 1024)
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
"""


def test_tuples_inside_each_other_need_little_stack():
    thread = program(SMALL_STACK)
    try:
        assert line_of(thread) == "done"
    finally:
        stop(thread)


def test_a_decoding_is_free_without_the_cycle_collector():
    gc.collect()
    gc.disable()
    try:
        for body in (nested_tuples(codec.MAX_TUPLES), nested_tuples(codec.MAX_TUPLES + 1), b"\xc1"):
            with contextlib.suppress(InvalidArgumentError):
                decode(body)
        assert not [found for found in gc.get_objects() if isinstance(found, codec.Decoder)]
    finally:
        gc.enable()


@pytest.mark.parametrize("levels", [500, 600, 1200, 100_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1k", b"\xdd\0\0\0\1"])
def test_nesting_beyond_what_msgpack_or_python_can_do_is_refused(levels, opening):
    refused(opening * levels + b"\0")


@pytest.mark.parametrize("code", [codec.EXT_TUPLE, codec.EXT_ARRAY, codec.EXT_SCALAR])
def test_extensions_in_extensions_do_not_copy_themselves_without_end(code):
    body = b"\x90"
    for _ in range(300):
        body = b"\x91" + msgpack.packb(msgpack.ExtType(code, body))
    refused(body)


LIMITED = {
    "array": ([0] * 11, Limits(container_len=10)),
    "map": (dict.fromkeys(range(11), 0), Limits(container_len=10)),
    "str": ("x" * 11, Limits(blob_bytes=10)),
    "bytes": (b"x" * 11, Limits(blob_bytes=10)),
    "extension": ((1,) * 10, Limits(blob_bytes=10)),
    "depth": ([[[0]]], Limits(depth=2)),
}


@pytest.mark.parametrize(("value", "limits"), LIMITED.values(), ids=LIMITED)
def test_what_is_over_a_limit_is_refused(value, limits):
    body, _ = encode(value)
    assert decode(body) == value
    refused(body, limits=limits)
