"""Whether a wheel and an sdist hold every file of the packages as it is in the tree: compare.py TREE WHEEL SDIST."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGES = {"hostd/": "hostd/", "workers/": "hostd_workers/"}


def main(tree: str, wheel: str, sdist: str) -> int:
    """Print what is missing, too much or different, and return 1 if anything is."""
    names = subprocess.run(["git", "ls-files"], cwd=tree, check=True, capture_output=True, text=True).stdout.split()
    expected = {name: Path(tree, name).read_bytes() for name in names if name.startswith(tuple(PACKAGES))}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers() if member.isfile()}
        in_sdist = {name: archive.extractfile(members[name]).read() for name in members if name in expected}
    problems = differences("the wheel", {_installed(name): content for name, content in expected.items()}, in_wheel)
    problems += differences("the sdist", expected, in_sdist)
    problems += [f"the sdist lacks {name}" for name in ("setup.py", "setup.cfg", "README.md") if name not in members]
    print(*problems or [f"wheel and sdist hold the {len(expected)} files of the packages"], sep="\n")
    return 1 if problems else 0


def differences(where: str, expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Return a line for each file that is not as expected."""
    return [
        *(f"{where} lacks {name}" for name in sorted(expected.keys() - found.keys())),
        *(f"{where} has {name}, which is not in the tree" for name in sorted(found.keys() - expected.keys())),
        *(f"{where} has another {name}" for name in expected.keys() & found.keys() if expected[name] != found[name]),
    ]


def _installed(name: str) -> str:
    folder, _, rest = name.partition("/")
    return PACKAGES[f"{folder}/"] + rest


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
