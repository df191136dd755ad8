"""What `top` knows at one moment, and what follows from two such looks: rates, and the order of the models."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hostd.cli.top.state import Sort, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd import Client
    from hostd.records import Event, HostInfo, MemoryInfo, ModelInfo


@dataclass(frozen=True)
class Look:
    """What a host said at one moment: `now_s` in unix seconds, `clock_s` of a clock that nobody sets."""

    now_s: float
    clock_s: float
    host: HostInfo
    memory: MemoryInfo
    models: tuple[ModelInfo, ...]

    @classmethod
    def of(cls, models: list[ModelInfo], memory: MemoryInfo, host: HostInfo) -> Look:
        """Return a look at what a host has just said."""
        return cls(time.time(), time.monotonic(), host, memory, tuple(models))


@dataclass(frozen=True)
class Scene:
    """All that a picture is made of besides what the keys have chosen; `trouble` says why `latest` is not new."""

    latest: Look
    previous: Look | None = None
    event: Event | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Row:
    """A model with what two looks say about it, None where there was only one; `now_s` is the time of the later one."""

    model: ModelInfo
    calls_per_s: float | None
    now_s: float

    @property
    def in_flight(self) -> int:
        """The calls that its workers have now."""
        return sum(worker.in_flight for worker in self.model.workers)

    def age_s(self, since_s: float | None) -> float | None:
        """Return how long ago an instant was."""
        return None if since_s is None else self.now_s - since_s

    def sum_of(self, field: str) -> int | None:
        """Return the sum of a figure in bytes over its workers; None if it is known of none."""
        known = [value for worker in self.model.workers if (value := getattr(worker, field)) is not None]
        return sum(known) if known else None


def has_gpu(latest: Look) -> bool:
    """Say whether any model holds memory on a device, shown or not: the column does not come and go with a filter."""
    return any(worker.gpu_bytes for model in latest.models for worker in model.workers)


def look(client: Client) -> Look:
    """Ask a host for all that is shown."""
    return Look.of(client.list_models(), client.memory_info(), client.host_info())


def rows(latest: Look, previous: Look | None, state: State) -> list[Row]:
    """Return the models that are shown, in their order."""
    text = state.filter.casefold()
    before = {} if previous is None else {model.id: model for model in previous.models}
    passed_s = 0.0 if previous is None else latest.clock_s - previous.clock_s
    # Another start of the host counts from nothing again.
    is_same_host = previous is not None and previous.host.epoch == latest.host.epoch
    found = [
        Row(model, _rate(model, before.get(model.id) if is_same_host else None, passed_s), latest.now_s)
        for model in latest.models
        if text in f"{model.id}\n{model.state}\n{model.loader or ''}".casefold()
    ]
    return _sorted(found, state)


def _rate(model: ModelInfo, before: ModelInfo | None, passed_s: float) -> float | None:
    if before is None or passed_s <= 0:
        return None
    return (model.calls - before.calls) / passed_s


_FIGURES: dict[Sort, Callable[[Row], float | None]] = {
    Sort.MEMORY: lambda row: row.model.charge_bytes,
    Sort.CALLS: lambda row: row.calls_per_s,
    Sort.P99: lambda row: row.model.latency_p99_s,
    Sort.USED: lambda row: row.model.last_used_s,
}
"""What is sorted by a figure: the largest comes first, equal ones by name, and those of which it is not known last."""


def _sorted(found: list[Row], state: State) -> list[Row]:
    found = sorted(found, key=lambda row: row.model.id)
    if state.sort is Sort.NAME:
        return found[::-1] if state.is_reversed else found
    figures = [(_FIGURES[state.sort](row), row) for row in found]
    known = [(figure, row) for figure, row in figures if figure is not None]
    known.sort(key=lambda pair: pair[0] if state.is_reversed else -pair[0])
    return [row for _, row in known] + [row for figure, row in figures if figure is None]


def as_object(latest: Look, previous: Look | None, state: State) -> dict[str, Any]:
    """Return a look as plain values for a program, its models filtered and sorted."""
    models = [{**row.model.to_dict(), "calls_per_s": row.calls_per_s} for row in rows(latest, previous, state)]
    return {
        "time_s": latest.now_s,
        "host": latest.host.to_dict(),
        "memory": latest.memory.to_dict(),
        "models": models,
    }
