"""Loaders by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workers.plugins import builtin_loaders, load_with
from workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
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

        not_callable = 3
    """
    lines = source.splitlines()
    (tmp_path / "house_loaders.py").write_text("\n".join(line[8:] for line in lines))
    (tmp_path / "broken_loaders.py").write_text("import a_library_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "house_loaders", raising=False)


def test_the_builtin_loaders_are_the_files_of_the_package() -> None:
    assert {"onnx", "python", "sklearn"} <= set(builtin_loaders())
    assert builtin_loaders() == sorted(builtin_loaders())
    assert not any(name.startswith("_") for name in builtin_loaders())


@pytest.mark.usefixtures("_module")
def test_a_function_of_a_module_is_a_loader_and_gets_path_and_options() -> None:
    assert load_with("house_loaders:load", "/p", {"factor": 3}) == ("/p", 3)
    assert load_with("house_loaders:Loaders.load", None, {"a": 1}) == ("nested", None, {"a": 1})


@pytest.mark.usefixtures("_module")
def test_what_the_loader_raises_goes_through() -> None:
    with pytest.raises(TypeError, match="the loader's own"):
        load_with("house_loaders:load", "/p", {"factor": 0})
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        load_with("broken_loaders:load", "/p", {})


@pytest.mark.usefixtures("_module")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("torch9", "no loader 'torch9'; built in are: onnx, python"),
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
    ],
)
def test_a_name_that_is_no_loader_is_refused_with_the_reason(name: str, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        load_with(name, "/p", {})


@pytest.mark.usefixtures("_module")
def test_options_that_a_loader_does_not_take_are_refused_with_its_signature() -> None:
    with pytest.raises(InvalidArgumentError, match=r"has the signature \(path, \*, factor=1\)"):
        load_with("house_loaders:load", "/p", {"faktor": 3})
