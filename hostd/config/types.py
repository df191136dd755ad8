"""The types of the settings: what counts as a number, a switch, a period, a size or a directory.

Covers conversion and refusal of single values, strictly: what is merely convertible is mostly a mistake. Text that
means a value passes, because environment variables are text. Does not cover the settings (`hostd.config.settings`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Union

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from hostd import paths
from hostd.units import parse_size
from hostd_workers.wire.errors import HostError

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_WEEK_S = 7 * 86400
AUTO = "auto"
NONE = "none"
_ALL_PERCENT = 100
_PAGE_BYTES = 4096  # less is a number that lacks its unit
MAX_THREADS = 4096  # no machine has more cores; a larger number is a mistake
_RETRIES_MAX = 100  # with the longest backoff that is most of an hour: who wants more than that wants a supervisor


def _number(value: object) -> object:
    # To pydantic true is 1; to whoever wrote it in place of a number it is a mistake.
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {value!r}")  # noqa: TRY004 - pydantic takes only ValueError
    return value


def _switch(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")  # noqa: TRY004 - as above
    return value


def _period(value: object) -> object:
    return 0.0 if value is None else _number(value)


def _quiet_period(value: object) -> object:
    return 0.0 if isinstance(value, (int, float)) and value < 0 else _period(value)


def _directory(value: object) -> object:
    if value == "":
        raise ValueError(
            "must be a path; an empty one would be the working directory. Leave it out to have the default"
        )
    return value


def located(path: str | Path) -> Path:
    """Return a path in which `~` is a home directory, as `paths.expanded` does. Raises ValueError if there is none."""
    try:
        return paths.expanded(path)
    except HostError as error:
        raise ValueError(error.message) from None


def _size(value: object) -> int:
    try:
        return parse_size(value)
    except OverflowError:
        raise ValueError(f"{value!r} is too large") from None


def _share(value: object) -> int | str:
    if isinstance(value, str) and value.strip().endswith("%"):
        share_of(value, 0)
        return value.strip()
    size_bytes = _size(_number(value))
    if size_bytes < _PAGE_BYTES:
        raise ValueError(f"must be a percentage such as 80%, or at least {_PAGE_BYTES} bytes, not {value!r}")
    return size_bytes


def _budget(value: object) -> int | str:
    word = "none" if value is None else value.strip().lower() if isinstance(value, str) else ""
    if word in (AUTO, NONE):
        return word
    try:
        return _share(value)
    except ValueError as error:
        raise ValueError(f"{error} (or auto, or none)") from None


def share_of(share: int | str, whole_bytes: int) -> int:
    """Return the bytes that a share is of a whole. Raises ValueError for what is no percentage."""
    if isinstance(share, int):
        return share
    try:
        percent = float(share.strip().removesuffix("%"))
    except ValueError:
        raise ValueError(f"{share!r} is no percentage: write a number before the %, such as 80%") from None
    if not 0 < percent <= _ALL_PERCENT:
        raise ValueError(f"a percentage must be above 0 and up to 100, not {share!r}")
    return int(whole_bytes * percent / _ALL_PERCENT)


# The constraints come first: pydantic then hands them to the number's own check, which has better messages.
NotBool = BeforeValidator(_number)
Flag = Annotated[bool, BeforeValidator(_switch)]
Seconds = Annotated[float, Field(gt=0, le=_WEEK_S, allow_inf_nan=False), NotBool]
IdleSeconds = Annotated[float, Field(ge=0, allow_inf_nan=False), NotBool]
Period = Annotated[
    float,
    Field(ge=0, le=_WEEK_S, allow_inf_nan=False),
    BeforeValidator(_period),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": _WEEK_S}, {"type": "null"}]}),
]
"""Seconds, where 0 and None (which becomes 0) mean that it does not happen."""
QuietPeriod = Annotated[
    float,
    Field(ge=0, le=_WEEK_S, allow_inf_nan=False),
    BeforeValidator(_quiet_period),
    WithJsonSchema({"anyOf": [{"type": "number", "maximum": _WEEK_S}, {"type": "null"}]}),
]
"""As `Period`; a negative one becomes 0 too."""
Bytes = Annotated[
    int,
    Field(ge=_PAGE_BYTES),
    BeforeValidator(_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": _PAGE_BYTES}, {"type": "string"}]}),
]
Share = Annotated[
    Union[int, str],  # noqa: UP007 - evaluated at run time, by pydantic
    BeforeValidator(_share),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": _PAGE_BYTES}, {"type": "string"}]}),
]
"""Bytes, or the text of a percentage above 0 and up to 100, such as "80%"; `share_of` tells how much that is."""
Budget = Annotated[
    Union[int, str],  # noqa: UP007 - as above
    BeforeValidator(_budget),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": _PAGE_BYTES}, {"type": "string"}, {"type": "null"}]}),
]
"""As `Share`, or "auto" or "none" (which None becomes)."""
Retries = Annotated[int, Field(ge=0, le=_RETRIES_MAX), NotBool]
Threads = Annotated[int, Field(ge=1, le=MAX_THREADS), NotBool]
SpinSeconds = Annotated[float, Field(ge=0, le=0.01, allow_inf_nan=False), NotBool]
"""Time that a core is kept busy for nothing."""
Directory = Annotated[Path, BeforeValidator(_directory), AfterValidator(lambda path: located(path).absolute())]
