"""Values other than arrays: what travels, what it becomes, and what is refused with a reason."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import enum
import gc
import zoneinfo
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from helpers import line_of, named, program, stop

from hostd_workers.wire import codec
from hostd_workers.wire.codec import Limits, decode, encode, encode_call
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

UTC = dt.timezone.utc
BIG = b"\xa5" * (codec.INLINE_BYTES + 1)


def there_and_back(value: object) -> Any:
    return decode(*encode(value))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -(2**63),
        2**64 - 1,
        1.5,
        float("inf"),
        "",
        "grüße 🦉 \0",
        b"",
        b"\0\xff",
        [],
        [1, [2, [None]]],
        {},
        {"a": {"b": [1]}, "": 0},
        {1: "int", None: "none", b"x": "bytes", (1, "a"): "tuple", 1.5: "float"},
        (),
        (1, (2, [(3,)])),
        [(), ((),)],
    ],
    ids=repr,
)
def test_plain_values_come_back_equal_and_of_the_same_type(value: object) -> None:
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


def test_tuples_stay_tuples_inside_of_everything() -> None:
    value = {"k": [(1, {"deep": (b"x", (None,))})], "t": ([1], {"a": ()})}
    assert repr(there_and_back(value)) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2024, 2, 29, 23, 59, 59, 999999),
        dt.datetime(1, 1, 1),
        dt.datetime(9999, 12, 31, tzinfo=UTC),
        dt.datetime(2024, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))),
        dt.datetime(1900, 1, 1, tzinfo=dt.timezone(-dt.timedelta(minutes=19, seconds=32, microseconds=7))),
    ],
)
def test_datetimes_keep_their_microseconds_and_offset(value: dt.datetime) -> None:
    back = there_and_back(value)
    assert back == value
    assert back.utcoffset() == value.utcoffset()


def test_a_named_zone_arrives_as_its_offset() -> None:
    value = dt.datetime(2024, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    assert there_and_back(value).isoformat() == "2024-07-01T12:00:00+02:00"


def test_a_timestamp_of_another_language_becomes_an_aware_datetime() -> None:
    sent = msgpack.packb(msgpack.Timestamp(1_700_000_000, 500_000_000))
    assert decode(sent) == dt.datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)


def test_a_timestamp_outside_of_the_calendar_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        decode(msgpack.packb(msgpack.Timestamp(2**62, 0)))


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not the value"


class Number(int):
    def __int__(self) -> int:
        return -1


class Real(float):
    def __float__(self) -> float:
        return -1.0


class Blob(bytes):
    def __bytes__(self) -> bytes:
        return b"not the value"


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("text"), "text"),
        (Number(7), 7),
        (Real(0.5), 0.5),
        (Blob(b"blob"), b"blob"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aa"), {"a": 2}),
        (collections.namedtuple("Point", "x y")(1, 2), (1, 2)),
        (type("Names", (list,), {})(["a"]), ["a"]),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"k": v}], ids=["top", "list", "map"])
def test_a_subclass_travels_as_the_value_of_its_base(value: object, plain: object, wrap: Any) -> None:
    back = there_and_back(wrap(value))
    assert back == wrap(plain)
    inner = back[0] if isinstance(back, list) and isinstance(wrap(0), list) else back["k"] if wrap(0) != 0 else back
    assert type(inner) is type(plain)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (2**64, "outside of 64 bits"),
        (-(2**63) - 1, "outside of 64 bits"),
        ("\ud800", "not valid Unicode"),
        (object(), r"a builtins\.object cannot be sent: use None"),
        (lambda: None, "cannot be sent"),
        ([{"deep": [object()]}], "cannot be sent"),
    ],
    ids=lambda value: named(value)[:30],
)
def test_what_cannot_travel_is_refused_with_a_reason(value: object, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        encode(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(InvalidArgumentError, match="contains itself"):
        encode(loop)
    loop[0] = (loop,)
    with pytest.raises(InvalidArgumentError, match="contains itself"):
        encode(loop)


# Big byte strings


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, codec.INLINE_BYTES, codec.INLINE_BYTES + 1])
def test_byte_strings_of_every_kind_and_size_arrive_as_bytes(kind: Any, size: int) -> None:
    sent = kind(b"\xa5" * size)
    body, buffers = encode(sent)
    assert len(buffers) == (size > codec.INLINE_BYTES)
    back = decode(body, buffers)
    assert back == b"\xa5" * size
    assert type(back) is bytes


def test_a_big_byte_string_at_the_top_is_not_copied() -> None:
    body, buffers = encode(BIG)
    assert buffers[0] is BIG
    assert len(body) < 8


def test_big_arguments_of_a_call_become_buffers_by_position_and_by_name() -> None:
    body, buffers = encode_call([BIG, 1, bytearray(BIG)], {"blob": BIG, "n": 2})
    assert len(buffers) == 3
    assert decode(body, buffers) == [[BIG, 1, BIG], {"blob": BIG, "n": 2}]
    assert decode(*encode_call([], {})) == [[], {}]


def test_a_big_byte_string_deeper_inside_travels_in_the_body() -> None:
    body, buffers = encode([BIG])
    assert (buffers, decode(body)) == ([], [BIG])


@pytest.mark.parametrize(
    "view",
    [
        memoryview(b"abcdef")[::2],
        memoryview(bytes(2 * len(BIG)))[::2],
        memoryview(b"\0" * 16).cast("B", (4, 4)),
        memoryview(bytearray(16)).cast("d"),
    ],
    ids=["gaps", "big gaps", "two dimensions", "doubles"],
)
def test_a_memoryview_travels_as_its_bytes_or_is_refused(view: memoryview) -> None:
    if view.contiguous:
        assert there_and_back(view) == view.tobytes()
    else:
        with pytest.raises(InvalidArgumentError, match="cannot be sent"):
            encode(view)
        with pytest.raises(InvalidArgumentError, match="cannot be sent"):
            encode([view])


def test_a_released_memoryview_is_refused() -> None:
    view = memoryview(b"x")
    view.release()
    with pytest.raises(InvalidArgumentError, match="cannot be sent"):
        encode(view)


# Limits


def nested(make: Callable[[object], object], levels: int) -> object:
    value: object = 0
    for _ in range(levels):
        value = make(value)
    return value


def test_the_depth_limit_counts_every_container() -> None:
    for make in (lambda v: [v], lambda v: {"k": v}):
        assert there_and_back(nested(make, 64)) == nested(make, 64)
        with pytest.raises(InvalidArgumentError, match="at most 64 containers"):
            there_and_back(nested(make, 65))


def test_mixed_nesting_counts_as_well() -> None:
    for levels, limit in ((22, 3 * 22 - 1), (13, 3 * 13 - 1)):
        body, _ = encode(nested(lambda v: [{"k": [v]}], levels))
        with pytest.raises(InvalidArgumentError, match=f"at most {limit} containers"):
            decode(body, limits=Limits(depth=limit))
        assert decode(body, limits=Limits(depth=limit + 1))
    body, _ = encode(nested(lambda v: [{"k": (v,)}], 13))
    with pytest.raises(InvalidArgumentError, match="at most 38 containers"):
        decode(body, limits=Limits(depth=38))


def tuples(levels: int) -> bytes:
    """Return the body of tuples inside each other, as a peer may make it that counts nothing."""
    body = msgpack.packb(0)
    for _ in range(levels):
        body = msgpack.packb(msgpack.ExtType(codec.EXT_TUPLE, b"\x91" + body))
    return body


def test_tuples_inside_each_other_have_a_limit_of_their_own() -> None:
    value = nested(lambda v: (v,), codec.MAX_TUPLES)
    assert there_and_back(value) == value
    assert there_and_back([value, value]) == [value, value]
    for make in (lambda v: (v,), lambda v: [{"k": (v,)}]):
        with pytest.raises(InvalidArgumentError, match=r"at most 16 tuples may be inside each other.*send lists"):
            encode(nested(make, codec.MAX_TUPLES + 1))
    assert decode(tuples(codec.MAX_TUPLES)) == value
    with pytest.raises(InvalidArgumentError, match="at most 16 tuples"):
        decode(tuples(codec.MAX_TUPLES + 1))


@pytest.mark.parametrize("levels", range(1, codec.MAX_TUPLES))
@pytest.mark.parametrize(
    "inner", [b"", b"\xc0\xc0", b"\x90\xc0", b"\x91", b"\xc1", b"\x92\xc0", b"\x80", b"\xc0"], ids=bytes.hex
)
def test_a_malformed_tuple_is_refused_at_every_level(levels: int, inner: bytes) -> None:
    body = bytes([0xC7, len(inner), codec.EXT_TUPLE]) + inner
    for _ in range(levels):
        body = msgpack.packb(msgpack.ExtType(codec.EXT_TUPLE, b"\x91" + body))
    with pytest.raises(InvalidArgumentError):
        decode(body)


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


def test_tuples_inside_each_other_need_little_stack() -> None:
    thread = program(SMALL_STACK)
    try:
        assert line_of(thread) == "done"
    finally:
        stop(thread)


def test_a_decoding_is_free_without_the_cycle_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        for body in (tuples(codec.MAX_TUPLES), tuples(codec.MAX_TUPLES + 1), b"\xc1"):
            with contextlib.suppress(InvalidArgumentError):
                decode(body)
        assert not [found for found in gc.get_objects() if isinstance(found, codec.Decoder)]
    finally:
        gc.enable()


@pytest.mark.parametrize("levels", [500, 600, 1200, 100_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1k", b"\xdd\0\0\0\1"])
def test_nesting_beyond_what_msgpack_or_python_can_do_is_refused(levels: int, opening: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        decode(opening * levels + b"\0")


def nested_extensions(code: int, levels: int) -> bytes:
    body = b"\x90"
    for _ in range(levels):
        body = b"\x91" + msgpack.packb(msgpack.ExtType(code, body))
    return body


@pytest.mark.parametrize("code", [codec.EXT_TUPLE, codec.EXT_ARRAY, codec.EXT_SCALAR])
def test_extensions_in_extensions_do_not_copy_themselves_without_end(code: int) -> None:
    with pytest.raises(InvalidArgumentError):
        decode(nested_extensions(code, 300))


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ([0] * 11, Limits(container_len=10)),
        (dict.fromkeys(range(11), 0), Limits(container_len=10)),
        ("x" * 11, Limits(blob_bytes=10)),
        (b"x" * 11, Limits(blob_bytes=10)),
        ((1,) * 10, Limits(blob_bytes=10)),
        ([[[0]]], Limits(depth=2)),
    ],
    ids=["array", "map", "str", "bytes", "extension", "depth"],
)
def test_what_is_over_a_limit_is_refused(value: object, limits: Limits) -> None:
    body, buffers = encode(value)
    assert decode(body, buffers) == value
    with pytest.raises(InvalidArgumentError):
        decode(body, buffers, limits)
