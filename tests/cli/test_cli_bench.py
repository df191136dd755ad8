"""The load generator's counting, against a host that answers from memory."""

import importlib.util
import json
import re
from importlib.util import find_spec

import pytest
from cli_rig import WRITER
from hypothesis import given
from hypothesis import strategies as st

from hostd.cli.bench.percentiles import percentile


def test_a_run_counts_calls_and_their_latencies(run, client):
    result = run("bench", "digits", "-d", "[1]", "-c", "4", "-t", "0.2", "--json", "-m", "predict")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    made = [asked for asked in client.asked if asked[0] == "call"]
    assert set(map(repr, made)) == {"('call', 'predict', ([1],), {})"}
    assert found["calls"] == len(made) - 1, "the first call is not counted"
    assert found["calls_per_s"] == pytest.approx(found["calls"] / found["elapsed_s"])
    assert 0.001 <= found["p50_s"] <= found["p90_s"] <= found["p99_s"] <= found["max_s"]
    assert 0.2 <= found["elapsed_s"] < 30
    assert found["calls"] > 0.2 / found["max_s"], "four callers make more calls than one at the slowest"
    assert found["items"] == found["calls"]
    assert client.asked[-1] == ("close",)


def test_the_figures_are_a_table_for_people(run):
    lines = run("bench", "digits", "-t", "0.1").stdout.splitlines()
    assert lines[0].startswith("digits: 1 in flight for 1")
    assert lines[1].split() == ["CALLS", "PER", "SECOND", "P50", "P90", "P99", "MAX", "ERRORS"]


def test_of_a_method_that_streams_a_call_is_the_whole_stream(run, client):
    client.models["writer"] = WRITER
    found = json.loads(run("bench", "writer", "-t", "0.1", "-c", "3", "--json").stdout)
    assert found["items"] == 5 * found["calls"]
    assert found["p50_s"] >= 0.005


def test_failed_calls_are_counted_by_status_and_the_exit_code_is_1(run, client):
    client.fails_after = 20
    result = run("bench", "digits", "-t", "1")
    assert result.exit_code == 1
    assert " x UNAVAILABLE" in result.stdout
    assert "the last error: the worker died" in result.stdout


def test_a_model_that_refuses_the_first_call_or_all_others_ends_the_run_early(run, client):
    client.fails_after = 0
    result = run("bench", "digits", "-t", "60")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: the worker died [UNAVAILABLE]" in result.stderr
    client.fails_after = 1
    found = json.loads(run("bench", "digits", "-t", "60", "-c", "8", "--json").stdout)
    assert found["elapsed_s"] < 30
    assert (found["calls"], found["p50_s"]) == (0, None)
    assert run("bench", "nope").exit_code == 1


@pytest.mark.parametrize(
    ("plot", "words"),
    [("x.png", "needs matplotlib"), ("x.gif", r"\.png, \.svg, \.pdf"), ("no/such/x.png", "no directory to write into")],
)
def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    run, client, tmp_path, monkeypatch, plot, words
):
    spec = None if "matplotlib" in words else object()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "matplotlib" else find_spec(name))
    result = run("bench", "digits", "--plot", str(tmp_path / plot))
    assert result.exit_code == 2
    assert re.search(words, result.stderr)
    assert client.asked == []


def test_a_plot_shows_the_latencies(run, tmp_path):
    pytest.importorskip("matplotlib")
    result = run("bench", "digits", "-t", "0.2", "--plot", str(tmp_path / "x.svg"))
    assert result.exit_code == 0, result.stderr
    assert "the latencies of" in result.stderr
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values, percent):
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert found in ordered
    assert sum(value <= found for value in ordered) * 100 >= percent * len(ordered)
    smaller = [value for value in ordered if value < found]
    assert len(smaller) * 100 < percent * len(ordered)
