"""`describe` and `stack`: what a loaded model is and how it is called, and what its threads are doing."""

from __future__ import annotations

import json
import keyword
import shlex
from typing import TYPE_CHECKING, Any

import click

from hostd.cli.output import console, plain, print_json, printable, say, table, to_json
from hostd.cli.session import HostCommand, Session, complete_models, shared_options
from hostd.cli.styles import STATE_STYLES
from hostd.example_calls import example_of
from hostd.labels import shown
from hostd.records import ModelInfo
from hostd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from hostd.example_calls import ExampleCall
    from hostd.records import MethodInfo, TensorInfo

_SIZES = ("memory_limit",)
"""Settings that are bytes."""

_MANY = 4

_MAX_TENSORS = 12
"""Inputs or outputs of a method that are shown; `--json` has them all."""


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID", shell_complete=complete_models)
@shared_options
@click.pass_obj
def describe(session: Session, model: str) -> None:
    """Show what a model is: path, loader, methods, the settings in force and where each was given, how to call it."""
    from hostd.cli.tables import print_table  # noqa: PLC0415 - JSON output does without rich

    with session.client() as client:
        found = client.explain_model(model)
    if session.json:
        print_json({name: found.get(name) for name in ("model_id", "state", "reason", "model", "settings")})
        return
    state = str(found.get("state", "unknown"))
    say(f"[bold]{plain(model)}[/] is [{STATE_STYLES.get(state, 'default')}]{plain(state)}[/]: {plain(found['reason'])}")
    if not found.get("model"):
        return
    info = ModelInfo.from_dict(found["model"])
    out = console()
    print_table(facts_table(info))
    for line in methods_lines(info):
        out.print(line, soft_wrap=not out.is_terminal)
    if found.get("settings"):
        say("\n[bold]settings[/]")
        print_table(settings_table(found["settings"]))
    if info.warnings:
        say("\n[bold]warnings of its load[/]")
        for warning in info.warnings:
            say(f"  [yellow]{plain(warning)}[/]")
    if info.methods:
        say("\n[bold]a call to copy[/]")
        for line in call_lines(info, session.endpoint):
            out.print(f"  {plain(line)}", soft_wrap=True)


def facts_table(info: ModelInfo) -> Table:
    """Return what a model is, a fact a line."""
    pids = ", ".join(str(worker.pid) for worker in info.workers if worker.pid)
    facts = {
        "path": info.path,
        "type": info.type,
        "loader": info.loader,
        "size": f"{format_size(info.size)}, {info.size_source}" if info.size is not None else None,
        "process": pids,
        "labels": shown(info.labels),
    }
    rows = table("", "", "")
    rows.show_header = False
    for name, value in facts.items():
        if value:
            rows.add_row("", f"[dim]{name}[/]", plain(value))
    return rows


def methods_lines(info: ModelInfo) -> Iterator[str]:
    """Yield the methods with signatures and the first lines of their docstrings, as rich markup."""
    if info.methods:
        yield "\n[bold]methods[/]"
    for name, method in sorted(info.methods.items(), key=lambda item: (item[0] != info.default_method, item[0])):
        marks = [
            *(["the default"] if name == info.default_method else []),
            *(["streams"] if method.streams else []),
            *(["async"] if method.is_async else []),
        ]
        marked = f"  [dim]{', '.join(marks)}[/]" if marks else ""
        yield f"  [bold]{plain(name)}[/]{plain(method.signature)}{marked}"
        if method.doc:
            yield f"      [dim]{plain(method.doc)}[/]"
        default = info.methods.get(info.default_method or "")
        if default is not None and name != default.name and method.inputs and method.inputs == default.inputs:
            yield f"      takes what {plain(default.name)} takes"
        else:
            yield from _tensor_lines("takes", method.inputs, method.known_from)
        yield from _tensor_lines("returns", method.outputs, method.known_from)


def _tensor_lines(verb: str, tensors: tuple[TensorInfo, ...], known_from: str) -> Iterator[str]:
    shown = [plain(_shown_tensor(tensor)) for tensor in tensors[:_MAX_TENSORS]]
    if len(tensors) > _MAX_TENSORS:
        shown.append(f"and {len(tensors) - _MAX_TENSORS} more")
    if shown:
        yield f"      {verb} {', '.join(shown)}  [dim]{known_from}[/]"


def _shown_tensor(tensor: TensorInfo) -> str:
    kind = tensor.datatype or "any"
    if tensor.shape is None:
        kind += "[...]"
    elif tensor.shape:
        kind += f"[{', '.join('?' if size < 0 else str(size) for size in tensor.shape)}]"
    return f"{tensor.name}: {kind}{', optional' if tensor.optional else ''}"


def settings_table(settings: list[dict[str, Any]]) -> Table:
    """Return the settings in force and where each was given; those that nobody gave are dim."""
    rows = table("", "SETTING", "VALUE", "FROM")
    for setting in settings:
        style = "dim" if setting["origin"] == "default" else None
        value = plain(_shown(setting["name"], setting["value"]))
        rows.add_row("", plain(setting["name"]), value, plain(setting["origin"]), style=style)
    return rows


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in _SIZES:
        return f"{format_size(value)} ({value} bytes)"
    return value if isinstance(value, str) else to_json(value)


def call_lines(info: ModelInfo, host: str | None = None) -> Iterator[str]:
    """Yield a call of the model for the shell, and for Python; `host` is as it was given."""
    method = min(info.methods.values(), key=lambda method: _rank(method, info.default_method))
    call = example_of(method)
    flag = "" if method.name == info.default_method else f" --method {method.name}"
    where = "" if host is None else f" -e {shlex.quote(host)}"
    yield f"hostd infer {shlex.quote(info.id)}{flag}{_for_shell(call)}{where}"
    connected = "hostd.connect()" if host is None else f"hostd.connect({json.dumps(host)})"
    yield "import hostd"
    yield f"model = {connected}.retrieve_model({json.dumps(info.id)})"
    if method.streams:
        yield f"for item in model.stream.{method.name}({_for_python(call)}): print(item)"
    else:
        yield f"model{'' if method.name == '__call__' else f'.{method.name}'}({_for_python(call)})"


def _rank(method: MethodInfo, default: str | None) -> tuple[bool, bool, bool, str]:
    """Return what to sort methods by: the default one first, else one of which it is known how to call it."""
    return method.name != default, example_of(method) is None, method.streams, method.name


def _for_shell(call: ExampleCall | None) -> str:
    if call is None:
        return " DATA"
    parts = [shlex.quote(json.dumps(value)) for value in call.args]
    if call.kwargs:
        parts += ["--kwargs", shlex.quote(json.dumps(dict(call.kwargs)))]
    if call.is_of_arrays:
        parts.append("--array")
    return "".join(f" {part}" for part in parts)


def _for_python(call: ExampleCall | None) -> str:
    if call is None:
        return "DATA"
    wrap = "numpy.asarray({})" if call.is_of_arrays else "{}"
    given = [wrap.format(_written(value)) for value in call.args]
    named = {name: wrap.format(_written(value)) for name, value in call.kwargs.items()}
    if all(name.isidentifier() and not keyword.iskeyword(name) for name in named):
        given += [f"{name}={value}" for name, value in named.items()]
    else:
        given.append(f"**{{{', '.join(f'{name!r}: {value}' for name, value in named.items())}}}")
    return ", ".join(given)


def _written(value: Any) -> str:
    """Return a value in Python; a long list of the same is a product."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {_written(item)}' for name, item in value.items())}}}"
    if not isinstance(value, list):
        return repr(value)
    if len(value) > _MANY and all(item == value[0] for item in value):
        return f"[{_written(value[0])}] * {len(value)}"
    return f"[{', '.join(map(_written, value))}]"


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID", shell_complete=complete_models)
@shared_options
@click.pass_obj
def stack(session: Session, model: str) -> None:
    """Print the stacks of all threads of a model's process, also while it hangs; the model is not disturbed.

    Python code only, the most recent call first; py-spy dump --native shows more, if it may look.
    """
    with session.client() as client:
        stacks = client.model_stacks(model)
    if session.json:
        print_json({"model": model, "stacks": [{"pid": pid, "text": text} for pid, text in stacks.items()]})
        return
    for pid, text in stacks.items():
        click.echo(f"model {model}, process {pid}:")
        click.echo(printable(text.rstrip()))
