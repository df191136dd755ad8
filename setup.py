"""What setup.cfg cannot say: which packages there are, and that an editable installation maps them too.

The folder `workers` is installed as `hostd_workers`, because programs that embed a host have a package `workers` of
their own. `workers/_bootstrap` is no package on purpose and has to be installed all the same.
"""

import subprocess
import sys
from typing import ClassVar

from setuptools import Command, find_namespace_packages, setup

WORKERS = ["hostd_workers", *(f"hostd_workers.{name}" for name in find_namespace_packages("workers"))]


class Develop(Command):
    """What older versions of pip run for `-e` where `wheel` is installed; setuptools' own would not map the folder."""

    user_options: ClassVar = [("no-deps", None, "ignored"), ("prefix=", None, "ignored"), ("user", None, "ignored")]
    boolean_options: ClassVar = ["no-deps", "user"]

    def initialize_options(self) -> None:
        """Take no option into account."""
        self.no_deps = self.prefix = self.user = None

    def finalize_options(self) -> None:
        """There is nothing to check."""

    def run(self) -> None:
        """Install the way that newer versions do."""
        subprocess.check_call([sys.executable, "-m", "pip", "install", "--use-pep517", "--no-deps", "-e", "."])


setup(packages=[*find_namespace_packages(include=["hostd", "hostd.*"]), *WORKERS], cmdclass={"develop": Develop})
