"""`templates`: loads that are forked from a template, against fresh ones and against a load in a warm process.

The floor is a process that has imported the libraries already and loads the same file again and again, with nothing
around it. Of frameworks those are measured that are installed here. The second table loads 200 copies of the digits
regression at once, from a template that is warm, and looks at the machine: what each holds alone, what all hold
together (PSS), and whether the host's own figures agree with what the end of each gives back: its private pages and
its page tables.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.framework_models import CASES
from benchmarks.machine import Neighbours
from benchmarks.models import model_directory, write_digits
from benchmarks.outside import TEMPLATE, is_there, name_of, pss_of, tables_of, tree_of, uss_of
from benchmarks.runner import Effort, Round, Side, alternate
from benchmarks.verdicts import Against, By, Comparison, Target, alone, compare, nearest_rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import hostd
    from benchmarks.framework_models import Case

FLOOR = "load in a process that has the libraries"
FRESH = "hostd, fresh"
FORKED = "hostd, forked"
ANSWERED = "hostd, forked, with the first answer"

FORKED_EXTRA_S = 0.025
FORKED_SHARE = 1 / 20
ANSWERED_S = 0.060

MANY = 200
EACH_BYTES = 8 * 2**20
ALL_BYTES = 2 * 2**30
LOADED_S = 15.0
UNLOADED_S = 5.0
DIFFERENCE_PERCENT = 5.0
SETTLED_S = 30


def templates(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """One load of each kind, then many at once."""
    if not with_host:
        return
    with model_directory() as directory:
        for case in CASES:
            if all(importlib.util.find_spec(name) for name in case.needs):
                yield _loads(case, case.write(directory), effort)
        (directory / "many").mkdir()
        yield from _many(write_digits(directory / "many"), effort)


class _Loading(NamedTuple):
    """A host that is to load a model again and again."""

    client: hostd.Client
    path: Path

    def round(self, *, call: Any = None) -> Round:
        """Time one load, perhaps with a first call; the unload after it is not timed."""
        began_s = time.perf_counter()
        model = self.client.load_model("model", self.path)
        if call is not None:
            call(model)
        elapsed_s = time.perf_counter() - began_s
        self.client.unload_model("model")
        return Round([elapsed_s], elapsed_s)


@contextmanager
def _host(path: Path, templates: str) -> Iterator[_Loading]:
    import hostd  # noqa: PLC0415 - the floors can be measured without the host

    with hostd.Host(workers={"templates": templates, "cpu_threads": 1}) as host, host.client() as client:
        yield _Loading(client, path)


def _loads(case: Case, path: Path, effort: Effort) -> Comparison:
    from benchmarks.floors.loading import warm_process  # noqa: PLC0415 - as above

    with ExitStack() as stack:
        fresh = stack.enter_context(_host(path, "off"))
        forked = stack.enter_context(_host(path, "auto"))
        for _ in range(3):  # learned, imported, warm
            forked.round(call=case.call)
        _assert_equal(case, fresh, forked)
        floor = stack.enter_context(warm_process(case.source, path))
        sides = [
            Side(FLOOR, floor.round),
            Side(FRESH, fresh.round, is_ours=True),
            Side(FORKED, forked.round, is_ours=True),
            Side(ANSWERED, partial(forked.round, call=case.call), is_ours=True),
        ]
        targets = []
        if case.is_promised:
            targets = [
                Target(FORKED, FLOOR, Against.DIFFERENCE, FORKED_EXTRA_S),
                Target(FORKED, FRESH, Against.RATIO, FORKED_SHARE),
                Target(ANSWERED, FLOOR, Against.ALONE, ANSWERED_S),
            ]
        rounds = alternate(sides, 2 * effort.slow_rounds, effort.patience_s)
        return compare("templates", case.title, By.LATENCY, sides, rounds, targets, references=[FLOOR, FRESH])


def _assert_equal(case: Case, fresh: _Loading, forked: _Loading) -> None:
    """See that a forked worker answers bit for bit as a fresh one does."""
    answers = []
    for loading in (fresh, forked):
        answers.append(repr(case.call(loading.client.load_model("model", loading.path))))
        (worker,) = loading.client.get_model("model").workers
        if (worker.template is None) != (loading is fresh):
            raise RuntimeError(f"{case.title}: not as it was to be started: {worker}")
        loading.client.unload_model("model")
    if answers[0] != answers[1]:
        raise RuntimeError(f"{case.title}: a forked worker answers otherwise than a fresh one: {answers}")


def _many(digits: Path, effort: Effort) -> Iterator[Comparison]:
    count = 20 if effort.is_quick else MANY
    paths = [digits.parent / f"copy-{number}.joblib" for number in range(count)]
    for path in paths:
        shutil.copy(digits, path)
    neighbours = Neighbours()
    with _host(digits, "auto") as (client, _):
        for _ in range(2):
            client.load_model("first", digits)
            client.unload_model("first")
        client.load_model("first", digits)
        templates_before = _templates(client)
        began_s = time.perf_counter()
        models = [client.load_model(f"model-{number}", path, wait=False) for number, path in enumerate(paths)]
        for model in models:
            model.wait()
        loaded_s = time.perf_counter() - began_s
        answers = {repr(client.retrieve_model(f"model-{number}")([[0.0] * 64])) for number in range(count)}
        pids = [client.get_model(f"model-{number}").workers[0].pid or 0 for number in range(count)]
        told = _settled(client, count)
        private = [uss_of(pid) or 0 for pid in pids]
        own_bytes = sum(private) + sum(map(tables_of, pids))
        supervisor = client.host_info().pid
        everything = [supervisor, *(process.pid for process in tree_of(supervisor))]
        all_bytes = sum(map(pss_of, everything))
        difference = max(100 * abs(told_bytes - own_bytes) / own_bytes for told_bytes in told)
        processes = [process for process in tree_of(supervisor) if name_of(process.pid) != TEMPLATE]
        began_s = time.perf_counter()
        client.unload_all_models()
        unloaded_s = time.perf_counter() - began_s
        left = sum(map(is_there, processes))
        if len(answers) != 1 or _templates(client) != templates_before:
            raise RuntimeError(f"the models answer {answers}; templates {templates_before}, now {_templates(client)}")
    yield alone(
        "templates",
        f"{count} digits regressions, loaded at once from a warm template",
        [
            ("loaded, all answering", By.LATENCY, loaded_s, LOADED_S),
            ("private memory of each, p50", By.BYTES, nearest_rank(private, 0.5), None),
            ("private memory of each, most", By.BYTES, max(private), EACH_BYTES),
            ("the whole host, its templates with it (PSS)", By.BYTES, all_bytes, ALL_BYTES),
            ("charges, and budget, against what their end gives back", By.PERCENT, difference, DIFFERENCE_PERCENT),
            ("all unloaded", By.LATENCY, unloaded_s, UNLOADED_S),
            ("processes left", By.COUNT, left, 0),
        ],
        others_cores=neighbours.cores(),
    )


def _templates(client: hostd.Client) -> Sequence[int]:
    return [template.id for template in client.templates_info().templates if template.state == "READY"]


def _settled(client: hostd.Client, count: int) -> tuple[int, int]:
    """Return what these models are charged, and what the budget counts for them, when all have been looked at again."""
    before: tuple[int, int] | None = None
    for _ in range(SETTLED_S):
        charged_bytes = sum(client.get_model(f"model-{number}").charge_bytes for number in range(count))
        told = charged_bytes, client.memory_info().measured_bytes - client.get_model("first").charge_bytes
        if told == before:
            break
        before = told
        time.sleep(1)
    return told
