"""The control groups (cgroups(7)) that this process is in: where they are in the file system.

Covers cgroup v2, v1, and both at once (hybrid), with the namespaces of containers. Does not cover what is done with
them: `budget` and `cores` read their limits, `oom` their counters, `cgroups` makes groups of its own.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from hostd_workers.wire.light_dataclass import dataclass

SELF = Path("/proc/self")


@dataclass(frozen=True)
class Group:
    """A group of this process: its directory, and that of the root as far as this process can see."""

    directory: Path
    root: Path
    version: int

    @property
    def lineage(self) -> list[Path]:
        """The directories of the group and of all its ancestors that are visible, itself first."""
        found = [self.directory]
        while found[-1] != self.root:
            found.append(found[-1].parent)
        return found

    def read(self, name: str, directory: Path | None = None) -> str | None:
        """Return the text of a file of this group (or of an ancestor of it); None if it is not there or not ours."""
        try:
            return ((directory or self.directory) / name).read_text(encoding="ascii")
        except (OSError, ValueError):
            return None


def groups_of(controller: str, process: Path = SELF) -> list[Group]:
    """Return the groups of a process (`process` is its directory in /proc) that a controller may limit, v2 first."""
    try:
        memberships = (process / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        mounts = (process / "mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for version in (2, 1):
        paths = (path for of, path in (_membership(line, controller) for line in memberships) if of == version)
        places = (place for of, *place in (_mount(line, controller) for line in mounts) if of == version)
        path, mount = next(paths, None), next(places, None)
        if path is None or mount is None:
            continue
        root, point = mount
        found.append(Group(_below(Path(point), PurePosixPath(root), PurePosixPath(path)), Path(point), version))
    return found


def _membership(line: str, controller: str) -> tuple[int, str]:
    """Return which version a line of /proc/PID/cgroup is of (0: of other controllers), and the group's path."""
    number, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if (number, controllers) == ("0", ""):
        return 2, path
    return (1 if controller in controllers.split(",") else 0), path


def _mount(line: str, controller: str) -> tuple[int, str, str]:
    """Return the same of a line of /proc/PID/mountinfo (proc(5)), with the mount's root and its place."""
    before, _, after = line.partition(" - ")
    fields, kind = before.split(" "), after.split(" ")
    if len(fields) < 5 or len(kind) < 3:
        return 0, "", ""
    version = 2 if kind[0] == "cgroup2" else 1 if kind[0] == "cgroup" and controller in kind[2].split(",") else 0
    return version, _unescaped(fields[3]), _unescaped(fields[4])


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _below(point: Path, root: PurePosixPath, path: PurePosixPath) -> Path:
    """Return where a group is under its mount; the mount itself for one that lies outside of what is mounted.

    That is so in a container without a namespace of its own: the path is the machine's, the mount begins at the group.
    """
    if path.is_relative_to(root) and ".." not in path.parts:
        return point / path.relative_to(root)
    return point
