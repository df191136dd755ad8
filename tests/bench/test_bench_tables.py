"""Tables of calls can be measured, and their figures cover what was promised of them."""

from dataclasses import replace

import pytest

from benchmarks.calls import latency, throughput
from benchmarks.runner import QUICK
from benchmarks.verdicts import Against

TINY = replace(QUICK, rounds=1, round_s=0.01)

# The other tables differ from these in what they send.
CASES = [(latency, "busy", 1), (latency, "digits", 2), (latency, "arrays", 3), (throughput, "echo", 5)]


@pytest.mark.parametrize(("command", "table", "judged"), CASES)
def test_a_table_has_figures_of_both_kinds_and_its_verdicts(command, table, judged):
    pytest.importorskip("sklearn")
    comparisons = list(command(TINY, with_host=True, tables=[table]))
    assert {figure.is_ours for figure in comparisons[0].figures} == {True, False}
    verdicts = [verdict for comparison in comparisons for verdict in comparison.verdicts if verdict.limit is not None]
    assert len(verdicts) == judged


def test_the_host_counts_every_call_of_its_clients():
    clients, counts = throughput(TINY, with_host=True, tables=["clients"])
    assert len([verdict for verdict in clients.verdicts if verdict.limit is not None]) == 2
    assert [verdict.is_met for verdict in counts.verdicts if verdict.against is Against.ALONE] == [True, True]
    assert counts.figures[0].value > 0


def test_the_floors_can_be_measured_alone():
    (comparison,) = latency(TINY, with_host=False, tables=["echo"])
    assert not any(figure.is_ours for figure in comparison.figures)
