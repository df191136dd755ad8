"""Tables on a narrow terminal, and in a pipe: paths, names and commands stay in one piece."""

import io
from dataclasses import replace

import pytest
from cli_rig import BROKEN, DIGITS, MIB, rows
from rich.console import Console

from hostd.cli.commands import deploying, listing
from hostd.cli.commands.inventory import inventory_table
from hostd.cli.output import table
from hostd.cli.tables import laid_out
from hostd.records import SyncReport

KEY = "preload.greeter.options.greeting"
PATH = "/srv/a/rather/long/path/to/where/the/models/are/of/this/host/greeter.ipc"


def printed(part, width=80):
    out = Console(file=io.StringIO(), width=width)
    for each in part if isinstance(part, list) else [part]:
        out.print(each)
    lines = [line.rstrip() for line in out.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    return lines


def models(*models, width=80):
    return printed(listing.models_table(models, 2e9, budget_bytes=2000 * MIB, width=width), width)


def test_cells_wrap_between_words_and_a_path_without_room_goes_below_its_row():
    found = table("SETTING", "VALUE", "FROM")
    found.add_row("name", "default", "default", style="dim")
    found.add_row(KEY, "hello", "/etc/hostd.yaml")
    found.add_row(f"{KEY}.path", PATH, "an argument")
    found.add_row("words", "a b", "one that is quite a lot longer than what is left of it here")
    lines = rows("\n".join(printed(list(laid_out(found, 80)))))
    above = ["SETTING VALUE FROM", "name default default", f"{KEY} hello /etc/hostd.yaml"]
    assert lines[:5] == [*above, f"{KEY}.path an argument", PATH]
    assert " ".join(lines[5:]) == "words a b one that is quite a lot longer than what is left of it here"


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 120])
def test_nothing_is_lost_at_any_width(width):
    found = table("NAME", "PID", "ENDPOINT", right=("PID",))
    found.add_row("default", "4242", f"ipc://{PATH}")
    lines = printed(list(laid_out(found, width)), width)
    assert f"default4242ipc://{PATH}" in "".join("".join(lines).split())


def test_a_pipe_has_no_width(run):
    found = run("config", "show", "--models-dir", PATH, COLUMNS="40")
    assert f"models.dir {PATH} an argument" in rows(found.stdout)
    assert PATH in run("config", "show", "--config", PATH, COLUMNS="40").stderr.splitlines()[0]


def test_a_failed_model_is_one_line_of_a_terminal_and_whole_in_a_pipe(run, client, monkeypatch):
    reason = f"its load raised ValueError: {'no such tree, ' * 30}at {PATH}"
    client.models["broken"] = replace(BROKEN, reason=f"{reason}\nand a traceback")
    lines = printed(list(laid_out(inventory_table(list(client.models.values()), 1e9, 80), 80)))
    assert len(lines) == 1 + len(client.models)
    assert [len(line) for line in lines if line.endswith("…")] == [78]
    result = run("ls")
    assert reason in result.stdout
    assert "hostd explain" not in result.stderr
    monkeypatch.setattr("hostd.cli.commands.inventory.console", lambda **_: Console(force_terminal=True, width=80))
    assert run("ls").output.count("hostd explain ID has the rest") == 1


def test_the_table_of_models_fits_eighty_columns_and_cuts_nothing():
    long = replace(
        DIGITS, id="team/sentiment-classifier-large-v2-2026-11-22", state="QUARANTINED", loader="my.pkg:load"
    )
    lines = models(long, replace(DIGITS, workers=DIGITS.workers * 2, calls=1234567))
    assert "1234567" in "".join("".join(lines).split())
    column = "".join(line[: lines[0].index("STATE")].strip() for line in lines[1:])
    assert column.startswith(long.id)


def test_the_table_of_models_has_the_columns_that_its_width_has_room_for():
    many = [DIGITS, replace(DIGITS, id="team/sentiment-classifier", calls=12345, loader="my.package:loader")]
    shown = {width: models(*many, width=width)[0].split() for width in (30, 40, 60, 80, 120)}
    assert all(headings[:2] == ["MODEL", "STATE"] for headings in shown.values())
    assert shown[60] == ["MODEL", "STATE", "PID", "RSS", "USS", "BUDGET", "CALLS", "USED"]
    assert set(shown[40]) < set(shown[60]) < set(shown[80]) < set(shown[120])
    assert "CHARGE" in shown[120]


def test_memory_on_devices_has_a_column_where_there_is_some():
    (worker,) = DIGITS.workers
    on_device, elsewhere = (
        replace(DIGITS, id=name, workers=(replace(worker, gpu_bytes=size),))
        for name, size in (("a", 3 << 30), ("b", 0))
    )
    assert "GPU" not in models(elsewhere)[0]
    heading, first, second = models(on_device, elsewhere)
    assert heading.split()[4:8] == ["RSS", "USS", "GPU", "BUDGET"]
    assert (first.split()[6], second.split()[6]) == ("3.0Gi", "-")


def test_what_is_reserved_for_a_load_counts_in_the_table():
    loading = replace(DIGITS, state="LOADING", workers=(), charge_bytes=500 * MIB, reserved_bytes=500 * MIB)
    assert models(loading)[1].split()[:7] == ["digits", "LOADING", "-", "sklearn", "-", "-", "25%"]


@pytest.mark.parametrize(
    ("charge_bytes", "budget_bytes", "shown"),
    [(0, 100, "-"), (1, 1000, "<1%"), (15, 100, "15%"), (300, 100, "300%"), (5, None, "-")],
)
def test_a_share_of_the_budget_is_short(charge_bytes, budget_bytes, shown):
    assert listing.format_share(charge_bytes, budget_bytes) == shown


def test_the_table_of_a_sync_fits_eighty_columns_and_cuts_nothing():
    report = SyncReport(("team/sentiment-classifier-large",), (), {"bad": "because " * 30})
    assert "".join(printed(deploying.sync_table(report, is_waited_for=True))).count("because") == 30
