"""One client in bad faith, and another: the host lives, keeps nothing, and answers the other one.

What each attack does is in `attacks`. The figures, with how long the others wait, are those of `python -m benchmarks
attack`; here are only the promises that hold on a machine of any speed.
"""

import pytest
from attacks.catalogue import ATTACKS
from attacks.rig import observe

MOST_GROWTH_BYTES = 100 * 10**6
"""What is kept for one process: 34 MB that it does not read, and a result of 10 MB that is being taken in, another that is
on its way, and what the allocator has not given back yet. Those that are about memory bring or ask for 600 MB and more."""

BEFORE_S, DURING_S = 0.3, 1.5

OF_EACH_KIND = (
    "future-identity",
    "connections-without-handshake",
    "half-open-scrapes",
    "batches-of-costly-verbs",
    "parts-over-the-limit",
    "unfinished-messages",
    "unread-results-over-many-connections",
    "stopped-worker",
    "waiting-retrieves",
    "idle-uploads",
    "big-directory",
)
"""What guards against the others is in `tests/shell` (transport) and `tests/core` (shares)."""

SLOWER, LATER_S = 5, 5.0
"""What another client does may take so many times as long, and so many seconds more, before an attack counts."""


@pytest.mark.heavy
@pytest.mark.timeout(400)  # a host that fails takes its patience
@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_an_attack_harms_nobody_else(name):
    outcome = observe(name, is_small=True, before_s=BEFORE_S, during_s=DURING_S)
    report = outcome.report
    assert outcome.is_alive, f"the supervisor has died: {report}"
    assert not outcome.failures, report
    assert outcome.during(), "the victim was not there to see it"
    assert outcome.deeds_during, "nobody else did anything meanwhile"
    before_s, during_s = (max(deed.latency_s for deed in d) for d in (outcome.deeds_before, outcome.deeds_during))
    assert during_s <= SLOWER * before_s + LATER_S, f"{before_s:.3f} s before, {during_s:.3f} s meanwhile: {report}"
    assert outcome.growth_bytes <= MOST_GROWTH_BYTES, f"it grew by {outcome.growth_bytes / 1e6:.0f} MB: {report}"
    assert not report.wrong, report
    assert report.told or not ATTACKS[name].must_be_told, f"the attacker heard nothing: {report}"
