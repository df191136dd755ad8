"""What the keys of `top` do: a pure function of what was chosen before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hostd.cli.top.state import Sort, State, keys, press

if TYPE_CHECKING:
    from collections.abc import Iterable


def pressed(*what: str, state: State | None = None, **room: int) -> State:
    state = state or State()
    for key in what:
        state = press(state, key, **room)
    return state


def test_s_goes_through_all_sorts_and_r_reverses() -> None:
    assert [pressed(*"s" * times).sort for times in range(6)] == [*Sort, Sort.MEMORY]
    assert pressed("r").is_reversed
    assert pressed("r", "r") == pressed("r", "s", "s", "s", "s", "s") == State()


def test_a_slash_begins_a_filter_that_enter_keeps_and_escape_clears() -> None:
    assert pressed("/", "q", "s") == State(filter="qs", is_typing=True)
    assert pressed("/", "a", "b", "backspace", "enter") == State(filter="a")
    assert pressed("/", "a", "esc") == pressed("/", "a", "enter", "esc") == State()
    assert pressed("/", "a", "clear", "b", "up", "enter") == State(filter="b")


@pytest.mark.parametrize("key", ["q", "quit"])
def test_q_and_ctrl_c_end_it(key: str) -> None:
    assert pressed(key).is_over


def test_ctrl_c_ends_it_while_a_filter_is_typed() -> None:
    assert pressed("/", "quit").is_over
    assert not pressed("/", "q").is_over


def test_keys_scroll_no_further_than_there_are_rows() -> None:
    room = {"page": 10, "most_scroll": 25}
    assert pressed("down", "j", "up", **room).scroll == 1
    assert pressed("page down", "page down", "page down", **room).scroll == 25
    assert pressed("end", "page up", **room).scroll == 15
    assert pressed("up", **room).scroll == pressed("end", "home", **room).scroll == 0
    # After the list has become shorter, the first key up is seen at once.
    assert pressed("up", state=State(scroll=90), **room).scroll == 24


def test_other_keys_do_nothing() -> None:
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
def test_what_a_terminal_sends_is_read_as_keys(sent: str, meant: Iterable[str]) -> None:
    assert keys(sent) == meant
