"""Runs each test that failed in the last run again, alone, once: again.py FILE.

What passes then is flaky: it is written to FILE and does not fail the run, if there are at most three. The next
developer mends it first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
AT_MOST = 3


def main(file: str) -> int:
    """Return 0 if everything that failed passes now."""
    failed = sorted(json.loads(LAST_FAILED.read_text("utf-8"))) if LAST_FAILED.exists() else []
    if not 0 < len(failed) <= AT_MOST:
        print(f"{len(failed)} tests failed; up to {AT_MOST} are tried again")
        return 1
    again = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "-p", "no:cacheprovider"]
    for test in failed:
        print(f"\n=== again, alone: {test}", flush=True)
        if subprocess.run([*again, test], check=False).returncode != 0:
            return 1
    with Path(file).open("a", encoding="utf-8") as flaky:
        flaky.writelines(f"flaky: {test}\n" for test in failed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
