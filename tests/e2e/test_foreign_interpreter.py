"""Models that bring an interpreter of their own: another virtual environment, another version of Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PATIENCE_S, eventually

import hostd

NEEDS = "import zmq, msgpack"
TELLS = """
    import os, sys

    class Tells:
        def where(self):
            return sys.prefix

        def variable(self, name):
            return os.environ.get(name)

        def version(self):
            return list(sys.version_info[:2])

        def generate(self, n):
            yield from range(n)

        async def later(self, x):
            return x

        def fail(self):
            raise ValueError("as it should")

        def has_hostd(self):
            try:
                import hostd
            except ImportError:
                return False
            return True

    def load(path):
        return Tells()
"""


def can(python, source):
    """Say whether an interpreter runs this without an error."""
    done = subprocess.run([python, "-c", source], capture_output=True, timeout=60, check=False, cwd="/")
    return done.returncode == 0


def others():
    """Return the interpreters of other versions that this machine has: on PATH, and pyenv's."""
    versions = [f"3.{minor}" for minor in range(10, 16) if minor != sys.version_info[1]]
    places = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = [place / f"python{version}" for version in versions for place in places]
    found += sorted(pyenv.glob("3.*/bin/python3")) if pyenv.is_dir() else []
    working = [
        python for python in found if python.is_file() and can(python, "import sys; assert sys.version_info >= (3, 10)")
    ]
    return [
        python
        for python in working
        if can(python, f"import sys; assert sys.version_info[:2] != {sys.version_info[:2]}")
    ]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with nothing of its own, but with what this interpreter has."""
    place = tmp_path_factory.mktemp("venv") / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True, timeout=120)
    site = next((place / "lib").glob("python*/site-packages"))
    here = {str(Path(module.__file__).parents[1]) for module in (__import__("zmq"), __import__("msgpack"))}
    (site / "here.pth").write_text("\n".join(sorted(here)))
    return place


def test_a_model_runs_in_the_virtual_environment_that_it_names_with_variables_of_its_own(
    shared, model_dir, environment
):
    path = model_dir(TELLS, settings="python: env/bin/python\nenv: {FLAVOUR: 'sweet', N: 3}\n")
    Path(path, "env").symlink_to(environment)
    model = shared.load_model("m", path)
    assert Path(model.where()).resolve() == environment.resolve()
    assert list(model.stream.generate(100)) == list(range(100))
    with pytest.raises(hostd.ModelError, match="as it should") as caught:
        model.fail()
    assert "model.py" in caught.value.traceback
    other = shared.load_model("other", model_dir(TELLS, settings=f"python: {environment}/bin/python\n"))
    assert Path(other.where()) == environment
    assert [model.variable("FLAVOUR"), model.variable("N"), other.variable("FLAVOUR")] == ["sweet", "3", None]
    assert "FLAVOUR" not in os.environ
    assert shared.unload_model("m").processes == 1


def test_a_model_runs_under_another_version_of_python(shared, model_dir, tmp_path):
    python = next((python for python in others() if can(python, NEEDS)), None)
    if python is None:
        pytest.skip(f"no other version of Python with pyzmq and msgpack was found (looked at {others() or 'none'})")
    model = shared.load_model("m", model_dir(TELLS, settings=f"python: {python}"))
    assert tuple(model.version()) != sys.version_info[:2]
    assert list(model.stream.generate(100)) == list(range(100))
    assert model.later(3) == 3
    assert model.call("has_hostd") is False or Path(model.where()) != Path(sys.prefix)
    assert shared.unload_model("m").processes == 1


def test_a_library_that_the_named_interpreter_lacks_is_installed_there(shared, model_dir, tmp_path):
    lean = tmp_path / "lean"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", lean], check=True, timeout=120)
    site = next((lean / "lib").glob("python*/site-packages"))
    for name in ("zmq", "msgpack"):  # these and nothing else of what this interpreter has
        package = Path(__import__(name).__file__).parent
        (site / name).symlink_to(package)
        for libraries in package.parent.glob(f"py{name}.libs"):
            (site / libraries.name).symlink_to(libraries)
    (site / "pip").mkdir()
    settings = f"{{python: {lean}/bin/python, loader: sklearn}}"
    path = model_dir("", settings=settings, files={"m.joblib": "x"})
    command = f"{lean}/bin/python -m pip install numpy scikit-learn joblib skops"
    with pytest.raises(
        hostd.FailedPreconditionError, match=f"'sklearn', which {lean}/bin/python does not have"
    ) as caught:
        shared.load_model("m", path)
    assert caught.value.message.endswith(f"install it with: {command}")
    path = model_dir("import lightgbm.nothing\n", settings=f"python: {lean}/bin/python")
    with pytest.raises(hostd.ModelError, match=f"{lean}/bin/python -m pip install lightgbm"):
        shared.load_model("m", path)


def test_an_interpreter_without_the_workers_needs_says_what_to_install(shared, model_dir, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True, timeout=120)
    with pytest.raises((hostd.FailedPreconditionError, hostd.UnavailableError), match="zmq") as caught:
        shared.load_model("m", model_dir(TELLS, settings=f"python: {bare}/bin/python"), timeout_s=PATIENCE_S)
    assert f"{bare}/bin/python -m pip install pyzmq msgpack" in caught.value.message


NONE = {
    "#!/bin/sh\nfor n in 1 2 3 4 5 6 7 8 9; do echo line $n; done\necho no licence >&2\nexit 3\n": (
        "exit code 3; it printed: line 6\nline 7\nline 8\nline 9\nno licence$"
    ),
    "#!/no/such/interpreter\n": "python",
    "\x7fELF nonsense": "python",
    "": "python",
}


def test_an_interpreter_that_is_none_is_refused_with_the_reason(shared, model_dir):
    for content, words in NONE.items():
        path = model_dir(TELLS, settings="python: ./python", files={"python": content})
        Path(path, "python").chmod(0o755)
        with pytest.raises(hostd.UnavailableError, match=words):
            shared.load_model("m", path, timeout_s=PATIENCE_S)
    path = model_dir("import os\nprint('as every worker')\nos._exit(3)\n")
    with pytest.raises(hostd.UnavailableError, match=r"exit code 3$"):  # what is printed after the hello is in the log
        shared.load_model("greeted", path)
    eventually(lambda: "as every worker" in shared.model_logs("greeted"), "it is in the log")


def test_an_old_python_is_refused_with_the_reason(shared, model_dir):
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    old = next((python for python in sorted(pyenv.glob("3.[6789].*/bin/python3")) if can(python, "")), None)
    if old is None:
        pytest.skip("no Python older than 3.10 was found")
    with pytest.raises(hostd.HostError) as caught:
        shared.load_model("m", model_dir(TELLS, settings=f"python: {old}"))
    assert "3.10" in caught.value.message
