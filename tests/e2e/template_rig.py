"""An interpreter with libraries of our making in its site-packages, and models that need them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

from helpers import eventually

MODULES = 25
"""So many modules make a library worth a template."""

SHARED = ("zmq", "pyzmq.libs", "msgpack")
"""What every worker needs, and lies in this interpreter's site-packages."""


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
