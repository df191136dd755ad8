"""Control groups of the kernel's (cgroups(7), v2) for tests, where a test may make some."""

import contextlib
import itertools
import os

import pytest
from helpers import eventually

from hostd.shell.linux.groups import groups_of

_count = itertools.count()


@contextlib.contextmanager
def own_group():
    """Make a group that ends with all that is in it; skip the test where there can be none."""
    around = next((group for group in groups_of("memory") if group.version == 2), None)
    if around is None:
        pytest.skip("there are no control groups of version 2 here")
    directory = around.directory / f"tests-{os.getpid()}-{next(_count)}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if not (directory / "cgroup.kill").exists():
            pytest.skip("this kernel cannot kill a control group: it is older than 5.14")
        yield directory
    finally:
        with contextlib.suppress(OSError):
            (directory / "cgroup.kill").write_text("1")
        eventually(lambda: "populated 0" in (directory / "cgroup.events").read_text(), "what is in the group ends")
        for path, _, _ in os.walk(directory, topdown=False):
            os.rmdir(path)


def members_of(directory):
    return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
