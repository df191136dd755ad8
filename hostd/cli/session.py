"""What every command shares: the common options, the connection to the host, and how a refusal is reported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hostd.cli.output import report
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from hostd import AsyncClient, Client

_F = TypeVar("_F", bound=Callable[..., Any])

CONNECT_TIMEOUT_S = 5.0
WAIT_S = 60.0
"""What `--wait` alone means: a host takes half a second to start, and its machine may take longer."""
# Completion runs while somebody waits for the Tab key to do something.
COMPLETION_TIMEOUT_S = 0.4


def _connect(endpoint: str | None, **timeouts: Any) -> Client:
    import hostd  # noqa: PLC0415 - --help and usage errors need no client

    return hostd.connect(endpoint, **timeouts)


async def _connect_async(endpoint: str | None, **timeouts: Any) -> AsyncClient:
    import hostd  # noqa: PLC0415 - see _connect

    return await hostd.AsyncClient.connect(endpoint, **timeouts)


@dataclass
class Session:
    """The common options of one run of the command line, and the way to the host."""

    json: bool = False
    endpoint: str | None = None
    timeout_s: float | None = None
    wait_s: float | None = None
    connect: Callable[..., Client] = field(default=_connect, repr=False)
    connect_async: Callable[..., Awaitable[AsyncClient]] = field(default=_connect_async, repr=False)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect to the host for the length of a block. Raises UnavailableError if none answers."""
        with self.connect(self.endpoint, **self._timeouts()) as client:
            yield client

    async def async_client(self) -> AsyncClient:
        """Connect to the host; the caller closes. Raises UnavailableError if none answers."""
        return await self.connect_async(self.endpoint, **self._timeouts())

    def _timeouts(self) -> dict[str, float]:
        timeouts = {} if self.timeout_s is None else {"timeout_s": self.timeout_s}
        if self.wait_s is not None:
            timeouts["wait_s"] = self.wait_s
        return {**timeouts, "connect_timeout_s": min(timeouts.get("timeout_s", CONNECT_TIMEOUT_S), CONNECT_TIMEOUT_S)}


class HostCommand(click.Command):
    """A command that talks to a host: what the host refuses is reported on stderr, and the exit code is 1."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, `--wait` without a number too."""
        return super().parse_args(ctx, with_number_of_wait(self, args))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except HostError as error:
            model = ctx.params.get("model")
            report(
                error,
                as_json=ctx.ensure_object(Session).json,
                command=self.name,
                model=model if isinstance(model, str) else None,
            )
            ctx.exit(1)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        setattr(ctx.ensure_object(Session), str(param.name), value)


def json_option(function: _F) -> _F:
    """Add `--json`, which every command has; its value lands in the `Session`."""
    option = click.option(
        "--json", is_flag=True, default=None, expose_value=False, callback=_remember, help="Print JSON for programs."
    )
    return option(function)


def no_wait_option(what: str) -> Callable[[_F], _F]:
    """Return what adds `--no-wait`, the argument `wait`; `--wait` waits for the host, and is no answer to this one."""
    return click.option(
        "--no-wait",
        "wait",
        is_flag=True,
        callback=lambda _ctx, _param, value: not value,
        help=f"Do not wait until {what} is ready.  [default: wait]",
    )


def labels_option(text: str) -> Callable[[_F], _F]:
    """Return what adds `--label`, given once for each label: the argument `labels`, a map, or None without any."""
    return click.option(
        "--label",
        "labels",
        multiple=True,
        callback=_read_labels,
        metavar="KEY=VALUE",
        help=f"{text} May be given more than once.",
    )


def _read_labels(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    for text in values:
        if "=" not in text:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE, such as team=a", ctx, param)
    return dict(text.split("=", 1) for text in values) or None


def shared_options(function: _F) -> _F:
    """Add the options of every command that talks to a host; their values land in the `Session`.

    They may stand before the command, too.
    """
    timeout = click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        expose_value=False,
        callback=_remember,
        help="How long to wait for an answer.",
    )
    endpoint = click.option(
        "--endpoint",
        "-e",
        metavar="HOST",
        expose_value=False,
        callback=_remember,
        shell_complete=complete_hosts,
        help="The host's name, or its endpoint.  [default: $HOSTD_ENDPOINT, else this user's host]",
    )
    wait = click.option(
        "--wait",
        "wait_s",
        type=click.FloatRange(min=0),
        metavar="[SECONDS]",
        expose_value=False,
        callback=_remember,
        help=f"Wait for the host to come up.  [without SECONDS: {WAIT_S:g}]",
    )
    return json_option(endpoint(timeout(wait(function))))


def with_number_of_wait(command: click.Command, args: list[str]) -> list[str]:
    """Return the arguments with the default number behind a `--wait` that has none; click would take any next word.

    Of a group these are the arguments before the command.
    """
    if not any(parameter.name == "wait_s" for parameter in command.params):
        return args
    read, at = list(args), 0
    takes_word = {
        word
        for p in command.params
        if isinstance(p, click.Option) and not p.is_flag and p.nargs == 1
        for word in p.opts
    }
    while at < len(read) and read[at] != "--" and (read[at].startswith("-") or not isinstance(command, click.Group)):
        if read[at] == "--wait" and not _is_number(read[at + 1 : at + 2]):
            read[at] = f"--wait={WAIT_S:g}"
        at += 2 if read[at] in takes_word else 1
    return read


def _is_number(words: list[str]) -> bool:
    try:
        float(words[0])
    except (IndexError, ValueError):
        return False
    return True


def complete_hosts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return the names of this user's hosts that run."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only completion needs it

    from hostd.hosts.listing import running_hosts  # noqa: PLC0415 - as above

    return [
        CompletionItem(host.name, help=f"process {host.pid}")
        for host in running_hosts()
        if host.name.startswith(incomplete)
    ]


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Ask the running host for its model ids; no host, no completion."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only completion needs it

    session = ctx.ensure_object(Session)
    session.timeout_s = COMPLETION_TIMEOUT_S
    try:
        with session.client() as client:
            found = client.list_models()
    except HostError:
        return []
    return [CompletionItem(m.id, help=f"{m.state} {m.path or ''}") for m in found if m.id.startswith(incomplete)]
