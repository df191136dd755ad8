"""A host under attack: starts it, a victim that calls it, an attack, and says what became of each of them.

    outcome = observe("future-identity", is_small=True, before_s=1, during_s=3)

Everything is a process of its own; memory is read from /proc. Nothing is judged here.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

import hostd
from attacks import deeds
from attacks.attack import CONNECT_S, PATIENCE_S, PREY, VICTIM, Report, Target
from attacks.catalogue import ATTACKS
from attacks.models import write_model

TESTS = Path(__file__).resolve().parents[1]
SAMPLE_S = 0.02
SETTLE_S = 1.0
"""Between the end of an attack and the look at what the supervisor has kept of it."""

DEEDS_BEFORE = 3
PAUSE_S = 0.1
"""Between two deeds: they are to be seen, not to be an attack of their own."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Call(NamedTuple):
    """A call of the victim: when it was sent (`time.monotonic`), what it took, and its error or ""."""

    what: str
    sent_s: float
    latency_s: float
    error: str

    @property
    def ended_s(self):
        """When it was answered."""
        return self.sent_s + self.latency_s


class Deed(NamedTuple):
    """What another client did: what it took, and its error or ""."""

    latency_s: float
    error: str


@dataclass
class Outcome:
    """What became of everybody. Instants are of `time.monotonic`, memory is the supervisor's resident memory."""

    name: str
    began_s: float = 0.0
    ended_s: float = 0.0
    recovery_s: float = 0.0
    calls: list[Call] = field(default_factory=list, repr=False)
    deeds_before: list[Deed] = field(default_factory=list)
    deeds_during: list[Deed] = field(default_factory=list)
    rss_before_bytes: int = 0
    rss_highest_bytes: int = 0
    rss_after_bytes: int = 0
    is_alive: bool = False
    report: Report = field(default_factory=Report)

    @property
    def growth_bytes(self):
        """Return what the supervisor grew by at most."""
        return self.rss_highest_bytes - self.rss_before_bytes

    @property
    def failures(self):
        """Return what failed of others' calls and deeds, before and during the attack."""
        failed = [f"{call.what}: {call.error}" for call in self.calls if call.error]
        return failed + [f"deed: {deed.error}" for deed in (*self.deeds_before, *self.deeds_during) if deed.error]

    def before(self, *what):
        """Return the calls (of some kinds, or all) that were answered before the attack."""
        return [call for call in self._of(what) if call.ended_s <= self.began_s]

    def during(self, *what):
        """Return the calls that were under way during the attack, or before the host had recovered from it."""
        recovered_s = self.ended_s + self.recovery_s
        return [call for call in self._of(what) if call.ended_s > self.began_s and call.sent_s < recovered_s]

    def _of(self, what):
        return [call for call in self.calls if not what or call.what in what]


def observe(name, *, is_small, before_s, during_s):
    """Attack a fresh host for `during_s` seconds, and at least as long as it takes to be under way."""
    attack, outcome = ATTACKS[name], Outcome(name)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacks-")))
        pid, target = stack.enter_context(_host(attack, scratch))
        supervisor = psutil.Process(pid)
        client = stack.enter_context(hostd.connect(target.endpoint, timeout_s=PATIENCE_S, connect_timeout_s=CONNECT_S))
        path = write_model(scratch / deeds.ECHO)
        for model_id in (VICTIM, PREY):
            client.load_model(model_id, path)
        victim = stack.enter_context(_program("attacks.victim", target.endpoint))
        _line_of(victim, PATIENCE_S)
        outcome.deeds_before = [_deed(attack, target, client, number) for number in range(DEEDS_BEFORE)]
        time.sleep(before_s)
        samples = stack.enter_context(_sampled(pid))
        outcome.rss_before_bytes, outcome.began_s = rss_of(pid), time.monotonic()
        _attack(outcome, target, client, supervisor, during_s, is_small=is_small)
        outcome.ended_s = time.monotonic()
        if is_alive(supervisor):
            with contextlib.suppress(hostd.HostError):
                client.host_info()
        outcome.recovery_s = time.monotonic() - outcome.ended_s
        outcome.calls = [Call(*call) for call in json.loads(_told_to_end(victim, 2 * PATIENCE_S) or "[]")]
        time.sleep(SETTLE_S)
        outcome.is_alive = is_alive(supervisor)
        outcome.rss_highest_bytes = max(samples, default=0)
        outcome.rss_after_bytes = rss_of(pid)
    return outcome


def _attack(outcome, target, client, host, during_s, *, is_small):
    attack, size = ATTACKS[outcome.name], "small" if is_small else "full"
    with _program("attacks", outcome.name, target.to_json(), size) as attacker:
        _line_of(attacker, PATIENCE_S)
        until_s, number = time.monotonic() + during_s, DEEDS_BEFORE
        while is_alive(host) and (time.monotonic() < until_s or number == DEEDS_BEFORE):
            outcome.deeds_during.append(_deed(attack, target, client, number))
            number += 1
            time.sleep(PAUSE_S)
        said = _told_to_end(attacker, PATIENCE_S)
        outcome.report = Report(**json.loads(said)) if said else Report(wrong="the attacker did not end")


def _deed(attack, target, client, number):
    began_s, error = time.monotonic(), ""
    try:
        attack.deed(target, client, number)
    except (hostd.HostError, OSError) as failed:
        error = f"{attack.deed.__name__}: {type(failed).__name__}: {failed}"
    return Deed(time.monotonic() - began_s, error)


def is_alive(process):
    """Say whether a process lives; its number is not taken for another's."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def rss_of(pid):
    """Return the resident memory of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


@contextlib.contextmanager
def _sampled(pid):
    samples = []
    is_over = threading.Event()

    def sample():
        while not is_over.wait(SAMPLE_S):
            samples.append(rss_of(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join()


@contextlib.contextmanager
def _host(attack, scratch):
    models_dir = scratch / "models"
    models_dir.mkdir()
    settings = {
        "models": {"dir": str(models_dir), "load_on_start": False},
        "memory": {"remember": "host"},
        "metrics": {"port": 0},
        "workers": {"drain_timeout_s": 1.0},
        "open_files": attack.open_files,
        **attack.settings,
    }
    with _program("attacks.host", json.dumps(settings)) as program:
        ready = json.loads(_line_of(program, PATIENCE_S))
        workers = f"{ready['runtime_dir']}/workers.ipc"
        yield ready["pid"], Target(ready["endpoint"], workers, ready["metrics_port"], str(models_dir), str(scratch))
        # A host that does not end in time is killed with its reaper: that is its parent's business, and ours to wait for.
        _told_to_end(program, PATIENCE_S)


@contextlib.contextmanager
def _program(module, *arguments):
    paths = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # Without a buffer of ours: `communicate` does not see what that holds.
    with subprocess.Popen(command, 0, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        try:
            yield program
        finally:
            if program.poll() is None:
                program.kill()


def _line_of(program, within_s):
    """Return the next line that a program prints; raises `RuntimeError` if there is none."""
    if not select.select([program.stdout], [], [], within_s)[0]:
        raise RuntimeError(f"{program.args!r} printed nothing within {within_s:g} s")
    line = program.stdout.readline()
    if not line:
        raise RuntimeError(f"{program.args!r} ended with {program.wait()} and without a line")
    return line.decode()


def _told_to_end(program, within_s):
    """Close a program's standard input and return what it says last; "" if it does not end in time."""
    try:
        said, _ = program.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        program.kill()
        return ""
    return said.decode().strip()
