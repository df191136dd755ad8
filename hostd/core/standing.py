"""Standing arguments: what a model is loaded with unless a load says otherwise.

Rules
1. What a load says itself counts for more than what the configuration declares for the id (`preload`), that for more
   than what the model was deployed with (which is kept beside its files), and that for more than its `model.yaml`.
2. They are looked up at each load, so a load after a restart, a sync, an eviction or a crash has the same ones.
3. Pins are the exception: whether a model is pinned is decided at its first load and by `pin_model` from then on.
4. So are labels, which are of the id and not of what is loaded: those that a load gives take the place of all that the
   model has, also while it is loaded. They stay over evictions, crashes, reloads and replacements that give none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostd.core.values import Limits, LoadingSpec, LoadSource
from hostd.records import STANDALONE
from hostd_workers.wire.errors import InvalidArgumentError
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_RETRIES = 100
"""With the longest backoff that is most of an hour; a person who wants more wants a supervisor of their own."""


class Standing(NamedTuple):
    """Arguments for loads that do not give them; None: nothing is said.

    `is_kept` says whether they lie beside the model's files, where a pin is written down too.
    """

    type: str | None = None
    finder: str | None = None
    initializer: str | None = None
    options: Mapping[str, Any] = {}
    retries: int | None = None
    is_pinned: bool | None = None
    limits: Limits = Limits()
    is_kept: bool = False
    labels: Mapping[str, str] | None = None
    loader: str | None = None

    def under(self, source: LoadSource) -> LoadSource:
        """Return a source with these arguments where it gives none of its own."""
        return source._replace(
            type=self.type if source.type == STANDALONE and self.type else source.type,
            finder=source.finder or self.finder,
            initializer=source.initializer or self.initializer,
            options={**self.options, **source.options},
            loader=source.loader or self.loader,
        )

    def over(self, other: Standing) -> Standing:
        """Return these arguments, with those of another where these say nothing."""
        return Standing(
            self.type or other.type,
            self.finder or other.finder,
            self.initializer or other.initializer,
            {**other.options, **self.options},
            other.retries if self.retries is None else self.retries,
            other.is_pinned if self.is_pinned is None else self.is_pinned,
            self.limits.over(other.limits),
            self.is_kept or other.is_kept,
            other.labels if self.labels is None else self.labels,
            self.loader or other.loader,
        )


NOTHING = Standing()


def standing_of(source: LoadSource, retries: int | None, labels: Mapping[str, str] | None = None) -> Standing:
    """Return the arguments that a load gives, to be kept."""
    kind = None if source.type == STANDALONE else source.type
    what = (kind, source.finder, source.initializer, source.options)
    return Standing(*what, retries, labels=labels, loader=source.loader)


def retries_of(asked: int | None, default: int) -> int:
    """Return how often a failed load is tried again. Raises `InvalidArgumentError` for no such number."""
    if asked is None:
        return default
    if not 0 <= asked <= MAX_RETRIES:
        raise InvalidArgumentError(f"retries must be from 0 to {MAX_RETRIES}, got {asked}")
    return asked


def limited(spec: LoadingSpec, limits: Limits, where: str) -> LoadingSpec:
    """Return a specification with limits in the place of the model's own; `where` they were given."""
    memory = spec.memory
    names = ("memory_limit", "evictable", "idle_ttl_s", "cpu_threads")
    given = {name: f"{where}.{name}" for name, limit in zip(names, limits, strict=True) if limit is not None}
    return spec._replace(
        origins={**spec.origins, **given},
        memory=memory._replace(
            limit_bytes=memory.limit_bytes if limits.memory_limit_bytes is None else limits.memory_limit_bytes,
            is_evictable=memory.is_evictable if limits.is_evictable is None else limits.is_evictable,
            idle_ttl_s=memory.idle_ttl_s if limits.idle_ttl_s is None else limits.idle_ttl_s,
        ),
        cpu_threads=limits.cpu_threads or spec.cpu_threads,
    )
