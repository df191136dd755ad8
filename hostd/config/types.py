"""The types of the settings: what counts as a number, a switch, a period, a size or a directory.

Covers what pydantic is told of them; how single values are read is in `hostd.config.values`. Does not cover the
settings (`hostd.config.settings`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Union

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from hostd.config import values
from hostd.config.values import MAX_THREADS, PAGE_BYTES

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_WEEK_S = 7 * 86400
_RETRIES_MAX = 100  # with the longest backoff that is most of an hour: who wants more than that wants a supervisor

# The constraints come first: pydantic then hands them to the number's own check, which has better messages.
NotBool = BeforeValidator(values.number)
Flag = Annotated[bool, BeforeValidator(values.switch)]
Seconds = Annotated[float, Field(gt=0, le=_WEEK_S, allow_inf_nan=False), NotBool]
IdleSeconds = Annotated[float, Field(ge=0, allow_inf_nan=False), NotBool]
Period = Annotated[
    float,
    Field(ge=0, le=_WEEK_S, allow_inf_nan=False),
    BeforeValidator(values.period),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": _WEEK_S}, {"type": "null"}]}),
]
"""Seconds, where 0 and None (which becomes 0) mean that it does not happen."""
QuietPeriod = Annotated[
    float,
    Field(ge=0, le=_WEEK_S, allow_inf_nan=False),
    BeforeValidator(values.quiet_period),
    WithJsonSchema({"anyOf": [{"type": "number", "maximum": _WEEK_S}, {"type": "null"}]}),
]
"""As `Period`; a negative one becomes 0 too."""
Bytes = Annotated[
    int,
    Field(ge=PAGE_BYTES),
    BeforeValidator(values.size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": PAGE_BYTES}, {"type": "string"}]}),
]
Share = Annotated[
    Union[int, str],  # noqa: UP007 - evaluated at run time, by pydantic
    BeforeValidator(values.share),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": PAGE_BYTES}, {"type": "string"}]}),
]
"""Bytes, or the text of a percentage above 0 and up to 100, such as "80%"; `values.share_of` tells how much that is."""
Budget = Annotated[
    Union[int, str],  # noqa: UP007 - as above
    BeforeValidator(values.budget),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": PAGE_BYTES}, {"type": "string"}, {"type": "null"}]}),
]
"""As `Share`, or "auto" or "none" (which None becomes)."""
Templates = Annotated[
    Union[str, tuple[str, ...]],  # noqa: UP007 - as above
    BeforeValidator(values.templates),
    WithJsonSchema(
        {"anyOf": [{"enum": [values.AUTO, values.OFF, False]}, {"type": "array", "items": {"type": "string"}}]}
    ),
]
"""`auto`, `off`, or names of modules."""
Retries = Annotated[int, Field(ge=0, le=_RETRIES_MAX), NotBool]
Threads = Annotated[int, Field(ge=1, le=MAX_THREADS), NotBool]
SpinSeconds = Annotated[float, Field(ge=0, le=0.01, allow_inf_nan=False), NotBool]
"""Time that a core is kept busy for nothing."""
Address = Annotated[
    str,
    BeforeValidator(values.address),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0, "maximum": values.MAX_PORT}]}),
]
"""`HOST:PORT`."""
Directory = Annotated[Path, BeforeValidator(values.directory), AfterValidator(values.absolute)]
