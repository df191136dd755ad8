"""The finder that reads `model.yaml`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hostd.config.spec import NAME as SETTINGS
from hostd.finders.files import FilesFinder, MlflowFinder, file_names
from hostd.finders.hub import refuse_hub_directory
from hostd.finders.multi import MultiFinder
from hostd.finders.protocol import looking_at
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from hostd.config.spec import ModelSpec
    from hostd.finders.protocol import Finder

_MISSPELT = ("model.yml", "Model.yaml", "models.yaml")


class ModelYamlFinder:
    """Reads `model.yaml`. If that names no loader, the files beside it tell which; if these do not, it stays empty."""

    looks_for = f"a {SETTINGS}"

    def __init__(self) -> None:
        self._beside: Finder = MultiFinder((MlflowFinder(), FilesFinder()))

    def find(self, model_id: str, path: str | None) -> ModelSpec | None:
        """Return what the `model.yaml` in the directory `path` says; None if there is none.

        Raises NotFoundError if nothing is at `path`, FailedPreconditionError if the host may not look at it, and
        InvalidArgumentError for a wrong or misspelt `model.yaml`, or for files of two kinds beside it.
        """
        if not path:
            return None
        with looking_at(path):
            names = file_names(path) or []
            refuse_hub_directory(path)
        directory = Path(path).absolute()
        if SETTINGS not in names:
            if misspelt := [name for name in names if name in _MISSPELT]:
                raise InvalidArgumentError(f"{directory / misspelt[0]} is not read: rename it to {SETTINGS}")
            return None
        from hostd.config.model_yaml import read_settings  # noqa: PLC0415 - a start without such a file needs no pydantic

        spec = read_settings(directory / SETTINGS)
        if spec.loader:
            return spec
        found = self._beside.find(model_id, path)
        return spec if found is None else replace(spec, loader=found.loader)


class SettingsFinder(ModelYamlFinder):
    """Reads `model.yaml` for a load that names its loader: the files beside it need not tell one."""

    def __init__(self) -> None:
        self._beside: Finder = MultiFinder(())
