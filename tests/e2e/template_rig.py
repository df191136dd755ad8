"""An interpreter with libraries of our making in its site-packages, and models that need them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import psutil
from helpers import descendants, eventually

MODULES = 25
"""So many modules make a library worth a template."""

SHARED = ("zmq", "pyzmq.libs", "msgpack")
"""What every worker needs, and lies in this interpreter's site-packages."""


USES = """
    import lib, os, random, re, sys, tempfile, uuid

    class Model:
        def value(self):
            return lib.m3.VALUE
        def draws(self):
            return [random.random(), str(uuid.uuid4()), str(uuid.uuid1()), next(tempfile._get_candidate_names())]
        def ids(self):
            return os.getpid(), os.getsid(0), os.getpgid(0), os.getppid()
        def status(self):
            with open("/proc/self/status") as file:
                return dict(line.rstrip("\\n").partition(":\\t")[::2] for line in file)
        def fds(self):
            links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[:-1]]
            return sorted(re.sub("[0-9]+", "N", link) for link in links)
        def environment(self):
            return dict(os.environ)
        def where(self):
            return os.getcwd(), sys.argv, sys.flags.safe_path if sys.version_info >= (3, 11) else True
        def die(self):
            os._exit(3)

    def load(path):
        return Model()
"""
"""A model that uses such a library, and tells about its process."""


class Interpreter:
    """A virtual environment in which libraries are written rather than installed."""

    def __init__(self, place: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True, timeout=120)
        self.python = place / "bin" / "python"
        self.site = next((place / "lib").glob("python*/site-packages"))
        for name in SHARED:
            self.share(name)

    def share(self, name: str) -> None:
        """Have a package, or what lies beside it, of the interpreter that runs these tests."""
        theirs = Path(find_spec("zmq").origin).parents[1]
        for found in [theirs / name, *theirs.glob(f"{name}-*.dist-info")]:
            if found.exists():
                (self.site / found.name).symlink_to(found)

    def write(self, library: str, source: str = "", *, culprit: str = "") -> None:
        """Write a library of many modules, all of which importing it imports; `culprit` is the source of one of them."""
        package = self.site / library
        package.mkdir()
        names = [f"m{number}" for number in range(MODULES)]
        for name in names:
            (package / f"{name}.py").write_text("VALUE = 1\n")
        (package / "culprit.py").write_text(textwrap.dedent(culprit))
        imports = "".join(f"import {library}.{name}\n" for name in [*names, "culprit"])
        (package / "__init__.py").write_text(imports + textwrap.dedent(source))

    def model(self, place: Path, source: str) -> Path:
        """Write a model of this interpreter."""
        place.mkdir(parents=True)
        (place / "model.py").write_text(textwrap.dedent(source))
        (place / "model.yaml").write_text(f"python: {self.python}\n")
        return place


def loaded_again(client, model_id, path):
    """Unload a model, load it again, and return the record of its worker."""
    client.unload_model(model_id)
    client.load_model(model_id, path)
    return client.get_model(model_id).workers[0]


def template_of(client, library):
    """Return the template that has imported a library, when there is one that is ready; fails if there is none."""
    return eventually(
        lambda: next(
            (t for t in client.templates_info().templates if library in t.libraries and t.state == "READY"), None
        ),
        f"there is a template with {library}",
    )


def ready_one(client):
    """The first template from which workers are forked, if there is one."""
    return next((each for each in client.templates_info().templates if each.state == "READY"), None)


def pids_of_templates(client):
    """The processes of all templates."""
    return [template.pid for template in client.templates_info().templates if template.pid]


def model_pid(client, model_id):
    """The process of a model."""
    return client.get_model(model_id).workers[0].pid


def spare_of(client, template, others=()):
    """The process that will be the next worker of a template, another one than these."""
    supervisor = client.host_info().pid

    def found():
        with contextlib.suppress(OSError, psutil.Error):
            mine = (pid for pid in descendants(supervisor) if pid not in (template.pid, *others))
            of_it = (pid for pid in mine if os.getsid(pid) == template.pid)
            return next((pid for pid in of_it if psutil.Process(pid).ppid() == supervisor), None)

    return eventually(found, "there is a spare")
