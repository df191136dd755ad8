"""Loaders and initializers by name: built in, as `module:attr`, and as entry points of the worker's environment."""

import subprocess
import sys
import textwrap

import pytest

import hostd_workers
from hostd_workers.api import Served, Specification
from hostd_workers.plugins import DEFAULT_INITIALIZER, builtin_loaders, initialize, load_with
from hostd_workers.wire.errors import InvalidArgumentError

LOADERS = """
    class Loaders:
        @staticmethod
        def load(path, **options):
            return ("nested", path, options)

    def load(path, *, factor=1):
        if factor == 0:
            raise TypeError("the loader's own")
        return (path, factor)

    def nothing(path):
        return None

    async def later(path):
        return 1

    def warmed(spec, /, *, rounds=1):
        return ("warmed", spec.load(), rounds, spec.model_id)

    def raising(spec):
        raise TypeError("the initializer's own")

    not_callable = 3
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    (tmp_path / "house_loaders.py").write_text(textwrap.dedent(LOADERS))
    (tmp_path / "broken_loaders.py").write_text("import a_library_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "house_loaders", raising=False)


@pytest.fixture
def installed(tmp_path):
    """Write what an installed package leaves in an environment: a directory with its metadata and entry points."""

    def install(package, entry_points):
        directory = tmp_path / f"{package}-1.0.dist-info"
        directory.mkdir()
        (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (directory / "entry_points.txt").write_text(entry_points)

    return install


def a_spec(loader="house_loaders:load", **options):
    return Specification("m", "/p", loader, options, load_with)


def test_the_builtin_loaders_are_the_files_of_the_package():
    assert builtin_loaders() == ["lightgbm", "mlflow", "onnx", "python", "sklearn", "torch", "transformers", "xgboost"]


def test_a_function_of_a_module_is_a_loader_and_gets_path_and_options():
    assert load_with("house_loaders:load", "/p", {"factor": 3}) == ("/p", 3)
    assert load_with("house_loaders:Loaders.load", None, {"a": 1}) == ("nested", None, {"a": 1})


def test_what_a_loader_or_an_initializer_raises_goes_through():
    with pytest.raises(TypeError, match="the loader's own"):
        load_with("house_loaders:load", "/p", {"factor": 0})
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        load_with("broken_loaders:load", "/p", {})
    with pytest.raises(TypeError, match="the initializer's own"):
        initialize(a_spec(), "house_loaders:raising", {})
    with pytest.raises(TypeError, match="the loader's own"):
        initialize(a_spec(factor=0), "house_loaders:warmed", {})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("torch9", "no loader 'torch9'; known are: .*onnx, python, sklearn"),
        ("", "there is no loader ''"),
        ("_opening", "there is no loader '_opening'"),
        ("../x", "there is no loader"),
        (":load", "must look like"),
        ("house_loaders:", "must look like"),
        (".house_loaders:load", "must look like"),
        ("house loaders:load", "must look like"),
        ("no_such_module:load", "no module 'no_such_module'"),
        ("house_loaders.sub:load", "house_loaders"),
        ("house_loaders:nope", "names nothing"),
        ("house_loaders:load.nope", "names nothing"),
        ("house_loaders:not_callable", "must be a function"),
        ("house_loaders:later", "async function"),
        ("house_loaders:nothing", "returned None"),
        ("house_loaders:load", r"has the signature \(path, \*, factor=1\)"),
    ],
)
def test_a_name_that_is_no_loader_or_an_option_that_is_none_is_refused_with_the_reason(name, says):
    with pytest.raises(InvalidArgumentError, match=says):
        load_with(name, "/p", {"faktor": 3} if name == "house_loaders:load" else {})


# Entry points


def test_an_entry_point_of_an_installed_package_is_a_loader(installed):
    installed("house", "[hostd.loaders]\nhouse = house_loaders:load\ndeep = house_loaders:Loaders.load [extra]\n")
    assert load_with("house", "/p", {"factor": 3}) == ("/p", 3)
    assert load_with("deep", "/p", {}) == ("nested", "/p", {})
    known = r"known are: deep, house, .*onnx.*entry point 'hostd\.loaders'"
    with pytest.raises(InvalidArgumentError, match=known) as caught:
        load_with("hause", "/p", {})
    assert caught.value.details["known"] == sorted({"deep", "house", *builtin_loaders()})


def test_a_built_in_name_is_not_taken_over_by_an_entry_point(installed):
    loader = "[hostd.loaders]\npython = house_loaders:load\n"
    installed("house", f"{loader}[hostd.initializers]\ndefault = house_loaders:raising\n")
    with pytest.raises(InvalidArgumentError, match="has no path"):
        load_with("python", None, {})
    assert initialize(a_spec(), DEFAULT_INITIALIZER, {}) == ("/p", 1)


def test_one_name_of_two_packages_is_refused_unless_it_is_the_same_thing(installed):
    installed("first", "[hostd.loaders]\nhouse = house_loaders:load\n")
    installed("second", "[hostd.loaders]\nhouse = house_loaders:load\n")
    assert load_with("house", "/p", {}) == ("/p", 1)
    installed("third", "[hostd.loaders]\nhouse = house_loaders:nothing\n")
    with pytest.raises(InvalidArgumentError, match="house_loaders:load, house_loaders:nothing; name one of these"):
        load_with("house", "/p", {})


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("house_loaders:nope", "names nothing"),
        ("no_such_module:load", "no module 'no_such_module'"),
        ("house_loaders", "must look like"),
        ("house_loaders:not_callable", "the loader 'house' must be a function"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_a_typed_error(installed, target, says):
    installed("house", f"[hostd.loaders]\nhouse = {target}\n")
    with pytest.raises(InvalidArgumentError, match=says):
        load_with("house", "/p", {})


def test_entry_points_are_read_only_for_a_name_that_nothing_else_explains(tmp_path):
    (tmp_path / "model.py").write_text("def load(path):\n    return print\n")
    script = """
import sys
from hostd_workers.api import Specification
from hostd_workers.plugins import initialize, load_with
initialize(Specification("m", sys.argv[1], "python", {}, load_with), "default", {})
print("importlib.metadata" in sys.modules)
initialize(Specification("m", None, "os:listdir", {}, load_with), "default", {})
print("importlib.metadata" in sys.modules)
"""
    # Isolated, because what an environment brings into every start may read entry points too.
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "hostd_workers").symlink_to(hostd_workers.__path__[0])
    path = [str(tmp_path / "packages"), *sys.path]
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {path!r}\n{script}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


# Initializers


def test_the_default_initializer_is_what_the_loader_returns():
    assert initialize(a_spec(factor=2), DEFAULT_INITIALIZER, {}) == ("/p", 2)
    with pytest.raises(InvalidArgumentError, match=r"initializer 'default' has the signature \(spec"):
        initialize(a_spec(), DEFAULT_INITIALIZER, {"rounds": 1})


def test_an_initializer_gets_the_specification_and_its_configuration(installed):
    expected = ("warmed", ("/p", 2), 5, "m")
    assert initialize(a_spec(factor=2), "house_loaders:warmed", {"rounds": 5}) == expected
    installed("house", "[hostd.initializers]\nwarm = house_loaders:warmed\n")
    assert initialize(a_spec(factor=2), "warm", {"rounds": 5}) == expected


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("nope", {}, "no initializer 'nope'; known are: default; .*entry point 'hostd.initializers'"),
        ("house_loaders:nope", {}, "names nothing"),
        ("house_loaders:not_callable", {}, r"must be a function initialize\(spec, \*\*config\), got int"),
        ("house_loaders:later", {}, "async function"),
        ("house_loaders:nothing", {}, "the initializer 'house_loaders:nothing' returned None"),
        ("house_loaders:warmed", {"runds": 1}, r"has the signature \(spec, /, \*, rounds=1\)"),
    ],
)
def test_a_name_that_is_no_initializer_is_refused_with_the_reason(name, config, says):
    with pytest.raises(InvalidArgumentError, match=says):
        initialize(a_spec(), name, config)


def test_a_specification_loads_what_it_names(tmp_path):
    (tmp_path / "own_model.py").write_text(
        "from hostd_workers.api import Served\ndef load(path, *, n=0):\n    return Served(n, methods=('bit_length',))\n"
    )
    spec = Specification("m", str(tmp_path / "own_model.py"), "python", {"n": 3}, load_with)
    assert spec.load() == Served(3, methods=("bit_length",))
