"""When news are looked for before a sleep, and for how long."""

from __future__ import annotations

import time
from typing import Any

from hostd_workers.wire.lane.spin import MISSES, SELDOM, Spin


class Looked:
    """Has news after some looks, and counts them."""

    def __init__(self, after: float) -> None:
        self.after, self.looks = after, 0

    def poll(self, timeout: float) -> list[Any]:
        assert timeout == 0, "a look does not wait"
        self.looks += 1
        return ["news"] if self.looks > self.after else []


def test_news_that_come_within_the_limit_are_found_without_a_sleep() -> None:
    looked = Looked(after=3)
    assert Spin(60.0).look(looked.poll) == ["news"]
    assert looked.looks == 4


def test_by_default_nobody_looks() -> None:
    looked = Looked(after=0)
    assert Spin().look(looked.poll) == []
    assert looked.looks == 0


def test_a_look_ends_with_its_limit() -> None:
    looked, began_s = Looked(after=float("inf")), time.monotonic()
    assert Spin(0.02).look(looked.poll) == []
    assert looked.looks
    assert time.monotonic() - began_s >= 0.02


def test_after_some_in_vain_looks_are_rare_until_two_succeed() -> None:
    spin, never = Spin(0.001), Looked(after=float("inf"))
    taken = []
    for _ in range(MISSES + 2 * SELDOM):
        before = never.looks
        spin.look(never.poll)
        taken.append(never.looks > before)
    assert taken[:MISSES] == [True] * MISSES
    assert sum(taken[MISSES:]) == 2
    while not spin.look(Looked(after=0).poll):
        pass
    assert [spin.look(Looked(after=0).poll) for _ in range(3 * SELDOM)] == [["news"]] * 3 * SELDOM, "it pays again"


def test_the_rest_of_what_was_slept_for_is_no_reason_to_look_for_the_next() -> None:
    spin, never = Spin(0.0005), Looked(after=float("inf"))
    spun = 0
    for _ in range(200):
        before = never.looks
        spin.look(never.poll)
        spun += never.looks > before
        spin.look(Looked(after=0).poll)
    assert spun < 50
