"""C02: plugins of each kind, chosen by name in the configuration. The settings of models are in `test_c03_models_dir`."""

import textwrap

import pytest

import hostd

THIRD_PARTY = """
    from hostd.finders import ModelSpec

    class ByMark:
        looks_for = "a file third.mark"

        def __init__(self, mark="third.mark"):
            self._mark = mark

        def find(self, model_id, path):
            import os
            return ModelSpec("third", {}) if path and os.path.exists(os.path.join(path, self._mark)) else None

    class Fixed:
        def __init__(self, size_bytes=4321):
            self._size_bytes = size_bytes

        def estimate(self, model_id, path, model_type):
            return self._size_bytes

    class Net:
        def __init__(self, **options):
            self.options = options

        def predict(self, x):
            return [x, self.options]

    def load_net(path, **options):
        return Net(**options)

    def doubled(spec, *, times=2):
        model = spec.load()
        predict = model.predict
        model.predict = lambda x: predict(x * times)
        return model
"""
ENTRY_POINTS = """
    [hostd.finders]
    by_mark = third_party_plugins:ByMark
    [hostd.sizers]
    fixed = third_party_plugins:Fixed
    [hostd.loaders]
    third = third_party_plugins:load_net
    [hostd.initializers]
    doubled = third_party_plugins:doubled
"""


@pytest.fixture
def installed(install):
    """A package with plugins of each kind, installed for the supervisor and its workers, not for this process."""
    metadata = install(third_party_plugins=THIRD_PARTY) / "third_party_plugins-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party-plugins\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(textwrap.dedent(ENTRY_POINTS))


@pytest.fixture
def marked(tmp_path):
    directory = tmp_path / "marked"
    directory.mkdir()
    (directory / "third.mark").touch()
    return directory


def why_not(**settings):
    """Return why a host with these settings does not start."""
    with pytest.raises(hostd.HostError) as caught, hostd.Host(**settings):
        pytest.fail("the host has started", pytrace=False)
    return caught.value.message


@pytest.mark.parametrize("prefix", ["", "third_party_plugins:"], ids=["entry-point", "import-path"])
def test_c02_plugins_of_a_third_party_are_chosen_by_entry_point_and_by_import_path(installed, marked, prefix):
    types = {"finder": "ByMark", "sizer": "Fixed", "loader": "load_net", "initializer": "doubled"}
    if not prefix:
        types = {"finder": "by_mark", "sizer": "fixed", "loader": "third", "initializer": "doubled"}
    with hostd.Host(
        finders={"default": {"type": prefix + types["finder"]}},
        sizers={"default": {"type": prefix + types["sizer"], "config": {"size_bytes": 777}}},
        loaders={"third": {"type": prefix + types["loader"], "config": {"scale": 3}}},
        initializers={"default": {"type": prefix + types["initializer"], "config": {"times": 5}}},
    ) as host:
        client = host.client()
        assert client.load_model("m", marked, options={"own": 1}).predict(2) == [10, {"scale": 3, "own": 1}]
        estimate = client.estimate_model_size("other", marked)
        assert (int(estimate), estimate.source) == (777, "estimated")


def test_c02_more_than_one_may_be_configured_under_names_of_their_own(installed, marked):
    (marked / "other.mark").touch()
    with hostd.Host(
        finders={
            "marks": {"type": "by_mark"},
            "others": {"type": "by_mark", "config": {"mark": "other.mark"}},
            "nobodys": {"type": "by_mark", "config": {"mark": "no.mark"}},
        },
        initializers={"twice": {"type": "doubled"}, "thrice": {"type": "doubled", "config": {"times": 3}}},
    ) as host:
        client = host.client()
        assert client.load_model("a", marked, finder="marks").predict(1) == [1, {}]
        assert client.load_model("b", marked, finder="others", initializer="twice").predict(1) == [2, {}]
        assert client.load_model("c", marked, finder="others", initializer="thrice").predict(1) == [3, {}]
        with pytest.raises(hostd.InvalidArgumentError, match=r"third\.mark"):
            client.load_model("d", marked, finder="nobodys")
        for more, words in (
            ({}, r"model\.py"),
            ({"finder": "no_such_thing"}, "default, files, marks, mlflow"),
            ({"finder": "third_party_plugins:ByMark"}, "there is no finder"),  # nothing is imported for a request
            ({"finder": "marks", "initializer": "no_such_thing"}, "default, doubled, thrice, twice"),
        ):
            with pytest.raises(hostd.InvalidArgumentError, match=words):
                client.load_model("e", marked, **more)
        (marked / "model.yaml").write_text("loader: no_such_thing\n")
        with pytest.raises(hostd.InvalidArgumentError, match=r"python.*sklearn.*third"):
            client.load_model("e", marked)
        assert {model.id for model in client.list_models()} == {"a", "b", "c"}


KNOWN = {
    "finders": ["files", "model_yaml", "multi", "by_mark"],
    "loaders": ["python", "sklearn", "onnx", "third"],
    "initializers": ["default", "doubled"],
    "sizers": ["directory", "fixed"],
}


def test_c02_an_unknown_type_stops_the_start_and_the_known_ones_are_listed(installed):
    for section, known in KNOWN.items():
        said = why_not(**{section: {"default": {"type": "no_such_thing"}}})
        assert [name for name in (f"{section}.default", "no_such_thing", *known) if name not in said] == []


SIZERS = [
    ("directory", "sizers.default"),
    ({"type": "directory", "config": ["multiplier"]}, "sizers.default.config"),
    ({"type": 5}, "sizers.default.type"),
    ({"config": {}}, "sizers.default"),
    ({"type": "directory", "config": {"multiplier": "many"}}, "sizers.default"),
    ({"type": "directory", "config": {"multiplyer": 2}}, "sizers.default"),
    ({"type": "directory", "confg": {}}, "sizers.default.confg"),
]


def test_c02_a_section_or_a_plugin_that_is_wrong_is_an_error_that_names_it():
    for section in (*KNOWN, "models", "workers", "limits"):
        for wrong in ("text", 5, ["a", "b"]):
            said = why_not(**{section: wrong})
            assert section in said
            assert "mapping" in said
    for plugin, named in SIZERS:
        assert named in why_not(sizers={"default": plugin}), plugin
