"""What setup.cfg cannot say: which packages there are.

The folder `workers` is installed as `hostd_workers`, because programs that embed a host have a package `workers` of
their own. `workers/_bootstrap` is no package on purpose and has to be installed all the same.
"""

from setuptools import find_namespace_packages, setup

WORKERS = ["hostd_workers", *(f"hostd_workers.{name}" for name in find_namespace_packages("workers"))]

setup(packages=[*find_namespace_packages(include=["hostd", "hostd.*"]), *WORKERS])
