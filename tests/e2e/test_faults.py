"""Every way to go wrong at every stage of a worker's life: the table of `tests/faulty`, with real processes.

Whatever happens to one model, its callers get a typed error with the reason, the other models do not notice, and after
the unload nothing of it is there: seen from outside, at the moment of the answer.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from faults import DEATHS, DIES, GOES_ON, RAISES, STAGES, STALLS
from helpers import FAULTY, PATIENCE_S, at_most, eventually, is_there, lines_of, new_tag, tagged

import hostd

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICKLY_S = 20.0
"""What a call of another model may take while one goes wrong; it takes milliseconds, and this only catches a hang."""

DRAIN_S = 3.0
"""How long a drain lasts: longer than the machine may stand still, and not so long that nobody can wait for its end."""

HOW = {
    "raise": "exit code",
    "raise-anything": "exit code",
    "exit-beside-a-thread": "exit code 3",
    "exit-0": "exit code 0",
    "exit-1": "exit code 1",
    "sigkill": "killed by SIGKILL",
    "sigsegv": "killed by SIGSEGV",
}


@dataclass
class Case:
    """One cell of the table: a model that is made to go wrong, and whoever waits for it then."""

    stage: str
    death: str
    directory: Path

    def __post_init__(self) -> None:
        self.id = f"faulty/{self.stage}-{self.death}"
        self.tag = new_tag()
        self.evidence = self.directory / "evidence"
        self.marker = self.directory / "marker"
        self.options: dict[str, Any] = {}
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

    def processes(self) -> set[int]:
        """Return what lives of this model, wherever it has fled."""
        return tagged(self.tag, "FAULT_MODEL") | {pid for pid in self.grandchildren() if is_there(pid)}

    def grandchildren(self) -> list[int]:
        return [int(line) for line in lines_of(Path(f"{self.evidence}.pids"))]


@dataclass
class Crowd:
    """A host with a model that has nothing to do with the fault."""

    client: hostd.Client
    bystander: hostd.Model
    pool: ThreadPoolExecutor

    def check_undisturbed(self, times: int = 20) -> None:
        for number in range(times):
            with at_most(QUICKLY_S, "a call of another model"):
                assert self.bystander.predict(number) == number


@pytest.fixture(scope="module")
def shared_host() -> Iterator[hostd.Host]:
    """A drain lasts long enough for a fault to come about in it on a machine that stands still for a while."""
    with hostd.Host(workers={"drain_timeout_s": DRAIN_S}) as running:
        yield running


@pytest.fixture(scope="module")
def crowd(shared_host: hostd.Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    case = Case("none", "none", tmp_path_factory.mktemp("bystander"))
    with hostd.connect(shared_host.endpoint) as client, ThreadPoolExecutor(4) as pool:
        for waiting in [pool.submit(eventually, lambda: True, "a thread") for _ in range(4)]:
            waiting.result()  # the threads are there from now on, and are nobody's leak
        yield Crowd(client, client.load_model("bystander", case.directory), pool)


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, crowd: Crowd) -> Iterator[Case]:
    made = Case(*request.param, tmp_path)
    yield made
    crowd.client.unload_model(made.id)  # only a test that failed has left it


def cells(stages: tuple[str, ...], deaths: tuple[str, ...]) -> pytest.MarkDecorator:
    table = [(stage, death) for stage in stages for death in deaths]
    return pytest.mark.parametrize("case", table, ids=["-".join(cell) for cell in table], indirect=True)


def bring_about(case: Case, crowd: Crowd) -> Future[Any]:
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


def states_of(case: Case, crowd: Crowd) -> list[str]:
    return [event["new"] for event in crowd.client.explain_model(case.id)["story"]]


def unload_and_look(case: Case, crowd: Crowd) -> hostd.UnloadReport:
    """Unload, and look from outside in the very moment in which the answer has come."""
    report = crowd.client.unload_model(case.id, timeout_s=PATIENCE_S)
    assert case.processes() == set(), "unloaded was answered before every process was gone"
    return report


@cells(("spawn", "handshake", "load"), DIES)
def test_a_death_before_ready_fails_the_load_with_its_reason(case: Case, crowd: Crowd) -> None:
    error = bring_about(case, crowd).exception(PATIENCE_S)
    assert case.processes() == set(), "the load was answered before every process was gone"
    if case.stage == "load" and case.death in RAISES:
        assert isinstance(error, hostd.ModelError)
        assert "told to fail" in error.message
        assert "in commit" in error.traceback
    else:
        assert isinstance(error, hostd.UnavailableError)
        assert HOW[case.death] in error.message
    with pytest.raises(hostd.NotFoundError):
        crowd.client.get_model(case.id)
    assert crowd.client.explain_model(case.id)["reason"] == error.message
    crowd.check_undisturbed()
    assert unload_and_look(case, crowd).processes == 0


@cells(("infer", "stream"), DIES)
def test_a_death_in_a_call_ends_the_call_with_its_reason(case: Case, crowd: Crowd) -> None:
    error = bring_about(case, crowd).exception(PATIENCE_S)
    crowd.check_undisturbed()
    model = crowd.client.get_model(case.id)
    if case.death in RAISES:
        assert isinstance(error, hostd.ModelError)
        assert model.state == "READY"
        assert list(crowd.client.retrieve_model(case.id).stream.generate(2)) == [0, 1]
    else:
        assert isinstance(error, hostd.UnavailableError)
        assert HOW[case.death] in error.message
        assert (model.state, model.reason) == ("FAILED", error.message)
        eventually(lambda: not case.processes(), "what died is cleared away without being asked")
    unload_and_look(case, crowd)


@cells(("idle",), DIES)
def test_a_death_while_nobody_calls_is_noticed_and_explained(case: Case, crowd: Crowd) -> None:
    bring_about(case, crowd)
    eventually(lambda: crowd.client.get_model(case.id).state == "FAILED", "the death is noticed")
    reason = crowd.client.explain_model(case.id)["reason"]
    assert HOW[case.death] in reason
    if case.death in RAISES:
        assert "told to fail" in reason
    with pytest.raises(hostd.FailedPreconditionError, match="FAILED"):
        crowd.client.retrieve_model(case.id)
    eventually(lambda: not case.processes(), "what died is cleared away without being asked")
    crowd.check_undisturbed()
    unload_and_look(case, crowd)


@cells(("drain",), DIES)
def test_a_death_while_draining_ends_call_and_unload(case: Case, crowd: Crowd) -> None:
    error = bring_about(case, crowd).exception(PATIENCE_S)
    assert isinstance(error, hostd.ModelError if case.death in RAISES else hostd.UnavailableError)
    unload_and_look(case, crowd)
    crowd.check_undisturbed()


@cells(("spawn", "handshake", "load"), STALLS)
def test_c21_a_load_that_stalls_is_aborted_by_an_unload(case: Case, crowd: Crowd) -> None:
    load = bring_about(case, crowd)
    crowd.check_undisturbed()
    assert not load.done()
    with at_most(QUICKLY_S, "the unload of a load that hangs"):
        report = unload_and_look(case, crowd)
    assert report.processes >= 1
    assert isinstance(load.exception(PATIENCE_S), hostd.AbortedError)


@cells(("infer", "stream", "drain"), STALLS)
def test_c22_a_call_that_stalls_is_aborted_after_the_drain(case: Case, crowd: Crowd) -> None:
    call = bring_about(case, crowd)
    crowd.check_undisturbed()
    assert not call.done()
    unload_and_look(case, crowd)
    assert isinstance(call.exception(PATIENCE_S), hostd.AbortedError)


@cells(("idle",), STALLS)
def test_a_worker_that_stalls_misses_deadlines_and_is_unloaded(case: Case, crowd: Crowd) -> None:
    bring_about(case, crowd)
    model = crowd.client.retrieve_model(case.id)
    with pytest.raises(hostd.DeadlineExceededError):
        model.options(timeout_s=0.1).predict(1)
    crowd.check_undisturbed()
    with at_most(QUICKLY_S, "the unload of a worker without calls"):
        unload_and_look(case, crowd)


@cells(STAGES, GOES_ON)
def test_harm_does_not_reach_the_others_and_leaves_nothing(case: Case, crowd: Crowd) -> None:
    waiting = bring_about(case, crowd)
    crowd.check_undisturbed(100)
    result = None
    if (case.stage, case.death) == ("load", "garbage"):
        # What a worker says about its load is believed, and it has said everything.
        error = waiting.exception(PATIENCE_S)
        assert error is None or isinstance(error, hostd.HostError)
    else:
        result = waiting.result(PATIENCE_S)
    wanted = {"infer": 7, "stream": [0, 1, 2, 3], "drain": "woken"}
    assert case.stage not in wanted or result == wanted[case.stage]
    if case.death == "grandchildren":
        eventually(lambda: len(case.grandchildren()) == 4, "all grandchildren are there")
    unload_and_look(case, crowd)


def test_the_table_has_no_gap() -> None:
    assert {*DIES, *STALLS, *GOES_ON} == set(DEATHS)
    assert len(STAGES) * len(DEATHS) == 105
