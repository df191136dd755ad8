"""A made-up machine: a process' directory in /proc, and control groups that limit it."""

V2 = "cgroup2 cgroup2 rw,nsdelegate"
V1 = "cgroup cgroup rw,memory"


class Machine:
    """A process' directory in /proc, and mounts of control groups, below one directory."""

    def __init__(self, directory):
        self.process = directory / "self"
        self.process.mkdir()
        self._mounts = []

    def mount(self, point, kind, root="/"):
        point.mkdir(parents=True)
        place = str(point).replace(" ", "\\040")
        self._mounts.append(f"{len(self._mounts) + 30} 23 0:29 {root} {place} rw,nosuid shared:4 - {kind}\n")
        (self.process / "mountinfo").write_text("22 1 254:1 / / rw - ext4 /dev/vda rw\n" + "".join(self._mounts))
        return point

    def member_of(self, *lines):
        (self.process / "cgroup").write_text("".join(f"{line}\n" for line in lines))


def limited(directory, limit, name="memory.max"):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(f"{limit}\n")
