"""What a model and its files may be called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from driver import Driver
from hypothesis import given
from hypothesis import strategies as st

from hostd.core.names import (
    MAX_FILE_BYTES,
    MAX_FILE_SEGMENT_BYTES,
    MAX_FILE_SEGMENTS,
    MAX_FILES,
    MAX_ID_BYTES,
    MAX_SEGMENT_BYTES,
    check_files,
    file_name_of,
    folders_of,
    model_id_of,
)
from hostd_workers.wire.errors import InvalidArgumentError

sys.path.append(str(Path(__file__).resolve().parents[1] / "shell"))

from path_corpus import FILE_VECTORS, ID_VECTORS

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
    "col·lecció",
    "ノート",
    "〆切/\u4e3f",
    "Ωμέγα",
    "مدل/\u06f0",
    "модель-1",
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
    ("m.", "a segment ends with a dot"),
    ("a./b", "a segment ends with a dot"),
    ("··", "only characters that look like dots"),
    ("a/\u2219/b", "only characters that look like dots"),
    ("..\u2044x", "looks like a slash"),
    ("a\u2216b", "looks like a slash, a backslash"),
    ("a\uff0fb", "looks like a slash"),
    ("\u2024\u2024", "looks like a slash, a backslash or a dot"),
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


@pytest.mark.parametrize("name", ID_VECTORS.values(), ids=ID_VECTORS.keys())
def test_c29_no_name_of_the_corpus_is_an_id(name):
    with pytest.raises(InvalidArgumentError) as caught:
        model_id_of(name)
    assert len(caught.value.message) < 1500
    assert caught.value.message.isprintable()


def test_the_corpus_has_hundreds_of_different_names():
    assert len(set(ID_VECTORS.values())) == len(ID_VECTORS) > 200
    assert len(set(FILE_VECTORS.values())) == len(FILE_VECTORS) > 200


@pytest.mark.parametrize("name", ["", "..", "/m"])
def test_a_bad_id_is_neither_loaded_nor_retrieved(name):
    host = Driver()
    assert isinstance(host.error(host.load(name)), InvalidArgumentError)
    assert isinstance(host.error(host.retrieve(name)), InvalidArgumentError)
    assert host.finds == []
    assert host.queries.list_models() == []


GOOD_FILES = [
    "model.py",
    "weights/part-00001-of-00002.safetensors",
    ".gitattributes",
    ".cache/huggingface/x.lock",
    "..a",
    "a..b/c...d",
    " leading space",
    "with space inside.txt",
    "e\u0301",
    "½.bin",
    "col·lecció",
    "モデル/重み.bin",
    "C:/x",
    "~/x",
    "-rf",
    "*?",
    "con",
    ".hostd-staging2",
    "hostd-staging",
    "a" * MAX_FILE_SEGMENT_BYTES,
    "/".join(["a"] * MAX_FILE_SEGMENTS),
    ("a" * 127 + "/") * 7 + "a" * 128,
]

BAD_FILES = [
    ("", "it is empty"),
    (" \t", "it is empty"),
    ("/etc/passwd", "an empty segment"),
    ("a//b", "an empty segment"),
    ("a/", "an empty segment"),
    ("..", r"\.\. is no name of a file or folder"),
    ("a/../b", r"\.\. is no name of a file or folder"),
    ("./a", r"\. is no name of a file or folder"),
    ("a ", "ends with white space"),
    ("a /b", "ends with white space"),
    ("a.", "ends with a dot"),
    ("...", "ends with a dot"),
    ("a\\b", "a backslash"),
    ("a\0b", "control characters"),
    ("a\u202eb", "control characters"),
    ("a\udc80", "not valid Unicode"),
    ("a\uff0fb", "looks like a slash"),
    ("\u2026", "looks like a slash, a backslash or a dot"),
    ("a/··", "only characters that look like dots"),
    (".hostd-staging", "is the host's own"),
    ("a/.Hostd-Staging/b", "is the host's own"),
    ("a" * (MAX_FILE_SEGMENT_BYTES + 1), "a segment has more than 255 bytes"),
    ("/".join(["a"] * (MAX_FILE_SEGMENTS + 1)), "33 folders deep"),
    (("a" * 127 + "/") * 8 + "a", f"at most {MAX_FILE_BYTES} are allowed"),
]


@pytest.mark.parametrize("name", GOOD_FILES)
def test_a_harmless_name_is_one_of_a_file(name):
    assert file_name_of(name) == name


@pytest.mark.parametrize(("name", "problem"), BAD_FILES)
def test_c29_another_name_of_a_file_is_refused_and_told_why(name, problem):
    with pytest.raises(InvalidArgumentError, match=problem) as caught:
        file_name_of(name)
    assert " cannot be the name of a file: " in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", FILE_VECTORS.values(), ids=FILE_VECTORS.keys())
def test_c29_no_name_of_the_corpus_is_one_of_a_file(name):
    with pytest.raises(InvalidArgumentError):
        file_name_of(name)
    with pytest.raises(InvalidArgumentError):
        check_files(["model.yaml", name])


@given(st.text(max_size=20) | st.text("a./\\ \n", max_size=8))
def test_every_file_stays_below_its_model(name):
    try:
        accepted = file_name_of(name)
    except InvalidArgumentError:
        return
    assert all(part and part not in {".", ".."} for part in accepted.split("/"))
    assert not set(accepted) & set("\\\0\n\r")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "at least one file"),
        (["a", "a"], "'a' is given twice"),
        (["x/a", "x/a", "b"], "'x/a' is given twice"),
        (["a", "a/b"], "'a' is given as a file, and as the folder of another file"),
        (["a/b/c", "a/b", "m"], "'a/b' is given as a file, and as the folder of another file"),
        (["a/b", "a/c"], "all files are in folders"),
        (["a/b", ".hidden"], "all files are in folders or hidden"),
        (["a", 7], "must be a string, got int"),
        (["a", None], "must be a string, got NoneType"),
        (["a", b"b"], "must be a string, got bytes"),
        ([str(i) for i in range(MAX_FILES + 1)], "may have 10000 files, and 10001 were given"),
    ],
    ids=str,
)
def test_c29_files_that_cannot_be_together_are_refused(names, problem):
    with pytest.raises(InvalidArgumentError, match=problem):
        check_files(names)


@pytest.mark.parametrize(
    "names",
    [["a"], ["a", "A"], ["model.yaml", "x/a", "x/b", "X/a"], ["ab", "a/b", "abc"], [str(i) for i in range(MAX_FILES)]],
    ids=lambda names: str(names)[:40],
)
def test_c29_files_that_can_be_together_are_accepted(names):
    check_files(names)


def test_folders_come_outermost_first():
    assert folders_of("a/b/c") == ["a", "a/b"]
    assert folders_of("a") == []
