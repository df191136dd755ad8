"""The picture that `top` shows, made of what is known and what was chosen. Pure: no terminal, no clock, no host."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from hostd.cli.commands.explaining import event_line
from hostd.cli.top.columns import Scale, layout
from hostd.cli.top.drawing import bar, cell, ends, one_line
from hostd.cli.top.look import Look, Scene, has_gpu, rows
from hostd.units import counted, format_duration, format_size

if TYPE_CHECKING:
    from hostd.cli.top.state import State

_LEAST_ROWS = 3
"""The lines that models get before there is room for what is said around them."""


@dataclass(frozen=True)
class Frame:
    """The lines of a picture; `page` rows fit into it, and it can be scrolled by `most_scroll`."""

    lines: tuple[Text, ...]
    page: int = 1
    most_scroll: int = 0

    def picture(self) -> Group:
        """Return what a console prints."""
        return Group(*self.lines)


def frame(scene: Scene, state: State, width: int, height: int | None, *, is_ascii: bool = False) -> Frame:
    """Return the picture for a terminal of this size; without a height it is as long as need be, and has no keys.

    When there are few lines the most important ones stay: models, then the memory of all, then the rest.
    """
    latest = scene.latest
    found = rows(latest, scene.previous, state)
    longest_name = max((cell_len(one_line(row.model.id)) for row in found), default=0)
    columns = layout(width, longest_name, has_gpu=has_gpu(latest))
    heading = columns.heading(state.sort, is_reversed=state.is_reversed, is_ascii=is_ascii)
    host, memory = _host_line(scene, width), [_memory_bar(latest, width, is_ascii=is_ascii)]
    figures, blank = [_figures(latest, width), *_warnings(latest, width)], [Text("")]
    event = [] if scene.event is None else [cell(Text.from_markup(one_line(event_line(scene.event))), width)]
    most_bytes = max((row.model.charge_bytes for row in found), default=0)
    scale = Scale(latest.memory.budget_bytes or most_bytes, is_ascii)

    def lines(first: int, last: int | None) -> list[Text]:
        shown = [columns.line(row, scale) for row in found[first:last]] or [_nothing(latest, state, width)]
        if scene.trouble:
            for line in shown:
                line.stylize("dim")
        return shown

    if height is None:
        return Frame(_drawable((host, *memory, *figures, *blank, heading, *lines(0, None)), is_ascii=is_ascii))
    room = height - len((host, heading, "footer"))
    for optional in (blank, event, figures, memory):  # the least important first
        if room - len(blank + event + figures + memory) < _LEAST_ROWS:
            optional.clear()
    page = max(1, room - len(blank + event + figures + memory))
    most_scroll = max(0, len(found) - page)
    first = min(state.scroll, most_scroll)
    shown = lines(first, first + page)
    filler = [Text("")] * (page - len(shown))
    footer = _footer(state, _position(latest, len(found), first, page), width)
    above = (host, *memory, *figures, *blank, heading)
    whole = _drawable((*above, *shown, *filler, *event, footer)[-height:], is_ascii=is_ascii)
    return Frame(whole, page, most_scroll)


def _drawable(lines: tuple[Text, ...], *, is_ascii: bool) -> tuple[Text, ...]:
    if is_ascii:
        for line in lines:
            line.plain = line.plain.replace("…", "~").encode("ascii", "replace").decode()
    return lines


def _host_line(scene: Scene, width: int) -> Text:
    host, models = scene.latest.host, scene.latest.models
    clock = Text(time.strftime("%H:%M:%S", time.localtime(scene.latest.now_s)), "dim")
    if scene.trouble:
        return ends(Text(f" {one_line(scene.trouble)} ", "bold white on red"), clock, width)
    loading = sum(model.state == "LOADING" for model in models)
    count = counted(len(models), "model") + (f", {loading} loading" if loading else "")
    up = format_duration(scene.latest.now_s - host.started_s)
    facts = f"  {count}  up {up}  pid {host.pid} ({format_size(host.rss_bytes)})"
    degraded = (f"  degraded: {one_line(host.degraded[0])}", "yellow") if host.degraded else ""
    return ends(
        Text.assemble(("hostd", "bold"), facts, degraded, (f"  {one_line(host.endpoint)}", "dim")), clock, width
    )


def _memory_bar(latest: Look, width: int, *, is_ascii: bool) -> Text:
    memory = latest.memory
    used_bytes = memory.measured_bytes + memory.reserved_bytes
    if not memory.budget_bytes:
        return cell(Text.assemble(("memory ", "bold"), f"{format_size(used_bytes)}, no budget"), width)
    figure = f" {format_size(used_bytes)} of {format_size(memory.budget_bytes)}"
    room = max(0, width - len("memory []") - len(figure))
    full, reserved = memory.measured_bytes / memory.budget_bytes, memory.reserved_bytes / memory.budget_bytes
    style = "red" if used_bytes > memory.budget_bytes else "green"
    drawn = bar(room, full, reserved, style=style, track=True, is_ascii=is_ascii)
    return cell(Text.assemble(("memory ", "bold"), "[", drawn, "]", figure), width)


def _figures(latest: Look, width: int) -> Text:
    memory = latest.memory
    reasons = ", ".join(f"{count} {reason.lower()}" for reason, count in memory.evictions.items())
    returned = f"{format_size(memory.freed_bytes)} by {counted(memory.unloads, 'unload')}"
    facts = (
        ("measured", format_size(memory.measured_bytes)),
        ("reserved", format_size(memory.reserved_bytes)),
        ("free", format_size(memory.free_bytes)),
        ("evictions", f"{sum(memory.evictions.values())}{f' ({reasons})' if reasons else ''}"),
        ("given back", returned if memory.unloads else "nothing yet"),
        ("waits", str(memory.waits)),
        ("refusals", str(memory.refusals)),
    )
    line = Text()
    for name, value in facts:  # as many as there is room for, and none in half
        fact = Text.assemble((f"{name} ", "dim"), one_line(value))
        if line.cell_len + fact.cell_len + 2 > width and line:
            continue
        line = Text.assemble(line, "  " if line else "", fact)
    return cell(line, width)


def _warnings(latest: Look, width: int) -> list[Text]:
    memory = latest.memory
    lines = []
    if memory.paused:
        lines.append(Text.assemble(("paused until there is room: ", "bold yellow"), one_line(", ".join(memory.paused))))
    if memory.waiting:
        lines.append(Text.assemble(("waiting for memory: ", "bold yellow"), one_line(", ".join(memory.waiting))))
    if memory.over_budget:
        lines.append(Text.assemble(("over the budget: ", "bold red"), one_line(memory.over_budget)))
    return [cell(line, width) for line in lines]


def _nothing(latest: Look, state: State, width: int) -> Text:
    said = f"no model matches {state.filter!r}" if latest.models else "no models; load one with hostd load ID PATH"
    return cell(f" {said}", width, style="dim")


def _position(latest: Look, found: int, first: int, page: int) -> str:
    if found <= page:
        return "" if found == len(latest.models) else f"{found} of {counted(len(latest.models), 'model')}"
    return f"{first + 1}-{first + page} of {counted(found, 'model')}"


def _footer(state: State, position: str, width: int) -> Text:
    if state.is_typing:
        keys = Text.assemble(
            ("/", "bold"), one_line(state.filter), (" ", "reverse"), ("  Enter keeps, Esc clears", "dim")
        )
        return ends(keys, Text(position, "dim"), width)
    keys = Text()
    chosen = f"filter: {one_line(state.filter)}" if state.filter else "filter"
    for key, does in (("q", "quit"), ("s", f"sort: {state.sort.value}"), ("r", "reverse"), ("/", chosen)):
        keys.append(key, "bold cyan").append(f" {does}  ")
    keys.append("* pinned", "dim")
    return ends(keys, Text(position, "dim"), width)
