"""Files of models that have nothing but names, and a model.yaml if need be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.finders import ModelSpec, find_spec

if TYPE_CHECKING:
    from pathlib import Path


def made(directory: Path, *names: str, yaml: str | None = None) -> str:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
    if yaml is not None:
        (directory / "model.yaml").write_text(yaml)
    return str(directory)


def spec_of(directory: Path, yaml: str) -> ModelSpec:
    return find_spec("m", made(directory, yaml=yaml))
