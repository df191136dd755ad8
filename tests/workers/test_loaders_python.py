"""The python loader: a model.py executed as a real module, or a function in a package."""

from __future__ import annotations

import copy
import inspect
import sys
import traceback
from pathlib import Path

import pytest

from hostd_workers.loaders._common.opening import call_load
from hostd_workers.loaders.python import load
from hostd_workers.wire.errors import HostError, InvalidArgumentError, NotFoundError


@pytest.fixture(autouse=True)
def import_state():
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(directory: Path, source: str, name: str = "model.py") -> str:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(source)
    return str(directory)


ECHO = "def load(path, **options):\n    return (path, options)\n"


def test_load_gets_the_path_as_given_and_the_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "echo", ECHO)
    assert load("echo", scale=2, path2="x") == ("echo", {"scale": 2, "path2": "x"})


def test_the_path_may_be_a_python_file(tmp_path):
    file = Path(write(tmp_path, ECHO, "my-model.py")) / "my-model.py"
    assert load(str(file)) == (str(file), {})


def test_the_module_can_be_imported_and_inspected_under_its_name(tmp_path):
    source = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "@dataclass\n"
        "class Model:\n"
        "    names: ClassVar[list] = []\n"
        "    scale: int = 1\n"
        "    def predict(self, x):\n"
        "        raise KeyError(x)\n"
        "def load(path):\n"
        "    return Model(3)\n"
    )
    model = load(write(tmp_path / "m", source))
    module = sys.modules[type(model).__module__]
    assert type(model).__module__ == "model"
    assert module.__file__ == str(tmp_path / "m" / "model.py")
    assert "scale: int = 1" in inspect.getsource(type(model))
    assert copy.copy(model) == model
    with pytest.raises(KeyError) as caught:
        model.predict("x")
    assert "raise KeyError(x)" in "".join(traceback.format_exception(caught.value))


def test_modules_beside_the_model_can_be_imported_and_find_the_same_model_module(tmp_path):
    directory = write(
        tmp_path / "m", "import sibling_of_model\nclass Net: pass\ndef load(path): return sibling_of_model\n"
    )
    write(tmp_path / "m", "def net():\n    from model import Net\n    return Net\n", "sibling_of_model.py")
    sibling = load(directory)
    assert sibling.net() is sys.modules["model"].Net


def test_each_load_has_a_module_of_its_own(tmp_path):
    source = "class Model: pass\ndef load(path): return Model()\n"
    first, second = load(write(tmp_path / "a", source)), load(write(tmp_path / "b", source))
    again = load(str(tmp_path / "a"))
    assert len({type(model) for model in (first, second, again)}) == 3
    assert len({type(model).__module__ for model in (first, second, again)}) == 3
    assert inspect.getsourcefile(type(second)) == str(tmp_path / "b" / "model.py")


@pytest.mark.parametrize("stem", ["json", "statistics", "1st", "class", "a b"])
def test_a_file_name_that_is_taken_or_no_identifier_gets_another_module_name(tmp_path, stem):
    before = sys.modules.get(stem)
    write(tmp_path, "class Model: pass\ndef load(path): return Model()\n", f"{stem}.py")
    name = type(load(str(tmp_path / f"{stem}.py"))).__module__
    assert name.isidentifier()
    assert name != stem
    assert sys.modules.get(stem) is before


def test_a_function_of_a_package_needs_no_path(tmp_path):
    write(tmp_path / "lib_of_models", "", "__init__.py")
    write(
        tmp_path / "lib_of_models",
        "def load(path, size=1): return ('load', path, size)\n"
        "class Net:\n    def __init__(self, path): self.path = path\n",
        "nets.py",
    )
    sys.path.insert(0, str(tmp_path))
    assert load(None, module="lib_of_models.nets", size=4) == ("load", None, 4)
    assert load(None, module="lib_of_models.nets:load") == ("load", None, 1)
    assert load("some-id", module="lib_of_models.nets:Net").path == "some-id"


def test_the_module_option_finds_modules_in_the_models_directory(tmp_path):
    directory = write(tmp_path / "m", ECHO, "own_module_of_model.py")
    assert load(directory, module="own_module_of_model:load") == (directory, {})


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("no_such_package.mod:load", "no module 'no_such_package'"),
        ("json.no_such:load", "no module 'json.no_such'"),
        ("json:no_such", "no attribute 'no_such'"),
        ("colorsys", "no attribute 'load'"),
        ("json:__name__", "must be a function load"),
        ("json load", "must look like"),
        ("../json:load", "must look like"),
        ("", "must look like"),
        (7, "must be text"),
    ],
)
def test_a_wrong_module_option_says_what_is_wrong(reference, words):
    with pytest.raises(InvalidArgumentError, match=words):
        load(None, module=reference)


def test_a_module_missing_inside_the_named_module_is_the_modules_own_error(tmp_path):
    directory = write(tmp_path / "m", "import no_such_library\n", "needs_a_library.py")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        load(directory, module="needs_a_library:load")


def test_what_is_not_there_is_a_typed_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").touch()
    with pytest.raises(InvalidArgumentError, match=r"no model\.py in"):
        load(str(tmp_path / "empty"))
    with pytest.raises(InvalidArgumentError, match="no Python file"):
        load(str(tmp_path / "weights.bin"))
    with pytest.raises(NotFoundError, match="absent"):
        load(str(tmp_path / "absent"))
    for nothing in (None, ""):
        with pytest.raises(InvalidArgumentError, match="no path"):
            load(nothing)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\n", "has no load"),
        ("load = 3\n", "must be a function load.*got int"),
        ("def load(path): pass\n", "returned None"),
        ("async def load(path): return 1\n", "async function"),
        ("def load(): return 1\n", "too many positional"),
        ("def load(path, other): return 1\n", "signature .path, other.*missing a required argument: 'other'"),
    ],
)
def test_a_wrong_load_says_what_is_wrong(tmp_path, source, words):
    with pytest.raises(InvalidArgumentError, match=words):
        load(write(tmp_path, source))


def test_an_option_that_load_does_not_take_is_named(tmp_path):
    directory = write(tmp_path, "def load(path, *, scale=1): return 1\n")
    with pytest.raises(
        InvalidArgumentError, match=r"\(path, \*, scale=1\).*unexpected keyword argument 'scal'"
    ) as caught:
        load(directory, scal=2)
    assert caught.value.details["keywords"] == ["scal"]


def test_a_type_error_inside_load_is_not_masked(tmp_path):
    with pytest.raises(TypeError, match="unsupported operand"):
        load(write(tmp_path, "def load(path): return 1 + 'a'\n"))
    with pytest.raises(TypeError, match="unexpected keyword"):
        load(write(tmp_path / "b", "def inner(): pass\ndef load(path): return inner(x=1)\n"))


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("def load(:\n", SyntaxError),
        ("import no_such_library\n", ModuleNotFoundError),
        ("raise SystemExit(3)\n", SystemExit),
    ],
)
def test_what_model_py_raises_passes_through_and_leaves_no_half_module(tmp_path, source, kind):
    with pytest.raises(kind) as caught:
        load(write(tmp_path, source))
    assert not isinstance(caught.value, HostError)
    assert "model" not in sys.modules


def test_a_load_without_a_signature_is_called_as_it_is():
    assert call_load(max, "path", {}, name="max") == "t"
