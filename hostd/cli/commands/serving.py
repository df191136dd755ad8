"""`serve`, `reload` and `shutdown`: the host itself.

`serve` validates the settings and hands this process over; the rest, the ready line included, is the host's.
"""

from __future__ import annotations

import sys

import click

from hostd.cli.commands.configuration import gathered, given, settings_options
from hostd.cli.interrupts import told
from hostd.cli.output import plain, print_json, say, working
from hostd.cli.session import HostCommand, Session, json_option, shared_options
from hostd.hosts.launch import exec_host
from hostd.units import counted


@click.command(cls=HostCommand)
@settings_options
@json_option
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Start a host in the foreground; Ctrl-C ends it and every model.

    Settings come from these options, then HOSTD_* variables (HOSTD_WORKERS__DRAIN_TIMEOUT_S=3), then the configuration
    file, then defaults; `hostd config show` with the same options shows which hold.

    SIGHUP reads the file again, as `hostd reload` does. It ends the host if the terminal that it was started from is
    gone.
    """
    found, file = gathered(ctx)
    sources = {"file": str(file), "arguments": given(ctx)} if file else None
    ready_fd = sys.stdout.fileno() if ctx.ensure_object(Session).json else None
    exec_host(found.config, ready_fd, sources=sources)


@click.command(cls=HostCommand)
@shared_options
@click.pass_obj
def reload(session: Session) -> None:
    """Let the running host read its configuration file again; a file that is wrong changes nothing.

    Changed at once: the log's level and format, the memory budget, time-outs, retries and limits of calls. The answer
    names what has changed, and what has changed in the file but needs a restart of the host.
    """
    with session.client() as client:
        done = client.reload_config()
    if session.json:
        print_json(done)
        return
    for name, (old, new) in done["changed"].items():
        say(f"{plain(name)}: {plain(old)} -> [bold]{plain(new)}[/]")
    if not done["changed"]:
        say(f"{plain(done['file'])} changes nothing that can be changed while the host runs")
    if done["needs_restart"]:
        say(f"[yellow]changed after a restart only[/]: {plain(', '.join(done['needs_restart']))}")


@click.command(cls=HostCommand)
@shared_options
@click.pass_obj
def shutdown(session: Session) -> None:
    """End the running host: every model is unloaded first, then the host goes."""
    goes_on = "the shutdown goes on: hostd ps shows what is left, as long as the host answers"
    with session.client() as client, told(goes_on):
        host = client.host_info()
        with working("unloading the models and shutting down", quiet=session.json):
            client.shutdown()
    if session.json:
        print_json({"pid": host.pid, "endpoint": host.endpoint, "models": host.models})
    else:
        say(f"host {host.pid} at {plain(host.endpoint)} is shut down; it held {counted(host.models, 'model')}")
