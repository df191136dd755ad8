"""The command that brings what is missing: it fits the interpreter, and how the package came into it."""

import configparser
import importlib.util
import json
import re
import sys
from importlib import metadata

import pytest
from helpers import REPOSITORY

from hostd_workers.wire import installing
from hostd_workers.wire.installing import install_extras, install_modules

PIP = f"{sys.executable} -m pip install"


@pytest.fixture(autouse=True)
def fresh():
    installing._requirement.cache_clear()
    yield
    installing._requirement.cache_clear()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Make all that this interpreter can import a directory, with pip in it."""
    directory = tmp_path / "site"
    (directory / "pip").mkdir(parents=True)
    (directory / "pip" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(directory)])
    return directory


@pytest.fixture
def installed(site):
    """Let this interpreter have the package as an installer brings it, with this `direct_url.json` (PEP 610)."""

    def install(origin, by="pip"):
        info = site / "hostd-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostd\nVersion: 0.1.0\n")
        if by:
            (info / "INSTALLER").write_text(by)
        if origin is not None:
            (info / "direct_url.json").write_text(json.dumps(origin))

    return install


@pytest.mark.parametrize(
    ("about", "option", "place"), [({"editable": True}, "-e ", "a checkout"), ({}, "", "a%20checkout")]
)
def test_what_came_from_a_directory_is_installed_from_there_again(installed, tmp_path, about, option, place):
    source = tmp_path / "a checkout"
    source.mkdir()
    installed({"url": f"file://{tmp_path}/{place}", "dir_info": about})
    assert install_extras("sklearn") == f"{PIP} {option}'{source}[sklearn]'"


GIT = {"vcs_info": {"vcs": "git", "commit_id": "4d7a"}}
WHEEL = "https://files.example/hostd-0.1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (None, "hostd[sklearn,onnx]"),
        ({"url": "https://git.example/h.git", **GIT}, "hostd[sklearn,onnx] @ git+https://git.example/h.git@4d7a"),
        (
            {"url": "https://git.example/all.git", "subdirectory": "hostd", **GIT},
            "hostd[sklearn,onnx] @ git+https://git.example/all.git@4d7a#subdirectory=hostd",
        ),
        ({"url": WHEEL, "archive_info": {}}, f"hostd[sklearn,onnx] @ {WHEEL}"),
    ],
    ids=["an index", "a repository", "a part of a repository", "a file elsewhere"],
)
def test_what_came_from_elsewhere_is_fetched_from_there(installed, origin, requirement):
    installed(origin)
    assert install_extras("sklearn", "onnx") == f"{PIP} '{requirement}'"


@pytest.mark.parametrize(
    ("origin", "by"),
    [({"url": "file:///gone/hostd-0.1.0-py3-none-any.whl", "archive_info": {}}, "pip"), (None, None)],
    ids=["its file is gone", "it only lies on the path"],
)
def test_where_the_package_cannot_be_had_again_the_libraries_are_named(installed, origin, by):
    installed(origin, by=by)
    assert install_extras("sklearn", "onnx") == f"{PIP} numpy scikit-learn joblib skops onnxruntime"


def test_an_interpreter_without_the_package_is_told_the_libraries(site):
    assert install_extras("xgboost") == f"{PIP} numpy xgboost"
    assert install_extras("of-a-plugin") == f"{PIP} of-a-plugin"
    assert install_modules("sklearn", "numpy", "sklearn") == f"{PIP} scikit-learn numpy"


def test_an_environment_without_pip_is_installed_into_from_outside(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    assert install_modules("yaml") == f"uv pip install --python {sys.executable} PyYAML"


def test_the_packages_of_each_extra_are_those_that_it_brings():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    brought = {
        extra: tuple(re.split(r"[<>=]", line)[0] for line in lines.split("\n") if line and line[0] not in "#%")
        for extra, lines in setup["options.extras_require"].items()
    }
    assert {name: brought[name] for name in installing.EXTRAS} == installing.EXTRAS
    offered = metadata.metadata("hostd").get_all("Provides-Extra")
    assert set(offered or ()) - {"test", "heavy"} == set(installing.EXTRAS)
