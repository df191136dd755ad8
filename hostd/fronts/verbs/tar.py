"""Files as an uncompressed tar archive, read as it comes.

Taken are regular files and directories, with long names as POSIX (pax) and GNU tar write them. Links, devices, pipes
and sparse files are refused. Not `tarfile`'s own reader: that reads a pax header whole, however long it says to be, and
must have the archive as a file.

The form is that of pax(1), https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html
"""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.fronts.verbs.tree import Tree

_BLOCK = tarfile.BLOCKSIZE
_MAX_HEADER_BYTES = 64 * 1024
"""Of what pax says of a file: a name has 1024 bytes at most."""

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class Tar:
    """Writes the members of an archive as files, as they come."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._rest = b""
        self._left_bytes = 0  # of the content of a member
        self._padding_bytes = 0  # after it
        self._take: Callable[[bytes], None] | None = None  # what takes a header of a header, when it is whole
        self._more: dict[str, str] = {}  # what such headers say of the next member
        self._is_over = False

    def feed(self, data: bytes) -> None:
        """Take what comes next."""
        self._rest += data
        position = 0
        while not self._is_over and (used := self._step(memoryview(self._rest)[position:])):
            position += used
        self._rest = b"" if self._is_over else self._rest[position:]

    def end(self) -> None:
        """Say that all has come."""
        if not self._is_over:
            raise _unreadable("it is cut off before its end")

    def _step(self, data: memoryview) -> int:
        """Take a part of what has come, and return how much; 0 if more must come first."""
        if self._take is not None:
            size_bytes = self._left_bytes + self._padding_bytes
            if len(data) < size_bytes:
                return 0
            self._take(bytes(data[: self._left_bytes]))
            self._take, self._left_bytes, self._padding_bytes = None, 0, 0
            return size_bytes
        if self._left_bytes:
            used = min(len(data), self._left_bytes)
            self._tree.write(data[:used])
            self._left_bytes -= used
            return used
        used = min(len(data), self._padding_bytes)
        self._padding_bytes -= used
        if used or len(data) < _BLOCK:
            return used
        self._begin(bytes(data[:_BLOCK]))
        return _BLOCK

    def _begin(self, block: bytes) -> None:
        self._tree.close()
        if not any(block):
            self._is_over = True
            return
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise _unreadable(error) from None
        kind, size_bytes = member.type, member.size
        if kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            if not 0 < size_bytes <= _MAX_HEADER_BYTES:
                raise _unreadable(f"a header of {size_bytes} bytes")
            self._take = {tarfile.XHDTYPE: self._take_pax, tarfile.GNUTYPE_LONGNAME: self._take_name}.get(kind, _ignore)
        else:
            size_bytes = self._begin_member(member)
        self._left_bytes, self._padding_bytes = size_bytes, -size_bytes % _BLOCK

    def _begin_member(self, member: tarfile.TarInfo) -> int:
        more, self._more = self._more, {}
        name = more.get("path", member.name)
        while name.startswith("./"):  # as `tar -c .` has them
            name = name[2:]
        name = name.rstrip("/") if member.isdir() else name
        if any(key.startswith("GNU.sparse") for key in more):
            raise _refused(name, _KINDS[tarfile.GNUTYPE_SPARSE])
        if member.isdir():
            if name not in ("", "."):
                self._tree.folder(name)
            return 0
        if member.type not in _FILES:
            raise _refused(name, _KINDS.get(member.type, f"a member of the type {member.type!r}"))
        size = more.get("size", str(member.size))
        if not size.isdecimal():
            raise _unreadable(f"a file of {size} bytes")
        self._tree.begin(name, is_executable=bool(member.mode & 0o100))
        return int(size)

    def _take_name(self, data: bytes) -> None:
        self._more["path"] = data.rstrip(b"\0").decode(errors="surrogateescape")

    def _take_pax(self, data: bytes) -> None:
        r"""Take records as `25 path=a/long/name/of/it\n`, each with its own length."""
        while data:
            digits, _, _ = data.partition(b" ")
            length = int(digits) if digits.isdigit() and len(digits) < 7 else 0
            key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
            if not equals or data[length - 1 : length] != b"\n":
                raise _unreadable("a pax header without sense")
            self._more[key.decode(errors="surrogateescape")] = value.decode(errors="surrogateescape")
            data = data[length:]


def _ignore(_: bytes) -> None:
    """Take what is said of all members: none of it matters here."""


def _refused(name: str, kind: str) -> hostd.InvalidArgumentError:
    shown = ascii(name[:100])
    return hostd.InvalidArgumentError(
        f"{shown} is {kind}: only files and directories are deployed",
        details={"parameter": "files", "got": f"{shown}, {kind}", "expected": "a regular file or a directory"},
    )


def _unreadable(why: object) -> hostd.InvalidArgumentError:
    return hostd.InvalidArgumentError(f"the body is not an uncompressed tar archive that can be read: {why}")
