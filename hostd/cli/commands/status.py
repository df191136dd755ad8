"""`status`: whether the host is ready, and how it is, on one screen or for a script."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from hostd.cli.commands.listing import memory_line
from hostd.cli.output import console, plain, print_json, table
from hostd.cli.session import HostCommand, Session, shared_options
from hostd.cli.styles import STATE_STYLES
from hostd.units import format_duration, format_size

if TYPE_CHECKING:
    from hostd.records import HostInfo, MemoryInfo


@dataclass(frozen=True)
class Status:
    """What `status` shows."""

    host: HostInfo
    memory: MemoryInfo
    models: dict[str, int]

    @property
    def degraded(self) -> list[str]:
        """Why the host is not as it should be; nothing if it is."""
        return [*self.host.degraded, *([self.memory.over_budget] if self.memory.over_budget else [])]

    @property
    def is_well(self) -> bool:
        """Whether it is ready and not degraded."""
        return self.host.state == "READY" and not self.degraded

    @property
    def metrics(self) -> str | None:
        """The address of the metrics page, None if there is none."""
        if self.host.metrics_port is None:
            front = self.host.fronts.get("http")
            return None if front is None else f"{front}/metrics"
        address = self.host.metrics_host or "127.0.0.1"
        return f"http://{f'[{address}]' if ':' in address else address}:{self.host.metrics_port}/metrics"

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        host = self.host
        return {
            "ready": host.state == "READY",
            "state": host.state,
            "degraded": self.degraded,
            "name": host.name,
            "endpoint": host.endpoint,
            "pid": host.pid,
            "uptime_s": time.time() - host.started_s,
            "version": host.version,
            "protocol": host.protocol,
            "rss_bytes": host.rss_bytes,
            "models": self.models,
            "memory": self.memory.to_dict(),
            "metrics": self.metrics,
            "fronts": host.fronts,
        }


@click.command(cls=HostCommand)
@shared_options
@click.pass_obj
@click.pass_context
def status(ctx: click.Context, session: Session) -> None:
    """Say whether the host is ready, and how it is.

    The exit code is 0 if it is ready, and 1 if it starts, ends, is degraded or cannot be reached.
    """
    with session.client() as client:
        counted = Counter(model.state for model in client.list_models())
        found = Status(client.host_info(), client.memory_info(), dict(sorted(counted.items())))
    if session.json:
        print_json(found.to_dict())
    else:
        _show(found)
    if not found.is_well:
        ctx.exit(1)


def _show(found: Status) -> None:
    host = found.host
    up = format_duration(time.time() - host.started_s)
    style = "red" if host.state != "READY" else "yellow" if found.degraded else "green"
    is_degraded = ", degraded" if found.degraded else ""
    counts = (
        f"{count} [{STATE_STYLES.get(state, 'default')}]{plain(state)}[/]" for state, count in found.models.items()
    )
    rows = table("", "")
    rows.show_header = False
    for name, words in (
        ("host", f"{plain(host.name)} is [{style}]{plain(host.state)}{is_degraded}[/]"),
        *(("degraded", f"[yellow]{plain(reason)}[/]") for reason in found.degraded),
        ("process", f"pid {host.pid}, up {up}, {format_size(host.rss_bytes)}, version {plain(host.version)}"),
        ("endpoint", plain(host.endpoint)),
        ("models", ", ".join(counts) or "none"),
        ("memory", memory_line(found.memory).removeprefix("memory: ")),
        *((name, plain(url)) for name, url in host.fronts.items()),
        ("metrics", plain(found.metrics or "off; hostd serve --metrics-port PORT turns them on")),
    ):
        rows.add_row(f"[dim]{name}[/]", words)
    console().print(rows)
