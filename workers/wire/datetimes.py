"""Dates and times as text, and back: ISO 8601, to the microsecond, with an offset or without.

Nothing is lost silently. A zone travels as the offset that it has at that time, so the instant and the reading of the
clock stay and only the zone's name does not. A reading that comes twice (a naive time at the end of summer time) says
which of the two it is. What a `datetime` cannot hold, such as the nanoseconds of pandas, is refused.
"""

from __future__ import annotations

import datetime as dt

from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.light import pattern

_FOLD = "[_fold=1]"
"""After a naive time, if it is the second of two equal readings (PEP 495), in the form of RFC 9557."""

_USUAL_BYTES = {19, 25, 26}
"""Without microseconds, then with an offset too, and with microseconds: nothing of that length is too fine."""

_NO_TIME = dt.timedelta(0)
_TOO_FINE = pattern(rb"\.\d{7}")


def text_of(value: dt.datetime) -> bytes:
    """Return the text of a date and time.

    Raises `InvalidArgumentError` if its zone has no valid offset, and for an instance of a subclass that stands for
    something that no `datetime` is: pandas' NaT, a year 20000, nanoseconds.
    """
    try:
        # The base's method, because a subclass writes what not every Python reads.
        text = dt.datetime.isoformat(value)
        if type(value) is not dt.datetime:
            _check_subclass(value, text)
    except (NotImplementedError, TypeError, ValueError, ArithmeticError) as error:  # of a zone's own code
        raise InvalidArgumentError(f"the offset of {type(value).__name__} {_shown(value)} is wrong: {error}") from None
    if value.fold and value.utcoffset() is None:
        text += _FOLD
    return text.encode()


def datetime_of(data: bytes) -> dt.datetime:
    """Return the date and time of a text; ValueError if it is none, `InvalidArgumentError` if it is too fine."""
    size = len(data)
    is_usual = size in _USUAL_BYTES or (size == 32 and data[26] in b"+-")
    if not is_usual and _TOO_FINE.search(data):
        raise InvalidArgumentError(
            f"the time {bytes(data[:64]).decode(errors='replace')} is finer than a microsecond: round it, or send a "
            "scalar of NumPy's datetime64[ns]"
        )
    text = data.decode()
    if not is_usual and text.endswith(_FOLD):
        return dt.datetime.fromisoformat(text[: -len(_FOLD)]).replace(fold=1)
    if not is_usual and text[-15:-6] == "00:00:00.":  # an offset below a second, which CPython 3.11 reads as UTC
        offset = dt.timedelta(microseconds=int(text[-16] + text[-6:]))
        return dt.datetime.fromisoformat(text[:-16]).replace(tzinfo=dt.timezone(offset))
    return dt.datetime.fromisoformat(text)


def _check_subclass(value: dt.datetime, text: str) -> None:
    if value != value:  # noqa: PLR0124 - how pandas' NaT tells that it is none, though its class is a datetime's
        raise InvalidArgumentError(f"{value} is not a point in time: send None")
    # A difference, because two equal times of two zones are never "equal" while the clocks are set back (PEP 495).
    if value - dt.datetime.fromisoformat(text) != _NO_TIME:
        raise InvalidArgumentError(
            f"the {type(value).__module__}.{type(value).__qualname__} {value} would arrive as {text}: a date and time "
            f"has microseconds and the years 1 to 9999; round it (value.round('us')), or send value.to_datetime64()"
        )


def _shown(value: dt.datetime) -> str:
    return dt.datetime.isoformat(value.replace(tzinfo=None))
