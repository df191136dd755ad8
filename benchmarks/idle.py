"""`idle`: what the supervisor costs while twenty models wait for work: CPU of one core, resident memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.models import model_directory, write_echo
from benchmarks.verdicts import By, Comparison, alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.runner import Effort

MODELS = 20
CPU_LIMIT_PERCENT = 1.0
RSS_LIMIT_BYTES = 80_000_000


def idle(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Watch the supervisor, and for reference its workers, for `effort.idle_s` seconds."""
    if not with_host:
        return
    from benchmarks.lifecycle import watch_idle  # noqa: PLC0415 - the floors can be measured without the host

    with model_directory() as directory:
        found = watch_idle(write_echo(directory), MODELS, effort.idle_s)
    title = f"{MODELS} models, {effort.idle_s:g} s"
    yield alone(
        "idle",
        title,
        [
            ("supervisor's CPU, of a core", By.PERCENT, found.cpu_percent, CPU_LIMIT_PERCENT),
            ("supervisor's RSS", By.BYTES, found.rss_bytes, RSS_LIMIT_BYTES),
            ("all workers' CPU, of a core", By.PERCENT, found.workers_cpu_percent, None),
            ("a worker's RSS, on average", By.BYTES, found.worker_rss_bytes, None),
        ],
    )
