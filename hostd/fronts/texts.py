"""Elements of BYTES tensors: their binary form, their JSON form, and the nested lists that models get.

In binary form each element follows its length, 4 bytes, little-endian. To a model they are nested lists of `str` if
every element is valid UTF-8, else of `bytes`: the wire of the host has no arrays of objects.
"""

from __future__ import annotations

import math
import struct
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hostd_workers.wire.frames import Buffer

MAX_EMPTY_LISTS: Final = 1 << 20
"""Of a tensor without elements: a shape of a few bytes must not become a billion empty lists."""

_LENGTH: Final = struct.Struct("<I")


def of_raw(raw: Buffer, shape: Sequence[int], where: str) -> Any:
    """Return the elements in their binary form as nested lists. Raises `InvalidArgumentError` if they do not fit."""
    count = math.prod(shape)
    found: list[bytes] = []
    offset, end = 0, len(raw)
    while offset < end:
        if len(found) == count:
            raise InvalidArgumentError(f"{where}: got {end - offset} bytes after its {count} elements, expected none")
        length = _LENGTH.unpack_from(raw, offset)[0] if end - offset >= _LENGTH.size else None
        offset += _LENGTH.size
        if length is None or length > end - offset:
            raise InvalidArgumentError(
                f"{where}: element {len(found)} is cut off: got {max(0, end - offset)} bytes, "
                f"expected {'a length of 4 bytes' if length is None else length}"
            )
        found.append(bytes(raw[offset : offset + length]))
        offset += length
    return of_elements(found, shape, where)


def of_elements(elements: list[bytes], shape: Sequence[int], where: str) -> Any:
    """Return flat elements as nested lists. Raises `InvalidArgumentError` if the shape has another number of them."""
    if len(elements) != (count := math.prod(shape)):
        raise InvalidArgumentError(
            f"{where}: got {len(elements)} elements, expected {count}, by its shape {list(shape)}"
        )
    return nested(_as_texts(elements), shape, where)


def raw_of(data: Any) -> bytes:
    """Return the binary form of nested lists of `str` and `bytes`."""
    parts: list[bytes] = []
    for element in flattened(data):
        encoded = element.encode() if isinstance(element, str) else element
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def texts_of(data: Any, where: str) -> list[str]:
    """Return the elements in their JSON form, flat. Raises `InvalidArgumentError` for bytes that are no UTF-8."""
    try:
        return [element if isinstance(element, str) else element.decode() for element in flattened(data)]
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{where} has bytes that are not UTF-8, which JSON cannot hold ({error.reason}): ask for it in binary form "
            f'(parameters {{"binary_data": true}})'
        ) from None


def nested(flat: list[Any], shape: Sequence[int], where: str) -> Any:
    """Return flat elements as nested lists of that shape; for the shape () the only element."""
    if not shape:
        return flat[0]
    if not flat and math.prod(shape[: list(shape).index(0)]) > MAX_EMPTY_LISTS:
        raise InvalidArgumentError(f"{where}: the shape {list(shape)} would be too many empty lists")
    for axis in range(len(shape) - 1, 0, -1):
        size = shape[axis]
        flat = [flat[i * size : (i + 1) * size] for i in range(math.prod(shape[:axis]))]
    return flat


def flattened(data: Any) -> list[Any]:
    """Return the elements of nested lists, or of a single value, flat.

    Lists beside elements stay: whatever checks the elements finds them.
    """
    level = [data]
    # A level of lists alone is left behind in one step, so a few deep lists cannot make this walk a long one often.
    while level and all(isinstance(element, (list, tuple)) for element in level):
        level = list(chain.from_iterable(level))
    return level


def _as_texts(elements: list[bytes]) -> list[Any]:
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError:
        return elements
