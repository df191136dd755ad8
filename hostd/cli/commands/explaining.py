"""`explain` and `plan`: why a model is as it is, what would evict it, and what a load would do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from hostd.cli.commands.lifecycle import choosing_options
from hostd.cli.commands.templates import some_of
from hostd.cli.output import console, plain, print_json, say, table
from hostd.cli.session import HostCommand, Session, complete_models, shared_options
from hostd.cli.styles import STATE_STYLES
from hostd.records import Event
from hostd.units import counted, format_age, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from hostd.records import Holder, LoadPlan


_CALLS_SHOWN = 20

_DAY_S = 86400
"""Transitions that are older are shown with their dates."""


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID", shell_complete=complete_models)
@shared_options
@click.pass_obj
def explain(session: Session, model: str) -> None:
    """Say why a model is in its state: its size and how that is known, what an eviction would do, its calls, its story.

    A call that its caller has left is one that nobody waits for any more and that the model still works on.
    """
    with session.client() as client:
        found = client.explain_model(model)
    if session.json:
        print_json(found)
        return
    state = str(found.get("state", "unknown"))
    reason = str(found.get("reason") or "no reason given")
    say(f"[bold]{plain(model)}[/] is [{STATE_STYLES.get(state, 'default')}]{plain(state)}[/]: {plain(reason)}")
    rows = table("", "", "")
    rows.show_header = False
    for name, words in memory_lines(found.get("size"), found.get("eviction")):
        rows.add_row("", f"[dim]{name:8}[/]", plain(words))
    if rows.row_count:
        console().print(rows)
    if found.get("calls"):
        say("calls in flight")
        console().print(calls_table(found["calls"]))
    direct = found.get("direct")
    if direct and direct["calls"]:
        clients, calls = counted(direct["clients"], "client"), counted(direct["calls"], "call")
        say(f"direct   {clients} without the host in between; {calls} so far, {direct['in_flight']} in flight")
    for origin in found.get("origins", ()):
        if origin["template"] is not None:
            libraries = plain(some_of(origin["libraries"]))
            say(f"worker   forked from template {origin['template']}, which has imported {libraries}")
        elif origin["why_fresh"]:
            say(f"worker   started afresh: {plain(origin['why_fresh'])}")
    story = table("", "", "", "")
    story.show_header = False
    for told in found.get("story", ()):
        clock, subject, change, why = event_parts(Event.from_dict(told))
        story.add_row("", clock, subject, f"{change}  {why}" if why else change)
    if story.row_count:
        console().print(story)


def calls_table(calls: Sequence[dict[str, Any]]) -> Table:
    """Return the table of calls in flight, the oldest first; those of a kind beyond a screenful are counted."""
    rows = table("", "METHOD", "AGE", "CLIENT", "", right=("AGE",))
    for call in calls[:_CALLS_SHOWN]:
        client = call.get("client") or {}
        caller = f"{client.get('program') or 'unknown program'}, pid {client.get('pid') or '-'}"
        note = "" if call["state"] == "sent" else str(call.get("why", ""))
        style = "[yellow]" if call["state"] == "left" else "[dim]"
        rows.add_row(
            "", plain(call["method"]), format_duration(call["age_s"]), plain(caller), f"{style}{plain(note)}[/]"
        )
    if len(calls) > _CALLS_SHOWN:
        rows.add_row("", f"[dim]and {len(calls) - _CALLS_SHOWN} more[/]", "", "", "")
    return rows


def memory_lines(size: dict[str, Any] | None, eviction: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Return what `explain_model` says of memory as pairs of a name and words; nothing about what holds none."""
    if size is not None:
        yield "size", _how_big(size)
        reserved_bytes = size.get("reserved_bytes") or 0
        reserved = f", of which {format_size(reserved_bytes)} are reserved and not measured yet"
        charge = format_size(size["charge_bytes"]) if size.get("charge_bytes") else "nothing"
        shared = f", with {format_size(size.get('shared_bytes'))} of shared memory" if size.get("shared_bytes") else ""
        yield "charge", f"{charge} of the budget{shared}{reserved if reserved_bytes else ''}"
        baseline = f"; {format_size(size.get('baseline_bytes'))} were there before the model"
        known = size.get("peak_bytes") is not None or size.get("baseline_bytes") is not None
        if known:
            yield "peak", f"{format_size(size.get('peak_bytes'))}{baseline if size.get('baseline_bytes') else ''}"
    if eviction is not None:
        why_not, rank = eviction.get("why_not"), eviction.get("rank")
        gain = f"would free {format_size(eviction.get('would_free_bytes'))}"
        cost = f"a reload takes {format_duration(eviction.get('reload_s'))}"
        turn = f"not now: {why_not}" if why_not else f"{_ordinal(rank)} to go" if rank else "possible now"
        yield "eviction", f"{turn}; {gain}, {cost}, unused for {format_duration(eviction.get('idle_s'))}"
        if eviction.get("returns"):
            yield "", f"afterwards {eviction['returns']}"


def _how_big(size: dict[str, Any]) -> str:
    if size.get("bytes") is not None:
        age_s = size.get("age_s")
        age = "" if age_s is None else f" {format_age(age_s)} ago"
        return f"{format_size(size['bytes'])}, {size.get('source', 'unknown')}{age}"
    if size.get("need_bytes"):
        return f"{format_size(size['need_bytes'])} expected, {size.get('need_source', 'unknown')}"
    return "not known yet"


def _ordinal(rank: int) -> str:
    if rank == 1:
        return "the next"
    suffix = "th" if 10 <= rank % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{suffix}"


@click.command(cls=HostCommand)
@click.argument("model", metavar="ID", shell_complete=complete_models)
@click.argument("path", type=click.Path())
@choosing_options
@shared_options
@click.pass_obj
@click.pass_context
def plan(ctx: click.Context, session: Session, /, model: str, path: str, model_type: str, **how: Any) -> None:
    """Say what loading the model at PATH would do now, without doing it: what would be evicted, in which order.

    The exit code is 1 if the load would be refused, and 0 if it would start: at once, after evictions or after a wait.
    """
    with session.client() as client:
        found = client.plan_load(model, path, model_type, **how)
    if session.json:
        print_json(found.to_dict())
    else:
        say(plan_line(found))
        for holders, heading in ((found.victims, "WOULD GO"), (found.holders, "HOLDER")):
            if holders:
                say("")
                console().print(holders_table(holders, heading))
    if found.outcome == "refuse":
        ctx.exit(1)


def plan_line(found: LoadPlan) -> str:
    """Return what a load would do, and why, as rich markup."""
    outcome = {
        "start": "[green]would start at once[/]",
        "evict": f"[green]would start[/] after {counted(len(found.victims), 'eviction')}",
        "wait": "[yellow]would wait[/]",
        "refuse": "[red]would be refused[/]",
    }.get(found.outcome, plain(found.outcome))
    if found.outcome == "start" and not found.need_bytes:
        outcome = "[green]needs no load[/]"
    reason = f": {plain(found.reason)}" if found.reason else ""
    need = f"it needs {format_size(found.need_bytes)} ({plain(found.need_source)})"
    budget = (
        "there is no budget"
        if found.budget_bytes is None
        else f"{format_size(found.free_bytes)} of the budget of {format_size(found.budget_bytes)} are free"
    )
    line = f"[bold]{plain(found.model_id)}[/] {outcome}{reason}"
    return f"{line}\n{need}; {budget}" if found.need_bytes else line


def holders_table(holders: Sequence[Holder], heading: str) -> Table:
    """Return the table of what holds memory, in the order that the host gave."""
    is_explained = any(holder.why for holder in holders)
    headings = (heading, "HOLDS", "UNUSED", "RELOAD", *(("WHY",) if is_explained else ()))
    rows = table(*headings, right=("HOLDS", "UNUSED", "RELOAD"))
    for holder in holders:
        figures = (format_size(holder.bytes), format_age(holder.idle_s), format_duration(holder.reload_s))
        rows.add_row(plain(holder.model_id), *figures, *((plain(holder.why),) if is_explained else ()))
    return rows


def event_line(event: Event) -> str:
    """Return a transition as one line of rich markup."""
    clock, subject, change, why = event_parts(event)
    return f"{clock}  [bold]{plain(event.model_id)}[/]  {subject}  {change}{f'  {why}' if why else ''}"


def event_parts(event: Event) -> tuple[str, str, str, str]:
    """Return when a transition was, of what, from what to what, and why, as rich markup."""
    reason = event.reason.partition("\n")[0]  # a line an event; the whole of it is the model's reason
    is_old = time.time() - event.time_s > _DAY_S
    clock = time.strftime("%m-%d %H:%M:%S" if is_old else "%H:%M:%S", time.localtime(event.time_s))
    subject = f"worker {event.worker_id}" if event.subject == "worker" else event.subject
    pid = f" pid {event.pid}" if event.pid else ""
    new = f"[{STATE_STYLES.get(event.new, 'default')}]{plain(event.new)}[/]"
    change = new if event.old == event.new else f"{plain(event.old)} -> {new}"
    return f"[dim]{clock}[/]", f"{subject}{pid}", change, f"[dim]{plain(reason)}[/]" if reason else ""
