"""`load`, `unload`, `pin` and `unpin`: models come, go, and stay."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hostd.cli.commands.listing import unloads_table
from hostd.cli.interrupts import told
from hostd.cli.output import console, plain, print_json, report, say, working
from hostd.cli.session import HostCommand, Session, complete_models, labels_option, no_wait_option, shared_options
from hostd.labels import shown
from hostd.records import STANDALONE
from hostd.units import format_duration, format_size
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hostd.records import ModelInfo, UnloadReport

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

type_option = click.option("--type", "model_type", default=STANDALONE, show_default=True, help="The model's type.")
"""The option of commands that say what kind of model it is."""


def read_options(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """Read `key=value` pairs; a value is JSON if it can be read as that, else text."""
    options: dict[str, Any] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE, such as threads=2", ctx, param)
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def choosing_options(function: _F) -> _F:
    """Add the options that say which model it is, and how it becomes an object."""
    for option in (
        click.option("--initializer", metavar="NAME", help="What makes the model's object.  [default: its loader]"),
        click.option(
            "--loader", metavar="NAME", help="What loads the model.  [default: model.yaml, then as its files say]"
        ),
        click.option(
            "--finder", metavar="NAME", help="How to recognise the model.  [default: model.yaml, then by its files]"
        ),
        click.option(
            "--option",
            "-o",
            "options",
            multiple=True,
            callback=read_options,
            metavar="KEY=VALUE",
            help="An option of the model's loader; JSON values are read as such. May be given more than once.",
        ),
        type_option,
    ):
        function = option(function)
    return function


def loading_options(function: _F) -> _F:
    """Add the options of every command that loads a model."""
    for option in (
        no_wait_option("the model"),
        click.option(
            "--retries",
            type=click.IntRange(min=0),
            metavar="N",
            help="How often to try a load again that fails.  [default: the host's workers.load_retries]",
        ),
        labels_option("A label, by which models are listed and unloaded; all that it had are replaced."),
        choosing_options,
    ):
        function = option(function)
    return function


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID")
@click.argument("path", type=click.Path(), required=False)
@click.option(
    "--reload",
    is_flag=True,
    help="Unload first what is loaded under this ID; without PATH, load from where it was, and keep what is not given.",
)
@click.option(
    "--cancel-on-timeout",
    is_flag=True,
    help="End the load with this command or its --timeout, unless others wait for it.",
)
@loading_options
@shared_options
@click.pass_obj
def load(session: Session, /, model: str, path: str | None, model_type: str, **how: Any) -> None:
    """Load the model at PATH under the name ID, in a process of its own.

    What is loaded already is left as it is, and if its files have changed since, that is said.
    """
    if path is None and not how["reload"]:
        raise click.UsageError("name the PATH of the model; only --reload knows it")

    becomes_of_it = (
        f"the load of {model} ends, unless others wait for it"
        if how["cancel_on_timeout"]
        else f"the load of {model} goes on in the host. hostd events {model} follows it, hostd unload {model} ends it"
    )
    with session.client() as client, told(becomes_of_it), working(f"loading {model}", quiet=session.json):
        handle = client.load_model(model, path, model_type, **how, timeout_s=session.timeout_s)
        found = replace(client.get_model(model), already_loaded=handle.already_loaded)
    if session.json:
        print_json(found.to_dict())
    else:
        say(describe(found))


def describe(model: ModelInfo) -> str:
    """Return what a person wants to know of a model that was just loaded, as rich markup."""
    name = f"[bold]{plain(model.id)}[/]"
    if model.state != "READY":
        return f"{name} is {model.state}; follow it with: hostd events {plain(model.id)}"
    pids = ", ".join(str(worker.pid) for worker in model.workers)
    if model.already_loaded:
        return describe_loaded(model)
    took = f" in {format_duration(model.load_duration_s)}" if model.load_duration_s is not None else ""
    methods = ", ".join(sorted(model.methods, key=lambda method: (method != model.default_method, method)))
    return (
        f"{name} is ready{took}: {plain(model.loader or 'loader unknown')}, pid {pids}, {format_size(model.size)}\n"
        f"methods: {plain(methods)}"
    )


def describe_loaded(model: ModelInfo) -> str:
    """Return what a person wants to know who has loaded what was loaded, as rich markup."""
    name, again = plain(model.id), f"hostd load {plain(model.id)} --reload"
    since = "" if model.ready_s is None else f" {format_duration(max(0.0, time.time() - model.ready_s))} ago"
    said = f"[bold]{name}[/] was already loaded{since}: pid {', '.join(str(worker.pid) for worker in model.workers)}"
    if model.files == "gone":
        return f"{said}\n[yellow]its files are gone since[/]: nothing is at {plain(model.path or 'its path')} any more"
    if model.files_changed:
        return f"{said}\n[yellow]its files have changed since[/], and it serves what was loaded: {again}"
    return said


@click.command(cls=HostCommand)
@click.argument("models", metavar="[ID]...", nargs=-1, shell_complete=complete_models)
@click.option("--all", "every", is_flag=True, help="Unload all models.")
@labels_option("Unload all models that have this label.")
@click.option("--now", is_flag=True, help="Do not wait for calls in flight: they end with ABORTED.")
@shared_options
@click.pass_obj
@click.pass_context
def unload(
    ctx: click.Context,
    session: Session,
    models: tuple[str, ...],
    *,
    every: bool,
    labels: dict[str, str] | None,
    now: bool,
) -> None:
    """Unload models; the answer comes when the operating system says that their processes are gone.

    Calls in flight get the host's workers.drain_timeout_s to end, unless --now is said.
    """
    if bool(models) == (every or labels is not None):
        raise click.UsageError("name the models to unload, or say --all, or --label")

    refused: list[tuple[str, HostError]] = []
    named = " ".join(models or [f"--label {key}={value}" for key, value in (labels or {}).items()]) or "--all"
    goes_on = (
        "the unload that was begun goes on: the host waits for calls in flight, for workers.drain_timeout_s at most. "
        f"hostd unload --now {named} ends them at once"
    )
    with session.client() as client, told(goes_on), working("unloading", quiet=session.json):
        reports = (
            for_each(models, partial(client.unload_model, now=now, timeout_s=session.timeout_s), refused)
            if models
            else client.unload_all_models(labels=labels, now=now, timeout_s=session.timeout_s)
        )
    if session.json:
        print_json([report.to_dict() for report in reports])
    else:
        show_reports(reports)
        if not models and not reports:
            say("no models were loaded" if labels is None else f"no models with {plain(shown(labels))} were loaded")
    for model, error in refused:
        report(error, as_json=session.json, command=ctx.command.name, model=model)
    if refused:
        ctx.exit(1)


def for_each(models: Sequence[str], act: Callable[[str], _T], refused: list[tuple[str, HostError]]) -> list[_T]:
    """Act on models one after the other; one that is refused is noted in `refused` and does not stop the others."""
    answers = []
    for model in dict.fromkeys(models):
        try:
            answers.append(act(model))
        except HostError as error:  # noqa: PERF203 - each refusal belongs to one model
            refused.append((model, error))
    return answers


def show_reports(reports: Sequence[UnloadReport]) -> None:
    """Print what unloads gave back, and what was not loaded at all."""
    if gone := [unload for unload in reports if unload.processes]:
        console().print(unloads_table(gone))
    for unload in reports:
        if not unload.processes:
            say(f"{plain(unload.model_id)} was not loaded")


@click.command(cls=HostCommand)
@click.argument("models", metavar="ID...", nargs=-1, required=True, shell_complete=complete_models)
@shared_options
@click.pass_obj
@click.pass_context
def pin(ctx: click.Context, session: Session, models: tuple[str, ...]) -> None:
    """Keep models in memory: they are not evicted, whatever the budget says, until they are unpinned or unloaded."""
    _set_pins(ctx, session, models, is_pinned=True)


@click.command(cls=HostCommand)
@click.argument("models", metavar="ID...", nargs=-1, required=True, shell_complete=complete_models)
@shared_options
@click.pass_obj
@click.pass_context
def unpin(ctx: click.Context, session: Session, models: tuple[str, ...]) -> None:
    """Let models be evicted again when others need the memory."""
    _set_pins(ctx, session, models, is_pinned=False)


def _set_pins(ctx: click.Context, session: Session, models: Sequence[str], *, is_pinned: bool) -> None:
    refused: list[tuple[str, HostError]] = []
    with session.client() as client:
        records = for_each(models, client.pin_model if is_pinned else client.unpin_model, refused)
    if session.json:
        print_json([record.to_dict() for record in records])
    else:
        for record in records:
            say(describe_pin(record))
    for model, error in refused:
        report(error, as_json=session.json, command=ctx.command.name, model=model)
    if refused:
        ctx.exit(1)


def describe_pin(model: ModelInfo) -> str:
    """Return whether a model stays in memory, as rich markup."""
    name = f"[bold]{plain(model.id)}[/]"
    if model.pinned:
        return f"{name} is pinned: its {format_size(model.charge_bytes)} stay until hostd unpin {plain(model.id)}"
    exception = "" if model.evictable else ", but is not evicted either: its settings say evictable: false"
    return f"{name} is not pinned{exception}"
