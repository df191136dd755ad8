"""The types of the settings: what counts as a number, a switch, a period, a size or a directory.

Covers conversion and refusal of single values, strictly: what is merely convertible is mostly a mistake. Text that
means a value passes, because environment variables are text. Does not cover the settings (`hostd.config`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from hostd.units import parse_size

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_WEEK_S = 7 * 86400
_PAGE_BYTES = 4096  # less is a number whose unit was forgotten
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


def _size(value: object) -> int:
    try:
        return parse_size(value)
    except OverflowError:
        raise ValueError(f"{value!r} is too large") from None


# The constraints come first: pydantic then hands them to the number's own check, whose messages are better.
NotBool = BeforeValidator(_number)
Flag = Annotated[bool, BeforeValidator(_switch)]
Seconds = Annotated[float, Field(gt=0, le=_WEEK_S, allow_inf_nan=False), NotBool]
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
Retries = Annotated[int, Field(ge=0, le=_RETRIES_MAX), NotBool]
Directory = Annotated[Path, BeforeValidator(_directory), AfterValidator(lambda path: path.expanduser().absolute())]
