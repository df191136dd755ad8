"""What looks like a model file and is none, told by a file's first and last bytes.

Covers what downloads and copies leave behind: pointers of Git LFS, web pages, empty files, and files that end too
early. What is said here is certain, but for `has_failed`: then a loader has refused the file already, and what only
looks wrong is said too. Does not cover files that are whole and wrong: these are the loader's.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.light import pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD_BYTES = 1024
_TAIL_BYTES = 64
_MAX_FILES = 1000
"""Of a directory that are looked at: to open one takes some 20 us."""

_MAX_FIELDS = 10_000
_MAX_HEADER_BYTES = 100 << 20  # what the library safetensors reads at most
_SHOWN_CHARS = 80

_LFS = b"version https://git-lfs.github.com/spec/"
_SIZE = pattern(rb"^size (\d+)$", re.MULTILINE)
_PAGE = pattern(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|\?xml[^>]*>\s*<error|error)\b", re.IGNORECASE)
_PAGE_SAYS = pattern(rb"<(title|code)[^>]*>\s*([^<]+)", re.IGNORECASE)
_IR_VERSION = b"\x08"  # the tag of the first field of an ONNX model
_SENTENCE = pattern(rb'\s*(\{\s*"|[A-Z][a-z]+ )[\x20-\x7e\s]*')
_PAGES = {".html", ".htm", ".xhtml", ".xml", ".md", ".txt", ".svg"}
_PICKLES = {".pkl", ".pickle", ".joblib"}
_BINARY = {*_PICKLES, ".skops", ".onnx", ".pt", ".pth", ".pt2", ".ts", ".torchscript", ".ubj", ".xgb", ".safetensors"}
_BINARY |= {".bin", ".h5", ".hdf5", ".keras", ".npz", ".npy", ".gguf", ".pb", ".ckpt", ".parquet"}
_AGAIN = "copy or download it again"


def refuse_flawed(file: Path) -> None:
    """Raise InvalidArgumentError if a file is certainly no model, whatever would load it."""
    flaw = flaw_of(file)
    if flaw is not None:
        raise InvalidArgumentError(f"{file} cannot be loaded: it {flaw}", details={"path": str(file), "flaw": flaw})


def flaws_below(path: str) -> Iterator[str]:
    """Yield what is wrong with a file, or with each file of a directory, after its load has failed."""
    place = Path(path)
    for file in itertools.islice(_files_in(place), _MAX_FILES) if place.is_dir() else [place]:
        with contextlib.suppress(OSError):
            flaw = flaw_of(file, has_failed=True)
            if flaw is not None:
                yield f"{file} {flaw}"


def _files_in(directory: Path) -> Iterator[Path]:
    for top, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield from (Path(top, name) for name in sorted(names) if name[0] != ".")


def flaw_of(file: Path, *, has_failed: bool = False) -> str | None:
    """Return what is wrong with a file as the end of a sentence, None if nothing is seen; raises OSError."""
    # Not blocking: opening a FIFO would wait for somebody to write.
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123 - descriptor
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        seen = _Seen(file.suffix.lower(), stream.read(_HEAD_BYTES), status.st_size, stream, has_failed)
        checks = (_pointer, _emptiness, _page, _end, *((_pickles_end, _text) if has_failed else ()))
        return next((flaw for check in checks if (flaw := check(seen))), None)


class _Seen(NamedTuple):
    suffix: str
    head: bytes
    size: int
    stream: BinaryIO
    has_failed: bool


def _pointer(seen: _Seen) -> str:
    if not seen.head.startswith(_LFS):
        return ""
    size = _SIZE.search(seen.head)
    whole = f" (of {int(size[1])} bytes)" if size else ""
    return f"is a pointer of Git LFS, not the file itself{whole}: run 'git lfs pull' in its repository, or download it"


def _emptiness(seen: _Seen) -> str:
    # Of all that lies in a directory only what should hold something.
    is_wrong = not seen.head and (seen.suffix in _BINARY or not seen.has_failed)
    return f"is empty (0 bytes): {_AGAIN}" if is_wrong else ""


def _page(seen: _Seen) -> str:
    if seen.suffix in _PAGES or not _PAGE.match(seen.head):
        return ""
    says = _PAGE_SAYS.search(seen.head)
    title = f" ({says[2].decode(errors='replace').strip()[:_SHOWN_CHARS]})" if says else ""
    return f"is a web page{title}, not a model: the download needs to be signed in, or another address"


def _end(seen: _Seen) -> str:
    cut = ""
    if seen.head.startswith(b"PK\3\4") and not zipfile.is_zipfile(seen.stream):
        cut = "a zip archive has its directory at its end, and this one has none"
    elif seen.suffix == ".onnx" and seen.head[:1] == _IR_VERSION and _is_cut_protobuf(seen.stream, seen.size):
        cut = "a part of the ONNX model goes on behind its end"
    elif seen.suffix == ".safetensors" and _is_cut_safetensors(seen.head, seen.size, seen.stream):
        cut = "its header names tensors behind its end"
    elif seen.suffix == ".json" and seen.head.lstrip()[:1] == b"{" and not _tail(seen.stream).rstrip().endswith(b"}"):
        cut = "JSON without its last brace"
    return f"ends too early, after {seen.size} bytes ({cut}): {_AGAIN}" if cut else ""


def _pickles_end(seen: _Seen) -> str:
    # Something may follow a pickle that pickle itself does not read, so this is said of what did not load only.
    if seen.suffix not in _PICKLES or seen.head[:1] != b"\x80" or _tail(seen.stream).endswith(b"."):
        return ""
    return f"seems to end too early, after {seen.size} bytes (the last byte of a pickle is a dot): {_AGAIN}"


def _text(seen: _Seen) -> str:
    # What servers answer in place of a file: {"error": …}, Entry not found, Invalid username or password.
    if seen.suffix not in _BINARY or seen.size >= _HEAD_BYTES or not _SENTENCE.fullmatch(seen.head):
        return ""
    return f"is only a text ({seen.head.decode().strip()[:_SHOWN_CHARS]!r}), not a model: {_AGAIN}"


def _tail(stream: BinaryIO) -> bytes:
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - _TAIL_BYTES))
    return stream.read()


def _is_cut_protobuf(stream: BinaryIO, size: int) -> bool:
    """Say whether a field of the outermost message is longer than the file (protobuf.dev, "Encoding")."""
    at = 0
    for _ in range(_MAX_FIELDS):
        if at >= size:
            break
        stream.seek(at)
        chunk = stream.read(20)
        tag, used = _varint(chunk, 0)
        kind = tag & 7
        length = {1: 8, 5: 4}.get(kind, 0)
        if kind in (0, 2):
            number, used = _varint(chunk, used)
            length = number if kind == 2 else 0
        elif kind not in (1, 5):
            return False  # no protobuf at all: its parser says that better
        at += used + length
    return at > size


def _varint(chunk: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends, which is behind the chunk's end if it has no end in it."""
    value = 0
    for place, byte in enumerate(chunk[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return value, len(chunk) + 1


def _is_cut_safetensors(head: bytes, size: int, stream: BinaryIO) -> bool:
    """Say whether the header or a tensor is longer than the file (the format is 8 bytes, JSON, tensors)."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > _MAX_HEADER_BYTES:
        return len(head) < 8
    stream.seek(8)
    text = stream.read(length)
    if len(text) < length:
        return True
    try:
        tensors = json.loads(text)
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
        return bool(8 + length + max(ends, default=0) > size)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return False  # whole and wrong
