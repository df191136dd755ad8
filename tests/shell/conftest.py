"""A staging area in a models directory, on every kind of kernel that there may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kernels import KERNELS

from hostd.shell.deploys.staging import Staging
from hostd.shell.repository.directory import ModelsDirectory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Any:
    """The system calls of each kind of kernel in turn."""
    return KERNELS[request.param]()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty models directory."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def staging(models: Path, kernel: Any) -> Staging:
    """The staging area of the test's models directory."""
    return Staging(ModelsDirectory(models, calls=kernel))
