"""`scale`: what many models cost: a list of all of them, a call of one of them, and a host in which all of them wait.

One host has one model, another has more and more; their models are called in turn. While a client in a process of its
own lists models again and again, another asks for the record of one: that passes the loop on which lists are made.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple

from benchmarks.models import model_directory, write_echo
from benchmarks.runner import Effort, Round, Side, alternate, collected
from benchmarks.verdicts import Against, By, Comparison, Figure, Target, Verdict, alone, compare, nearest_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import hostd

COUNTS = (100, 200)
QUICK_COUNTS = (20,)
LOADS_AT_ONCE = 20

LIST_LIMIT_S = 0.010
DELAY_LIMIT_S = 0.005
CALL_LIMIT = 1.15
"""Two hosts with one model each differ by as much on a machine that others use."""
IDLE_LIMIT_PERCENT = 1.0

PAYLOAD = b"x" * 64
QUIET, LISTED = "alone", "while another client lists"

_LISTER = """
import json, sys, threading, time
import hostd
with hostd.connect(sys.argv[1]) as client:
    client.list_models()
    print(flush=True)
    for _ in sys.stdin:  # a line: begin; the next: end
        ended = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.readline(), ended.set())).start()
        taken_s = []
        while not ended.is_set():
            start = time.perf_counter()
            client.list_models()
            taken_s.append(time.perf_counter() - start)
        print(json.dumps(taken_s), flush=True)
"""


def scale(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Compare hosts with one model and with many."""
    if not with_host:
        return
    import hostd  # noqa: PLC0415 - the floors can be measured without the host

    with model_directory() as directory, hostd.Host() as one, hostd.Host() as many:
        path = write_echo(directory)
        _load_up_to(1, one, path)
        yield _lists(one, 1, effort)
        for count in QUICK_COUNTS if effort.is_quick else COUNTS:
            _load_up_to(count, many, path)
            yield _lists(many, count, effort)
        yield _calls(one, many, count, effort)
        yield _idle(many, count, effort)


def _load_up_to(count: int, host: hostd.Host, path: Path) -> None:
    with host.client() as client:
        loaded = len(client.list_models())
        for first in range(loaded, count, LOADS_AT_ONCE):
            numbers = range(first, min(count, first + LOADS_AT_ONCE))
            for handle in [client.load_model(f"model-{number}", str(path), wait=False) for number in numbers]:
                handle.wait()
                handle.echo(PAYLOAD)


class _Lister(NamedTuple):
    """A client that lists models when it is told, and says what each list took."""

    orders: IO[str]
    told: IO[str]

    def while_(self, measure: Callable[[], Round], lists_s: list[float]) -> Round:
        """Have it list meanwhile."""
        print(file=self.orders, flush=True)
        try:
            return measure()
        finally:
            print(file=self.orders, flush=True)
            lists_s += json.loads(self.told.readline())


@contextmanager
def _lister(host: hostd.Host) -> Iterator[_Lister]:
    command = [sys.executable, "-c", _LISTER, host.endpoint]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        orders, told = process.stdin, process.stdout
        if orders is None or told is None or not told.readline():
            raise RuntimeError("the client that lists did not start")
        try:
            yield _Lister(orders, told)
        finally:
            orders.close()


def _lists(host: hostd.Host, count: int, effort: Effort) -> Comparison:
    """Have a client ask for one record again and again, alone and while another lists models."""
    from benchmarks.lifecycle import cpu_s, supervisor_of  # noqa: PLC0415 - as above

    lists_s: list[float] = []
    with host.client() as client, _lister(host) as lister:
        supervisor = supervisor_of(client)
        call = partial(_calling, partial(client.get_model, "model-0"), effort.round_s)
        sides = [Side(QUIET, call), Side(LISTED, partial(lister.while_, call, lists_s), is_ours=True)]
        rounds = alternate(sides, effort.rounds, effort.patience_s)
        before_s = cpu_s(supervisor)
        alone_s = collected(Side(QUIET, partial(_calling, client.list_models, 3 * effort.round_s))).latencies_s
        list_cpu_s = (cpu_s(supervisor) - before_s) / len(alone_s)
    title = f"get_model, {_models(count)}"
    table = compare("scale", title, By.LATENCY, sides, rounds)
    quiet, listed = table.figures
    delay_s = (listed.p99_s or 0.0) - (quiet.p99_s or 0.0)
    table.verdicts.append(_verdict(f"p99 {LISTED}", f"p99 {QUIET}", Against.DIFFERENCE, delay_s, DELAY_LIMIT_S))
    for name, taken_s in [("list_models, alone", alone_s), ("list_models, beside get_model", lists_s)]:
        p50_s, p99_s = nearest_rank(taken_s, 0.5), nearest_rank(taken_s, 0.99)
        table.figures.append(Figure(name, By.LATENCY, p50_s, p99_s, len(taken_s), is_ours=True))
    table.figures.append(Figure("supervisor's CPU for it", By.LATENCY, list_cpu_s, None, len(alone_s), is_ours=True))
    p99_s = nearest_rank(alone_s, 0.99)
    table.verdicts.append(_verdict("p99 of list_models", "", Against.ALONE, p99_s, LIST_LIMIT_S))
    return table


def _verdict(ours: str, floor: str, against: Against, value: float, limit: float) -> Verdict:
    return Verdict(ours, floor, By.LATENCY, against, value, value, value, limit)


def _calls(one: hostd.Host, many: hostd.Host, count: int, effort: Effort) -> Comparison:
    """Call a model of each host in turn, which has no other or many."""
    names = [_models(1), _models(count)]
    with one.client() as of_one, many.client() as of_many:
        models = [client.retrieve_model("model-0") for client in (of_one, of_many)]
        sides = [
            Side(name, partial(_calling, partial(model.echo, PAYLOAD), effort.round_s), is_ours=model is models[1])
            for name, model in zip(names, models, strict=True)
        ]
        rounds = alternate(sides, effort.rounds, effort.patience_s)
    return compare(
        "scale",
        "a call of one of them",
        By.LATENCY,
        sides,
        rounds,
        [Target(names[1], names[0], Against.RATIO, CALL_LIMIT)],
    )


def _idle(host: hostd.Host, count: int, effort: Effort) -> Comparison:
    from benchmarks.lifecycle import idle_percents, supervisor_of  # noqa: PLC0415 - as above

    with host.client() as client:
        supervisor = supervisor_of(client)
        (percent,) = idle_percents([[supervisor]], effort.idle_s)
        rss_bytes = supervisor.memory_info().rss
    return alone(
        "scale",
        f"{_models(count)} idle, {effort.idle_s:g} s",
        [
            ("supervisor's CPU, of a core", By.PERCENT, percent, IDLE_LIMIT_PERCENT),
            ("supervisor's RSS", By.BYTES, rss_bytes, None),
        ],
    )


def _calling(call: Callable[[], object], duration_s: float) -> Round:
    """Call one after the other."""
    clock, latencies_s = time.perf_counter, list[float]()
    start = now = clock()
    while now < start + duration_s:
        call()
        before, now = now, clock()
        latencies_s.append(now - before)
    return Round(latencies_s, now - start)


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"
