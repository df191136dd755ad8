"""Percentiles of measured times."""

from __future__ import annotations


def percentile(ordered: list[float], percent: int) -> float | None:
    """Return the smallest value that at least `percent` of the sorted values do not exceed (nearest rank)."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None
