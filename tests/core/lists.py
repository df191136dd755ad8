"""Lists of models as clients get them, for tests of the core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.describing import Facts, describe

if TYPE_CHECKING:
    from driver import Driver

    from hostd.core import events as ev
    from hostd.records import ModelInfo


def all_models(host: Driver, *entries: ev.DirectoryEntry) -> list[ModelInfo]:
    """Return the records of all models, those that are not loaded too; `entries` are of the models directory."""
    found = host.queries.each_of_all_models(entries)
    return [describe(model) if isinstance(model, Facts) else model for model in found]
