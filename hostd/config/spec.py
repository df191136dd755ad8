"""What every finder answers: `ModelSpec`. Those of finders of others are checked by `hostd.finders.checking`."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from pydantic import ConfigDict, Field, Strict

    Keywords = dict[str, Any]  # that a worker can be sent

NAME = "model.yaml"


@dataclass(frozen=True)
class ModelSpec:
    """What a worker has to load, and how: the answer of every finder.

    `loader` is a name or `package.module:attribute`; empty: the finder could not tell. `options` are its keywords.
    `python` is the interpreter of the worker (absolute; None: the host's own), `env` is added to its environment.
    `methods` and `default_method` say what to serve; None leaves it to the loader. `initializer` is written as `loader`
    is, None for none, and `initializer_config` are its keywords. `size_bytes` is what the model says that it takes.
    `memory_limit_bytes` is what it may take at most, `evictable` whether the host may unload it when it needs the
    memory, `idle_ttl_s` after how many seconds without a call it does, `cpu_threads` how many threads its libraries may
    use; None leaves it to the host's settings. `isolation` is "fresh" if its worker is to be no template's child.
    `signature` says by method what it takes and returns, as a `model.yaml` does. `origins` may say in words where a
    setting was given, by its name in a `model.yaml` (an option as "options.NAME").
    """

    # What a finder of others makes is checked by these types when it is asked. A plain map: pydantic is imported then.
    __pydantic_config__: ClassVar[ConfigDict] = {"strict": True, "revalidate_instances": "always"}

    loader: str
    options: Keywords = field(default_factory=dict)
    python: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    methods: Annotated[tuple[str, ...], Strict(False)] | None = None
    default_method: str | None = None
    initializer: str | None = None
    initializer_config: Keywords = field(default_factory=dict)
    size_bytes: Annotated[int, Field(ge=0)] | None = None
    memory_limit_bytes: Annotated[int, Field(ge=1)] | None = None
    evictable: bool = True
    idle_ttl_s: float | None = None
    cpu_threads: Annotated[int, Field(ge=1)] | None = None
    isolation: Literal["shared", "fresh"] = "shared"
    signature: Keywords = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
