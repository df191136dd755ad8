"""Tables on a narrow terminal, and in a pipe: paths, names and commands stay in one piece."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from hostd.cli.commands.inventory import inventory_table
from hostd.cli.output import table
from hostd.cli.tables import laid_out

COLUMNS = 80
KEY = "preload.greeter.options.greeting"
PATH = "/srv/a/rather/long/path/to/where/the/models/are/of/this/host/greeter.ipc"


def shown(rows, width: int = COLUMNS) -> list[str]:
    out = Console(file=io.StringIO(), width=width)
    for part in laid_out(rows, width):
        out.print(part)
    assert isinstance(out.file, io.StringIO)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


def test_cells_wrap_between_words_and_a_path_without_room_goes_below_its_row() -> None:
    rows = table("SETTING", "VALUE", "FROM")
    rows.add_row("name", "default", "default", style="dim")
    rows.add_row(KEY, "hello", "/etc/hostd.yaml")
    rows.add_row(f"{KEY}.path", PATH, "an argument")
    rows.add_row("words", "a b", "one that is quite a lot longer than what is left of it here")
    lines = shown(rows)
    assert [line.split() for line in lines[:5]] == [
        ["SETTING", "VALUE", "FROM"],
        ["name", "default", "default"],
        [KEY, "hello", "/etc/hostd.yaml"],
        [f"{KEY}.path", "an", "argument"],
        [PATH],
    ]
    assert " ".join(" ".join(lines[5:]).split()) == (
        "words a b one that is quite a lot longer than what is left of it here"
    )
    assert max(map(len, lines)) <= COLUMNS


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 120])
def test_nothing_is_lost_at_any_width(width: int) -> None:
    rows = table("NAME", "PID", "ENDPOINT", right=("PID",))
    rows.add_row("default", "4242", f"ipc://{PATH}")
    lines = shown(rows, width)
    assert f"default4242ipc://{PATH}" in "".join("".join(lines).split())
    assert max(map(len, lines)) <= width


def test_a_pipe_has_no_width(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    found = run("config", "show", "--models-dir", PATH)
    row = next(line for line in found.stdout.splitlines() if line.startswith("models.dir"))
    assert row.split() == ["models.dir", PATH, "an", "argument"]
    assert PATH in run("config", "show", "--config", PATH).stderr.splitlines()[0]


def test_a_failed_model_is_one_line_of_a_terminal_and_whole_in_a_pipe(
    run, client, broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = f"its load raised ValueError: {'no such tree, ' * 30}at {PATH}"
    client.models["broken"] = replace(broken, reason=f"{reason}\nand a traceback")
    lines = shown(inventory_table(list(client.models.values()), 1e9, COLUMNS))
    assert len(lines) == 1 + len(client.models)
    assert [len(line) for line in lines if line.endswith("…")] == [COLUMNS - 2]
    result = run("ls")
    assert reason in result.stdout
    assert "hostd explain" not in result.stderr
    monkeypatch.setattr("hostd.cli.commands.inventory.console", lambda **_: Console(force_terminal=True, width=COLUMNS))
    assert run("ls").output.count("hostd explain ID has the rest") == 1
