"""What every command shares: the common options, the connection to the host, and how a refusal is reported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from hostd import AsyncClient, Client

_F = TypeVar("_F", bound=Callable[..., Any])

CONNECT_TIMEOUT_S = 5.0
# Completion runs while somebody waits for the Tab key to do something.
COMPLETION_TIMEOUT_S = 0.4


def _connect(endpoint: str | None, **timeouts: float) -> Client:
    import hostd  # noqa: PLC0415 - --help and usage errors need no client

    return hostd.connect(endpoint, **timeouts)


async def _connect_async(endpoint: str | None, **timeouts: float) -> AsyncClient:
    import hostd  # noqa: PLC0415 - see _connect

    return await hostd.AsyncClient.connect(endpoint, **timeouts)


@dataclass
class Session:
    """The common options of one run of the command line, and the way to the host."""

    json: bool = False
    endpoint: str | None = None
    timeout_s: float | None = None
    connect: Callable[..., Client] = field(default=_connect, repr=False)
    connect_async: Callable[..., Awaitable[AsyncClient]] = field(default=_connect_async, repr=False)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect to the host for the length of a block. Raises UnavailableError if none answers."""
        with self.connect(self.address(), **self._timeouts()) as client:
            yield client

    async def async_client(self) -> AsyncClient:
        """Connect to the host; the caller closes. Raises UnavailableError if none answers."""
        return await self.connect_async(self.address(), **self._timeouts())

    def address(self) -> str | None:
        """Return the endpoint that was asked for, None for the default; a bare word is the name of a host."""
        if self.endpoint is None or "://" in self.endpoint:
            return self.endpoint
        from hostd import paths  # noqa: PLC0415 - see _connect

        return paths.client_endpoint(paths.runtime_dir(self.endpoint))

    def _timeouts(self) -> dict[str, float]:
        if self.timeout_s is None:
            return {"connect_timeout_s": CONNECT_TIMEOUT_S}
        return {"timeout_s": self.timeout_s, "connect_timeout_s": min(self.timeout_s, CONNECT_TIMEOUT_S)}


class HostCommand(click.Command):
    """A command that talks to a host: what the host refuses is reported on stderr, and the exit code is 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        from hostd_workers.wire.errors import HostError  # noqa: PLC0415 - --help does not need it

        try:
            return super().invoke(ctx)
        except HostError as error:
            from hostd.cli.output import report  # noqa: PLC0415 - only a failure needs it

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


def shared_options(function: _F) -> _F:
    """Add the options of every command that talks to a host; their values land in the `Session`."""
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
        metavar="ENDPOINT",
        expose_value=False,
        callback=_remember,
        help="The host: an endpoint or a host's name.  [default: $HOSTD_ENDPOINT, else this user's host]",
    )
    return json_option(endpoint(timeout(function)))


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Ask the running host for its model ids; no host, no completion."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only completion needs it

    from hostd_workers.wire.errors import HostError  # noqa: PLC0415 - as above

    session = ctx.ensure_object(Session)
    session.timeout_s = COMPLETION_TIMEOUT_S
    try:
        with session.client() as client:
            found = client.list_models()
    except HostError:
        return []
    return [CompletionItem(m.id, help=f"{m.state} {m.path or ''}") for m in found if m.id.startswith(incomplete)]
