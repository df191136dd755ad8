"""When answers of a worker may wait for company: only among quick calls, and never for long."""

from __future__ import annotations

from hostd_workers.main import HOLD_S, QUICK_CALLS, QUICK_S, Pace


def quick_pace() -> Pace:
    pace = Pace()
    for _ in range(QUICK_CALLS):
        pace.may_hold(0.0)
    return pace


def test_nothing_waits_before_many_calls_were_quick():
    pace = Pace()
    for _ in range(QUICK_CALLS):
        assert not pace.is_quick
        pace.may_hold(0.0)

    assert pace.is_quick


def test_one_slow_call_ends_it_until_many_were_quick_again():
    pace = quick_pace()

    assert not pace.may_hold(2 * QUICK_S)
    assert not pace.is_quick


def test_what_waits_is_sent_when_it_has_waited_long_enough():
    pace = quick_pace()
    took_s = QUICK_S / 2
    held = [pace.may_hold(took_s) for _ in range(100)]

    longest = max(len(run) for run in "".join("h" if h else " " for h in held).split())
    assert longest * took_s <= HOLD_S
    assert not all(held)
