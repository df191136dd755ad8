"""What is wrong with a path, in words. That a path is missing is seen end to end (`test_hints`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

from hostd.places import what_is_in, why_missing

AS_NOBODY = """
import os, sys
from hostd.finders import find_spec
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    find_spec("m", sys.argv[1])
except Exception as error:
    print(type(error).__name__, error, sep=": ")
"""


@pytest.mark.parametrize(
    ("mode", "path", "why"),
    [
        (0o000, "closed/m", "user id {uid} may not enter {base}/closed"),
        (0o311, "closed", "user id {uid} may not read it"),
    ],
)
def test_a_path_that_may_not_be_read_says_which_part_of_it_and_for_whom(tmp_path, mode, path, why):
    base = tmp_path / "base"
    (base / "closed" / "m").mkdir(parents=True)
    for above in (tmp_path, *tmp_path.parents):
        if above.owner() == Path.home().owner() and str(above).startswith("/tmp/"):
            above.chmod(above.stat().st_mode | 0o011)  # the test is about the one below
    (base / "closed").chmod(mode)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(base / path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    (base / "closed").chmod(0o700)
    uid = 65534 if os.geteuid() == 0 else os.geteuid()
    said = f"FailedPreconditionError: cannot look at {base / path}: {why.format(uid=uid, base=base)}"
    assert done.stdout.startswith(said)


def test_a_directory_is_told_by_its_first_names(tmp_path):
    assert what_is_in(str(tmp_path)) == "it is empty"
    for number in range(12):
        (tmp_path / f"f{number:02}").touch()
    assert what_is_in(str(tmp_path)).endswith("f09, and 2 more")
    assert what_is_in(str(tmp_path / "f00")) == what_is_in(str(tmp_path / "no")) == ""


def test_a_path_without_a_directory_above_it_is_missing():
    assert why_missing("/no-such-thing-at-all") == "/ has no no-such-thing-at-all"
