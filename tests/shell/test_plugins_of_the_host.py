"""Plugins: which one a name means, how third parties bring their own, and what is never imported here."""

import sys
import textwrap

import pytest
from helpers import PATIENCE_S, REPOSITORY, program

from hostd.config.loading import load_config
from hostd.finders import ModelSpec
from hostd.plugins.registry import Plugins
from hostd.plugins.types import BUILT_IN_INITIALIZERS, BUILT_IN_LOADERS
from hostd.records import SizeEstimate
from hostd_workers.plugins import DEFAULT_INITIALIZER, builtin_loaders
from hostd_workers.wire.errors import InvalidArgumentError, NotFoundError

FINDERS = """
    from hostd.finders import ModelSpec

    class Catalogue:
        def __init__(self, *, known="net", loader="onnx"):
            self._known, self._loader = known, loader
            self.looks_for = f"the id {known}"

        def find(self, model_id, path):
            return ModelSpec(self._loader, {"id": model_id}) if model_id == self._known else None

    def made(**config):
        return Catalogue(**config)

    class Raising(Catalogue):
        def find(self, model_id, path):
            raise ZeroDivisionError("in a finder")

    class NoFinder:
        looks_for = "nothing"

    class Silent:
        find = Catalogue.find

    NUMBER = 5
"""
SIZERS = """
    class Sizer:
        def __init__(self, size=None):
            self._size = size

        def estimate(self, model_id, path, model_type):
            return self._size

    class NoSizer:
        pass
"""
BOMB = "raise RuntimeError('a module of workers was imported by the supervisor')\n"
ENTRY_POINTS = """
    [hostd.finders]
    catalogue = third_party.finding:Catalogue
    missing = third_party.absent:Finder
    files = third_party.absent:NeverAsked

    [hostd.sizers]
    third = third_party.sizing:Sizer

    [hostd.loaders]
    net = third_party.loading:load_net

    [hostd.initializers]
    warm = third_party.loading:Warm.up
"""


def install(folder, name, entry_points):
    """Install a package's metadata as pip does."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(textwrap.dedent(entry_points))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory of installed packages, with one that brings plugins of each kind."""
    folder = tmp_path / "site"
    package = folder / "third_party"
    package.mkdir(parents=True)
    for name, source in (("__init__", ""), ("finding", FINDERS), ("sizing", SIZERS), ("loading", BOMB)):
        (package / f"{name}.py").write_text(textwrap.dedent(source))
    install(folder, "third_party", ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "third_party"]:
        del sys.modules[name]


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


def plugins(**sections):
    return Plugins(load_config(sections, environment=False))


def loader_of(model, yaml, **sections):
    (model / "model.yaml").write_text(yaml)
    return plugins(**sections).find("m", str(model))


def test_finders_that_ask_each_other_in_a_circle_are_refused():
    multi = {name: {"type": "multi", "config": {"finders": [other]}} for name, other in ("ab", "bc", "ca")}
    with pytest.raises(InvalidArgumentError, match=r"finders\.a: it asks itself: a asks b asks c asks a"):
        plugins(finders=multi)


@pytest.mark.parametrize(
    ("named", "reference"), [("onnx", "onnx"), ("net", "third_party.loading:load_net"), ("a.b:c.d", "a.b:c.d")]
)
def test_c02_a_loader_is_built_in_or_an_entry_point_or_an_import_path(site, model, named, reference):
    assert sorted(BUILT_IN_LOADERS) == builtin_loaders()
    assert (DEFAULT_INITIALIZER,) == BUILT_IN_INITIALIZERS
    assert loader_of(model, f"loader: {named}\noptions: {{x: 1}}") == ModelSpec(reference, {"x": 1})


def test_c02_a_configured_loader_brings_its_config_and_model_yaml_counts_for_more(site, model):
    loaders = {
        "tuned": {"type": "net", "config": {"a": 1, "b": 1}},
        "onnx": {"type": "onnx", "config": {"threads": 2}},
    }
    spec = loader_of(model, "loader: tuned\noptions: {b: 2, c: 2}", loaders=loaders)
    assert spec == ModelSpec("third_party.loading:load_net", {"a": 1, "b": 2, "c": 2})
    assert loader_of(model, "loader: onnx", loaders=loaders) == ModelSpec("onnx", {"threads": 2})
    default = {"default": {"type": "a:b", "config": {"x": 1}}}
    assert loader_of(model, "env: {A: b}", loaders=default) == ModelSpec("a:b", {"x": 1}, env={"A": "b"})
    with pytest.raises(InvalidArgumentError, match=r"model\.yaml of .*model names no loader"):
        loader_of(model, "env: {A: b}")
    (model / "net.onnx").touch()
    assert loader_of(model, "", loaders=default) == ModelSpec("onnx"), (
        "the default is for what nothing tells a loader of"
    )


def test_c02_an_unknown_loader_is_an_error_that_lists_the_known_ones(site, model):
    with pytest.raises(
        InvalidArgumentError, match=r"no loader 'ml'; known are lightgbm, mine, .*, net, onnx, python"
    ) as e:
        loader_of(model, "loader: ml", loaders={"mine": {"type": "a:b"}})
    assert {*BUILT_IN_LOADERS, "net", "mine"} == set(e.value.details["known"])
    with pytest.raises(InvalidArgumentError, match=r"'a:b\.' must look like"):
        loader_of(model, "loader: 'a:b.'")


def test_a_loader_that_only_another_interpreter_may_know_is_passed_on(site, model):
    foreign = f"loader: theirs\npython: {sys.executable}"
    assert loader_of(model, foreign).loader == "theirs"
    own = {"workers": {"python": sys.executable}}
    assert loader_of(model, "loader: theirs", **own).loader == "theirs"
    assert loader_of(model, "loader: x", loaders={"x": {"type": "theirs"}}, **own).loader == "theirs"


def test_two_packages_that_declare_the_same_name_are_not_guessed(site, model):
    install(site, "same", "[hostd.loaders]\nnet = third_party.loading:load_net\n")
    assert loader_of(model, "loader: net").loader == "third_party.loading:load_net"
    install(site, "rival", "[hostd.loaders]\nnet = rival:load\nother = rival:other\n")
    with pytest.raises(InvalidArgumentError, match=r"more than one .*'net' in hostd.loaders: rival:load, third_party"):
        loader_of(model, "loader: net")
    assert loader_of(model, "loader: other").loader == "rival:other"


def test_c11_the_initializer_of_the_load_wins_over_that_of_model_yaml_and_that_over_the_configured_one(site, model):
    configured = {"default": {"type": "a:default", "config": {"d": 1}}, "mine": {"type": "warm", "config": {"m": 1}}}
    host = plugins(initializers=configured)

    def chosen(argument=None):
        spec = host.find("m", str(model), initializer=argument)
        return spec.initializer, spec.initializer_config

    (model / "model.yaml").write_text("loader: python")
    assert chosen() == ("a:default", {"d": 1})
    assert chosen("warm") == ("third_party.loading:Warm.up", {})
    (model / "model.yaml").write_text("loader: python\ninitializer: {type: mine, config: {y: 1}}")
    assert chosen() == ("third_party.loading:Warm.up", {"m": 1, "y": 1})
    assert chosen("mine") == ("third_party.loading:Warm.up", {"m": 1, "y": 1})
    assert chosen("x:y") == ("x:y", {})
    assert plugins().find("m", str(model), initializer="default").initializer == "default"
    (model / "model.yaml").write_text("loader: python")
    spec = plugins().find("m", str(model))
    assert (spec.initializer, spec.initializer_config) == (None, {})


def test_c02_an_unknown_initializer_is_an_error_that_lists_the_known_ones(site, model):
    (model / "model.yaml").write_text("loader: python")
    with pytest.raises(InvalidArgumentError, match="no initializer 'x'; known are default, mine, warm;"):
        plugins(initializers={"mine": {"type": "a:b"}}).find("m", str(model), initializer="x")
    (model / "model.yaml").write_text(f"loader: python\npython: {sys.executable}")
    assert plugins().find("m", str(model), initializer="x").initializer == "x"


@pytest.mark.parametrize("kind", ["catalogue", "third_party.finding:Catalogue", "third_party.finding:made"])
def test_c02_a_finder_of_a_third_party_is_configured_and_named(site, kind):
    host = plugins(finders={"mine": {"type": kind, "config": {"known": "a"}}})
    assert host.find("a", None, finder="mine") == ModelSpec("onnx", {"id": "a"})
    with pytest.raises(
        InvalidArgumentError, match=r"'mine' recognises no model 'b' at no path\. It looks for the id a"
    ):
        host.find("b", None, finder="mine")
    with pytest.raises(InvalidArgumentError, match="known are default, files, mine, mlflow, model_yaml"):
        host.find("net", None, finder=kind)


def test_c11_a_multi_finder_asks_in_order_names_and_types_alike(site, model):
    (model / "net.onnx").touch()
    parts = ["mine", "files", "catalogue", "third_party.finding:made"]
    host = plugins(
        finders={
            "default": {"type": "multi", "config": {"finders": parts}},
            "mine": {"type": "catalogue", "config": {"known": "a", "loader": "python"}},
        }
    )
    assert host.find("a", str(model)).loader == "python"
    assert host.find("b", str(model)) == ModelSpec("onnx")
    assert host.find("net", "/absent").options == {"id": "net"}
    with pytest.raises(NotFoundError, match="there is nothing at /absent"):
        host.find("b", "/absent")


WRONG = [
    (
        "finders",
        {"type": "nope"},
        r"finders\.x: there is no finder 'nope'; known are catalogue, files, m.*, model_yaml",
    ),
    ("finders", {"type": "missing"}, r"finders\.x: 'third_party\.absent:Finder' cannot be imported: No module named"),
    ("finders", {"type": "third_party.finding:Gone"}, r"finders\.x: .*cannot be imported: .*no attribute 'Gone'"),
    ("finders", {"type": "third_party.finding:"}, r"finders\.x: .*must look like 'package.module:attribute'"),
    ("finders", {"type": "third_party.finding:NUMBER"}, r"finders\.x: .*must be a class or a function, not a int"),
    ("finders", {"type": "third_party.finding:NoFinder"}, r"finders\.x: .*makes no finder: that has a method find"),
    ("finders", {"type": "third_party.finding:Silent"}, r"finders\.x: .*makes no finder: .* and a text looks_for"),
    (
        "finders",
        {"type": "catalogue", "config": {"knwon": 1}},
        r"finders\.x: its config does not fit Catalogue\(.*known",
    ),
    ("finders", {"type": "files", "config": {"a": 1}}, r"finders\.x: its config does not fit FilesFinder\(.*'a'"),
    ("finders", {"type": "multi"}, r"finders\.x: its config does not fit .*missing.*'finders'"),
    *(
        ("finders", {"type": "multi", "config": {"finders": each}}, r"finders\.x: its finders must be a list")
        for each in ([], "files", [1])
    ),
    ("finders", {"type": "multi", "config": {"finders": ["y"]}}, r"finders\.x: there is no finder 'y'"),
    ("finders", {"type": "multi", "config": {"finders": ["files", "x"]}}, r"finders\.x: it asks itself: x asks x"),
    ("sizers", {"type": "nope"}, r"sizers\.x: there is no sizer 'nope'; known are declared, directory, third"),
    ("sizers", {"type": "directory", "config": {"multiplier": 0}}, r"sizers\.x: multiplier must be a number above 0"),
    ("sizers", {"type": "directory", "config": {"factor": 2}}, r"sizers\.x: its config does not fit DirectorySizer"),
    ("sizers", {"type": "third_party.sizing:NoSizer"}, r"sizers\.x: .*makes no sizer"),
    ("loaders", {"type": "nope"}, r"loaders\.x: there is no loader 'nope'; known are lightgbm, .*, net, .*xgboost"),
    ("initializers", {"type": "nope"}, r"initializers\.x: there is no initializer 'nope'; known are default, warm"),
]


@pytest.mark.parametrize(("section", "plugin", "words"), WRONG, ids=[f"{s}-{p}" for s, p, _ in WRONG])
def test_c02_a_wrong_plugin_stops_the_start_and_names_its_section(site, section, plugin, words):
    with pytest.raises(InvalidArgumentError, match=words):
        plugins(**{section: {"x": plugin}})


def test_c24_what_the_default_finder_knows_is_recognised_and_so_is_what_is_wrong(site, model):
    host = plugins()
    assert not host.recognises("m", str(model))
    (model / "a.onnx").touch()
    assert host.recognises("m", str(model))
    (model / "model.yaml").write_text("loder: x")
    assert host.recognises("m", str(model))
    assert not host.recognises("m", str(model / "model.yaml"))
    assert not plugins(finders={"default": {"type": "catalogue"}}).recognises("m", str(model))
    host = plugins(finders={"default": {"type": "third_party.finding:Raising"}})
    with pytest.raises(ZeroDivisionError):
        host.find("m", str(model))
    assert host.recognises("m", str(model)), "its load is to tell what is wrong"


def test_c13_an_estimate_is_what_is_declared_or_else_what_the_sizer_says(site, model):
    (model / "weights").write_bytes(b"x" * 1000)
    host = plugins(sizers={"default": {"type": "directory", "config": {"multiplier": 3, "multipliers": {"big": 10}}}})
    assert plugins().estimate("m", str(model), "t") == SizeEstimate(2000, "estimated")
    assert host.estimate("m", str(model), "t") == SizeEstimate(3000, "estimated")
    assert host.estimate("m", str(model), "big") == SizeEstimate(10_000, "estimated")
    (model / "model.yaml").write_text("size: 4KiB")
    assert host.estimate("m", str(model), "t") == SizeEstimate(4096, "declared")
    with pytest.raises(NotFoundError, match="absent"):
        host.estimate("m", str(model / "absent"), "t")


def test_c02_a_sizer_of_a_third_party_may_leave_it_to_the_built_in_one(site, model):
    (model / "weights").write_bytes(b"x" * 1000)
    host = plugins(sizers={"default": {"type": "third", "config": {"size": 7}}})
    assert host.estimate("m", str(model), "t") == SizeEstimate(7, "estimated")
    assert plugins(sizers={"default": {"type": "third"}}).estimate("m", str(model), "t").bytes == 2000
    for wrong in ("7", -7, 1.5, True):
        host = plugins(sizers={"default": {"type": "third", "config": {"size": wrong}}})
        with pytest.raises(TypeError, match=r"Sizer\.estimate must return bytes or None"):
            host.estimate("m", str(model), "t")


LAZY = """
    import importlib.metadata, sys
    from hostd.config.loading import load_config
    from hostd.plugins.registry import Plugins

    path, model = sys.argv[1:]

    def made(**types):
        return Plugins(load_config({section: {"x": {"type": each}} for section, each in types.items()}))

    def refuse(**selection):
        raise AssertionError("entry points were read without a name that needs it")

    spec = made(loaders="net", initializers="warm").find("m", path)
    assert spec.loader == "third_party.loading:load_net", spec
    assert spec.initializer == "third_party.loading:Warm.up", spec
    foreign = [name for name in sys.modules if name.startswith(("third_party", "workers."))]
    assert all(name.startswith("hostd_workers.wire") for name in foreign), foreign
    importlib.metadata.entry_points = refuse  # not before: pydantic reads its own
    host = made(loaders="a:b", sizers="directory")
    assert host.find("m", model).loader == "onnx"
    host.estimate("m", model, "t")
"""


def test_the_supervisor_imports_no_module_of_a_loader_and_reads_no_entry_points_for_nothing(site, model, tmp_path):
    (model / "model.yaml").write_text("loader: net\ninitializer: warm")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.onnx").touch()
    with program(LAZY, model, tmp_path / "plain", PYTHONPATH=f"{site}:{REPOSITORY}") as running:
        assert running.wait(PATIENCE_S) == 0
