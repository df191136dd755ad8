"""The configuration of a start whose settings are plain: read without pydantic, which takes longer than the host.

Covers what `hostd.config.table` has a kind for, given as arguments with values of the right type. Everything else, and
whatever is wrong in any way, is left to `hostd.config.sources`, which knows all settings, sources and messages.
"""

from __future__ import annotations

import json
import operator
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hostd import paths
from hostd.config import values
from hostd.config.received import config_from_json
from hostd.config.table import SETTINGS, Setting
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hostd.config.settings import HostConfig

PREFIX: Final = "HOSTD_"
OTHER_VARIABLES: Final = ("HOSTD_ENDPOINT", "HOSTD_CONFIG")
"""Read by clients and by the command line, not by a host."""

_TAKEN: Final = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "share": (int, str),
    "path": (str, type(Path())),
}
"""The types of values that are certainly right for a kind. Exactly these: a subclass may be anything."""


class _OnlyPydanticCanTell(Exception):  # noqa: N818 - so far as this module knows nothing is wrong
    pass


def outright(arguments: Mapping[str, Any]) -> HostConfig | None:
    """Return what `load_config` makes of these arguments, and of the environment; None if only that can tell.

    Without both directories it cannot.
    """
    if any(name.upper().startswith(PREFIX) and name not in OTHER_VARIABLES for name in os.environ):
        return None
    try:
        read = _section(SETTINGS, arguments)
        if read["runtime_dir"] is None or read["state_dir"] is None:
            return None
        paths.check_socket_paths(read["runtime_dir"])
    except (_OnlyPydanticCanTell, HostError, ValueError, OverflowError):  # the other way finds it again, and tells
        return None
    return config_from_json(json.dumps(read))


def _section(known: Mapping[str, Any], given: Any) -> dict[str, Any]:
    if not isinstance(given, dict) or not given.keys() <= known.keys():
        raise _OnlyPydanticCanTell
    return {
        name: _section(about, given.get(name, {}))
        if not isinstance(about, Setting)
        else _value(about, given[name])
        if name in given
        else about.default
        for name, about in known.items()
    }


def _value(about: Setting, given: Any) -> bool | float | str:
    taken = (*_TAKEN.get(about.kind, ()), *((str,) if about.read == "size" else ()))
    if type(given) not in taken or (about.is_path and not about.read):
        raise _OnlyPydanticCanTell
    value: Any = getattr(values, about.read)(given) if about.read else given
    if about.is_path:
        return str(values.absolute(value))
    if about.kind == "float":
        value = float(value)
    size = len(value) if about.kind == "str" else value
    if (
        not all(getattr(operator, name)(size, bound) for name, bound in about.bounds)
        or (about.choices and value not in about.choices)
        or (about.pattern and re.fullmatch(about.pattern, value) is None)
    ):
        raise _OnlyPydanticCanTell
    return value  # type: ignore[no-any-return] # of the kind
