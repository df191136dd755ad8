"""The policy on paper: what a trace of requests costs, by the core itself and by others that it is compared with."""

from __future__ import annotations

import random

from benchmarks.policy import Outcome, Request, Size, fcfs_loads, host_loads, lru_loads


def test_two_models_that_take_turns_are_loaded_far_less_often_than_first_come_first_served():
    sizes = {model_id: Size(500, 600, 0.5) for model_id in "ab"}
    trace = [Request(number * 0.01, "ab"[number % 2]) for number in range(200)]
    assert fcfs_loads(trace, sizes, 800) == Outcome(loads=200, evictions=199, failed=0)
    host = host_loads(trace, sizes, 800, call_s=0.01)
    assert host.failed == 0
    assert host.loads * 3 <= 200


def test_what_fits_is_loaded_once_and_what_never_does_fails():
    sizes = {"a": Size(400, 500, 0.1), "b": Size(400, 500, 0.1), "large": Size(2000, 2000, 0.1)}
    trace = [Request(float(number), ("a", "b", "large")[number % 3]) for number in range(12)]
    assert host_loads(trace, sizes, 1000) == Outcome(loads=2, evictions=0, failed=4)
    assert lru_loads(trace, sizes, 1000) == Outcome(loads=2, evictions=0, failed=4)


def test_a_skewed_trace_costs_the_host_fewer_loads_than_plain_lru():
    dice = random.Random(1)
    models = [f"m{number}" for number in range(40)]
    sizes = {model_id: Size(bytes := dice.randrange(50, 400), bytes * 11 // 10, bytes / 400) for model_id in models}
    weights = [1 / (number + 1) for number in range(40)]
    trace = [Request(number * 0.02, dice.choices(models, weights)[0]) for number in range(1000)]
    host, lru = host_loads(trace, sizes, 2000, call_s=0.01), lru_loads(trace, sizes, 2000)
    assert host.failed == lru.failed == 0
    assert host.loads < lru.loads
