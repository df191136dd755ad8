"""Words for people: sizes and durations, and what is wrong with a path."""

import os
import tempfile

import pytest
from helpers import line_of, program
from hypothesis import given
from hypothesis import strategies as st

from hostd.hints import what_is_in, why_missing
from hostd.units import format_age, format_duration, format_size, format_size_short, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [(7, 7), ("7", 7), ("400MB", 400_000_000), ("2GiB", 2**31), (" 64 kib ", 65536), ("1.5 MiB", 3 * 2**19), ("9b", 9)],
)
def test_a_size_is_a_number_with_or_without_a_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "4 parsecs", "4K", "-4MB", "1e9", "0x10", "4٣MB", None, True, 1.5, [], "4 M B"]
)
def test_anything_else_is_refused_with_the_units_that_are_known(text):
    with pytest.raises(ValueError, match="is not a size; write bytes or a unit, such as 400MB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "long", "short"),
    [
        (None, "-", "-"),
        (0, "0 B", "0"),
        (999, "999 B", "999"),
        (1000, "1.0 KiB", "1.0Ki"),
        (312 * 2**20, "312 MiB", "312Mi"),
        (1047527424, "999 MiB", "999Mi"),
        (5 * 2**28, "1.2 GiB", "1.2Gi"),
        (-(2**21), "-2.0 MiB", "-2.0Mi"),
    ],
)
def test_a_size_is_shown_with_the_unit_that_keeps_it_short(size, long, short):
    assert format_size(size) == long
    assert format_size_short(size) == short


@given(st.integers(0, 999 * 2**40))
def test_a_short_size_fits_its_column(size):
    assert len(format_size_short(size)) <= 5


@pytest.mark.parametrize(
    ("duration_s", "text", "age"),
    [
        (None, "-", "-"),
        (0, "0.0 ms", "0s"),
        (0.0000351, "35 us", "0s"),
        (0.00094, "940 us", "0s"),
        (0.00096, "1.0 ms", "0s"),
        (0.0085, "8.5 ms", "0s"),
        (0.12, "120 ms", "0s"),
        (1.234, "1.23 s", "1s"),
        (59.96, "1m 0s", "59s"),
        (3700, "1h 1m", "1h"),
        (90000, "1d 1h", "1d"),
    ],
)
def test_durations_and_ages_are_short(duration_s, text, age):
    assert format_age(-3) == "0s", "a clock that was set back makes nothing younger than now"
    assert format_duration(duration_s) == text
    assert format_age(duration_s) == age


AS_NOBODY = """
import os, sys
from hostd.finders import find_spec
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    find_spec("m", sys.argv[1])
except Exception as error:
    print(type(error).__name__, error, sep=": ")
"""


@pytest.mark.parametrize(
    ("mode", "path", "why"),
    [
        (0o000, "closed/m", "user id {uid} may not enter {base}/closed"),
        (0o311, "closed", "user id {uid} may not read it"),
    ],
)
def test_a_path_that_may_not_be_read_says_which_part_of_it_and_for_which_user(mode, path, why):
    with tempfile.TemporaryDirectory() as base:  # pytest's own are closed to other users
        os.chmod(base, 0o755)
        os.makedirs(f"{base}/closed/m")
        os.chmod(f"{base}/closed", mode)
        with program(AS_NOBODY, f"{base}/{path}") as nobody:
            said = line_of(nobody)
        os.chmod(f"{base}/closed", 0o700)
    uid = 65534 if os.geteuid() == 0 else os.geteuid()
    assert said.startswith(f"FailedPreconditionError: cannot look at {base}/{path}: {why.format(uid=uid, base=base)}")


def test_a_directory_is_told_by_its_first_names_and_what_is_missing_at_the_top_as_well(tmp_path):
    assert what_is_in(str(tmp_path)) == "it is empty"
    for number in range(12):
        (tmp_path / f"f{number:02}").touch()
    assert what_is_in(str(tmp_path)).endswith("f09, and 2 more")
    assert what_is_in(str(tmp_path / "f00")) == what_is_in(str(tmp_path / "no")) == ""
    assert why_missing("/no-such-thing-at-all") == "/ has no no-such-thing-at-all"
