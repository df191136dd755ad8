"""The python loader: a model.py executed as a real module, or a function in a package."""

import copy
import inspect
import sys
import traceback

import pytest
from loading_rig import refused

from hostd_workers.loaders._common.opening import call_load
from hostd_workers.loaders.python import load
from hostd_workers.wire.errors import HostError

ECHO = "def load(path, **options):\n    return (path, options)\n"
MODEL = "class Model: pass\ndef load(path): return Model()\n"


@pytest.fixture(autouse=True)
def import_state():
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path):
    """Write a file of a model, and return the path of its directory."""

    def write_file(source, name="model.py", directory="m"):
        (tmp_path / directory).mkdir(exist_ok=True)
        (tmp_path / directory / name).write_text(source)
        return str(tmp_path / directory)

    return write_file


def test_load_gets_the_path_as_given_and_the_options(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(ECHO)
    assert load("m", scale=2, path2="x") == ("m", {"scale": 2, "path2": "x"})
    file = f"{write(ECHO, 'my-model.py')}/my-model.py"
    assert load(file) == (file, {})


SOURCE = """from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
@dataclass
class Model:
    names: ClassVar[list] = []
    scale: int = 1
    def predict(self, x):
        raise KeyError(x)
def load(path):
    return Model(3)
"""


def test_the_module_can_be_imported_and_inspected_under_its_name(write):
    directory = write(SOURCE)
    model = load(directory)
    module = sys.modules[type(model).__module__]
    assert type(model).__module__ == "model"
    assert module.__file__ == f"{directory}/model.py"
    assert "scale: int = 1" in inspect.getsource(type(model))
    assert copy.copy(model) == model
    with pytest.raises(KeyError) as caught:
        model.predict("x")
    assert "raise KeyError(x)" in "".join(traceback.format_exception(caught.value))


def test_modules_beside_the_model_can_be_imported_and_find_the_same_model_module(write):
    write("def net():\n    from model import Net\n    return Net\n", "sibling_of_model.py")
    sibling = load(write("import sibling_of_model\nclass Net: pass\ndef load(path): return sibling_of_model\n"))
    assert sibling.net() is sys.modules["model"].Net


def test_each_load_has_a_module_of_its_own(write):
    first, second, again = (load(write(MODEL, directory=name)) for name in "aba")
    assert len({type(model) for model in (first, second, again)}) == 3
    assert len({type(model).__module__ for model in (first, second, again)}) == 3
    assert inspect.getsourcefile(type(second)) == f"{write(MODEL, directory='b')}/model.py"


@pytest.mark.parametrize("stem", ["json", "statistics", "1st", "class", "a b"])
def test_a_file_name_that_is_taken_or_no_identifier_gets_another_module_name(write, stem):
    before = sys.modules.get(stem)
    name = type(load(f"{write(MODEL, f'{stem}.py')}/{stem}.py")).__module__
    assert name.isidentifier()
    assert name != stem
    assert sys.modules.get(stem) is before


def test_a_function_of_a_package_needs_no_path_and_may_lie_in_the_models_directory(write, tmp_path):
    write("", "__init__.py", "lib_of_models")
    nets = "def load(path, size=1): return ('load', path, size)\n"
    nets += "class Net:\n    def __init__(self, path): self.path = path\n"
    write(nets, "nets.py", "lib_of_models")
    sys.path.insert(0, str(tmp_path))
    assert load(None, module="lib_of_models.nets", size=4) == ("load", None, 4)
    assert load(None, module="lib_of_models.nets:load") == ("load", None, 1)
    assert load("some-id", module="lib_of_models.nets:Net").path == "some-id"
    directory = write(ECHO, "own_module_of_model.py")
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
    refused(words, load, None, module=reference)


def test_what_is_not_there_is_a_typed_error(write):
    directory = write("", "weights.bin")
    refused(r"no model\.py in", load, directory)
    refused("no Python file", load, f"{directory}/weights.bin")
    for nothing in (None, ""):
        refused("no path", load, nothing)


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
def test_a_wrong_load_says_what_is_wrong(write, source, words):
    refused(words, load, write(source))


def test_an_option_that_load_does_not_take_is_named(write):
    directory = write("def load(path, *, scale=1): return 1\n")
    error = refused(r"\(path, \*, scale=1\).*unexpected keyword argument 'scal'", load, directory, scal=2)
    assert error.details["keywords"] == ["scal"]


@pytest.mark.parametrize(
    ("source", "kind", "says"),
    [
        ("def load(:\n", SyntaxError, ""),
        ("import no_such_library\n", ModuleNotFoundError, "no_such_library"),
        ("raise SystemExit(3)\n", SystemExit, "3"),
        ("def load(path): return 1 + 'a'\n", TypeError, "unsupported operand"),
        ("def inner(): pass\ndef load(path): return inner(x=1)\n", TypeError, "unexpected keyword"),
    ],
)
def test_what_model_py_raises_passes_through_and_leaves_no_half_module(write, source, kind, says):
    with pytest.raises(kind) as caught:
        load(write(source))
    assert says in str(caught.value)
    assert not isinstance(caught.value, HostError)
    assert "model" not in sys.modules or kind is TypeError
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        load(write("import no_such_library\n", "needs_a_library.py"), module="needs_a_library:load")


def test_a_load_without_a_signature_is_called_as_it_is():
    assert call_load(max, "path", {}, name="max") == "t"
