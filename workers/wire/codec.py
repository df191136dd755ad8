"""Values to bodies and back: msgpack, with NumPy arrays and big byte strings as frames of their own.

What travels: None, bool, int (64 bit), float, str, bytes, datetime (aware or naive), list, tuple, map, and NumPy arrays
and scalars of every fixed-size dtype. A subclass travels as the value of its base if that is all of its value, else it
is refused (`datetimes`, `arrays`). Nothing is pickled in either direction. Where there is no NumPy an array decodes to
an `ArrayView`, which encodes again.

The extension types are listed in `PROTOCOL.md`. Everything unknown, malformed or over a limit is an
`InvalidArgumentError`, so no peer can crash the other side.
"""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING, Any

import msgpack

from hostd_workers.wire.arrays import array_of, is_array, is_scalar, parts_of
from hostd_workers.wire.datetimes import datetime_of, text_of
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.instead import instead_of
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hostd_workers.wire.frames import Buffer

EXT_TUPLE = 1
EXT_DATETIME = 2
EXT_ARRAY = 3
EXT_ARRAY_BUFFER = 4
EXT_BYTES_BUFFER = 5
EXT_SCALAR = 6

INLINE_ARRAY_BYTES = 4 * 1024
"""Below this a copy into the body is cheaper than a frame more (about 1 us at each of six hops, measured)."""

INLINE_BYTES = 64 * 1024
"""msgpack copies byte strings at the speed of memcpy, so they pay for a frame of their own later than arrays do."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds on what `decode` accepts: `depth` in nested containers, lengths in elements and bytes."""

    depth: int = 64
    container_len: int = 4_000_000
    blob_bytes: int = 1 << 30


DEFAULT_LIMITS = Limits()

MAX_TUPLES = 16
"""Tuples inside each other: each is an extension, its data copied once more for every tuple that it is in."""

_STACKED_TUPLES = 3
"""`unpackb` is quickest for few tuples, but has 41 KB on the C stack, of which a thread may have 512 KB in all; tuples
further inside are read by unpackers that live on the heap."""

_CONTAINER_BYTES = bytes([*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)])
"""What maps, arrays and extensions begin with."""

_COUNTED_BYTES = 64 * 1024
"""Counting reads a byte in a nanosecond; for long bodies of many numbers a walk over the value is cheaper."""

# msgpack's default of 256 KiB is above malloc's mmap threshold: two live packers then cost 12 us of page faults a call.
_PACK_BUFFER_BYTES = 8 * 1024
_pack_parts = msgpack.Packer(buf_size=_PACK_BUFFER_BYTES).pack

_AS_DATETIME = 3
"""msgpack's own timestamps, which clients in other languages send, become aware datetimes."""


def encode(value: object) -> tuple[bytes, list[Buffer]]:
    """Return the body and buffers of a value; a big byte string at its top becomes a buffer.

    Raises `InvalidArgumentError` naming what cannot travel and what to send instead.
    """
    buffers: list[Buffer] = []
    return _pack(_by_reference(value, buffers), buffers), buffers


def encode_call(args: Sequence[object], kwargs: dict[str, object]) -> tuple[bytes, list[Buffer]]:
    """Return the body and buffers of a call's arguments, `[args, kwargs]`; big byte strings become buffers."""
    buffers: list[Buffer] = []
    return _pack(
        [
            [_by_reference(v, buffers) for v in args],
            {k: _by_reference(v, buffers) for k, v in kwargs.items()} if kwargs else kwargs,
        ],
        buffers,
    ), buffers


def decode(body: Buffer, buffers: Sequence[Buffer] = (), limits: Limits = DEFAULT_LIMITS) -> Any:
    """Return the value of a body; its arrays are views of `buffers`, writable where the buffers are.

    Every buffer may be referred to once. Raises `InvalidArgumentError` for what is malformed, unknown or over a limit.
    """
    return Decoder(buffers, limits).decode(body)


def _by_reference(value: object, buffers: list[Buffer]) -> object:
    # msgpack packs bytes without asking, so only those that a caller can see at the top are spared the copy.
    if type(value) is bytes:
        data: Buffer = value
    elif isinstance(value, (bytes, bytearray, memoryview)) and not is_scalar(value):
        data = _bytes_of(value)
    else:
        return value
    if len(data) > INLINE_BYTES:
        buffers.append(data)
        return msgpack.ExtType(EXT_BYTES_BUFFER, _pack_parts(len(buffers) - 1))
    return bytes(data)


def _bytes_of(value: Buffer) -> memoryview:
    try:
        return memoryview(value).cast("B")
    except (TypeError, ValueError) as error:  # not contiguous, released, or of a foreign format
        raise InvalidArgumentError(f"a memoryview that is not plain bytes cannot be sent: {error}") from None


# The methods of the base, because a subclass may have its own (str() of an enum is its name, not its value).
_BASES: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (str, str.__str__),
    (bytes, lambda value: b"".join([value])),
    (int, int.__int__),
    (float, float.__float__),
    (dict, dict),
    (list, list),
)


def _pack(value: object, buffers: list[Buffer], tuples: int = 0) -> bytes:
    def by_extension(obj: object) -> object:
        return _extension(obj, buffers, tuples)

    try:
        packed: bytes = msgpack.packb(value, default=by_extension, strict_types=True, buf_size=_PACK_BUFFER_BYTES)
    except OverflowError:
        raise InvalidArgumentError("an integer is outside of 64 bits: send it as a string or a float") from None
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"a string is not valid Unicode: {error}") from None
    except (RecursionError, ValueError) as error:
        raise InvalidArgumentError(f"the value is nested too deeply, or contains itself ({error})") from None
    except (TypeError, BufferError) as error:
        raise InvalidArgumentError(f"the value cannot be sent: {error}") from None
    return packed


def _extension(obj: Any, buffers: list[Buffer], tuples: int) -> object:
    if is_array(obj):
        dtype, shape, order, data = parts_of(obj, INLINE_ARRAY_BYTES)
        if len(data) <= INLINE_ARRAY_BYTES:
            return msgpack.ExtType(EXT_ARRAY, _pack_parts([dtype, shape, order, bytes(data)]))
        buffers.append(data)
        return msgpack.ExtType(EXT_ARRAY_BUFFER, _pack_parts([dtype, shape, order, len(buffers) - 1]))
    if is_scalar(obj) and not _ends_with_nul(obj):
        # As an array, because an empty string's own dtype does not count the character that it gives its bytes.
        dtype, _shape, _order, data = parts_of(sys.modules["numpy"].asarray(obj))
        return msgpack.ExtType(EXT_SCALAR, _pack_parts([dtype, bytes(data)]))
    if isinstance(obj, tuple):
        if tuples == MAX_TUPLES:
            raise _too_many_tuples()
        return msgpack.ExtType(EXT_TUPLE, _pack(list(obj), buffers, tuples + 1))
    if isinstance(obj, dt.datetime):
        return msgpack.ExtType(EXT_DATETIME, text_of(obj))
    for base, value_of in _BASES:
        if isinstance(obj, base):  # an enum, a defaultdict, a str of some library
            return value_of(obj)
    raise InvalidArgumentError(f"a {type(obj).__module__}.{type(obj).__qualname__} cannot be sent: {instead_of(obj)}")


def _ends_with_nul(scalar: Any) -> bool:
    """Say whether NumPy would take the end of a text for padding: then it travels as the value of its base."""
    return isinstance(scalar, (str, bytes)) and scalar[-1:] in ("\0", b"\0")


def _may_nest(body: Buffer, depth: int) -> bool:
    """Say whether a body has enough bytes that could begin a container; most have few, and need no closer look."""
    size = len(body)
    if size > _COUNTED_BYTES or size <= depth:
        return size > depth
    return size - len(bytes(body).translate(None, _CONTAINER_BYTES)) > depth


def _too_many_tuples() -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the value is nested too deeply: at most {MAX_TUPLES} tuples may be inside each other, and it has more, or "
        f"contains itself; send lists"
    )


class Decoder:
    """One decoding: holds the buffers that extensions refer to and counts how deeply tuples nest."""

    __slots__ = ("_buffers", "_limits", "_tuples", "_unpackers")

    def __init__(self, buffers: Sequence[Buffer], limits: Limits) -> None:
        self._buffers: list[Buffer | None] = list(buffers)
        self._limits = limits
        self._tuples = 0
        self._unpackers: list[Any] = []

    def decode(self, body: Buffer) -> Any:
        """Return the value of a body; errors as `decode`. To be called once."""
        try:
            value = self._unpack(body)
        except InvalidArgumentError:
            raise
        except (msgpack.StackError, RecursionError):
            raise self._too_deep() from None
        except (ValueError, TypeError, OverflowError, SystemError, msgpack.UnpackException) as error:
            # msgpack's errors share no base; a limit is a ValueError, an unhashable key a TypeError, a time outside of
            # the calendar an OverflowError, and NumPy's strings of no Unicode are a SystemError.
            raise InvalidArgumentError(f"the body is not valid msgpack, or over a limit: {error}") from None
        finally:
            self._unpackers.clear()  # they refer to this decoder: nobody should wait for the cycle collector
        if _may_nest(body, self._limits.depth):
            self._check_depth(value)
        return value

    def _unpack(self, body: Buffer) -> Any:
        limits = self._limits
        return msgpack.unpackb(
            body,
            ext_hook=self._ext,
            timestamp=_AS_DATETIME,
            strict_map_key=False,
            max_str_len=limits.blob_bytes,
            max_bin_len=limits.blob_bytes,
            max_ext_len=limits.blob_bytes,
            max_array_len=limits.container_len,
            max_map_len=limits.container_len,
        )

    def _unpack_tuple(self, data: bytes) -> Any:
        level = self._tuples - _STACKED_TUPLES
        if level <= 0:
            return self._unpack(data)
        if level > len(self._unpackers):
            self._unpackers.append(self._unpacker())
        unpacker = self._unpackers[level - 1]
        unpacker.feed(data)
        value = unpacker.unpack()
        if unpacker.read_bytes(1):
            raise InvalidArgumentError("a malformed tuple")
        return value

    def _unpacker(self) -> Any:
        # Its buffer would have a megabyte to begin with.
        return msgpack.Unpacker(max_buffer_size=0, read_size=_PACK_BUFFER_BYTES, **self._options())

    def _options(self) -> dict[str, Any]:
        """Return what `_unpack` spells out, because making the map would take it half as long again."""
        limits = self._limits
        return {
            "ext_hook": self._ext,
            "timestamp": _AS_DATETIME,
            "strict_map_key": False,
            "max_str_len": limits.blob_bytes,
            "max_bin_len": limits.blob_bytes,
            "max_ext_len": limits.blob_bytes,
            "max_array_len": limits.container_len,
            "max_map_len": limits.container_len,
        }

    def _check_depth(self, value: Any) -> None:
        containers = (list, dict, tuple)
        level, depth = [value], 0
        while level := [
            item
            for container in level
            if type(container) in containers
            for item in (container.values() if type(container) is dict else container)
            if type(item) in containers
        ]:
            depth += 1
            if depth >= self._limits.depth:
                raise self._too_deep()

    def _too_deep(self) -> InvalidArgumentError:
        return InvalidArgumentError(f"the value is nested too deeply: at most {self._limits.depth} containers")

    def _ext(self, code: int, data: bytes) -> Any:
        if code == EXT_ARRAY:
            dtype, shape, order, raw = self._parts(data, 4)
            return self._array(dtype, shape, order, _own(raw))
        if code == EXT_ARRAY_BUFFER:
            dtype, shape, order, index = self._parts(data, 4)
            return self._array(dtype, shape, order, self._buffer(index))
        if code == EXT_BYTES_BUFFER:
            return bytes(self._buffer(msgpack.unpackb(data)))
        if code == EXT_SCALAR:
            dtype, raw = self._parts(data, 2)
            return self._scalar(dtype, _own(raw))
        if code == EXT_TUPLE:
            return self._tuple(data)
        if code == EXT_DATETIME:
            return datetime_of(data)
        raise InvalidArgumentError(f"extension type {code} is unknown to this version of the protocol")

    def _tuple(self, data: bytes) -> tuple[Any, ...]:
        if self._tuples == MAX_TUPLES:
            raise _too_many_tuples()
        self._tuples += 1
        value = self._unpack_tuple(data)
        self._tuples -= 1
        if not isinstance(value, list):
            raise InvalidArgumentError("a malformed tuple")
        return tuple(value)

    def _array(self, dtype: Any, shape: Any, order: Any, data: Buffer) -> Any:
        return array_of(dtype, shape, order, data)

    def _scalar(self, dtype: Any, data: bytearray) -> Any:
        scalar = array_of(dtype, [], "C", data)
        return scalar[()] if hasattr(scalar, "__getitem__") else scalar

    @staticmethod
    def _parts(data: bytes, count: int) -> list[Any]:
        parts = msgpack.unpackb(data)  # no extensions in an extension: each level would copy all below it
        if not isinstance(parts, list) or len(parts) != count:
            raise InvalidArgumentError("a malformed array")
        return parts

    def _buffer(self, index: object) -> Buffer:
        if type(index) is not int or not 0 <= index < len(self._buffers):
            raise InvalidArgumentError(f"the body refers to buffer {index!r}, the message has {len(self._buffers)}")
        buffer, self._buffers[index] = self._buffers[index], None
        if buffer is None:
            # Three bytes each would otherwise be enough to have a megabyte copied any number of times.
            raise InvalidArgumentError(f"the body refers to buffer {index} more than once")
        return buffer


def _own(raw: object) -> bytearray:
    """Return small data as memory that the array may write to."""
    if type(raw) is not bytes:  # bytearray(n) would make n zeros
        raise InvalidArgumentError("a malformed array: its data must be bytes")
    return bytearray(raw)
