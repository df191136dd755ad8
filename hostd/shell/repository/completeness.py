"""Looks at a model's files: what they are, and what they say of their own completeness.

A look is one walk over the tree (a system call per file), without following links to directories and without opening
anything but a manifest, an index, and the files that a manifest has hashes of. A link to a file counts twice, as itself
and as the file: a version is also exchanged by turning a link to files that are old already. It blocks on the disk:
take it in a thread. Hidden files count, because copying programs write to hidden temporaries. What to make of a look is
decided in `core/files/stability`.

What is understood, first match:
1. the configured completion marker at the top of a directory;
2. `SHA256SUMS` at the top, as sha256sum(1) writes it: whole when every named file is there and matches. It has to be
   written last, or renamed into place: one that grows line by line is believed too early. What changes while
   the hashes are checked is not whole, because the manifest may be of one version and the files of the next;
3. `*.safetensors.index.json` and `*.bin.index.json` at the top (the sharded checkpoints of Hugging Face): incomplete
   while a shard that is named there is missing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from typing import TYPE_CHECKING

from hostd.core.bookkeeping.recent import Recent
from hostd.core.files.stability import Completeness, Look
from hostd_workers.wire.light import NamedTuple, pattern

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from hostd.shell.work.turns import Steps

MANIFEST = "SHA256SUMS"
INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")

RECENT_NS = 2_000_000_000
"""A change may hide behind another one of the same tick of a file system's clock (the coarsest in use, FAT's, has ticks
of 2 s): what was changed so recently is looked at again instead of remembered."""

_CHUNK_BYTES = 1 << 20
_MANIFEST_LIMIT_BYTES = 4 << 20
"""Tens of thousands of lines. It is taken apart at once, which holds the GIL for a few milliseconds."""

_LINE = pattern(rb"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_ESCAPED = pattern(rb"\\(.)")
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"\\": b"\\"}

_SHARD = pattern(rb':\s*"([^"\\]{1,1000}\.(?:safetensors|bin))"')
_SHARD_REACH_BYTES = 1100
"""No match of `_SHARD` is longer, white space included: so much of a chunk is searched again with the next."""

_HASHES_KEPT = 4096


class Tree(NamedTuple):
    """What a walk saw: the `digest` of `core/files/stability.Look`, the newest change of a file and of anything.

    `top` has the names at the top of a directory, None for a file.
    """

    digest: bytes
    files_changed_ns: int
    changed_ns: int
    top: frozenset[str] | None


class KnownHashes:
    """Hashes of files that have not changed since they were read, so that each look at a big model need not read it.

    Thread safe as long as no two threads look at the same file. `stop` ends what is being read.
    """

    def __init__(self) -> None:
        self._known: Recent[str, tuple[tuple[int, ...], str]] = Recent(_HASHES_KEPT)
        self._is_stopped = False

    def stop(self) -> None:
        """Read nothing any more: models that need it are incomplete from now on."""
        self._is_stopped = True

    def hashing(self, path: str) -> Steps[str]:
        """Return the hash of a file in hexadecimal digits; "" if it changed meanwhile, or is no regular file.

        Raises OSError if it cannot be read. Pauses in between: a big model takes minutes.
        """
        # Without O_NONBLOCK the open of a pipe would wait for a writer (open(2)).
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            key = _key_of(status)
            known = self._known.get(path)
            if known is not None and known[0] == key:
                return known[1]
            if not stat.S_ISREG(status.st_mode):
                return ""
            started_ns = time.time_ns()
            digest = yield from self._read(file)
            if not digest or _key_of(os.fstat(file)) != key:
                return ""
        finally:
            os.close(file)
        if not is_recent(status, started_ns):
            self._known[path] = key, digest
        return digest

    def _read(self, file: int) -> Steps[str]:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while not self._is_stopped:
            count = os.readv(file, [buffer])
            if not count:
                return digest.hexdigest()
            digest.update(buffer[:count])
            yield
        return ""


def looking_at(path: str, marker: str | None, hashes: KnownHashes | None = None) -> Steps[Look]:
    """Look at the model at `path`, a directory or a file; `marker` is the file that completes a directory, or None.

    Without `hashes` from earlier looks, all files of a manifest are read, with the pauses of `KnownHashes.hashing`.
    Raises OSError if nothing can be seen at `path` (FileNotFoundError: there is nothing).
    """
    tree = walk(path)
    completeness, reason = Completeness.UNKNOWN, ""
    try:
        if tree.top is not None and marker is not None:
            completeness, reason = _by_marker(tree.top, marker)
        elif tree.top is not None and MANIFEST in tree.top:
            completeness, reason = yield from _by_manifest(path, hashes or KnownHashes())
            if completeness is Completeness.COMPLETE and walk(path).digest != tree.digest:
                completeness, reason = Completeness.INCOMPLETE, f"it changed while {MANIFEST} was checked"
        elif tree.top is not None:
            completeness, reason = _by_indexes(path, tree.top)
    except OSError as error:
        completeness, reason = Completeness.INCOMPLETE, f"{error.filename or path} cannot be read: {error.strerror}"
    return Look(tree.digest, tree.changed_ns / 1e9, completeness, reason)


def walk(path: str) -> Tree:
    """Walk over all files at `path`, hidden ones too. What vanishes meanwhile is left out.

    Raises OSError if nothing can be seen at `path`.
    """
    status = os.stat(path)  # noqa: PTH116 - walks run over many files, and plain strings are fast
    if not stat.S_ISDIR(status.st_mode):
        changed_ns = _changed_ns(status)
        return Tree(_sum_of([_mark(b"", status)]), changed_ns, changed_ns, None)
    marks = 0
    files_changed_ns, changed_ns = 0, _changed_ns(status)
    top: frozenset[str] | None = None
    pending = [(path, b"")]
    while pending:
        directory, prefix = pending.pop()
        try:
            entries = _entries(directory)
        except OSError as error:
            if top is None:
                raise
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                marks += _mark(prefix + f"/{error.errno}".encode(), None)
            continue
        if top is None:
            top = frozenset(entry.name for entry in entries)
        for entry in entries:
            name = prefix + b"/" + os.fsencode(entry.name)
            seen = _status_of(entry)
            if seen is None:
                continue
            changed_ns = max(changed_ns, _changed_ns(seen))
            if stat.S_ISLNK(seen.st_mode):
                # Two links of the same length may be made within one tick, but only one has this inode.
                marks += _mark(name + b"\0%d\0%d" % (seen.st_ino, seen.st_ctime_ns), seen)
                files_changed_ns = max(files_changed_ns, _changed_ns(seen))
                seen = _target_of(entry)
                if seen is None:
                    continue
                changed_ns = max(changed_ns, _changed_ns(seen))
            if stat.S_ISDIR(seen.st_mode):
                marks += _mark(name, None)
                pending.append((entry.path, name))
            else:
                marks += _mark(name, seen)
                files_changed_ns = max(files_changed_ns, _changed_ns(seen))
    return Tree(_sum_of([marks]), files_changed_ns, changed_ns, top)


def is_recent(status: os.stat_result, now_ns: int) -> bool:
    """Say whether a file changed so recently that the next change might not show in its times.

    Goes by the time of change of its inode, which nobody can set.
    """
    return now_ns - status.st_ctime_ns < RECENT_NS


def _entries(directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)


def _status_of(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of an entry, of a link its own; None if it is gone."""
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None


def _target_of(link: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of the file that a link leads to; None if it is a directory, or nothing."""
    try:
        target = link.stat()
    except OSError:
        return None
    return None if stat.S_ISDIR(target.st_mode) else target


def _changed_ns(status: os.stat_result) -> int:
    return max(status.st_mtime_ns, status.st_ctime_ns)


def _key_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _mark(name: bytes, status: os.stat_result | None) -> int:
    """Return the fingerprint of one file; they are added up, so that their order does not matter."""
    facts = b"" if status is None else b"\0%d\0%d" % (status.st_size, status.st_mtime_ns)
    return int.from_bytes(hashlib.blake2b(name + facts, digest_size=16).digest(), "big")


def _sum_of(marks: list[int]) -> bytes:
    return (sum(marks) % (1 << 128)).to_bytes(16, "big")


def _by_marker(top: frozenset[str], marker: str) -> tuple[Completeness, str]:
    if marker in top:
        return Completeness.COMPLETE, ""
    return Completeness.INCOMPLETE, f"it has no file {marker!r}, which is to say that it is whole"


def _by_indexes(path: str, top: frozenset[str]) -> tuple[Completeness, str]:
    for name in sorted(top):
        if name.endswith(INDEX_SUFFIXES):
            for shard in _shards_of(os.path.join(path, name)):  # noqa: PTH118 - as above
                if not os.path.exists(os.path.join(path, shard)):  # noqa: PTH110, PTH118 - as above
                    return Completeness.INCOMPLETE, f"{shard!r}, which {name} names, is missing"
    return Completeness.UNKNOWN, ""


def _by_manifest(path: str, hashes: KnownHashes) -> Steps[tuple[Completeness, str]]:
    text = b"".join(_chunks_of(os.path.join(path, MANIFEST), _MANIFEST_LIMIT_BYTES))  # noqa: PTH118 - as above
    try:
        wanted = _parsed(text)
    except ValueError as problem:
        return Completeness.INCOMPLETE, f"{MANIFEST} {problem}"
    for name in wanted:
        if not os.path.exists(os.path.join(path, name)):  # noqa: PTH110, PTH118 - as above
            return Completeness.INCOMPLETE, f"{name!r}, which {MANIFEST} names, is missing"
    for name, digest in wanted.items():
        if (yield from hashes.hashing(os.path.join(path, name))) != digest:  # noqa: PTH118 - as above
            return Completeness.INCOMPLETE, f"{name!r} has not the hash that {MANIFEST} gives"
    return Completeness.COMPLETE, ""


def _parsed(text: bytes) -> dict[str, str]:
    """Return the hashes by name. Raises ValueError that says what the manifest does."""
    if len(text) == _MANIFEST_LIMIT_BYTES:
        raise ValueError(f"has {_MANIFEST_LIMIT_BYTES} bytes or more, which is too much")
    if not text.endswith(b"\n"):
        raise ValueError("is empty, or ends within a line")
    wanted: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"has a line that is not of sha256sum: {line[:100]!r}")
        name = os.fsdecode(_ESCAPED.sub(_unescaped, match[3]) if match[1] else match[3])
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"names {name!r}, which lies outside of the model")
        wanted[name] = match[2].decode().lower()
    return wanted


def _unescaped(match: re.Match[bytes]) -> bytes:
    return _ESCAPES.get(match[1], match[0])


def _shards_of(path: str) -> Iterator[str]:
    """Yield the shards that an index names. Raises OSError.

    The names are searched for, chunk by chunk, not parsed: an index may have 10 MB, which `json.loads` takes 100 ms for
    while it holds the GIL.
    """
    found: set[bytes] = set()
    rest = b""
    for chunk in _chunks_of(path):
        text = rest + chunk
        for match in _SHARD.finditer(text):
            if match[1] not in found:
                found.add(match[1])
                yield os.fsdecode(match[1])
        rest = text[-_SHARD_REACH_BYTES:]


def _chunks_of(path: str, limit_bytes: int | None = None) -> Iterator[bytes]:
    """Yield what is in a file; nothing if it is no regular file. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return
        left = limit_bytes
        while chunk := os.read(file, 1 << 16 if left is None else min(1 << 16, left)):
            yield chunk
            left = None if left is None else left - len(chunk)
    finally:
        os.close(file)
