"""The local files of a deploy: which there are, and their contents piece by piece.

Does not cover the rules for names; the host checks those.

Rules
1. Files are opened one at a time, and never held whole in memory.
2. What is sent is what was counted at first: a file that changes meanwhile ends the deploy.
3. A deploy carries names, contents, whether the owner may execute a file, and empty directories; nothing else. Hard
   links are files of their own, and the holes of a sparse file are sent as zeros.
4. A link to a file is sent as that file. A link to a directory is refused, but for those of a volume that Kubernetes
   has mounted (a ConfigMap): there `..data` is a link to the version in force, and the visible names are links through
   it. One version is sent, the one that `..data` leads to at first; what begins with `..` stays.
5. Pipes, sockets and devices are refused by name, and so are files that cannot be read, before anything is sent.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hostd.core.names import KEPT_NAME, MAX_FILES
from hostd_workers.wire.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    sayable,
)
from hostd_workers.wire.light import NamedTuple
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import TypeAlias

    from hostd_workers.wire.frames import Buffer

    Content: TypeAlias = Buffer | str | os.PathLike[str]
    Files: TypeAlias = Mapping[str, Content] | str | os.PathLike[str]

_VOLUME_DATA = "..data"
"""What Kubernetes' atomic writer calls the link to the version in force (pkg/volume/util/atomic_writer.go)."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class LocalFile:
    """A file beside its identity when it was found, by which a change is recognised."""

    path: str
    mtime_ns: int


@dataclass(frozen=True)
class Part:
    """One file of a deploy, by its name in the model."""

    name: str
    size_bytes: int
    content: memoryview | LocalFile
    is_executable: bool = False


class Collected(NamedTuple):
    """What a deploy sends: its files, in that order, and the names of empty folders."""

    parts: list[Part]
    folders: list[str]


class Chunk(NamedTuple):
    """A piece of the file with the number `file`."""

    file: int
    offset: int
    data: bytes | memoryview


def collect(files: Files) -> Collected:
    """Return what a deploy sends.

    `files` is a directory, or a map of names to contents or to paths of local files. Raises `InvalidArgumentError` for
    what cannot be sent, `NotFoundError` for a path at which there is nothing.
    """
    if isinstance(files, (str, os.PathLike)):
        found = _walked(_local(files))
    elif isinstance(files, Mapping):
        found = Collected([_part(name, content) for name, content in files.items()], [])
    else:
        raise InvalidArgumentError(
            f"files must be a directory, or a map of names to contents or paths, got {type(files).__name__}"
        )
    if not found.parts:
        raise InvalidArgumentError("there are no files to deploy: a model has at least one")
    return found


def _part(name: object, content: object) -> Part:
    if not isinstance(name, str):
        raise InvalidArgumentError(f"the name of a file must be text, got {name!r}")
    if isinstance(content, (str, os.PathLike)):
        return _part_of_path(name, _local(content))
    try:
        data = memoryview(content).cast("B")  # type: ignore[arg-type]
    except TypeError:
        raise InvalidArgumentError(
            f"the content of {name!r} must be bytes in one piece, or the path of a local file, "
            f"got {type(content).__name__}"
        ) from None
    return Part(name, len(data), data)


def _local(path: str | os.PathLike[str]) -> str:
    return os.path.expanduser(os.fsdecode(path))  # noqa: PTH111 - Path would drop a trailing dot or slash


def _walked(root: str) -> Collected:
    if not stat.S_ISDIR(_stat(root).st_mode):
        name = Path(root).name
        raise InvalidArgumentError(
            f"{sayable(root)!r} is no directory; a single file is deployed by its name in the model, "
            f"as in {{{sayable(name)!r}: {sayable(root)!r}}}"
        )
    found = Collected([], [])
    waiting = [("", root)]
    while waiting:
        prefix, directory = waiting.pop()
        entries = _entries(directory) if prefix else _entries_of_model(directory)
        if not entries and prefix:
            found.folders.append(_sendable(prefix[:-1]))
        for name, path, is_directory in entries:
            if is_directory:
                waiting.append((f"{prefix}{name}/", path))
            else:
                found.parts.append(_part_of_path(prefix + name, path))
        if len(found.parts) + len(found.folders) > MAX_FILES:
            raise InvalidArgumentError(
                f"{sayable(root)!r} has more than {MAX_FILES} files and empty folders, which is what one deploy may "
                f"have: is it a model? Name its directory, or put the small files into an archive"
            )
    return Collected(sorted(found.parts, key=lambda part: part.name), sorted(found.folders))


def _entries(directory: str) -> list[tuple[str, str, bool]]:
    """Return name and path of all in a directory, and whether it is one."""
    try:
        with os.scandir(directory) as entries:
            return [(entry.name, entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError as error:
        raise _unreadable(directory, error) from None


def _entries_of_model(root: str) -> list[tuple[str, str, bool]]:
    """Return what is directly in a model's directory and is part of it, of a mounted volume one version."""
    entries = [entry for entry in _entries(root) if not entry[0].startswith(KEPT_NAME)]
    data = os.path.join(root, _VOLUME_DATA)  # noqa: PTH118 - as `_local`
    if not Path(data).is_symlink():
        return entries
    version = os.path.realpath(data)
    links = ((name, path, is_dir) for name, path, is_dir in entries if not name.startswith(".."))
    return [_in_version(version, *link) for link in links]


def _in_version(version: str, name: str, path: str, is_directory: bool) -> tuple[str, str, bool]:  # noqa: FBT001
    """Return where a name of a mounted volume leads to in one version of it, if it is a link through `..data`."""
    if not Path(path).is_symlink() or os.readlink(path) != f"{_VOLUME_DATA}/{name}":  # noqa: PTH115 - plain text
        return name, path, is_directory
    inside = os.path.join(version, name)  # noqa: PTH118 - as above
    return name, inside, Path(inside).is_dir()


def _part_of_path(name: str, path: str) -> Part:
    status = _stat(path)
    if stat.S_ISDIR(status.st_mode) and Path(path).is_symlink():
        raise InvalidArgumentError(
            f"{sayable(path)!r} is a symbolic link to a directory, which is not followed: "
            f"copy what it points to, or remove it"
        )
    if stat.S_ISDIR(status.st_mode):
        raise InvalidArgumentError(
            f"{sayable(path)!r} is a directory: name its files, or give the directory itself in place of the map"
        )
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise InvalidArgumentError(
            f"{sayable(path)!r} is no regular file but {kind}: only files are deployed; remove it, or deploy another "
            f"directory"
        )
    if not os.access(path, os.R_OK):
        raise FailedPreconditionError(
            f"{sayable(path)!r} cannot be read by this user: nothing was sent; change its mode, or deploy as its owner",
            details={"path": sayable(path)},
        )
    is_executable = bool(status.st_mode & stat.S_IXUSR)
    return Part(_sendable(name), status.st_size, LocalFile(path, status.st_mtime_ns), is_executable)


def _sendable(name: str) -> str:
    if sayable(name) != name:
        raise InvalidArgumentError(f"the name {sayable(name)!r} is not valid UTF-8: rename the file")
    return name


def _stat(path: str) -> os.stat_result:
    try:
        return Path(path).stat()
    except FileNotFoundError:
        if Path(path).is_symlink():
            raise InvalidArgumentError(
                f"{sayable(path)!r} is a symbolic link to nothing: remove it, or mend it"
            ) from None
        raise NotFoundError(f"there is nothing at {sayable(path)!r}", details={"path": sayable(path)}) from None
    except (OSError, ValueError) as error:  # a loop of links, a directory that is not ours; a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InvalidArgumentError(f"{sayable(path)!r} cannot be read: {reason}") from None


# Their contents


class Reader:
    """The pieces of the parts, in order; any thread may read, and another may close it meanwhile."""

    def __init__(self, parts: list[Part], chunk_bytes: int) -> None:
        self._chunks = _chunks(parts, chunk_bytes)
        self._reading = threading.Lock()
        self._is_closed = False

    def next(self) -> Chunk | None:
        """Return the next piece, or None after the last. Raises `FailedPreconditionError` if a file has changed."""
        with self._reading:
            chunk = None if self._is_closed else next(self._chunks, None)
        if self._is_closed:
            self.close()
        return chunk

    def close(self) -> None:
        """Close what is open; a thread that reads does it when it is done."""
        self._is_closed = True
        if self._reading.acquire(blocking=False):
            try:
                self._chunks.close()
            finally:
                self._reading.release()


def _chunks(parts: list[Part], size_bytes: int) -> Generator[Chunk, None, None]:
    for number, part in enumerate(parts):
        if isinstance(part.content, LocalFile):
            yield from _chunks_of_file(number, part, part.content, size_bytes)
        else:
            for offset in range(0, part.size_bytes, size_bytes):
                yield Chunk(number, offset, part.content[offset : offset + size_bytes])


def _chunks_of_file(number: int, part: Part, file: LocalFile, size_bytes: int) -> Iterator[Chunk]:
    fd = _open(file.path)
    try:
        _check_unchanged(fd, part, file)
        offset = 0
        while offset < part.size_bytes:
            try:
                data = os.read(fd, min(size_bytes, part.size_bytes - offset))
            except OSError as error:
                raise _unreadable(file.path, error) from None
            if not data:
                raise _changed(file.path, f"it has {offset} bytes now and had {part.size_bytes}")
            yield Chunk(number, offset, data)
            offset += len(data)
        _check_unchanged(fd, part, file)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    try:
        # Not blocking, because by now it may be a pipe that nobody writes to.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise _changed(path, "it is gone") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _check_unchanged(fd: int, part: Part, file: LocalFile) -> None:
    now = os.fstat(fd)
    if not stat.S_ISREG(now.st_mode):
        raise _changed(file.path, "it is no regular file any more")
    if now.st_size != part.size_bytes:
        raise _changed(file.path, f"it has {now.st_size} bytes now and had {part.size_bytes}")
    if now.st_mtime_ns != file.mtime_ns:
        raise _changed(file.path, "it was written to")


def _changed(path: str, how: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"{sayable(path)!r} changed while it was deployed ({how}): nothing was deployed; "
        f"try again when nobody writes to it",
        details={"path": sayable(path)},
    )


def _unreadable(path: str, error: OSError) -> FailedPreconditionError:
    message = f"{sayable(path)!r} cannot be read: {error.strerror or error}"
    return FailedPreconditionError(message, details={"path": sayable(path)})
