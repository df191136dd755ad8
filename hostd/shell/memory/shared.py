"""Shared memory that processes hold: memfds, files of tmpfs, System V segments, shared anonymous mappings.

Rules
1. All of these are files of the kernel's tmpfs, and only swap takes their pages. A file counts with every page that it
   has, swapped out or not, once for a tree, whether it is mapped or merely open.
2. A file without a name is there as long as somebody holds it: it counts for those that do. One with a name outlives
   them: it counts for those that may write it. A model that reads its own files from a tmpfs is not charged for them.
3. The end of a tree gives back what had no name and is held by nobody else. No call tells what holds a file (a lease
   does not see what has got a memfd from its maker). So it is opened before the kill and closed after it: if nothing
   else has it, all its pages go in that moment, and the system has so much less shared memory.
4. Nothing here waits for a disk or a network: links and cached attributes (AT_STATX_DONT_SYNC) are read, and of a file
   that is not tmpfs nothing more than the number of its device.

Does not cover what no process tells of: files in /dev/shm that nobody has open, descriptors on their way in a socket,
hugetlbfs. Control groups count these (`cgroups`).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import stat
import struct
import time
from itertools import islice
from typing import TYPE_CHECKING

from hostd.shell.linux.proc import read_all
from hostd.shell.work.closing import Closing
from hostd_workers.wire.light import NamedTuple, pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LIBC = ctypes.CDLL(None, use_errno=True)

_FILE_SYSTEMS = frozenset((b"tmpfs", b"devtmpfs"))

_SEGMENTS = -1
"""In place of a device: System V segments have numbers of their own, which memfds have too."""

_DESTROYED = 0o1000
"""SHM_DEST of shmctl(2): the segment goes with the last process that has it attached."""

_CLOCK_S = 1.0
"""What is told in whole seconds."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_MOST_OPENED = 16
"""How many files are opened to learn whether others hold them, the largest; descriptors are scarce."""

_TELLING_BYTES = 1 << 20
"""Less than this is lost in what others do at the same time."""

_MOST_DESCRIPTORS = 1 << 16
"""How many descriptors of a process are looked at; that takes 0.2 s, and others wait to be sampled meanwhile."""

_MAPPING = pattern(rb"([0-9a-f]+-[0-9a-f]+) .(.).(.) [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) (\d+) +([^\n]+)")
_PARTS = pattern(
    rb"^[0-9a-f]+-[0-9a-f]+ .... [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) (\d+) [^\n]*\n"
    rb"(?:[A-Z][^\n]*\n){1,8}?Pss: +(\d+) kB$",
    re.MULTILINE,
)

Key = tuple[int, int]
"""A file: its device and inode."""


class File(NamedTuple):
    """Shared memory that a tree holds: `path` is where it may be opened, "" if nowhere."""

    size_bytes: int
    is_named: bool
    path: str


def system_bytes() -> int:
    """Return all shared memory that there is in the system's memory; 0 where the system does not say. Takes 1 us."""
    information = _Sysinfo()
    return information.sharedram * information.mem_unit if _LIBC.sysinfo(ctypes.byref(information)) == 0 else 0


def shared_bytes_of(pids: Iterable[int], *, is_mapped: bool = True) -> int:
    """Return the shared memory that these processes hold together, in bytes; `is_mapped`: not only what is open."""
    return sum(file.size_bytes for file in _Scan(list(pids), is_mapped=is_mapped).files.values())


def files_of(pids: Iterable[int]) -> dict[Key, File]:
    """Return the shared memory that these processes hold.

    Costs 2 us per descriptor, and 1 us per mapping.
    """
    return _Scan(list(pids)).files


class Held(Closing):
    """The shared memory of processes that are about to be killed; close it, or use it as a context, afterwards.

    What it has opened stays until then, or until it is asked what was given back.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        """Look at processes that are still there."""
        files = {key: file for key, file in files_of(pids).items() if not file.is_named}
        self._segments = {number: file.size_bytes for (device, number), file in files.items() if device == _SEGMENTS}
        others = sorted((file for (device, _), file in files.items() if device != _SEGMENTS), reverse=True)
        self._open: list[tuple[int, int]] = []
        self._untold_bytes = 0
        for file in others:
            is_telling = file.size_bytes >= _TELLING_BYTES and len(self._open) < _MOST_OPENED
            fd = _opened(file.path) if is_telling else None
            if fd is None:
                self._untold_bytes += file.size_bytes
            else:
                self._open.append((fd, file.size_bytes))

    def let_go(self) -> int:
        """Close it, and return how many bytes the end of the processes has given back; when all of them are gone."""
        left = {segment.number for segment in _segments()}
        freed_bytes = sum(size_bytes for number, size_bytes in self._segments.items() if number not in left)
        while self._open:
            fd, size_bytes = self._open.pop()
            before_bytes = system_bytes()
            os.close(fd)
            freed_bytes += size_bytes if before_bytes - system_bytes() >= size_bytes / 2 else 0
        return freed_bytes + self._untold_bytes

    def close(self) -> None:
        """Let go of everything."""
        while self._open:
            os.close(self._open.pop()[0])


class _Sysinfo(ctypes.Structure):
    """`struct sysinfo` of sysinfo(2)."""

    _fields_ = (
        ("uptime", ctypes.c_long),
        ("loads", ctypes.c_ulong * 3),
        ("totalram", ctypes.c_ulong),
        ("freeram", ctypes.c_ulong),
        ("sharedram", ctypes.c_ulong),
        ("bufferram", ctypes.c_ulong),
        ("totalswap", ctypes.c_ulong),
        ("freeswap", ctypes.c_ulong),
        ("procs", ctypes.c_ushort),
        ("pad", ctypes.c_ushort),
        ("totalhigh", ctypes.c_ulong),
        ("freehigh", ctypes.c_ulong),
        ("mem_unit", ctypes.c_uint),
        ("_f", ctypes.c_char * 64),
    )


class _Attributes(NamedTuple):
    """What of a file is known without asking a disk."""

    device: int
    inode: int
    links: int
    size_bytes: int


class _Segment(NamedTuple):
    """A System V segment (proc_sysvipc_shm(5))."""

    number: int
    creator: int
    size_bytes: int
    is_kept: bool
    made_s: int


class _Scan:
    """One look at some processes."""

    def __init__(self, pids: list[int], *, is_mapped: bool = True) -> None:
        self.files: dict[Key, File] = {}
        self._devices: dict[bytes, frozenset[int]] = {}
        segments = {segment.number: segment for segment in _segments()}
        own = _namespace("self", "ipc")
        unresolved: dict[Key, set[int]] = {}
        for pid in pids:
            devices = self._devices_of(pid)
            self._add_open(pid, devices)
            of_process = segments if _namespace(pid, "ipc") == own else {}
            for key in self._add_mapped(pid, devices, of_process) if is_mapped else ():
                unresolved.setdefault(key, set()).add(pid)
        for segment in segments.values():
            # One that is older than the process was made by another that had its number.
            if segment.creator in pids and segment.made_s >= _began_s(segment.creator) - _CLOCK_S:
                self._add_segment(segment)
        self._add_parts({key: processes for key, processes in unresolved.items() if key not in self.files})

    def _add_open(self, pid: int, devices: frozenset[int]) -> None:
        path = f"/proc/{pid}/fd"
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        others: set[str] = set()
        try:
            for name in _names_in(directory):
                link = _link_at(directory, name)
                if not link.startswith("/") or link in others:  # a pipe, a socket, what was looked at
                    continue
                found = _look_at(name, directory)
                if found is None or found.device not in devices:
                    others.add(link)
                # The link's own mode says how it is open (proc_pid_fd(5)).
                elif not found.links or _mode_at(directory, name) & stat.S_IWUSR:
                    self._add(found, f"{path}/{name}")
        finally:
            os.close(directory)

    def _add_mapped(self, pid: int, devices: frozenset[int], segments: dict[int, _Segment]) -> Iterator[Key]:
        """Add what a process has mapped, and yield the files of which only the pages it has touched can be known."""
        for line in _lines_with(devices, read_all(pid, "maps")):
            found = _MAPPING.fullmatch(line)
            if found is None:
                continue
            where, write, sharing, major, minor, inode, name = found.groups()
            device = os.makedev(int(major, 16), int(minor, 16))
            key = (device, int(inode))
            if device not in devices or key in self.files:
                continue
            if name.startswith(b"/SYSV") and int(inode) in segments:
                self._add_segment(segments[int(inode)])
                continue
            is_named = not name.endswith(b" (deleted)")
            if is_named and (write, sharing) != (b"w", b"s"):
                continue
            path = f"/proc/{pid}/map_files/{where.decode()}"
            attributes = _look_at(path)  # which takes CAP_CHECKPOINT_RESTORE
            if attributes is not None:
                self._add(attributes, path)
            else:
                yield key

    def _add(self, found: _Attributes, path: str) -> None:
        self.files[found.device, found.inode] = File(found.size_bytes, found.links > 0, path)

    def _add_segment(self, segment: _Segment) -> None:
        self.files[_SEGMENTS, segment.number] = File(segment.size_bytes, segment.is_kept, "")

    def _add_parts(self, unresolved: dict[Key, set[int]]) -> None:
        """Add files by their pages that are mapped: parts of them add up if nobody else maps them."""
        sums: dict[Key, int] = dict.fromkeys(unresolved, 0)
        for pid in set().union(*unresolved.values()):
            for major, minor, inode, kib in _PARTS.findall(read_all(pid, "smaps")):
                key = (os.makedev(int(major, 16), int(minor, 16)), int(inode))
                if key in sums:
                    sums[key] += int(kib) * 1024
        self.files.update({key: File(size_bytes, False, "") for key, size_bytes in sums.items()})

    def _devices_of(self, pid: int) -> frozenset[int]:
        """Return the devices of all tmpfs that a process may see."""
        namespace = _namespace(pid, "mnt")
        if namespace not in self._devices:
            fields = [line.split() for line in read_all(pid, "mountinfo").splitlines()]
            # After a lone hyphen follows the type of the file system (proc_pid_mountinfo(5)).
            mounted = {line[2] for line in fields if line[line.index(b"-", 6) + 1] in _FILE_SYSTEMS}
            numbers = [name.split(b":") for name in mounted]
            self._devices[namespace] = _OF_MEMFDS | {os.makedev(int(major), int(minor)) for major, minor in numbers}
        return self._devices[namespace]


def _lines_with(devices: Iterable[int], text: bytes) -> Iterator[bytes]:
    """Yield the lines of mappings that name one of these devices: few of a thousand."""
    for device in devices:
        number, end = b" %02x:%02x " % (os.major(device), os.minor(device)), 0
        while (at := text.find(number, end)) >= 0:
            end = (text.find(b"\n", at) + 1 or len(text) + 1) - 1
            yield text[text.rfind(b"\n", 0, at) + 1 : end]


def _segments() -> list[_Segment]:
    found = []
    for line in read_all("sysvipc", "shm").splitlines()[1:]:
        fields = line.split()
        number, mode, creator = int(fields[1]), int(fields[2], 8), int(fields[4])
        size_bytes, made_s = int(fields[-2]) + int(fields[-1]), int(fields[-3])
        found.append(_Segment(number, creator, size_bytes, not mode & _DESTROYED, made_s))
    return found


def _began_s(pid: int) -> float:
    """Return when a process began, in seconds since the epoch; later than anything of one that is gone."""
    fields = read_all(pid, "stat").rpartition(b")")[2].split()
    if len(fields) < 20:
        return math.inf
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted_s + int(fields[19]) / _TICKS_PER_S


def _opened(path: str) -> int | None:
    try:
        # Without blocking: the model itself may have a lease on it (fcntl(2)), and would be asked to give it back.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def _namespace(pid: int | str, name: str) -> bytes:
    try:
        return os.readlink(b"/proc/%b/ns/%b" % (str(pid).encode(), name.encode()))  # noqa: PTH115 - as above
    except OSError:
        return b""


_STATX = getattr(_LIBC, "statx", None)
"""Since glibc 2.28; os.stat would wait for a server that does not answer."""

_AT_STATX_DONT_SYNC = 0x4000
_STATX_BASIC_STATS = 0x7FF
_AT_FDCWD = -100

_OF_STATX = struct.Struct("=16xI8xH2xQ8xQ80xII")
"""Of `struct statx`: links, mode, inode, blocks of 512 bytes, and the two numbers of the device."""

_Buffer = ctypes.c_char * 256


def _look_at(path: str, directory: int = _AT_FDCWD) -> _Attributes | None:
    """Return what is known of a regular file on whatever file system; None if it is none or may not be looked at."""
    buffer = _Buffer()
    if _STATX is None or _STATX(directory, path.encode(), _AT_STATX_DONT_SYNC, _STATX_BASIC_STATS, buffer) != 0:
        return None
    links, mode, inode, blocks, major, minor = _OF_STATX.unpack_from(buffer)
    return _Attributes(os.makedev(major, minor), inode, links, blocks * 512) if stat.S_ISREG(mode) else None


def _names_in(directory: int) -> list[str]:
    names: list[str] = []
    # What ends meanwhile has no names any more; those that it had are tried.
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        names.extend(entry.name for entry in islice(entries, _MOST_DESCRIPTORS))
    return names


def _link_at(directory: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:  # closed meanwhile
        return ""


def _mode_at(directory: int, name: str) -> int:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:  # closed meanwhile
        return 0


def _of_memfds() -> frozenset[int]:
    """Return the device of the kernel's own tmpfs, which is mounted nowhere; it stays the same."""
    try:
        fd = os.memfd_create("hostd", os.MFD_CLOEXEC)
    except OSError:
        return frozenset()
    try:
        return frozenset({os.fstat(fd).st_dev})
    finally:
        os.close(fd)


_OF_MEMFDS = _of_memfds()
