"""How the command line speaks: tables and colours for people, JSON for programs, errors with what to do next.

Colours, spinners and wrapping happen only on a terminal; what goes into a pipe is one plain line per row.
"""

from __future__ import annotations

import base64
import json
import math
import os
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from hostd.units import format_size
from hostd_workers.wire.errors import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.table import Table

    from hostd_workers.wire.errors import HostError

# A pipe has no width: rows must not be folded for a program that reads lines.
PIPE_COLUMNS = 10_000

_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}

_MODELS_DIR_HINT = (
    "a host gets a models directory with hostd serve --models-dir DIR, or models.dir in its configuration; "
    "it must be able to write there"
)
_NO_FILE_HINT = "--config FILE or HOSTD_CONFIG names the file; hostd config schema prints one to begin with"
_DEATH_HINT = "hostd logs {model} shows what it printed, hostd explain {model} what happened to it"
_NEXT_STEPS_OF: dict[tuple[str | None, Status], str] = {
    ("load", Status.NOT_FOUND): "hostd load ID PATH: PATH is a directory or a file on the host's machine",
    ("load", Status.UNKNOWN): "hostd logs {model} shows what it printed while it was loaded",
    (
        "load",
        Status.ALREADY_EXISTS,
    ): "hostd unload {model} makes room for it; hostd explain {model} says what is loaded",
    (
        "load",
        Status.RESOURCE_EXHAUSTED,
    ): "hostd plan {model} PATH says what holds the memory; hostd unload ID makes room",
    ("deploy", Status.UNKNOWN): "hostd logs {model} shows what it printed while it was loaded; --keep keeps the files",
    ("deploy", Status.ALREADY_EXISTS): "--replace deploys over it; the old model serves until the new one is ready",
    ("deploy", Status.FAILED_PRECONDITION): _MODELS_DIR_HINT,
    ("deploy", Status.RESOURCE_EXHAUSTED): "hostd undeploy ID removes the files of a model that is not needed any more",
    ("undeploy", Status.FAILED_PRECONDITION): _MODELS_DIR_HINT,
    (
        "undeploy",
        Status.NOT_FOUND,
    ): "only what is in the models directory can be undeployed; hostd unload ends the rest",
    ("sync", Status.FAILED_PRECONDITION): _MODELS_DIR_HINT,
    ("serve", Status.NOT_FOUND): _NO_FILE_HINT,
    ("show", Status.NOT_FOUND): _NO_FILE_HINT,
    ("reload", Status.NOT_FOUND): "the host goes on with the settings it has; put the file there, and reload again",
}
_NEXT_STEPS = {
    Status.NOT_FOUND: "hostd ls shows all models, loaded or not",
    Status.FAILED_PRECONDITION: "hostd explain {model} says why",
    Status.DEADLINE_EXCEEDED: "--timeout SECONDS waits longer; hostd ps shows what the host is doing",
    Status.RESOURCE_EXHAUSTED: "hostd ps shows which model takes what",
    Status.UNKNOWN: "hostd logs {model} shows what the model printed",
    Status.UNAVAILABLE: "hostd doctor checks this machine and whether a host answers",
    Status.INTERNAL: "this is a defect of hostd; please report it with the output of hostd doctor --json",
}


def console(*, stderr: bool = False, pipe_columns: int = PIPE_COLUMNS) -> Console:
    """Return a console for stdout or stderr as it is now; one that is no terminal has `pipe_columns`."""
    from rich.console import Console  # noqa: PLC0415 - JSON output does without rich

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else pipe_columns
    return Console(stderr=stderr, highlight=False, width=width, emoji=False)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table with these headings, those in `right` aligned to the right; cells fold, nothing is cut."""
    from rich.table import Table  # noqa: PLC0415 - as above

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def say(text: str, *, stderr: bool = False) -> None:
    """Print one line of rich markup; what comes from elsewhere must have gone through `plain`."""
    out = console(stderr=stderr)
    out.print(text, soft_wrap=not out.is_terminal)


def plain(text: object) -> str:
    """Return foreign text so that it is shown as it is: no markup, and no control characters that move a terminal."""
    from rich.markup import escape  # noqa: PLC0415 - as above

    return escape(printable(str(text)))


def printable(text: str) -> str:
    """Return text in which control characters other than line feed and tab are shown as escapes."""
    return "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in text)


@contextmanager
def working(text: str, *, quiet: bool) -> Iterator[None]:
    """Show a spinner with the time for the length of a block, if stderr is a terminal and not `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - as above

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        progress.add_task(plain(text), total=None)
        yield


@contextmanager
def transferring(text: str, text_afterwards: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar with bytes, rate and time for the length of a block, if stderr is a terminal and not `quiet`.

    The block gets what to call with the bytes that are sent and those of all, or None if nothing is shown. When all are
    sent, a spinner with `text_afterwards` follows.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich import progress  # noqa: PLC0415 - as above

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=None),  # what the other columns leave of the line
        progress.TextColumn("{task.fields[counted]}"),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeElapsedColumn(),
    )
    with ExitStack() as stack:
        bar = progress.Progress(*columns, console=console(stderr=True), transient=True)
        stack.enter_context(bar)
        task = bar.add_task(plain(text), total=None, counted="", rate="")

        def update(sent_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=sent_bytes, total=total_bytes)
            speed = bar.tasks[0].speed
            counted = f"{format_size(sent_bytes)} of {format_size(total_bytes)}"
            bar.update(task, counted=counted, rate=f"{format_size(speed)}/s" if speed else "")
            if sent_bytes >= total_bytes:
                bar.stop()
                stack.enter_context(working(text_afterwards, quiet=False))

        yield update


def print_json(value: object) -> None:
    """Print one line of JSON and flush it, so that a reader sees it when it happens."""
    print(to_json(value), flush=True)  # noqa: T201 - this is the output


def to_json(value: object) -> str:
    """Return a value as one line of standard JSON; arrays become nested lists."""
    return json.dumps(json_ready(value), ensure_ascii=False, allow_nan=False)


def json_ready(value: Any) -> Any:  # noqa: PLR0911 - one line per type is the shape of the mapping
    """Return a value in types that JSON has.

    Bytes become base64, NaN and the infinities strings, and instants ISO 8601, as in the JSON mapping of Protocol
    Buffers (https://protobuf.dev/programming-guides/json/). What is none of these becomes its `repr`.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _NOT_FINITE.get(value, "NaN")
        case dict():
            return {key if isinstance(key, str) else str(key): json_ready(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [json_ready(item) for item in value]
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode("ascii")
    if hasattr(value, "tolist"):
        return json_ready(value.tolist())
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def report(error: HostError, *, as_json: bool, command: str | None = None, model: str | None = None) -> None:
    """Print an error to stderr: what happened, its status, the model's own traceback, and what to do next.

    `command` and `model` are what was tried, for a hint that fits.
    """
    traceback = str(getattr(error, "traceback", "") or error.details.get("traceback", ""))
    if as_json:
        found: dict[str, Any] = {"status": error.status.name, "code": int(error.status), "message": error.message}
        found = {"error": {**found, "details": error.details}}
        print(to_json(found), file=sys.stderr, flush=True)  # noqa: T201 - this is the output
        return
    err = console(stderr=True)
    if traceback:
        err.print("The model's own traceback:", style="dim")
        err.print(plain(traceback.rstrip()), soft_wrap=True)
    is_pipe = not err.is_terminal
    err.print(f"[bold red]error:[/] {plain(error.message)} [dim]\\[{error.status.name}][/]", soft_wrap=is_pipe)
    hint = _NEXT_STEPS_OF.get((command, error.status), _NEXT_STEPS.get(error.status, ""))
    if "exit" in error.details:
        hint = "" if "stack" in error.details else _DEATH_HINT
    if (hint is _MODELS_DIR_HINT and "path" in error.details) or error.details.get("reason") == "MEMORY_LIMIT":
        hint = ""  # the message says what to do
    if hint is _NEXT_STEPS[Status.NOT_FOUND] and "path" in error.details:
        hint = ""  # it is no model that is not there
    if hint and (model or "{model}" not in hint):
        err.print(f"[dim]hint:[/] {plain(hint.format(model=model))}", soft_wrap=is_pipe)
