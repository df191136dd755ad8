"""Which files are taken to be whole, with looks and clocks that are made up."""

from __future__ import annotations

import pytest

from hostd.core.files import stability
from hostd.core.files.stability import CLOCK_MARGIN_S, LOOK_AGAIN_S, Completeness, Look, Stability, Wait

QUIET_S = 2.0
NOW_S = 1_000.0
WALL_S = 1_700_000_000.0
"""Two clocks that have nothing to do with each other, as the system's do not."""


def look(digest: bytes = b"a", *, age_s: float = 0.0, says: Completeness = Completeness.UNKNOWN) -> Look:
    return Look(digest, WALL_S - age_s, says, "a reason" if says is Completeness.INCOMPLETE else "")


def observe(stability: Stability, seen: Look, after_s: float = 0.0, path: str = "/m") -> Wait | None:
    return stability.observe(path, seen, NOW_S + after_s, WALL_S + after_s)


def test_c27_two_equal_looks_the_quiet_period_apart_settle() -> None:
    stability = Stability(QUIET_S)
    first = observe(stability, look())
    assert first is not None
    assert first.retry_after_s == QUIET_S
    assert "2 s" in first.reason
    early = observe(stability, look(), 1.5)
    assert early is not None
    assert early.retry_after_s == pytest.approx(0.5)
    assert observe(stability, look(), first.retry_after_s) is None


def test_c27_every_change_starts_the_quiet_period_anew() -> None:
    stability = Stability(QUIET_S)
    for step in range(50):
        wait = observe(stability, look(b"%d" % step), step * 60.0)
        assert wait is not None
        assert wait.retry_after_s == QUIET_S
    assert observe(stability, look(b"49"), 49 * 60.0 + QUIET_S) is None


def test_c27_what_is_settled_stays_so_until_it_changes() -> None:
    stability = Stability(QUIET_S)
    observe(stability, look())
    assert observe(stability, look(), QUIET_S) is None
    assert observe(stability, look(), QUIET_S + 0.1) is None
    assert observe(stability, look(b"b"), QUIET_S + 0.2) is not None


def test_c27_old_files_are_settled_at_the_first_look_and_at_the_next() -> None:
    stability = Stability(QUIET_S)
    old = look(age_s=QUIET_S + CLOCK_MARGIN_S + 1)
    assert observe(stability, old) is None
    assert observe(stability, old, 0.1) is None


@pytest.mark.parametrize("age_s", [QUIET_S + CLOCK_MARGIN_S - 1, 0.0, -1e6])
def test_c27_files_that_changed_within_the_margin_or_in_the_future_take_two_looks(age_s: float) -> None:
    stability = Stability(QUIET_S)
    assert observe(stability, look(age_s=age_s)) is not None
    assert observe(stability, look(age_s=age_s), QUIET_S) is None


def test_c27_files_that_change_before_our_eyes_are_not_old_whatever_their_times_say() -> None:
    stability = Stability(QUIET_S)
    observe(stability, look(b"a"))
    assert observe(stability, look(b"b", age_s=1e6), 1.0) is not None


def test_c27_a_marker_or_a_manifest_is_believed_at_once() -> None:
    assert observe(Stability(QUIET_S), look(says=Completeness.COMPLETE)) is None


@pytest.mark.parametrize("quiet_s", [0.0, QUIET_S])
def test_c27_what_is_known_to_be_incomplete_is_never_settled(quiet_s: float) -> None:
    stability = Stability(quiet_s)
    for minutes in range(100):
        wait = observe(stability, look(age_s=1e6, says=Completeness.INCOMPLETE), minutes * 60.0)
        assert wait == Wait(max(quiet_s, LOOK_AGAIN_S), "a reason")


def test_c27_the_last_missing_file_starts_the_quiet_period() -> None:
    stability = Stability(QUIET_S)
    observe(stability, look(b"a"))
    observe(stability, look(b"a", says=Completeness.INCOMPLETE), 1.0)
    wait = observe(stability, look(b"a"), 60.0)
    assert wait is not None
    assert wait.retry_after_s == QUIET_S


@pytest.mark.parametrize("quiet_s", [0.0, -1.0])
def test_c27_without_a_quiet_period_everything_else_is_settled_at_once(quiet_s: float) -> None:
    assert observe(Stability(quiet_s), look()) is None


def test_paths_are_observed_apart() -> None:
    stability = Stability(QUIET_S)
    observe(stability, look(), path="/one")
    assert observe(stability, look(), QUIET_S, path="/two") is not None
    assert observe(stability, look(), QUIET_S, path="/one") is None


def test_what_nobody_asks_about_any_more_is_forgotten() -> None:
    stability = Stability(QUIET_S)
    for number in range(100):
        observe(stability, look(), path=f"/{number}")
    observe(stability, look(), 30.0, path="/0")
    assert len(stability) == 100
    observe(stability, look(), 81.0, path="/new")
    assert len(stability) == 2
    stability.forget("/new")
    stability.forget("/never seen")
    assert repr(stability) == "<Stability 1 paths, quiet for 2 s>"


def test_no_more_than_so_many_paths_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability, "_MAX_PATHS", 10)
    observed = Stability(QUIET_S)
    for number in range(100):
        observe(observed, look(), path=f"/{number}")
    assert len(observed) <= 11
    assert observe(observed, look(), QUIET_S, path="/99") is None
    assert observe(observed, look(), QUIET_S, path="/0") is not None


def test_a_sum_of_seconds_that_is_off_by_a_rounding_needs_no_further_look() -> None:
    observed = Stability(0.3)
    first = observed.observe("/m", look(), 0.1, WALL_S)
    assert first is not None
    assert observed.observe("/m", look(), 0.1 + first.retry_after_s - 1e-9, WALL_S) is None
