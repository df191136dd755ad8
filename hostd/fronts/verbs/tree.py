"""The files of a deploy as they are written: below one directory, each name once, no links."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

import hostd

if TYPE_CHECKING:
    from pathlib import Path

_MAX_NAME_BYTES = 1024
_MAX_SEGMENT_BYTES = 255
"""NAME_MAX of Linux' file systems."""


class Tree:
    """Files in a directory that nobody else writes to; one at a time is open."""

    def __init__(self, root: Path, most_files: int) -> None:
        self._root = root
        self._most_files = most_files
        self._count = 0
        self._file: BinaryIO | None = None

    def begin(self, name: str, *, is_executable: bool = False) -> None:
        """Begin a file; what is written from now on is in it. Raises `InvalidArgumentError` for a name that is bad."""
        self.close()
        path = self._place_of(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(path, flags, 0o700 if is_executable else 0o600), "wb")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise _refused(name, "it is there already, or one of its folders is a file") from None
        except OSError as error:
            raise unwritten(error) from None

    def folder(self, name: str) -> None:
        """Make a folder. Raises `InvalidArgumentError` for a name that is bad."""
        self.close()
        try:
            self._place_of(name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _refused(name, "it, or one of its folders, is a file") from None
        except OSError as error:
            raise unwritten(error) from None

    def write(self, data: bytes | memoryview) -> None:
        """Write to the file that was begun."""
        assert self._file is not None, "no file was begun"  # noqa: S101 - the caller's order
        try:
            self._file.write(data)
        except OSError as error:
            raise unwritten(error) from None

    def close(self) -> None:
        """End the file that was begun, if one was."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:  # what was left to write
                raise unwritten(error) from None

    def _place_of(self, name: str) -> Path:
        self._count += 1
        if self._count > self._most_files:
            raise hostd.InvalidArgumentError(f"there are more than {self._most_files} files, which one deploy may have")
        problem = _problem_of(name)
        if problem:
            raise _refused(name, problem)
        return self._root.joinpath(*name.split("/"))


def _problem_of(name: str) -> str | None:
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        return "it is not UTF-8"
    segments = name.split("/")
    if name.startswith("/"):
        return "it must be relative"
    if any(segment in ("", ".", "..") for segment in segments):
        return 'no part of it may be empty, "." or ".."'
    if "\0" in name:
        return "it has a zero byte"
    if size_bytes > _MAX_NAME_BYTES or any(len(segment.encode()) > _MAX_SEGMENT_BYTES for segment in segments):
        return f"it may have {_MAX_NAME_BYTES} bytes, and {_MAX_SEGMENT_BYTES} between two slashes"
    return None


def _refused(name: str, problem: str) -> hostd.InvalidArgumentError:
    shown = ascii(name[:100])
    return hostd.InvalidArgumentError(
        f"a file cannot have the name {shown}: {problem}",
        details={"parameter": "files", "got": shown, "expected": "a relative name"},
    )


def unwritten(error: OSError) -> hostd.ResourceExhaustedError:
    """Return what an error of the disk means for a deploy."""
    return hostd.ResourceExhaustedError(f"the files cannot be kept until they are deployed: {error.strerror or error}")
