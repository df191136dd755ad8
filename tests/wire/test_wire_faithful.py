"""Values of subclasses, of other libraries and at the edges: each arrives as it was, as its base, or is refused.

One table: what is sent, and what arrives (`SAME`: an equal value of the same type) or what the refusal says.
"""

from __future__ import annotations

import collections
import datetime as dt
import enum
import types
import zoneinfo
from dataclasses import make_dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pytest

from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import InvalidArgumentError

SAME = object()
UTC = dt.timezone.utc
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
TWICE = dt.datetime(2024, 10, 27, 2, 30)  # in Berlin the clock shows it twice that night


class Refused(str):
    """What the refusal says."""

    __slots__ = ()


class Metres(np.ndarray):
    """As astropy's quantities are: the unit is beside the data."""


class Stamp(dt.datetime):
    """As freezegun's and pendulum's are: nothing but another class."""


class Text(str):
    __slots__ = ()

    def __str__(self):
        return "not the value"


class Number(int):
    def __int__(self):
        return -1


class Real(float):
    def __float__(self):
        return -1.0


class Blob(bytes):
    def __bytes__(self):
        return b"not the value"


class Zone(dt.tzinfo):
    def __init__(self, offset=NotImplemented):
        self.offset = offset

    def utcoffset(self, when):
        return super().utcoffset(when) if self.offset is NotImplemented else self.offset


def metres():
    array = np.arange(3.0).view(Metres)
    array.unit = "m"
    return array


def offset(**parts):
    return dt.timezone(dt.timedelta(**parts))


TABLE = {
    # Dates and times
    "the first instant": (dt.datetime.min, SAME),
    "the last instant": (dt.datetime.max.replace(tzinfo=offset(hours=23, minutes=59)), SAME),
    "an offset of hours": (dt.datetime(2024, 2, 29, 12, tzinfo=offset(hours=5, minutes=30)), SAME),
    "an offset of microseconds": (dt.datetime(1900, 1, 1, 1, 2, 3, 4, offset(microseconds=-7)), SAME),
    "an offset of seconds": (dt.datetime(1900, 1, 1, tzinfo=offset(minutes=-19, seconds=-32)), SAME),
    "the first of two readings": (TWICE, SAME),
    "the second of two readings": (TWICE.replace(fold=1), SAME),
    "the second, with microseconds": (TWICE.replace(fold=1, microsecond=7), SAME),
    "the second, in its zone": (TWICE.replace(fold=1, tzinfo=BERLIN), TWICE.replace(tzinfo=offset(hours=1))),
    "the first, in its zone": (TWICE.replace(tzinfo=BERLIN), TWICE.replace(tzinfo=offset(hours=2))),
    "a zone without an offset": (dt.datetime(2024, 1, 1, tzinfo=Zone(None)), dt.datetime(2024, 1, 1)),
    "a zone that is not finished": (dt.datetime(2024, 1, 1, tzinfo=Zone()), Refused("T00:00:00 is wrong: a tzinfo")),
    "an offset of two days": (dt.datetime(2024, 1, 1, tzinfo=Zone(dt.timedelta(2))), Refused("offset must be")),
    "a subclass": (Stamp(2024, 1, 1, 2, 3, 4, 5, UTC), dt.datetime(2024, 1, 1, 2, 3, 4, 5, UTC)),
    "a subclass, twice": (Stamp(2024, 10, 27, 2, 30, fold=1), TWICE.replace(fold=1)),
    "a subclass, in its zone": (
        Stamp(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        TWICE.replace(tzinfo=offset(hours=1)),
    ),
    "a date": (dt.date(2024, 1, 1), Refused(r"datetime\.date cannot be sent: send value\.isoformat\(\)")),
    "a time": (dt.time(1), Refused(r"send value\.isoformat\(\)")),
    "a timedelta": (dt.timedelta(1), Refused(r"send value\.total_seconds\(\)")),
    # pandas
    "microseconds": (pd.Timestamp("2024-01-01T00:00:00.1234", tz="UTC"), dt.datetime(2024, 1, 1, 0, 0, 0, 123400, UTC)),
    "nanoseconds": (pd.Timestamp("2024-01-01T00:00:00.123456789"), Refused(r"arrive as .*\.123456: .*to_datetime64")),
    "nanoseconds of a zone": (pd.Timestamp(1, tz="Europe/Berlin"), Refused("microseconds")),
    "the year 20000": (pd.Timestamp(np.datetime64("20000-01-01", "s")), Refused("20000-01-01 .* would arrive as")),
    "NaT": (pd.NaT, Refused("NaT is not a point in time: send None")),
    "NA": (pd.NA, Refused("send None")),
    "a table": (pd.DataFrame({"a": [1]}), Refused(r'pandas.*DataFrame cannot be sent: send df\.to_dict\("list"\)')),
    "a column": (pd.Series([1]), Refused(r"send series\.tolist\(\)")),
    "an index": (pd.Index([1]), Refused(r"send index\.tolist\(\)")),
    "categories": (pd.Categorical(["a"]), Refused(r"send array\.tolist\(\)")),
    "a timedelta of pandas": (pd.Timedelta(1), Refused(r"send value\.to_timedelta64\(\)")),
    # NumPy
    "a string scalar": (np.str_("a"), SAME),
    "a string scalar that ends with NUL": (np.str_("a\0"), "a\0"),
    "a bytes scalar that ends with NUL": (np.bytes_(b"a\0"), b"a\0"),
    "a scalar of raw bytes": (np.void(b"a\0"), SAME),
    "a number of NumPy's that is a float": (np.float64(0.1), SAME),
    "a long double": (np.longdouble(1) / 3, SAME),
    "a bool of NumPy's": (np.bool_(True), SAME),
    "an instant to the nanosecond": (np.datetime64("2024-01-01T00:00:00.123456789"), SAME),
    "an instant in the year 20000": (np.datetime64("20000-01-01", "D"), SAME),
    "a record": (np.rec.array([(1, 2.0)], names="a,b")[0], np.array([(1, 2.0)], [("a", "<i8"), ("b", "<f8")])[0]),
    "a matrix": (np.array([[1, 2]]).view(np.matrix), np.array([[1, 2]])),
    "records": (np.rec.array([(1, 2.0)], names="a,b"), np.array([(1, 2.0)], [("a", "<i8"), ("b", "<f8")])),
    "characters": (np.char.array(["a "]), np.array(["a "])),
    "an array that keeps nothing beside its data": (np.arange(3.0).view(Metres), np.arange(3.0)),
    "an array with a unit": (metres(), Refused("Metres would lose unit: send numpy.asarray")),
    "a masked array": (np.ma.array([1], mask=[True]), Refused("lose its mask")),
    "the masked value": (np.ma.masked, Refused("lose its mask")),
    "a masked record": (np.ma.array([(1,)], mask=[(True,)], dtype=[("a", int)])[0], Refused("lose its mask")),
    # Python's own
    "a flag": (enum.IntFlag("Way", "A B").B, 2),
    "a text of an enum": (enum.Enum("Colour", {"RED": "red"}, type=str).RED, "red"),
    "a named tuple": (collections.namedtuple("Pair", "a b")(1, 2), (1, 2)),
    "a default map": (collections.defaultdict(list, a=1), {"a": 1}),
    "a counter": (collections.Counter("aa"), {"a": 2}),
    "a list of its own class": (type("Names", (list,), {})(["a"]), ["a"]),
    "a text that says another": (Text("text"), "text"),
    "a number that says another": (Number(7), 7),
    "a float that says another": (Real(0.5), 0.5),
    "bytes that say another": (Blob(b"blob"), b"blob"),
    "a number of an enum": (enum.IntEnum("Level", {"HIGH": 3}).HIGH, 3),
    "an ordered map": (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "a read-only map": (types.MappingProxyType({"a": 1}), Refused(r"send dict\(value\)")),
    "a set": ({1}, Refused(r"send list\(value\)")),
    "a range": (range(3), Refused(r"send list\(value\)")),
    "a complex number": (1j, Refused(r"send numpy\.complex128\(value\)")),
    "a path": (PurePosixPath("/a"), Refused(r"send str\(path\)")),
    "a data class": (make_dataclass("Pair", ["a"])(1), Refused(r"send dataclasses\.asdict\(value\)")),
    "a class": (make_dataclass("Pair", ["a"]), Refused("use None, bool, int")),
    "a model of pydantic": (type("Model", (), {"model_dump": print})(), Refused(r"send value\.model_dump\(\)")),
}


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {0: v}], ids=["top", "list", "map"])
@pytest.mark.parametrize("case", TABLE)
def test_a_value_arrives_as_it_was_or_as_its_base_or_is_refused(case, wrap):
    sent, expected = TABLE[case]
    if isinstance(expected, Refused):
        with pytest.raises(InvalidArgumentError, match=expected):
            encode(wrap(sent))
        return
    back = decode(*encode(wrap(sent)))
    back = back if wrap(0) == 0 else back[0]
    wanted = sent if expected is SAME else expected
    assert type(back) is type(wanted)
    assert np.array_equal(back, wanted)
    if isinstance(wanted, dt.datetime):
        assert (back.utcoffset(), back.fold) == (wanted.utcoffset(), wanted.fold)
    if isinstance(wanted, (np.generic, np.ndarray)):
        assert back.dtype == wanted.dtype


def test_what_a_refusal_says_to_send_instead_travels():
    stamp = pd.Timestamp("2024-01-01T00:00:00.123456789")
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    for instead in (stamp.round("us"), stamp.to_datetime64(), frame.to_dict("list"), frame["b"].tolist()):
        assert decode(*encode(instead)) == instead
    assert decode(*encode(pd.Timedelta(1).to_timedelta64())) == np.timedelta64(1, "ns")


@pytest.mark.parametrize("fraction", ["1234567", "123456789+00:00", "1234567+0100"])
def test_a_peers_time_that_is_finer_than_a_microsecond_is_refused(fraction):
    text = f"2024-01-02T03:04:05.{fraction}"
    with pytest.raises(InvalidArgumentError, match="finer than a microsecond: round it"):
        decode(b"\xc7" + bytes([len(text), 2]) + text.encode())
