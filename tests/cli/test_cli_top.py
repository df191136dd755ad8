"""The picture of `top` and what its keys do: pure functions of fixed records and of what was chosen before."""

import json
from dataclasses import replace

import pytest
from cli_rig import DIGITS as LOADED
from cli_rig import MIB

from hostd.cli.top.drawing import bar
from hostd.cli.top.look import Look, Scene, rows
from hostd.cli.top.state import Sort, State, keys, press
from hostd.cli.top.view import frame
from hostd.records import Event, HostInfo, MemoryInfo, ModelInfo, UnloadReport, WorkerInfo
from hostd_workers.wire.errors import UnavailableError

NOW_S = 1_800_000_000.0
ENDPOINT = "ipc:///run/user/1000/hostd/default/client.ipc"
HOST = HostInfo(41, "e", "0.1.0", 1, ENDPOINT, NOW_S - 7260, 3, 2, 60 * MIB, None, "/run", "/state", "py")
MEMORY = MemoryInfo(
    budget_bytes=1000 * MIB,
    measured_bytes=500 * MIB,
    reserved_bytes=250 * MIB,
    free_bytes=250 * MIB,
    evictions={"LOAD": 2},
    waits=1,
    unloads=3,
    freed_bytes=900 * MIB,
    last_unload=UnloadReport("x"),
)


def model(model_id, mib, **more):
    worker = WorkerInfo(1, 4242, "READY", 1, (mib + 20) * MIB, mib * MIB, peak_bytes=(mib + 50) * MIB, in_flight=2)
    facts = {"state": "READY", "loader": "sklearn", "workers": (worker,), "generation": 1, "calls": 100}
    facts |= {"ready_s": NOW_S - 3600, "last_used_s": NOW_S - 5, "latency_p50_s": 0.0008, "latency_p99_s": 0.012}
    return ModelInfo(id=model_id, path="/m", type="standalone-model", charge_bytes=mib * MIB, **{**facts, **more})


DIGITS = model("digits", 400, pinned=True)
OCR = model("ocr", 250, state="LOADING", reserved_bytes=250 * MIB, latency_p99_s=None, last_used_s=None)
TINY = model("tiny", 1, latency_p99_s=2.5, last_used_s=NOW_S - 4000)
LOOK = Look(NOW_S, 100.0, HOST, MEMORY, (DIGITS, OCR, TINY))


def earlier(look, calls=50, seconds=2.0):
    """What was seen before: each model had `calls` calls less."""
    before = tuple(replace(model, calls=model.calls - calls) for model in look.models)
    return replace(look, now_s=look.now_s - seconds, clock_s=look.clock_s - seconds, models=before)


SCENE = Scene(LOOK, earlier(LOOK))


def text(shown):
    return [line.plain for line in shown.lines]


def picture(scene=SCENE, state=None, width=80, height=24, **how):
    return text(frame(scene, state or State(), width, height, **how))


def of(*models):
    return Scene(replace(LOOK, models=models))


def names(scene, state):
    return [row.model.id for row in rows(scene.latest, scene.previous, state)]


# The picture


@pytest.mark.parametrize("width", [1, 5, 12, 20, 40, 60, 80, 99, 100, 120, 200])
@pytest.mark.parametrize("is_typing", [False, True])
def test_every_line_has_the_width_and_all_lines_the_height(width, is_typing):
    memory = replace(MEMORY, waiting=("big",) * 20, over_budget="leaky has grown " * 9)
    event = Event(NOW_S, "digits", "model", "READY", "UNLOADING", "EVICT", "evicted: 300 MiB " * 9)
    scene = Scene(replace(LOOK, memory=memory), None, event, "host is gone")
    for height in (None, 1, 2, 3, 5, 8, 10, 24, 50):
        shown = frame(scene, State(filter="i", is_typing=is_typing), width, height)
        assert all(line.cell_len <= width for line in shown.lines)
        assert height is None or len(shown.lines) == height


def test_at_80_columns_there_is_a_bar_and_what_matters_most():
    host, memory, figures, blank, heading, digits, ocr, tiny, *_, keys_line = picture()
    assert host.startswith("hostd  3 models, 1 loading  up 2h 1m  pid 41 (60 MiB)  ipc:///")
    assert memory.startswith("memory [█████")
    assert memory.endswith("] 750 MiB of 1.0 GiB")
    assert figures.startswith("measured 500 MiB  reserved 250 MiB  free 250 MiB  evictions 2 (2 load)")
    assert blank == ""
    assert heading.split() == ["MODEL", "STATE", "MEMORY▼", "RSS", "CALLS/S", "P50", "P99", "BUSY", "USED"]
    assert digits.split()[:2] + digits.split()[3:] == [
        "*digits",
        "READY",
        "400Mi",
        "420Mi",
        "25",
        "800us",
        "12ms",
        "2",
        "5s",
    ]
    assert ocr.split()[:2] == ["ocr", "LOADING"]
    assert set(ocr.split()[2]) == {"▒"}
    assert tiny.split()[2] == "▏"
    assert keys_line.startswith("q quit  s sort: memory  r reverse  / filter  * pinned")


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (200, "MODEL STATE MEMORY RSS PEAK CALLS/S P50 P99 BUSY USED UP PID LOADER"),
        (120, "MODEL STATE MEMORY RSS PEAK CALLS/S P50 P99 BUSY USED UP PID"),
        (60, "MODEL STATE MEMORY CALLS/S P99 BUSY"),
        (40, "MODEL STATE MEMORY"),
        (20, "MODEL MEMORY"),
        (8, "MODEL"),
    ],
)
def test_columns_go_by_priority_as_the_width_shrinks(width, headings):
    assert " ".join(picture(width=width, height=None)[4].replace("▼", "").split()) == headings


def test_memory_on_devices_has_a_column_where_there_is_some():
    (worker,) = DIGITS.workers
    look = replace(LOOK, models=(replace(DIGITS, workers=(replace(worker, gpu_bytes=3 << 30),)), OCR, TINY))
    heading, digits, ocr, *_ = picture(replace(SCENE, latest=look))[4:]
    assert heading.split()[:4] == ["MODEL", "STATE", "MEMORY▼", "GPU"]
    assert "3.0Gi" in digits.split()
    assert "3.0Gi" not in ocr


def test_a_bar_is_against_the_budget_or_without_one_against_the_largest():
    without = replace(SCENE, latest=replace(LOOK, memory=MemoryInfo(measured_bytes=5 * MIB)))
    for scene, size in ((SCENE, 16), (without, 40)):
        (line,) = [line for line in picture(scene, width=200, height=None) if line.startswith("*digits")]
        assert line.count("█") == size
    assert "memory 5.0 MiB, no budget" in picture(without)[1]


@pytest.mark.parametrize(
    ("full", "reserved", "drawn"),
    [
        (0, 0, "        "),
        (0.5, 0.25, "████▒▒  "),
        (0.001, 0, "▏       "),
        (0, 0.001, "▒       "),
        (7, 7, "████████"),
        (-1, -1, "        "),
    ],
)
def test_a_bar_has_full_and_reserved_parts_and_nothing_is_too_small_to_be_seen(full, reserved, drawn):
    assert bar(8, full, reserved, style="", is_ascii=False).plain == drawn


def test_a_terminal_that_knows_only_ascii_gets_only_that():
    lines = picture(state=State(filter="i"), height=None, is_ascii=True)
    assert "".join(lines).isascii()
    assert "[####" in lines[1]
    assert "++" in lines[1]


def test_long_names_are_cut_and_do_not_take_the_columns_away_nor_move_the_terminal():
    long = replace(DIGITS, id="a-team/with/a/very-long-name-of-a-model-2026-11-22")
    lines = picture(of(long), height=None)
    assert "P99" in lines[4]
    assert lines[5].startswith("*a-team/with/a/ve")
    assert "…" in lines[5]
    assert long.id in picture(of(long), width=200, height=None)[5]
    assert any("a\\x1b[2J [red]b" in line for line in picture(of(replace(DIGITS, id="a\x1b[2J\n[red]b")), width=120))


def test_what_has_happened_is_said_and_the_last_figures_stay():
    event = Event(NOW_S, "digits", "model", "READY", "UNLOADING", "EVICT", "evicted for ocr: 300 MiB")
    memory = replace(MEMORY, waiting=("a", "b"), over_budget="leaky has grown by 300 MiB")
    lines = picture(replace(SCENE, trouble="host is gone, trying again: nobody answers"))
    assert lines[0].startswith(" host is gone, trying again: nobody answers ")
    assert any(line.startswith("*digits") for line in lines)
    assert "digits  model  READY -> UNLOADING  evicted for ocr" in picture(replace(SCENE, event=event), width=120)[-2]
    said = [line.rstrip() for line in picture(Scene(replace(LOOK, memory=memory)))[3:5]]
    assert said == ["waiting for memory: a, b", "over the budget: leaky has grown by 300 MiB"]


def test_an_empty_host_says_how_to_load_and_a_filter_that_nothing_matches_says_so():
    assert "no models; load one with hostd load ID PATH" in "".join(picture(of()))
    assert "no model matches 'zzz'" in "".join(picture(state=State(filter="zzz")))


def test_few_lines_are_for_the_models_first():
    assert [line.split()[0] for line in picture(height=6)[:-1]] == ["hostd", "MODEL", "*digits", "ocr", "tiny"]
    assert picture(height=7)[1].startswith("memory")
    assert picture(height=8)[2].startswith("measured")


def test_many_models_are_scrolled():
    scene = of(*(model(f"m{i:03}", 500 - i) for i in range(100)))
    shown = frame(scene, State(scroll=7), 80, 24)
    assert shown.most_scroll == 100 - shown.page
    first = [line.split()[0] for line in text(shown) if line.startswith(" m0")]
    assert first == [f"m{i:03}" for i in range(7, 7 + shown.page)]
    assert text(shown)[-1].endswith(f"8-{7 + shown.page} of 100 models")
    last = frame(scene, State(scroll=10_000), 80, 24)
    assert text(last)[-1].endswith(f"{101 - last.page}-100 of 100 models")


def test_a_model_near_its_own_limit_is_red():
    for limit_mib, is_red in ((440, True), (450, False)):
        shown = frame(of(replace(DIGITS, memory_limit=limit_mib * MIB)), State(), 80, None)
        assert ("red" in {str(span.style) for span in shown.lines[5].spans}) is is_red


# Order, filter, rates


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        (Sort.MEMORY, ["digits", "ocr", "tiny"]),
        (Sort.CALLS, ["tiny", "digits", "ocr"]),
        (Sort.P99, ["tiny", "digits", "ocr"]),
        (Sort.NAME, ["digits", "ocr", "tiny"]),
        (Sort.USED, ["digits", "tiny", "ocr"]),
    ],
)
def test_models_are_sorted_and_what_is_not_known_comes_last_both_ways(sort, order):
    busy = replace(LOOK, models=(DIGITS, OCR, replace(TINY, calls=500)))
    scene = Scene(busy, replace(earlier(LOOK), models=tuple(replace(m, calls=50) for m in (DIGITS, TINY))))
    assert names(scene, State(sort)) == order
    unknown = order[-1:] if sort in (Sort.CALLS, Sort.P99, Sort.USED) else []
    known = order[: len(order) - len(unknown)]
    assert names(scene, State(sort, is_reversed=True)) == known[::-1] + unknown


@pytest.mark.parametrize(
    ("wanted", "found"), [("DIG", ["digits"]), ("loading", ["ocr"]), ("sklearn", ["digits", "ocr", "tiny"]), ("?", [])]
)
def test_a_filter_looks_at_id_state_and_loader(wanted, found):
    assert names(SCENE, State(filter=wanted)) == found


def test_calls_per_second_are_the_difference_of_two_looks():
    def rates(latest, previous):
        return [row.calls_per_s for row in rows(latest, previous, State())]

    before = earlier(LOOK, calls=50, seconds=2)
    assert rates(LOOK, before) == [25, 25, 25]
    for nothing in (None, replace(before, models=()), earlier(LOOK, seconds=0)):
        assert rates(LOOK, nothing) == [None] * 3
    assert rates(replace(LOOK, host=replace(HOST, epoch="f")), before) == [None] * 3, "another start of the host"
    again = replace(DIGITS, generation=2, calls=DIGITS.calls + 10)
    assert rates(replace(LOOK, models=(again,)), before) == [30], "loaded again, its counts go on"


# The command without a terminal


def test_without_a_terminal_there_is_one_picture(run):
    for args in ((), ("--once",)):
        result = run("top", "--interval", "0.1", *args)
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout
        lines = [line.split() for line in result.stdout.splitlines()]
        assert ["digits", "READY"] in [line[:2] for line in lines]
        assert not any("quit" in line for line in lines)


def test_a_picture_in_a_pipe_has_all_columns_and_ends_somewhere(run):
    lines = run("top", "--interval", "0.1").stdout.splitlines()
    assert max(map(len, lines)) <= 200
    (titles,) = [line.split() for line in lines if line.split()[:1] == ["MODEL"]]
    assert {"STATE", "CALLS/S", "P99", "PID", "LOADER"} <= set(titles)


def test_json_is_one_object_with_memory_and_models(run, client):
    client.models["other"] = replace(LOADED, id="other")
    found = json.loads(run("top", "--once", "--json", "--interval", "0.1", "--filter", "OTH").stdout)
    assert found["memory"]["budget_bytes"] == 2000 * MIB
    (record,) = found["models"]
    assert (record["id"], record["calls_per_s"]) == ("other", 0)


def test_json_goes_on_until_the_host_is_gone(run, client, monkeypatch):
    looks = iter(range(3))

    def memory_info():
        if next(looks, None) is None:
            raise UnavailableError("the host went away")
        return MEMORY

    monkeypatch.setattr(client, "memory_info", memory_info)
    result = run("top", "--json", "--interval", "0.1")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert json.loads(result.stderr)["error"]["status"] == "UNAVAILABLE"


# Keys


def pressed(*what, state=None, **room):
    state = state or State()
    for key in what:
        state = press(state, key, **room)
    return state


def test_s_goes_through_all_sorts_and_r_reverses():
    assert [pressed(*"s" * times).sort for times in range(6)] == [*Sort, Sort.MEMORY]
    assert pressed("r").is_reversed
    assert pressed("r", "r") == pressed("r", "s", "s", "s", "s", "s") == State()


def test_a_slash_begins_a_filter_that_enter_keeps_and_escape_clears():
    assert pressed("/", "q", "s") == State(filter="qs", is_typing=True)
    assert pressed("/", "a", "b", "backspace", "enter") == State(filter="a")
    assert pressed("/", "a", "esc") == pressed("/", "a", "enter", "esc") == State()
    assert pressed("/", "a", "clear", "b", "up", "enter") == State(filter="b")


def test_q_ends_it_and_ctrl_c_even_while_a_filter_is_typed():
    assert pressed("q").is_over
    assert pressed("quit").is_over
    assert pressed("/", "quit").is_over
    assert not pressed("/", "q").is_over


def test_keys_scroll_no_further_than_there_are_rows():
    room = {"page": 10, "most_scroll": 25}
    assert pressed("down", "j", "up", **room).scroll == 1
    assert pressed("page down", "page down", "page down", **room).scroll == 25
    assert pressed("end", "page up", **room).scroll == 15
    assert pressed("up", **room).scroll == pressed("end", "home", **room).scroll == 0
    # After the list has become shorter, the first key up is seen at once.
    assert pressed("up", state=State(scroll=90), **room).scroll == 24


def test_other_keys_do_nothing():
    assert pressed("x", "left", "enter", "backspace") == State()


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("sr/", ["s", "r", "/"]),
        ("\x1b", ["esc"]),
        ("\x1b[A\x1bOB\x1b[5~\x1b[6~", ["up", "down", "page up", "page down"]),
        ("\x1b[1;5Cq", ["q"]),
        ("\x1bxq", ["q"]),
        ("ä\r\n\x7f\x15\x03", ["ä", "enter", "enter", "backspace", "clear", "quit"]),
        ("\x00\x07\t", []),
    ],
)
def test_what_a_terminal_sends_is_read_as_keys(sent, meant):
    assert keys(sent) == meant
