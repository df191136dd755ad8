"""The finder of caikit's models: it takes every path, because the worker looks with caikit's own finders.

Runs in the host, which has no caikit.
"""

from __future__ import annotations

from hostd.finders import ModelSpec

LOADER = "hostd.fronts.caikit.worker:load"


class Finder:
    """Names the loader for caikit's models."""

    looks_for = "a model of caikit's"

    def find(self, model_id: str, path: str | None) -> ModelSpec:  # noqa: ARG002 - the shape of a finder
        """Return what to load."""
        return ModelSpec(loader=LOADER)
