"""C02: plugins of each kind, chosen by name in the configuration. The settings of models are in `test_c03_models_dir`."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from helpers import Service

Serve: TypeAlias = "Callable[..., Service]"
ModelDir: TypeAlias = "Callable[..., str]"

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
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with plugins of each kind, installed for the supervisor and its workers, not for this process."""
    site = tmp_path / "site"
    metadata = site / "third_party_plugins-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party-plugins\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(textwrap.dedent(ENTRY_POINTS))
    (site / "third_party_plugins.py").write_text(textwrap.dedent(THIRD_PARTY))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))))
    return site


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    directory = tmp_path / "marked"
    directory.mkdir()
    (directory / "third.mark").touch()
    return directory


def why_not(**settings: Any) -> str:
    """Return why a host with these settings does not start."""
    with pytest.raises(hostd.HostError) as caught, hostd.Host(**settings):
        pytest.fail("the host has started", pytrace=False)
    return caught.value.message


@pytest.mark.parametrize("prefix", ["", "third_party_plugins:"], ids=["entry-point", "import-path"])
def test_c02_plugins_of_a_third_party_are_chosen_by_entry_point_and_by_import_path(
    installed: Path, marked: Path, prefix: str
) -> None:
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


def test_c02_more_than_one_may_be_configured_under_names_of_their_own(installed: Path, marked: Path) -> None:
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
        with pytest.raises(hostd.InvalidArgumentError, match=r"model\.py"):
            client.load_model("e", marked)


@pytest.mark.parametrize(
    "section",
    [
        "finders",
        "loaders",
        "initializers",
        "sizers",
    ],
)
def test_c02_an_unknown_type_stops_the_start_and_the_known_ones_are_listed(installed: Path, section: str) -> None:
    known = {
        "finders": ["files", "model_yaml", "multi", "by_mark"],
        "loaders": ["python", "sklearn", "onnx", "third"],
        "initializers": ["default", "doubled"],
        "sizers": ["directory", "fixed"],
    }[section]
    said = why_not(**{section: {"default": {"type": "no_such_thing"}}})
    assert f"{section}.default" in said
    assert "no_such_thing" in said
    assert [name for name in known if name not in said] == []


def test_c02_an_unknown_name_in_a_load_lists_the_known_ones_and_loads_nothing(installed: Path, marked: Path) -> None:
    with hostd.Host(
        finders={"marks": {"type": "by_mark"}}, initializers={"twice": {"type": "doubled"}}, loaders={}
    ) as host:
        client = host.client()
        with pytest.raises(hostd.InvalidArgumentError, match="default, files, marks, mlflow"):
            client.load_model("m", marked, finder="no_such_thing")
        with pytest.raises(hostd.InvalidArgumentError, match="default, doubled, twice"):
            client.load_model("m", marked, finder="marks", initializer="no_such_thing")
        (marked / "model.yaml").write_text("loader: no_such_thing\n")
        with pytest.raises(hostd.InvalidArgumentError, match=r"python.*sklearn.*third"):
            client.load_model("m", marked)
        assert client.list_models() == []


def test_c02_no_request_makes_the_supervisor_import_anything(shared: hostd.Client, model_dir: ModelDir) -> None:
    for finder in ("os:system", "this:x", "third_party_plugins:ByMark"):
        with pytest.raises(hostd.InvalidArgumentError, match="there is no finder"):
            shared.load_model("m", model_dir(), finder=finder)


@pytest.mark.parametrize("section", ["finders", "loaders", "initializers", "sizers", "models", "workers", "limits"])
@pytest.mark.parametrize("wrong", ["text", 5, ["a", "b"]], ids=repr)
def test_c02_a_section_that_is_no_mapping_is_an_error_that_names_it(section: str, wrong: Any) -> None:
    said = why_not(**{section: wrong})
    assert section in said
    assert "mapping" in said


@pytest.mark.parametrize(
    ("plugin", "named"),
    [
        ("directory", "sizers.default"),
        ({"type": "directory", "config": ["multiplier"]}, "sizers.default.config"),
        ({"type": 5}, "sizers.default.type"),
        ({"config": {}}, "sizers.default"),
        ({"type": "directory", "config": {"multiplier": "many"}}, "sizers.default"),
        ({"type": "directory", "config": {"multiplyer": 2}}, "sizers.default"),
        ({"type": "directory", "confg": {}}, "sizers.default.confg"),
    ],
    ids=repr,
)
def test_c02_a_plugin_that_is_configured_wrongly_is_an_error_that_names_it(plugin: Any, named: str) -> None:
    assert named in why_not(sizers={"default": plugin})


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"finders": {"default": {"type": "no_such_thing"}}}, hostd.InvalidArgumentError),
        ({"models": {"lazy_load": True}}, hostd.FailedPreconditionError),
    ],
    ids=["type", "directory"],
)
def test_c02_c03_what_is_wrong_with_the_settings_is_an_error_of_its_kind(
    settings: dict[str, Any], error: type[hostd.HostError]
) -> None:
    with pytest.raises(error), hostd.Host(**settings):
        pytest.fail("the host has started", pytrace=False)
