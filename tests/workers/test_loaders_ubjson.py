"""Whether a UBJSON document is whole."""

import struct

import pytest

from hostd_workers.loaders._common.ubjson import is_whole


def key(name):
    return b"L" + struct.pack(">q", len(name)) + name


TYPED = b"[$d#L" + struct.pack(">q", 3) + bytes(12)
WHOLE = b"".join(
    [
        b"{",
        key(b"text") + b"SL" + struct.pack(">q", 2) + b"{}",
        key(b"numbers")
        + b"[i\x01U\x02I\x00\x03l\x00\x00\x00\x04L"
        + bytes(8)
        + b"d"
        + bytes(4)
        + b"D"
        + bytes(8)
        + b"]",
        key(b"typed") + TYPED,
        key(b"counted") + b"[#i\x02T[#i\x00" + key(b"none") + b"[#i\x00",
        key(b"nested") + b"{" + key(b"empty") + b"[[]{}]" + key(b"flags") + b"[TFZ]" + b"}",
        b"}",
    ]
)


def test_a_whole_document_is_whole_and_one_cut_short_anywhere_is_not():
    assert all(is_whole(document) for document in (b"{}", WHOLE, bytearray(WHOLE)))
    assert not [size for size in range(len(WHOLE)) if is_whole(WHOLE[:size])]


def test_any_depth_is_walked():
    deep = 20_000
    assert is_whole(b"{" + key(b"a") + b"[" * deep + b"]" * deep + b"}")
    assert not is_whole(b"{" + key(b"a") + b"[" * deep)


@pytest.mark.parametrize(
    "content",
    [
        WHOLE + b"}",
        b"[]",
        b"",
        b"{" + key(b"a") + b"?}",
        b"{" + key(b"a") + b"]",
        b"{S" + key(b"a") + b"T}",
        b"{" + key(b"a") + b"SL" + struct.pack(">q", -2) + b"}}",
        b"{" + key(b"a") + b"[#i\x02T}",
        b"{" + key(b"a") + b"[#i\xffT}",
        b"{" + key(b"a") + b"[$S#i\x01}",
        b"{" + key(b"a") + b"[$d@i\x01}",
    ],
)
def test_what_is_no_object_or_more_than_one_is_not(content):
    assert not is_whole(content)
