"""Declared models: the entries of `preload` in the configuration.

Covers their settings. An entry that is wrong is kept with its problem, and stops neither the others nor the start; what
becomes of them is decided in `core/files/declaring`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable  # noqa: TC003 - pydantic reads the annotations
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    WrapValidator,
    field_validator,
    model_serializer,
)

from hostd.config.plain import check_plain
from hostd.config.types import Bytes, Directory, Flag, IdleSeconds, Retries, Threads  # noqa: TC001 - as above
from hostd.hints import nearest
from hostd.labels import labels_of
from hostd_workers.wire.errors import InvalidArgumentError


def _from_text(value: object) -> object:
    # Of a variable or a command line, where a map is text.
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


class PreloadEntry(BaseModel):
    """A model that is loaded at the start, and by every `hostd sync`. What it leaves out is left to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    path: Directory | None = None
    """Where the model is; in a file relative to that. Unset: its place in the models directory."""

    type: Annotated[str, Field(min_length=1)] | None = None
    """The model's type, as `load_model` takes it."""

    options: Annotated[dict[str, Any], BeforeValidator(_from_text)] = {}
    """Options of its loader, over those of its model.yaml."""

    finder: str | None = None
    """The finder that is asked."""

    loader: str | None = None
    """What loads it, in place of what its model.yaml or its files say."""

    initializer: str | None = None
    """What makes the model's object."""

    retries: Retries | None = None
    """How often a load that failed is tried again."""

    pin: Flag | None = None
    """Whether it is never evicted."""

    labels: Annotated[dict[str, Any], BeforeValidator(_from_text)] = {}
    """Labels, by which it is listed and unloaded."""

    memory_limit: Bytes | None = None
    """What it may take at most, in place of what its model.yaml says."""

    evictable: Flag | None = None
    """Whether it may be evicted, in place of what its model.yaml says."""

    idle_ttl_s: IdleSeconds | None = None
    """Seconds without a call after which it is evicted, in place of what its model.yaml says."""

    cpu_threads: Threads | None = None
    """How many threads its libraries may use, in place of what its model.yaml says."""

    problem: str = ""
    """What is wrong with the entry; the host writes it."""

    @field_validator("path")
    @classmethod
    def _is_in_one_form(cls, value: Path | None) -> Path | None:
        # As clients give paths: without "..", and with links as they are.
        return None if value is None else Path(os.path.abspath(value))  # noqa: PTH100 - resolve follows links

    @field_validator("options")
    @classmethod
    def _is_plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_plain(value, "options")
        return value

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, value: dict[str, Any]) -> dict[str, str]:
        try:
            return labels_of(value)
        except InvalidArgumentError as error:
            raise ValueError(error.message) from None

    @model_serializer(mode="wrap")
    def _without_what_is_left_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value not in (None, "", {})}


def is_short(value: object) -> bool:
    """Say whether an entry is written as nothing but its path, or as nothing at all."""
    return value is None or isinstance(value, (str, os.PathLike))


def _tolerant(value: object, handler: Callable[[object], PreloadEntry]) -> PreloadEntry:
    if is_short(value):
        value = {"path": value}
    try:
        return handler(value)
    except ValidationError as error:
        return PreloadEntry(problem="; ".join(map(_told, error.errors())))


def _told(found: Any) -> str:
    name = ".".join(map(str, found["loc"]))
    if not name:
        return (
            f"it must be a path, or a map of settings such as {{path: ..., options: ...}}, not {found['input']!r:.80}"
        )
    if found["type"] == "extra_forbidden":
        known = [field for field in PreloadEntry.model_fields if field != "problem"]
        return f"{name}: no such setting; {nearest(name, known)}"
    if found["type"] == "value_error":
        return f"{name}: {found['ctx']['error']}"
    return f"{name}: {found['msg'][:1].lower()}{found['msg'][1:]}, not {found['input']!r:.80}"


def _named(value: object) -> object:
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else value


PreloadTable = Annotated[
    dict[str, Annotated[PreloadEntry, WrapValidator(_tolerant)]],
    BeforeValidator(_named),
]
