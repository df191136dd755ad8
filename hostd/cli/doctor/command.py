"""`doctor`: whether this machine can host models, and what to do where it cannot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hostd.cli.output import plain, print_json, say, table
from hostd.cli.session import HostCommand, Session, shared_options
from hostd.units import counted, format_duration
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from hostd.cli.doctor.checks import Check

_ANSWER_TIMEOUT_S = 2.0


@click.command(cls=HostCommand)
@shared_options
@click.pass_obj
@click.pass_context
def doctor(ctx: click.Context, session: Session) -> None:
    """Check this machine, host one small model for a moment, and say what to do where something is wrong.

    Exit code 1 if something keeps a host from working.
    """
    from hostd.cli.doctor.checks import Verdict, local_checks  # noqa: PLC0415 - `--help` does not need it

    checks = local_checks()
    if not any(check.verdict is Verdict.FAIL for check in checks):
        from hostd.cli.doctor.trial import one_worker  # noqa: PLC0415 - as above

        checks.append(one_worker())
    checks.append(_host_answers(session))
    failed = [check for check in checks if check.verdict is Verdict.FAIL]
    if session.json:
        print_json({"ok": not failed, "checks": [check.to_dict() for check in checks]})
    else:
        _show(checks)
    if failed:
        ctx.exit(1)


def _show(checks: list[Check]) -> None:
    from hostd.cli.doctor.checks import Verdict  # noqa: PLC0415 - as above
    from hostd.cli.tables import print_table  # noqa: PLC0415 - as above

    styles = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
    rows = table("", "CHECK", "FOUND")
    for check in checks:
        advice = f"\n[bold]do:[/] {plain(check.advice)}" if check.advice else ""
        rows.add_row(
            f"[{styles[check.verdict]}]{check.verdict.value}[/]", plain(check.name), plain(check.found) + advice
        )
    print_table(rows)
    counts = {verdict: sum(check.verdict is verdict for check in checks) for verdict in Verdict}
    say(f"{counts[Verdict.OK]} ok, {counts[Verdict.WARN]} to look at, {counts[Verdict.FAIL]} that must be fixed")


def _host_answers(session: Session) -> Check:
    from hostd.cli.doctor.checks import Check, Verdict  # noqa: PLC0415 - as above

    session.timeout_s = session.timeout_s or _ANSWER_TIMEOUT_S
    try:
        with session.client() as client:
            host = client.host_info()
    except HostError as error:
        return Check("host", Verdict.WARN, error.message)  # the message says how to start one
    up = format_duration(time.time() - host.started_s)
    found = f"version {host.version}, pid {host.pid}, {counted(host.models, 'model')}, up {up}, at {host.endpoint}"
    return Check("host", Verdict.OK, found)
