"""`bench`: a load generator for one's own model.

Covers the closed loop of callers, its figures and the progress bar. Does not cover the floors that a figure is worth
comparing with; those are in the `benchmarks` folder of the source.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostd.cli.bench.percentiles import percentile
from hostd.cli.bench.plotting import check_plot, draw
from hostd.cli.data import Arguments, choose_method, data_options, read_arguments, streams
from hostd.cli.output import console, plain, print_json, say, table
from hostd.cli.session import HostCommand, Session, complete_models, shared_options
from hostd.units import counted, format_duration
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from hostd import AsyncModel
    from hostd.records import ModelInfo

_REFRESH_S = 0.1
# A model that refuses everything answers at once; a run that only counts refusals stops early.
_HOPELESS = 200


@dataclass
class Figures:
    """What a run has counted so far; latencies are seconds from a call to its answer."""

    concurrency: int
    latencies_s: list[float] = field(default_factory=list)
    ended_s: list[float] | None = None
    """When each of these calls was answered, in seconds of the run; None: nobody wants to know."""
    errors: Counter[str] = field(default_factory=Counter)
    last_error: str = ""
    items: int = 0
    elapsed_s: float = 0.0

    @property
    def failed(self) -> int:
        """How many calls were answered with an error."""
        return self.errors.total()

    def is_hopeless(self) -> bool:
        """Say whether nothing but errors came so far."""
        return not self.latencies_s and self.failed >= _HOPELESS

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain values; percentiles are None if no call succeeded."""
        ordered = sorted(self.latencies_s)
        points = {f"p{p}_s": percentile(ordered, p) for p in (50, 90, 99)}
        return {
            "concurrency": self.concurrency,
            "elapsed_s": self.elapsed_s,
            "calls": len(ordered),
            "items": self.items,
            "errors": dict(self.errors),
            "calls_per_s": len(ordered) / self.elapsed_s if self.elapsed_s else 0.0,
            **points,
            "max_s": ordered[-1] if ordered else None,
        }


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID", shell_complete=complete_models)
@click.option("--data", "-d", metavar="DATA", help="What to call with, as for infer: JSON, @FILE, FILE.npy or -.")
@data_options
@click.option(
    "--concurrency", "-c", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Calls in flight."
)
@click.option(
    "--duration",
    "-t",
    "duration_s",
    type=click.FloatRange(min=0.1, max=86400),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to measure.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the latencies into this file (matplotlib)."
)
@shared_options
@click.pass_obj
@click.pass_context
def bench(
    ctx: click.Context,
    session: Session,
    /,
    model: str,
    data: str | None,
    method: str | None,
    concurrency: int,
    duration_s: float,
    plot: Path | None,
    **how: Any,
) -> None:
    """Measure a model under load: so many calls in flight, each answered before its caller makes the next.

    A first call, not counted, shows whether the model takes the data at all. Of a method that streams, a call is the
    whole stream. Exit code 1 if any call failed.
    """
    arguments = read_arguments(data, **how)
    figures = Figures(concurrency)
    if plot is not None:
        check_plot(plot)
        figures.ended_s = []
    try:
        asyncio.run(_measure(session, model, method, arguments, figures, duration_s))
    finally:
        # Ctrl-C ends a run early, not its figures.
        if figures.latencies_s or figures.errors:
            _show(session, model, figures)
        if plot is not None and figures.latencies_s:
            draw(plot, _title(model, method, figures), figures.ended_s or [], figures.latencies_s)
            click.echo(f"{plot}: the latencies of {len(figures.latencies_s)} calls", err=True)
    if figures.failed:
        ctx.exit(1)


async def _measure(
    session: Session, model: str, method: str | None, arguments: Arguments, figures: Figures, duration_s: float
) -> None:
    async with await session.async_client() as client:
        handle = await client.retrieve_model(model, timeout_s=session.timeout_s)
        call = _caller(handle, await handle.info(), method, arguments)
        await call()
        with _progress(figures, duration_s, shown=not session.json and sys.stderr.isatty()) as refresh:
            began_s = time.perf_counter()
            loops = [
                asyncio.ensure_future(_loop(call, figures, began_s + duration_s, duration_s))
                for _ in range(figures.concurrency)
            ]
            try:
                while True:
                    done, running = await asyncio.wait(loops, timeout=_REFRESH_S)
                    figures.elapsed_s = time.perf_counter() - began_s
                    refresh()
                    if not running:
                        break
                for loop in done:
                    loop.result()
            finally:
                figures.elapsed_s = time.perf_counter() - began_s
                for loop in loops:
                    loop.cancel()


def _caller(
    handle: AsyncModel, info: ModelInfo, method: str | None, arguments: Arguments
) -> Callable[[], Awaitable[int]]:
    """Return a function that makes one call and returns how many items came."""
    chosen = choose_method(info, method)
    args, kwargs = arguments.args, arguments.kwargs or {}

    async def whole_stream() -> int:
        count = 0
        async with aclosing(getattr(handle.stream, str(chosen))(*args, **kwargs)) as items:
            async for _ in items:
                count += 1
        return count

    async def one_answer() -> int:
        await (handle.call(chosen, *args, **kwargs) if chosen else handle(*args, **kwargs))
        return 1

    return whole_stream if streams(info, chosen) else one_answer


async def _loop(call: Callable[[], Awaitable[int]], figures: Figures, until_s: float, duration_s: float) -> None:
    now_s = time.perf_counter()
    while now_s < until_s and not figures.is_hopeless():
        began_s = now_s
        try:
            items = await call()
        except HostError as error:
            figures.errors[error.status.name] += 1
            figures.last_error = error.message
            now_s = time.perf_counter()
        else:
            now_s = time.perf_counter()
            figures.latencies_s.append(now_s - began_s)
            if figures.ended_s is not None:
                figures.ended_s.append(duration_s - (until_s - now_s))
            figures.items += items


@contextmanager
def _progress(figures: Figures, duration_s: float, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Show a progress bar for the length of a block; the block gets a function that redraws it."""
    if not shown:
        yield lambda: None
        return
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - a pipe sees no bar

    columns = (TextColumn("{task.completed:.0f} of {task.total:.0f} s"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=duration_s)

        def refresh() -> None:
            rate = len(figures.latencies_s) / figures.elapsed_s if figures.elapsed_s else 0.0
            failed = f"  [red]{counted(figures.failed, 'error')}[/]" if figures.failed else ""
            text = f"{counted(len(figures.latencies_s), 'call')}  {rate:.0f}/s{failed}"
            bar.update(task, completed=min(figures.elapsed_s, duration_s), description=text)

        yield refresh


def _title(model: str, method: str | None, figures: Figures) -> str:
    called = f"{model}.{method}" if method else model
    rate = len(figures.latencies_s) / figures.elapsed_s
    failed = f", {figures.failed} errors" if figures.failed else ""
    return f"hostd bench {called}: {figures.concurrency} in flight, {rate:.1f} calls per second{failed}"


def _show(session: Session, model: str, figures: Figures) -> None:
    found = figures.summary()
    if session.json:
        print_json({"model": model, **found})
        return
    headings = ("CALLS", "PER SECOND", "P50", "P90", "P99", "MAX", "ERRORS")
    rows = table(*headings, right=headings)
    times = [format_duration(found[key]) for key in ("p50_s", "p90_s", "p99_s", "max_s")]
    rows.add_row(str(found["calls"]), f"{found['calls_per_s']:.1f}", *times, str(figures.failed))
    say(f"[bold]{plain(model)}[/]: {figures.concurrency} in flight for {format_duration(figures.elapsed_s)}")
    console().print(rows)
    if figures.items != found["calls"]:
        say(f"{counted(figures.items, 'item')}, {figures.items / figures.elapsed_s:.1f} per second")
    for status, count in figures.errors.most_common():
        say(f"[red]{count} x {status}[/]")
    if figures.last_error:
        say(f"the last error: {plain(figures.last_error)}")
