"""`config`: the settings that are in force, where each came from, and the schema of the configuration file.

Also the options by which settings are given on a command line, which `serve` shares. What the settings mean is in
`hostd.config.settings`, how the sources are merged in `hostd.config.sources`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hostd.cli.output import console, plain, print_json, say, table, to_json
from hostd.cli.session import HostCommand, Session, json_option

if TYPE_CHECKING:
    from hostd.config.sources import Gathered

_F = TypeVar("_F", bound=Callable[..., Any])

_DEFAULT_FILE = Path("hostd.yaml")
_FILE_COLUMNS, _MOST_COLUMNS = 80, 100
"""The width of the comments of a file, and of those on a wide terminal."""

_META = "hostd.settings"
_META_FILE = "hostd.file"


def _setting(flag: str, where: str, metavar: str, help_text: str) -> Callable[[Any], Any]:
    """Return an option for the setting of the dotted name `where`; `_given` returns what was given."""

    def keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:  # noqa: ARG001 - click's signature
        if value is not None:
            ctx.meta.setdefault(_META, {})[tuple(where.split("."))] = value

    return click.option(flag, metavar=metavar, callback=keep, expose_value=False, help=f"{help_text}  [{where}]")


def _pairs(
    flag: str, keys_of: Callable[[str], tuple[str, ...]], example: str, metavar: str, help_text: str
) -> Callable[[Any], Any]:
    """Return an option for settings of any name; `keys_of` returns where a setting is, from the top."""

    def keep(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
        for text in values:
            name, equals, value = text.partition("=")
            if not equals or not name.strip():
                raise click.BadParameter(f"{text!r} is not {metavar}, such as {example}", ctx, param)
            ctx.meta.setdefault(_META, {})[keys_of(name.strip())] = value.strip()

    return click.option(flag, multiple=True, callback=keep, expose_value=False, metavar=metavar, help=help_text)


def _keep_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:  # noqa: ARG001 - as above
    ctx.meta[_META_FILE] = value


_OPTIONS = (
    _setting("--name", "name", "NAME", "The host's name; hosts of different names run side by side."),
    _setting("--runtime-dir", "runtime_dir", "DIR", "Directory of the sockets and the lock."),
    _setting("--state-dir", "state_dir", "DIR", "Directory of what outlives the host."),
    _setting("--models-dir", "models.dir", "DIR", "The local models directory."),
    _setting("--python", "workers.python", "FILE", "Interpreter of workers if their model names none."),
    _setting("--load-timeout", "workers.load_timeout_s", "SECONDS", "What one load may take."),
    _setting("--drain-timeout", "workers.drain_timeout_s", "SECONDS", "What running calls get when their model goes."),
    _setting("--metrics-port", "metrics.port", "PORT", "Serve Prometheus metrics there; 0: any free port."),
    _setting("--http", "fronts.http", "ADDRESS", "Serve HTTP there: HOST:PORT, or a port of this machine alone."),
    _setting("--grpc", "fronts.grpc", "ADDRESS", "Serve gRPC there: HOST:PORT, or a port of this machine alone."),
    _setting("--modelmesh", "fronts.modelmesh", "ADDRESS", "Serve ModelMesh there, over gRPC: an address as above."),
    _pairs(
        "--front",
        lambda name: ("fronts", "others", name),
        "myfront=127.0.0.1:9000",
        "NAME=ADDRESS",
        "Serve a front of another package there: an address as above.  [fronts.others]",
    ),
    _setting("--log-level", "log_level", "LEVEL", "debug, info, warning or error."),
    _setting("--log-format", "log_format", "FORMAT", "text, or json: one object a line."),
    _pairs(
        "--set",
        lambda name: tuple(name.split(".")),
        "workers.spawn_timeout_s=60",
        "NAME=VALUE",
        "Any setting by its name.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="HOSTD_CONFIG",
        callback=_keep_file,
        expose_value=False,
        help="Configuration file.  [default: $HOSTD_CONFIG, else ./hostd.yaml if there is one]",
    ),
)


def settings_options(function: _F) -> _F:
    """Add the options that give settings; `gathered` returns what they, the environment and the file make."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def gathered(ctx: click.Context) -> tuple[Gathered, Path | None]:
    """Return the settings in force, and the file that was read. Raises as `hostd.config.loading.load_config`."""
    from hostd.config.sources import gather  # noqa: PLC0415 - `--help` does not need it

    # Not Path.is_file, which raises if this user may not look into the current directory.
    has_default = os.path.isfile(_DEFAULT_FILE)  # noqa: PTH113 - see above
    file: Path | None = ctx.meta.get(_META_FILE) or (_DEFAULT_FILE if has_default else None)
    file = file.absolute() if file else None
    return gather(given(ctx), file=file, environment=True), file


def given(ctx: click.Context) -> dict[str, Any]:
    """Return the settings of the command line in the shape of the configuration file."""
    from hostd.config.sources import read_texts  # noqa: PLC0415 - `--help` does not need it

    nested: dict[str, Any] = {}
    for (*sections, last), value in ctx.meta.get(_META, {}).items():
        holder = nested
        for section in sections:
            holder = holder.setdefault(section, {})
        holder[last] = value
    return read_texts(nested)


@click.group()
def config() -> None:
    """Show the settings and where they come from."""


@config.command(cls=HostCommand)
@settings_options
@json_option
@click.pass_context
def show(ctx: click.Context) -> None:
    """Show every setting that would hold, and where it comes from.

    The options are those of `serve`: what it would do with them is shown here, and nothing is started.
    """
    from hostd.cli.tables import print_table  # noqa: PLC0415 - as above
    from hostd.config.sources import flat  # noqa: PLC0415 - as above

    found, file = gathered(ctx)
    settings = found.config.model_dump(mode="json")
    if ctx.ensure_object(Session).json:
        print_json(
            {
                "config": settings,
                "origins": dict(found.origins),
                "endpoint": found.config.endpoint,
                "file": str(file) if file else None,
            }
        )
        return
    rows = table("SETTING", "VALUE", "FROM")
    for where, value in flat(settings):
        name = ".".join(where)
        origin = found.origins[name]
        rows.add_row(plain(name), plain(_shown(value)), plain(origin), style="dim" if origin == "default" else None)
    print_table(rows)
    say(f"endpoint: {plain(found.config.endpoint)}")


def _shown(value: object) -> str:
    if value is None or value == {}:
        return "-"
    return value if isinstance(value, str) else to_json(value)


@config.command(cls=HostCommand)
@json_option
@click.pass_obj
def schema(session: Session) -> None:
    """Explain every setting, as a configuration file with all defaults; --json prints its JSON schema, for editors."""
    from hostd.config.schema import commented_yaml, config_schema  # noqa: PLC0415 - as above

    if session.json:
        print_json(config_schema())
    else:
        click.echo(commented_yaml(min(console(pipe_columns=_FILE_COLUMNS).width, _MOST_COLUMNS)))
