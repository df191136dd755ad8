"""`deploy`, `undeploy` and `sync`: models come into the host's models directory and go from it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostd.cli.commands.lifecycle import describe, for_each, loading_options, show_reports
from hostd.cli.interrupts import told
from hostd.cli.output import console, plain, print_json, report, say, table, transferring, working
from hostd.cli.session import HostCommand, Session, complete_models, no_wait_option, shared_options
from hostd.units import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hostd.client.files import Files
    from hostd.records import SyncReport
    from hostd_workers.wire.errors import HostError


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID", shell_complete=complete_models)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--replace", is_flag=True, help="Deploy over a model of this ID, which serves until the new one is ready."
)
@click.option("--keep", is_flag=True, help="Keep the files if the model cannot be loaded.")
@loading_options
@shared_options
@click.pass_obj
def deploy(session: Session, /, model: str, paths: tuple[Path, ...], model_type: str, **how: Any) -> None:
    """Copy a model into the host's models directory and load it from there, under the name ID.

    PATH is a directory with the model's files, or one file or more, each by its own name. They are on this
    machine; the host may be on another. All or nothing: if anything fails, no file is left.
    """
    files = _files_of(paths)

    is_sent = False

    def becomes_of_it() -> str:
        if not is_sent:
            return f"the deploy of {model} was given up, and no file of it is left"
        follow = f"hostd events {model} follows it, hostd undeploy {model} ends it and removes the files"
        return f"the files of {model} are with the host, and its load goes on. {follow}"

    with session.client() as client, told(becomes_of_it):
        with transferring(f"deploying {model}", f"loading {model}", quiet=session.json) as show:

            def progress(sent_bytes: int, total_bytes: int) -> None:
                nonlocal is_sent
                is_sent = sent_bytes >= total_bytes
                if show is not None:
                    show(sent_bytes, total_bytes)

            client.deploy_model(model, files, model_type, **how, progress=progress, timeout_s=session.timeout_s)
        found = client.get_model(model)
    if session.json:
        print_json(found.to_dict())
    else:
        say(describe(found))


def _files_of(paths: Sequence[Path]) -> Files:
    directories = [path for path in paths if path.is_dir()]
    if len(paths) == 1 and directories:
        return paths[0]
    if directories:
        raise click.BadParameter(
            f"{str(directories[0])!r} is a directory: name one directory, or files only", param_hint="PATH..."
        )
    files: dict[str, Any] = {}
    for path in paths:
        if path.name in files:
            raise click.BadParameter(
                f"{str(files[path.name])!r} and {str(path)!r} would both be {path.name!r}: "
                f"put them into a directory as the model needs them",
                param_hint="PATH...",
            )
        files[path.name] = path
    return files


@click.command(cls=HostCommand)
@click.argument("models", metavar="ID...", nargs=-1, required=True, shell_complete=complete_models)
@shared_options
@click.pass_obj
@click.pass_context
def undeploy(ctx: click.Context, session: Session, models: tuple[str, ...]) -> None:
    """Unload models and remove their files from the host's models directory."""
    refused: list[tuple[str, HostError]] = []
    goes_on = "the unload and the removal that were begun go on in the host: hostd ls shows what is left"
    with session.client() as client, told(goes_on), working("undeploying", quiet=session.json):
        reports = for_each(models, partial(client.undeploy_model, timeout_s=session.timeout_s), refused)
    if session.json:
        print_json([report.to_dict() for report in reports])
    else:
        show_reports(reports)
        if reports:
            names = ", ".join(plain(report.model_id) for report in reports)
            say(f"the files of {counted(len(reports), 'model')} are removed: {names}")
    for model, error in refused:
        report(error, as_json=session.json, command="undeploy", model=model)
    if refused:
        ctx.exit(1)


@click.command(cls=HostCommand)
@no_wait_option("what is loaded")
@click.option("--load/--no-load", default=True, help="Load what is new, or only unload what is gone.  [default: load]")
@shared_options
@click.pass_obj
@click.pass_context
def sync(ctx: click.Context, session: Session, *, wait: bool, load: bool) -> None:
    """Load what is new in the host's models directory, and unload what is gone from it.

    Models that the configuration declares (preload) are loaded too, unless they are. Its file is read again if it has
    changed: what is not declared there any more is unloaded.

    The exit code is 1 if a model could not be loaded, or the directory not be read.
    """
    goes_on = "the loads and unloads that the sync has begun go on in the host: hostd ls shows them"
    with session.client() as client, told(goes_on), working("looking at the models directory", quiet=session.json):
        found = client.sync_local_models(wait=wait, load=load, timeout_s=session.timeout_s)
    if session.json:
        print_json(found.to_dict())
    else:
        if found.loaded or found.unloaded or found.failed or found.writing or found.changed:
            console().print(sync_table(found, is_waited_for=wait))
        elif found.degraded is None:
            say("nothing has changed")
        if found.degraded is not None:
            say(f"[red]degraded[/]: {plain(found.degraded)}", stderr=True)
    if found.failed or found.degraded is not None:
        ctx.exit(1)


def sync_table(report: SyncReport, *, is_waited_for: bool) -> Table:
    """Return the table of what a sync did; without waiting, loads are only begun."""
    rows = table("MODEL", "WHAT", "WHY")
    for model in report.loaded:
        rows.add_row(
            plain(model),
            "[green]loaded[/]" if is_waited_for else "[yellow]loading[/]",
            "new in the directory, or declared",
        )
    for model in report.unloaded:
        rows.add_row(plain(model), "unloaded", "gone from the directory, or not declared any more")
    for model in report.changed:
        rows.add_row(
            plain(model), "[yellow]changed[/]", f"its files have changed since: hostd load {plain(model)} --reload"
        )
    for model in report.writing:
        rows.add_row(plain(model), "[yellow]waiting[/]", "still being written")
    for model, reason in report.failed.items():
        rows.add_row(plain(model), "[red]failed[/]", plain(reason))
    return rows
