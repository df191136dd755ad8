"""How states and shares of the budget look in all tables."""

from __future__ import annotations

STATE_STYLES = {
    "READY": "green",
    "LOADING": "yellow",
    "DEGRADED": "yellow",
    "UNLOADING": "yellow",
    "FAILED": "red",
    "QUARANTINED": "red",
    "EVICTED": "cyan",
    "IGNORED": "dim",
}


def format_share(charge_bytes: int, budget_bytes: int | None) -> str:
    """Return a part of the budget in at most four characters, such as "15%" or "<1%"; "-" for nothing."""
    if not budget_bytes or not charge_bytes:
        return "-"
    share = 100 * charge_bytes / budget_bytes
    return "<1%" if share < 1 else f"{share:.0f}%"
