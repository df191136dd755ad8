"""How a host gets its configuration: from all sources (`sources`), or without pydantic where that will do (`outright`).

`received` reads the JSON that a supervisor gets of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hostd.config.outright import outright

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.config.settings import HostConfig


def load_config(
    arguments: Mapping[str, object] | None = None,
    *,
    file: str | Path | None = None,
    environment: bool = True,
) -> HostConfig:
    """Return the configuration: `arguments` win over `HOSTD_*` variables, those over `file`, that over the defaults.

    `arguments` has the shape of the file, with mappings for sections (`{"workers": {"drain_timeout_s": 3}}`); None
    means unset, but for the periods of `models`, which it turns off. A variable names a setting of a section with two
    underscores: `HOSTD_WORKERS__DRAIN_TIMEOUT_S=3`.
    Relative paths in the file are relative to the file, others to the working directory.

    Raises InvalidArgumentError for an unknown setting (with the nearest known one), a value of the wrong type or out of
    range, or a file that is not such a mapping; NotFoundError for a missing file. Every problem is listed at once.
    """
    from hostd.config.sources import gather  # noqa: PLC0415 - a fifth of a second, for pydantic above all

    gathered = gather(arguments or {}, file=Path(file) if file is not None else None, environment=environment)
    return gathered.config


def config_of_start(arguments: Mapping[str, object]) -> HostConfig:
    """Return what `load_config` makes of arguments that have both directories, as soon as it can be had.

    It is for a supervisor to read: of what `HostConfig` is made of it may lack all but the settings and `to_json`.
    """
    return outright(arguments) or load_config(arguments)
