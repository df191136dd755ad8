"""`infer`: one call of a model from the shell."""

from __future__ import annotations

import io
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostd.cli.data import Arguments, choose_method, data_options, read_arguments, streams
from hostd.cli.interrupts import told
from hostd.cli.output import print_json, to_json
from hostd.cli.session import HostCommand, Session, complete_models, shared_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd import Model


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID", shell_complete=complete_models)
@click.argument("data", required=False)
@data_options
@click.option("--stream", is_flag=True, help="Print items as they come.  [default: if the method streams]")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the answer there: .npy, else JSON."
)
@shared_options
@click.pass_obj
def infer(
    session: Session,
    /,
    model: str,
    data: str | None,
    method: str | None,
    output: Path | None,
    *,
    stream: bool,
    **how: Any,
) -> None:
    """Call a model with DATA and print its answer as JSON.

    DATA is JSON, @FILE (JSON or .npy), FILE.npy, or - for standard input (JSON or .npy). Without DATA the method is
    called without a positional argument.
    """
    arguments = read_arguments(data, **how)
    if stream and output is not None:
        raise click.UsageError("--output takes one answer; a stream has many")
    given_up = ""  # until something is asked for

    with session.client() as client, told(lambda: given_up):
        handle = client.retrieve_model(model, timeout_s=session.timeout_s)
        info = handle.info
        chosen = choose_method(info, method)
        if stream or (output is None and streams(info, chosen)):
            given_up = "the stream was given up, and the model is told to end it"
            _print_items(session, handle, chosen, arguments)
            return
        given_up = f"the call was given up; a plain method runs to its end all the same: hostd explain {model} shows it"
        began_s = time.perf_counter()
        answer = _call(handle, chosen, arguments)
        took_s = time.perf_counter() - began_s
    _show(session, answer, {"model": model, "method": chosen, "duration_s": took_s}, output)


def _call(handle: Model, method: str | None, arguments: Arguments) -> Any:
    kwargs = arguments.kwargs or {}
    return handle.call(method, *arguments.args, **kwargs) if method else handle(*arguments.args, **kwargs)


def _print_items(session: Session, handle: Model, method: str | None, arguments: Arguments) -> None:
    if method is None:
        raise click.UsageError("say with --method which method to stream from")
    open_stream: Callable[..., Any] = getattr(handle.stream, method)
    with closing(open_stream(*arguments.args, **(arguments.kwargs or {}))) as items:
        for index, item in enumerate(items):
            print_json({"index": index, "item": item} if session.json else item)


def _show(session: Session, answer: Any, about: dict[str, Any], output: Path | None) -> None:
    if output is None:
        print_json({**about, "result": answer} if session.json else answer)
        return
    content = _npy(answer) if output.suffix == ".npy" else (to_json(answer) + "\n").encode()
    try:
        output.write_bytes(content)
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}") from None
    if session.json:
        print_json({**about, "output": str(output), "bytes": len(content)})
    else:
        click.echo(f"{output}: {len(content)} bytes", err=True)


def _npy(answer: Any) -> bytes:
    try:
        import numpy  # noqa: ICN001, PLC0415 - optional: JSON needs none
    except ImportError:
        from hostd_workers.wire.installing import pip_install  # noqa: PLC0415 - where something is missing only

        raise click.UsageError(f"an .npy file needs NumPy here: {pip_install('numpy')}") from None
    buffer = io.BytesIO()
    try:
        numpy.save(buffer, numpy.asarray(answer), allow_pickle=False)
    except ValueError as error:
        raise click.UsageError(
            f"the answer is no array of numbers or text ({error}); write it to a .json file"
        ) from None
    return buffer.getvalue()
