"""`sync`: what it costs to follow a models directory in which nothing changes, and what others notice of it.

The directory has 10,000 entries: directories and files that are no models, hidden ones, and models of which none is
loaded. The floor is one pass of `os.scandir` over it with a stat per entry. Beside it are the host's scan alone, in
this process, and the whole verb; while the verb is called again and again, another client lists models.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.models import ECHO, model_directory
from benchmarks.runner import HOST, Effort, Round, Rounds, Side, alternate, timed
from benchmarks.verdicts import Against, By, Comparison, Figure, Target, Verdict, compare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import hostd

ENTRIES = 10_000
FLOOR = "os.scandir with a stat per entry"
SCAN = "hostd's scan alone"
LIST = "list_models"

SYNC_LIMIT = 3.0
LIST_LIMIT_S = 0.010

# What changed in the last two seconds is looked at again by every scan.
SETTLE_S = 2.5


def sync(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Compare scans and syncs with a bare pass; then list models during syncs."""
    with model_directory() as directory:
        _write_entries(directory)
        time.sleep(SETTLE_S)
        floor = Side(FLOOR, partial(timed, partial(_pass, directory)))
        if not with_host:
            yield compare("sync", _TITLE, By.LATENCY, [floor], alternate([floor], effort.rounds, effort.patience_s))
            return
        yield _against(floor, Side(SCAN, _scan_of(directory), is_ours=True), effort)
        with _following(directory) as (syncing, listing):
            yield _against(floor, Side(HOST, partial(timed, partial(_sync, syncing)), is_ours=True), effort)
            yield _listing(syncing, listing, effort)


def _against(floor: Side, ours: Side, effort: Effort) -> Comparison:
    sides = [floor, ours]
    rounds = alternate(sides, effort.rounds, effort.patience_s)
    return compare("sync", _TITLE, By.LATENCY, sides, rounds, [Target(ours.name, FLOOR, Against.RATIO, SYNC_LIMIT)])


_TITLE = f"a directory of {ENTRIES:,} entries in which nothing changes"


def _write_entries(directory: Path) -> None:
    for number in range(ENTRIES):
        kind, path = number % 10, directory / f"entry-{number:05}"
        if kind < 3:
            path.mkdir()
            (path / "notes.txt").write_text("no model")
        elif kind < 5:
            path.with_suffix(".txt").write_text("no model")
        elif kind < 6:
            (directory / f".hidden-{number:05}").write_text("no model")
        elif kind < 8:
            path.mkdir()
            (path / "model.py").write_text(ECHO)
        else:
            path.with_suffix(".onnx").write_text("a model that cannot be loaded")


def _pass(directory: Path) -> int:
    with os.scandir(directory) as entries:
        return sum(entry.stat().st_size for entry in entries)


def _scan_of(directory: Path) -> partial[Round]:
    from hostd.config.loading import load_config  # noqa: PLC0415 - the floors can be measured without the host
    from hostd.plugins.registry import Plugins  # noqa: PLC0415 - as above
    from hostd.shell.repository.scanner import Scanner  # noqa: PLC0415 - as above

    scanner = Scanner(directory, Plugins(load_config()).recognises)
    return partial(timed, partial(scanner.scan, {}, retry_all=False))


@contextmanager
def _following(directory: Path) -> Iterator[tuple[hostd.Client, hostd.Client]]:
    """Start a host that follows the directory and loads nothing by itself; gives two clients of it."""
    import hostd  # noqa: PLC0415 - as above

    models = {"dir": str(directory), "load_on_start": False, "lazy_load": False}
    with hostd.Host(models=models) as host, host.client() as syncing, host.client() as listing:
        yield syncing, listing


def _sync(client: hostd.Client) -> None:
    client.sync_local_models(wait=True, load=False)


def _listing(syncing: hostd.Client, listing: hostd.Client, effort: Effort) -> Comparison:
    """List models for `effort.idle_s` seconds, first alone and then while syncs follow each other."""
    alone = listed(listing, effort.idle_s / 2)
    go_on = threading.Event()
    go_on.set()
    syncs: list[float] = []

    def keep_syncing() -> None:
        while go_on.is_set():
            syncs.append(timed(partial(_sync, syncing)).elapsed_s)

    thread = threading.Thread(target=keep_syncing)
    thread.start()
    try:
        during = listed(listing, effort.idle_s / 2)
    finally:
        go_on.clear()
        thread.join()
    sides = [Side("alone", lambda: alone), Side("during syncs", lambda: during, is_ours=True)]
    title = f"{LIST} while {len(syncs)} syncs follow each other"
    table = compare("sync", title, By.LATENCY, sides, Rounds({"alone": [alone], "during syncs": [during]}))
    p99_s = _p99_of(table.figures)
    table.verdicts.append(Verdict(f"p99 of {LIST}", "", By.LATENCY, Against.ALONE, p99_s, p99_s, p99_s, LIST_LIMIT_S))
    return table


def listed(client: hostd.Client, duration_s: float) -> Round:
    """List models again and again."""
    clock, latencies = time.perf_counter, list[float]()
    start = now = clock()
    while now < start + duration_s:
        client.list_models()
        before, now = now, clock()
        latencies.append(now - before)
    return Round(latencies, now - start)


def _p99_of(figures: list[Figure]) -> float:
    return next(figure.p99_s for figure in figures if figure.is_ours and figure.p99_s is not None)
