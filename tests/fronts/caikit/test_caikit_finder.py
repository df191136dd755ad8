"""The part that runs in the host, which has no caikit."""

import subprocess
import sys

CHECK = """
import sys
from hostd.fronts.caikit.finder import Finder
assert Finder().find("any", None).loader == "hostd.fronts.caikit.worker:load"
assert "caikit" not in sys.modules, "caikit is imported"
"""


def test_the_finder_does_without_caikit():
    subprocess.run([sys.executable, "-c", CHECK], check=True)
