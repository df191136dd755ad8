"""`hosts`: which hosts of this user run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from hostd.cli.output import plain, print_json, say, table
from hostd.cli.session import HostCommand, Session, json_option
from hostd.hosts.listing import find_hosts
from hostd.units import format_age
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from rich.table import Table

    from hostd.hosts.listing import FoundHost
    from hostd.records import HostInfo

_ANSWER_TIMEOUT_S = 1.0
"""How long each has to answer: one that is busy is listed all the same, by what its directory tells."""


@click.command(cls=HostCommand)
@json_option
@click.pass_obj
def hosts(session: Session) -> None:
    """List your running hosts: those that `hostd serve` runs, and those that programs embed or share.

    NAME is what -e, HOSTD_ENDPOINT and hostd.connect take. Hosts with a --runtime-dir of their own are found only while
    HOSTD_RUNTIME_DIR says where that is.
    """
    from hostd.cli.tables import print_table  # noqa: PLC0415 - JSON output does without rich

    found = find_hosts()
    running = [(host, _ask(session, host)) for host in found if host.trouble is None]
    if session.json:
        print_json([_record(host, info) for host, info in running])
        return
    if running:
        print_table(_table(running, time.time()))
    else:
        say("none of your hosts runs; start one with: hostd serve")
    for host in found:
        if host.trouble is not None:
            say(
                f"[dim]{plain(host.name)} does not run: {plain(host.trouble)}; its next start tidies up[/]", stderr=True
            )


def _ask(session: Session, host: FoundHost) -> HostInfo | None:
    try:
        with session.connect(host.endpoint, timeout_s=_ANSWER_TIMEOUT_S, connect_timeout_s=_ANSWER_TIMEOUT_S) as client:
            return client.host_info()
    except HostError:  # it is busy, hangs, is of another version, or has just ended
        return None


def _record(host: FoundHost, info: HostInfo | None) -> dict[str, Any]:
    if info is None:
        return {"name": host.name, "pid": host.pid, "endpoint": host.endpoint, "answers": False}
    return {**info.to_dict(), "name": host.name, "uptime_s": time.time() - info.started_s, "answers": True}


def _table(running: list[tuple[FoundHost, HostInfo | None]], now_s: float) -> Table:
    rows = table("NAME", "KIND", "PID", "MODELS", "UP", "ENDPOINT", right=("PID", "MODELS", "UP"))
    for host, info in running:
        known = (
            ("no answer", str(host.pid or "-"), "-", "-")
            if info is None
            else (info.kind, str(info.pid), str(info.models), format_age(now_s - info.started_s))
        )
        rows.add_row(plain(host.name), *known, plain(host.endpoint))
    return rows
