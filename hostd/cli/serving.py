"""`serve` and `shutdown`: the host itself.

`serve` validates the settings and hands this process over; the rest, the ready line included, is the host's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostd.cli.session import HostCommand, Session, json_option, shared_options

if TYPE_CHECKING:
    from collections.abc import Callable

_DEFAULT_FILE = Path("hostd.yaml")
_META = "hostd.settings"


def _setting(flag: str, where: str, metavar: str, help_text: str) -> Callable[[Any], Any]:
    """Return an option for the setting of the dotted name `where`; `_given` returns what was given."""

    def keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:  # noqa: ARG001 - click's signature
        if value is not None:
            ctx.meta.setdefault(_META, {})[where] = value

    return click.option(flag, metavar=metavar, callback=keep, expose_value=False, help=f"{help_text}  [{where}]")


def _keep_pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{text!r} is not NAME=VALUE, such as workers.spawn_timeout_s=60", ctx, param)
        ctx.meta.setdefault(_META, {})[name.strip()] = value.strip()


def _given(ctx: click.Context) -> dict[str, Any]:
    """Return the settings of the command line in the shape of the configuration file."""
    nested: dict[str, Any] = {}
    for name, value in ctx.meta.get(_META, {}).items():
        *sections, last = name.split(".")
        holder = nested
        for section in sections:
            holder = holder.setdefault(section, {})
        holder[last] = value
    return nested


@click.command(cls=HostCommand)
@_setting("--name", "name", "NAME", "The host's name; hosts of different names run side by side.")
@_setting("--runtime-dir", "runtime_dir", "DIR", "Directory of the sockets and the lock.")
@_setting("--state-dir", "state_dir", "DIR", "Directory of what outlives the host.")
@_setting("--models-dir", "models.dir", "DIR", "The local models directory.")
@_setting("--python", "workers.python", "FILE", "Interpreter of workers whose model names none.")
@_setting("--load-timeout", "workers.load_timeout_s", "SECONDS", "What one load may take.")
@_setting("--drain-timeout", "workers.drain_timeout_s", "SECONDS", "What running calls get when their model goes.")
@_setting("--metrics-port", "metrics.port", "PORT", "Serve Prometheus metrics there; 0: any free port.")
@_setting("--log-level", "log_level", "LEVEL", "debug, info, warning or error.")
@click.option(
    "--set",
    multiple=True,
    callback=_keep_pairs,
    expose_value=False,
    metavar="NAME=VALUE",
    help="Any setting by its name.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="HOSTD_CONFIG",
    help="Configuration file.  [default: $HOSTD_CONFIG, else ./hostd.yaml if there is one]",
)
@click.option(
    "--check", is_flag=True, help="Print the settings that would hold (--json for programs), and do not start."
)
@json_option
@click.pass_context
def serve(ctx: click.Context, config: Path | None, *, check: bool) -> None:
    """Start a host in the foreground; Ctrl-C ends it and every model.

    Settings come from these options, then HOSTD_* variables (HOSTD_WORKERS__DRAIN_TIMEOUT_S=3), then the configuration
    file, then defaults.
    """
    from hostd.config import load_config  # noqa: PLC0415 - `--help` does not need it

    file = config or (_DEFAULT_FILE if _DEFAULT_FILE.is_file() else None)
    settings = load_config(_given(ctx), file=file)
    if check:
        _show(ctx.ensure_object(Session), settings.model_dump(mode="json"), settings.endpoint, file)
        return
    from hostd.launch import exec_host  # noqa: PLC0415 - `--check` does not need it

    exec_host(settings, sys.stdout.fileno() if ctx.ensure_object(Session).json else None)


def _show(session: Session, settings: dict[str, Any], endpoint: str, file: Path | None) -> None:
    if session.json:
        from hostd.cli.output import print_json  # noqa: PLC0415 - a host that starts does not need it

        print_json({"config": settings, "endpoint": endpoint, "file": str(file.absolute()) if file else None})
        return
    import yaml  # noqa: PLC0415 - as above

    click.echo(f"# file: {file.absolute() if file else 'none'}\n# endpoint: {endpoint}")
    click.echo(yaml.safe_dump(settings, sort_keys=False), nl=False)


@click.command(cls=HostCommand)
@shared_options
@click.pass_obj
def shutdown(session: Session) -> None:
    """End the running host: every model is unloaded first, then the host goes."""
    from hostd.cli.output import counted, plain, print_json, say, working  # noqa: PLC0415 - `--help` does not need it

    with session.client() as client:
        host = client.host_info()
        with working("unloading the models and shutting down", quiet=session.json):
            client.shutdown()
    if session.json:
        print_json({"pid": host.pid, "endpoint": host.endpoint, "models": host.models})
    else:
        say(f"host {host.pid} at {plain(host.endpoint)} is shut down; it held {counted(host.models, 'model')}")
