"""The command that brings what is missing: it fits the interpreter, and how the package came into it."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import pytest
from helpers import REPOSITORY

from hostd_workers.wire import installing
from hostd_workers.wire.installing import install_extras, install_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PIP = f"{sys.executable} -m pip install"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    installing._requirement.cache_clear()
    yield
    installing._requirement.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make all that this interpreter can import a directory, with pip in it."""
    directory = tmp_path / "site"
    (directory / "pip").mkdir(parents=True)
    (directory / "pip" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(directory)])
    return directory


@pytest.fixture
def installed(site: Path) -> Callable[..., None]:
    """Let this interpreter have the package as an installer brings it, with this `direct_url.json` (PEP 610)."""

    def install(origin: dict[str, object] | None, *, by: str | None = "pip") -> None:
        info = site / "hostd-0.1.0.dist-info"
        info.mkdir(exist_ok=True)
        installing._requirement.cache_clear()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostd\nVersion: 0.1.0\n")
        if by:
            (info / "INSTALLER").write_text(by)
        if origin is not None:
            (info / "direct_url.json").write_text(json.dumps(origin))

    return install


def test_what_came_from_an_index_is_named_as_there(installed: Callable[..., None]) -> None:
    installed(None)
    assert install_extras("sklearn", "onnx") == f"{PIP} 'hostd[sklearn,onnx]'"


def test_what_came_from_a_file_or_a_directory_is_installed_from_there_again(
    installed: Callable[..., None], tmp_path: Path
) -> None:
    source = tmp_path / "a checkout"
    source.mkdir()
    installed({"url": source.as_uri(), "dir_info": {"editable": True}})
    assert install_extras("sklearn") == f"{PIP} -e '{source}[sklearn]'"
    installed({"url": source.as_uri(), "dir_info": {}})
    assert install_extras("sklearn") == f"{PIP} '{source}[sklearn]'"


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (
            {"url": "https://git.example/hostd.git", "vcs_info": {"vcs": "git", "commit_id": "4d7a"}},
            "hostd[onnx] @ git+https://git.example/hostd.git@4d7a",
        ),
        (
            {
                "url": "https://git.example/all.git",
                "vcs_info": {"vcs": "git", "commit_id": "4d7a"},
                "subdirectory": "hostd",
            },
            "hostd[onnx] @ git+https://git.example/all.git@4d7a#subdirectory=hostd",
        ),
        (
            {"url": "https://files.example/hostd-0.1.0-py3-none-any.whl", "archive_info": {}},
            "hostd[onnx] @ https://files.example/hostd-0.1.0-py3-none-any.whl",
        ),
    ],
)
def test_what_came_from_elsewhere_is_fetched_from_there(
    installed: Callable[..., None], origin: dict[str, object], requirement: str
) -> None:
    installed(origin)
    assert install_extras("onnx") == f"{PIP} '{requirement}'"


@pytest.mark.parametrize(
    ("origin", "by"),
    [({"url": "file:///gone/hostd-0.1.0-py3-none-any.whl", "archive_info": {}}, "pip"), (None, None)],
    ids=["its file is gone", "it only lies on the path"],
)
def test_where_the_package_cannot_be_had_again_the_libraries_are_named(
    installed: Callable[..., None], origin: dict[str, object] | None, by: str | None
) -> None:
    installed(origin, by=by)
    assert install_extras("sklearn", "onnx") == f"{PIP} numpy scikit-learn joblib skops onnxruntime"


def test_an_interpreter_without_the_package_is_told_the_libraries(site: Path) -> None:
    assert install_extras("xgboost") == f"{PIP} numpy xgboost"
    assert install_extras("of-a-plugin") == f"{PIP} of-a-plugin"


def test_a_module_is_installed_by_the_name_of_its_package(site: Path) -> None:
    assert install_modules("sklearn", "numpy", "sklearn") == f"{PIP} scikit-learn numpy"


def test_an_environment_without_pip_is_installed_into_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    assert install_modules("yaml") == f"uv pip install --python {sys.executable} PyYAML"


def test_the_packages_of_each_extra_are_those_that_it_brings() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    brought = {
        extra: tuple(re.split(r"[<>=]", line)[0] for line in lines.split("\n") if line and line[0] not in "#%")
        for extra, lines in setup["options.extras_require"].items()
    }
    assert {name: brought[name] for name in installing.EXTRAS} == installing.EXTRAS
    offered = metadata.metadata("hostd").get_all("Provides-Extra")
    assert set(offered or ()) - {"test", "heavy"} == set(installing.EXTRAS)
