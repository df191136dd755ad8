"""Every way to go wrong at every stage of a worker's life: the table of `tests/faulty`, with real processes.

Whatever happens to one model, its callers get a typed error with the reason, the other models do not notice, and after
the unload nothing of it is there: seen from outside, at the moment of the answer.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import DEATHS, DIES, GOES_ON, RAISES, STAGES, STALLS
from helpers import FAULTY, PATIENCE_S, at_most, eventually, is_there, lines_of, new_tag, tagged, template_host

import hostd

QUICKLY_S = 20.0
"""What a call of another model may take while one goes wrong; it takes milliseconds, and this only catches a hang."""

DRAIN_S = 3.0
"""How long a drain lasts: longer than the machine may stand still, and not so long that nobody can wait for its end."""

THREADS = 2 * len(DIES)
"""For each fault of a kind a call that waits, and an unload."""

HOW = {
    "raise": "exit code",
    "raise-anything": "exit code",
    "exit-beside-a-thread": "exit code 3",
    "exit-0": "exit code 0",
    "exit-1": "exit code 1",
    "sigkill": "killed by SIGKILL",
    "sigsegv": "killed by SIGSEGV",
}


@dataclass(eq=False)
class Case:
    """One cell of the table: a model that is made to go wrong, and what waits for it then."""

    stage: str
    death: str
    directory: Path

    def __post_init__(self):
        self.id = f"faulty/{self.stage}-{self.death}"
        self.tag = new_tag()
        self.evidence = self.directory / "evidence"
        self.marker = self.directory / "marker"
        self.options = {}
        environment = {"FAULT_MODEL": self.tag, "FAULT_DEATH": self.death, "FAULT_EVIDENCE": str(self.evidence)}
        settings = []
        if self.stage == "spawn":
            interpreter = self.directory / "python"
            interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} {FAULTY}/interpreter.py "$@"\n')
            interpreter.chmod(0o755)
            settings = ["python: ./python"]
        elif self.stage == "handshake":
            environment["PYTHONPATH"] = str(FAULTY / "handshake")
        else:
            self.options = {"stage": self.stage, "death": self.death, "evidence": str(self.evidence)}
        settings += ["env:", *(f"  {name}: '{value}'" for name, value in environment.items())]
        (self.directory / "model.yaml").write_text("\n".join(settings))
        for name in ("model.py", "faults.py"):
            shutil.copy(FAULTY / name, self.directory)

    def processes(self):
        """Return what lives of this model, wherever it has fled."""
        found = tagged(self.tag, "FAULT_MODEL") | {pid for pid in self.grandchildren() if is_there(pid)}
        return {pid for pid in found if template_host(pid) is None}

    def grandchildren(self):
        return [int(line) for line in lines_of(Path(f"{self.evidence}.pids"))]


@dataclass
class Crowd:
    """A host with a model that has nothing to do with the fault."""

    client: hostd.Client
    bystander: hostd.Model
    pool: ThreadPoolExecutor

    def check_undisturbed(self, times=20):
        for number in range(times):
            with at_most(QUICKLY_S, "a call of another model"):
                assert self.bystander.predict(number) == number


@pytest.fixture(scope="module")
def shared_host():
    """A drain lasts long enough for a fault to come about in it on a machine that stands still for a while."""
    with hostd.Host(workers={"drain_timeout_s": DRAIN_S}) as running:
        yield running


@pytest.fixture(scope="module")
def crowd(shared_host, tmp_path_factory):
    case = Case("none", "none", tmp_path_factory.mktemp("bystander"))
    with hostd.connect(shared_host.endpoint, direct=False) as client, ThreadPoolExecutor(THREADS) as pool:
        all_there = threading.Barrier(THREADS)
        list(pool.map(lambda _: all_there.wait(PATIENCE_S), range(THREADS)))  # from now on they are no test's leak
        yield Crowd(client, client.load_model("bystander", case.directory), pool)


def bring_about(case, crowd):
    """Load the model and take it to where it goes wrong; return what waits for it then."""
    load = crowd.pool.submit(crowd.client.load_model, case.id, case.directory, options=case.options, timeout_s=30)
    waiting = load
    if case.stage not in ("spawn", "handshake", "load"):
        model = load.result(PATIENCE_S)
        (worker,) = model.info.workers
        if case.stage == "infer":
            waiting = crowd.pool.submit(model.predict, 7)
        elif case.stage == "stream":
            waiting = crowd.pool.submit(lambda: list(model.stream.generate(4)))
        elif case.stage == "drain":
            waiting = crowd.pool.submit(model.linger, str(case.marker))
            eventually(case.marker.exists, "the call has begun")
            crowd.pool.submit(crowd.client.unload_model, case.id)
            eventually(lambda: "DRAINING" in states_of(case, crowd), "the worker drains")
        if case.stage in ("idle", "drain"):
            os.kill(worker.pid, signal.SIGUSR1)
    eventually(case.evidence.exists, "the fault has come about")
    return waiting


def states_of(case, crowd):
    return [event["new"] for event in crowd.client.explain_model(case.id)["story"]]


def unload_and_look(case, crowd):
    """Unload, and look from outside in the very moment in which the answer has come."""
    report = crowd.client.unload_model(case.id, timeout_s=PATIENCE_S)
    assert case.processes() == set(), f"{case.id}: unloaded was answered before every process was gone"
    return report


@pytest.fixture
def begin(request, tmp_path, crowd):
    """Bring about all faults of a kind at one stage, at the same time; afterwards they go at the same time, too."""
    cases = []

    def bring_all(stage, deaths):
        for death in deaths:
            (tmp_path / death).mkdir()
            cases.append(Case(stage, death, tmp_path / death))
        waiting = {case: bring_about(case, crowd) for case in cases}
        crowd.check_undisturbed()
        return waiting

    yield bring_all
    for unload in [crowd.pool.submit(unload_and_look, case, crowd) for case in cases]:
        unload.result(2 * PATIENCE_S)
    crowd.check_undisturbed()


def stages(*names):
    return pytest.mark.parametrize("stage", names)


@stages("spawn", "handshake", "load")
def test_a_death_before_ready_fails_the_load_with_its_reason(begin, crowd, stage):
    for case, load in begin(stage, DIES).items():
        error = load.exception(PATIENCE_S)
        assert case.processes() == set(), "the load was answered before every process was gone"
        if stage == "load" and case.death in RAISES:
            assert isinstance(error, hostd.ModelError), case.id
            assert "told to fail" in error.message
            assert "in commit" in error.traceback
        else:
            assert isinstance(error, hostd.UnavailableError), case.id
            assert HOW[case.death] in error.message
        with pytest.raises(hostd.NotFoundError):
            crowd.client.get_model(case.id)
        assert crowd.client.explain_model(case.id)["reason"] == error.message


@stages("infer", "stream", "drain")
def test_a_death_in_a_call_ends_the_call_with_its_reason(begin, crowd, stage):
    for case, call in begin(stage, DIES).items():
        error = call.exception(PATIENCE_S)
        assert isinstance(error, hostd.ModelError if case.death in RAISES else hostd.UnavailableError), case.id
        if stage == "drain":
            continue  # and with it its model
        model = crowd.client.get_model(case.id)
        if case.death in RAISES:
            assert model.state == "READY"
            assert list(crowd.client.retrieve_model(case.id).stream.generate(2)) == [0, 1]
        else:
            assert HOW[case.death] in error.message
            assert (model.state, model.reason) == ("FAILED", error.message)
            eventually(lambda case=case: not case.processes(), "what died is cleared away without being asked")


def test_a_death_between_calls_is_noticed_and_explained(begin, crowd):
    for case in begin("idle", DIES):
        eventually(lambda case=case: crowd.client.get_model(case.id).state == "FAILED", "the death is noticed")
        reason = crowd.client.explain_model(case.id)["reason"]
        assert HOW[case.death] in reason
        assert case.death not in RAISES or "told to fail" in reason
        with pytest.raises(hostd.FailedPreconditionError, match="FAILED"):
            crowd.client.retrieve_model(case.id)
        eventually(lambda case=case: not case.processes(), "what died is cleared away without being asked")


@stages("spawn", "handshake", "load", "infer", "stream", "drain")
def test_c21_c22_what_stalls_is_aborted_by_an_unload(begin, crowd, stage):
    waiting = begin(stage, STALLS)
    if stage != "drain":  # where the first may be over when the last has begun
        assert not any(answer.done() for answer in waiting.values())
    unloads = [crowd.pool.submit(unload_and_look, case, crowd) for case in waiting]
    assert all(unload.result(2 * PATIENCE_S).processes >= 1 for unload in unloads)
    for case, answer in waiting.items():
        assert isinstance(answer.exception(PATIENCE_S), hostd.AbortedError), case.id


def test_a_worker_that_stalls_misses_deadlines(begin, crowd):
    for case in begin("idle", STALLS):
        with pytest.raises(hostd.DeadlineExceededError):
            crowd.client.retrieve_model(case.id).options(timeout_s=0.1).predict(1)


@stages(*STAGES)
def test_harm_does_not_reach_the_others_and_leaves_nothing(begin, crowd, stage):
    wanted = {"infer": 7, "stream": [0, 1, 2, 3], "drain": "woken"}
    for case, answer in begin(stage, GOES_ON).items():
        if (stage, case.death) == ("load", "garbage"):
            # What a worker says about its load is believed, and it has said everything.
            error = answer.exception(PATIENCE_S)
            assert error is None or isinstance(error, hostd.HostError)
        else:
            result = answer.result(PATIENCE_S)
            assert stage not in wanted or result == wanted[stage], case.id
        if case.death == "grandchildren":
            eventually(lambda case=case: len(case.grandchildren()) == 4, "all grandchildren are there")


def test_the_table_has_no_gap():
    assert {*DIES, *STALLS, *GOES_ON} == set(DEATHS)
    assert len(STAGES) * len(DEATHS) == 105
