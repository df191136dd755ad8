"""The configuration as a supervisor gets it: JSON of which another process has made sure.

Covers reading it back without pydantic, whose import and classes take longer than the rest of a start. Nothing is
checked: the process that starts a supervisor has done that, in `hostd.config.loading`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from hostd import paths
from hostd.config.table import ENTRY, SETTINGS, TABLES

if TYPE_CHECKING:
    from hostd.config.settings import HostConfig

_PRELOAD = "preload"


class _Section:
    """Settings as attributes, frozen as those that pydantic makes."""

    def __init__(self, values: dict[str, Any]) -> None:
        vars(self).update(values)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise ValueError(f"{name} is frozen")


class _Config(_Section):
    """What `HostConfig` has that a running host asks for."""

    def __init__(self, values: dict[str, Any], text: str) -> None:
        super().__init__(values)
        vars(self)["_text"] = text

    @property
    def endpoint(self) -> str:
        """As that of `HostConfig`."""
        return paths.client_endpoint(vars(self)["runtime_dir"])

    def to_json(self) -> str:
        """Return what it was read from."""
        return str(vars(self)["_text"])


def config_from_json(text: str) -> HostConfig:
    """Return the configuration that `to_json` of an equal one wrote; file and environment are not looked at."""
    values: dict[str, Any] = json.loads(text)
    for name, known in SETTINGS.items():
        if name in TABLES:
            values[name] = {key: _Section(plugin) for key, plugin in values[name].items()}
        elif name == _PRELOAD:
            values[name] = {
                key: _Section(_with_paths({**ENTRY, **entry}, "path")) for key, entry in values[name].items()
            }
        elif isinstance(known, dict):
            values[name] = _Section(_with_paths(values[name], *(key for key, one in known.items() if one.is_path)))
        elif known.is_path:
            _with_paths(values, name)
    return cast("HostConfig", _Config(values, text))  # for whoever reads settings it is one


def _with_paths(values: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        values[name] = None if values[name] is None else Path(values[name])
    return values
