"""Deadlines that may be moved and cancelled."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostd.core.bookkeeping.timers import _SLACK, Timers
from hostd.core.deadlines import HeldTimer, IdleTimer, LoadTimer, WaiterTimer


@pytest.fixture
def timers() -> Timers[str]:
    return Timers()


def test_without_deadlines_there_is_no_next_one(timers):
    assert timers.next() is None
    assert list(timers.pop_due(1e9)) == []
    assert len(timers) == 0


def test_what_is_due_comes_earliest_first_and_in_the_order_in_which_it_was_set(timers):
    for key, at_s in (("c", 3.0), ("a", 1.0), ("b2", 2.0), ("b1", 2.0)):
        timers.set(key, at_s)
    assert timers.next() == 1.0
    assert list(timers.pop_due(0.5)) == []
    assert list(timers.pop_due(2.0)) == ["a", "b2", "b1"]
    assert (timers.next(), len(timers), "c" in timers, "a" in timers) == (3.0, 1, True, False)


def test_keys_need_no_order(timers):
    for key in (object(), ("a", 1), 7, None):
        timers.set(key, 1.0)
    assert len(list(timers.pop_due(1.0))) == 4


def test_memory_follows_the_live_deadlines_and_not_the_cancelled_ones():
    timers: Timers[int] = Timers()
    for key in range(10):
        timers.set(-1 - key, 1e9)
    for key in range(20_000):
        timers.set(key, 60.0 + key)
        timers.cancel(key)
        assert len(timers._heap) <= 2 * len(timers) + _SLACK + 2
    assert len(timers) == 10
    assert list(timers.pop_due(1e9)) == [-1 - key for key in range(10)]
    assert timers._heap == []


def test_cancelling_costs_nothing_until_most_of_the_heap_is_stale():
    timers: Timers[int] = Timers()
    for key in range(_SLACK):
        timers.set(key, 1.0)
        timers.cancel(key)
    assert len(timers._heap) == _SLACK


@pytest.mark.parametrize("seed", range(5))
def test_building_the_heap_anew_keeps_what_is_live_and_its_order(seed):
    timers: Timers[int] = Timers()
    due_s = [float(n) for n in range(4 * _SLACK)]
    random.Random(seed).shuffle(due_s)
    for key, at_s in enumerate(due_s):
        timers.set(key, at_s)
    live = set(range(0, len(due_s), 7))
    for key in range(len(due_s)):
        if key not in live:
            timers.cancel(key)
    timers.set(-1, -1.0)
    assert len(timers._heap) == len(live) + 1
    assert list(timers.pop_due(-1.0)) == [-1]
    assert list(timers.pop_due(1e9)) == sorted(live, key=due_s.__getitem__)


@given(
    st.lists(st.tuples(st.sampled_from(["set", "cancel", "pop"]), st.integers(0, 5), st.integers(0, 20)), max_size=60)
)
def test_timers_behave_like_a_sorted_table_of_deadlines(steps):
    timers: Timers[int] = Timers()
    table: dict[int, float] = {}
    for what, key, at_s in steps:
        if what == "set":
            timers.set(key, at_s)
            table[key] = at_s
        elif what == "cancel":
            timers.cancel(key)
            table.pop(key, None)
        else:
            due = list(timers.pop_due(at_s))
            expected = [key for key, due_s in table.items() if due_s <= at_s]
            assert sorted(due) == sorted(expected)
            assert [table[key] for key in due] == sorted(table[key] for key in due)
            table = {key: due_s for key, due_s in table.items() if key not in due}
        assert timers.next() == min(table.values(), default=None)
        assert len(timers) == len(table)


def test_deadlines_of_different_kinds_are_different():
    kinds = [IdleTimer("m"), LoadTimer("m"), WaiterTimer(("alice", 5)), HeldTimer(("alice", 5))]
    timers = Timers()
    for at_s, key in enumerate(kinds):
        timers.set(key, float(at_s))
    assert len(timers) == len(kinds)
    timers.cancel(kinds[0])
    timers.cancel(kinds[3])
    assert list(map(type, timers.pop_due(9.0))) == [LoadTimer, WaiterTimer]
