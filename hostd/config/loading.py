"""How a host gets its configuration: from all sources, or as the JSON that another process made of it.

`sources` reads them. Its import costs more than everything else here, and the supervisor, which gets JSON, never pays.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from hostd.config.settings import HostConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


def config_from_json(text: str | bytes) -> HostConfig:
    """Return the configuration that `HostConfig.to_json` wrote; file and environment are not looked at.

    Raises InvalidArgumentError that names the setting.
    """
    try:
        return HostConfig.model_validate_json(text)
    except ValidationError as error:
        from hostd.config.sources import explain  # noqa: PLC0415 - only a failure needs it

        raise explain(error, []) from None


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
    from hostd.config.sources import gather  # noqa: PLC0415 - see above

    gathered = gather(arguments or {}, file=Path(file) if file is not None else None, environment=environment)
    return gathered.config
