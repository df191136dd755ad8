"""What a model may be called."""

from __future__ import annotations

import pytest
from driver import Driver
from hypothesis import given
from hypothesis import strategies as st

from hostd.core.names import MAX_ID_BYTES, MAX_SEGMENT_BYTES, model_id_of
from workers.wire.errors import InvalidArgumentError

LONGEST = "/".join(["a" * 170] * 3)[:MAX_ID_BYTES]

GOOD = [
    "m",
    "digits-v2",
    "team/model",
    "a/b/c/d",
    "UPPER_lower.9",
    "with space inside",
    "a.b..c",
    "~tilde",
    "-dash",
    "naïve",
    "モデル",
    "模型/数字",
    "😀",
    "a" * MAX_SEGMENT_BYTES,
    "é" * (MAX_SEGMENT_BYTES // 2),
    LONGEST,
    "%2F",
    "a:b",
    "con",
]

BAD = [
    ("", "it is empty"),
    ("   ", "it is empty"),
    ("/", "an empty segment"),
    ("/m", "an empty segment"),
    ("m/", "an empty segment"),
    ("a//b", "an empty segment"),
    (".", "begins with a dot"),
    ("..", "begins with a dot"),
    (".hidden", "begins with a dot"),
    ("a/../b", "begins with a dot"),
    ("a/.b", "begins with a dot"),
    (" m", "begins or ends with white space"),
    ("m ", "begins or ends with white space"),
    ("a /b", "begins or ends with white space"),
    ("a\\b", "a backslash"),
    ("a/b\\c", "a backslash"),
    ("a\nb", "control characters"),
    ("a\0b", "control characters"),
    ("\x7f", "control characters"),
    ("a\u200bb", "control characters"),
    ("a\u202eb", "control characters"),
    ("a\u2028b", "control characters"),
    ("a\u2029b", "control characters"),
    ("a\ue000", "control characters"),
    ("a\u0378", "control characters"),
    ("a\u00a0b", "normalised form"),
    ("ﬁle", "normalised form"),
    ("e\u0301", "normalised form"),
    ("Ⅳ", "normalised form"),
    ("\ud800", "not valid Unicode"),
    ("a" * (MAX_SEGMENT_BYTES + 1), "a segment has more than 200 bytes"),
    ("é" * (MAX_SEGMENT_BYTES // 2 + 1), "a segment has more than 200 bytes"),
    ("b/" + "a" * (MAX_SEGMENT_BYTES + 1), "a segment has more than 200 bytes"),
    (LONGEST + "a", "it has 513 bytes, at most 512 are allowed"),
    ("a/" * 100_000, "it has 200000 bytes"),
]


@pytest.mark.parametrize("name", GOOD)
def test_a_harmless_name_is_an_id(name):
    assert model_id_of(name) == name


@pytest.mark.parametrize(("name", "problem"), BAD)
def test_another_name_is_refused_and_told_why(name, problem):
    with pytest.raises(InvalidArgumentError, match=problem) as caught:
        model_id_of(name)
    assert " cannot be a model id: " in caught.value.message
    assert len(caught.value.message) < 1000
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("value", "kind"), [(None, "NoneType"), (7, "int"), (b"m", "bytes"), (["m"], "list"), (True, "bool")]
)
def test_what_is_no_string_is_refused_by_its_type(value, kind):
    with pytest.raises(InvalidArgumentError, match=f"a model id must be a string, got {kind}"):
        model_id_of(value)


@given(st.text(max_size=20) | st.text("a./\\ \n", max_size=8))
def test_every_id_stays_below_the_directory_it_is_joined_to(name):
    try:
        accepted = model_id_of(name)
    except InvalidArgumentError:
        return
    parts = accepted.split("/")
    assert all(part and part.strip() == part and not part.startswith(".") for part in parts)
    assert not set(accepted) & set("\\\0\n\r")


@pytest.mark.parametrize("name", ["", "..", "/m"])
def test_a_bad_id_is_neither_loaded_nor_retrieved(name):
    host = Driver()
    assert isinstance(host.error(host.load(name)), InvalidArgumentError)
    assert isinstance(host.error(host.retrieve(name)), InvalidArgumentError)
    assert host.finds == []
    assert host.core.list_models() == []
