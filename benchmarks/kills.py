"""Kills a supervisor at every system call of deploys, replacements and undeploys, and looks at what a restart finds.

    python -m benchmarks.kills [--only SCENARIO] [--every N]

A real host serves a real model; a client asks it for one operation, and it gets SIGKILL at its n-th call on the models
directory, n = 1 ... all (where it writes, half way through, too). Then a new host starts there. What it must find: the
model as it was before the operation or, from the confirming write on, as it was to become; nothing in staging; and the
same request again succeeds. Takes some minutes, and ends with 1 if anything was found wrong. A sample of this is in the
tests. It covers no power cuts: what was written is in the page cache.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

import hostd
from hostd.config.loading import load_config
from hostd.hosts.launch import AT_ONCE, reaper_command, supervisor_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAULTS = Path(__file__).resolve().parent / "faults"
PLAN_VARIABLE = "HOSTD_FAULT_PLAN"
PATIENCE_S = 30.0
NEVER = 1_000_000
"""The number of a call that nobody reaches: to count them."""

CONFIRMING = "pwrite b'1'"
"""The write that makes a deploy or an undeploy last."""

MODEL_ID = "team/model"
STAGING = ".hostd-staging"
KEPT = ".hostd-deploy.json"
CODE = b"""
from pathlib import Path

class Model:
    def __init__(self, text):
        self.text = text

    def predict(self):
        return self.text

def load(path):
    text = Path(path, "text").read_text()
    if text == "bad":
        raise ValueError("this model is bad")
    return Model(text)
"""


def files_of(text: str) -> dict[str, bytes]:
    """Return the files of a model that says `text`; some are different files in each."""
    return {"model.py": CODE, "text": text.encode(), f"weights/{text}/0.bin": text.encode() * 1000, "weights/none": b""}


class After(enum.Enum):
    """What a new host found."""

    OLD = "as before"
    NEW = "as it was to become"


@dataclass(frozen=True)
class Scenario:
    """An operation: which model is there before it and after it (None: none), and what the client asks for."""

    before: str | None
    after: str | None
    act: Callable[[hostd.Client], object]


def _deploy(text: str, *, replace: bool = False) -> Callable[[hostd.Client], object]:
    return lambda client: client.deploy_model(MODEL_ID, files_of(text), replace=replace)


def _refused(act: Callable[[hostd.Client], object]) -> Callable[[hostd.Client], object]:
    """Return an operation that is to be answered with the model's own error, which it then returns."""

    def refused(client: hostd.Client) -> hostd.HostError:
        try:
            act(client)
        except hostd.ModelError as error:
            return error
        raise WrongError("a model that cannot be loaded was deployed")

    return refused


SCENARIOS = {
    "deploy": Scenario(None, "new", _deploy("new")),
    "deploy that fails": Scenario(None, None, _refused(_deploy("bad"))),
    "replace": Scenario("old", "new", _deploy("new", replace=True)),
    "replace that fails": Scenario("old", "old", _refused(_deploy("bad", replace=True))),
    "undeploy": Scenario("old", None, lambda client: client.undeploy_model(MODEL_ID)),
}


class WrongError(AssertionError):
    """A promise that was not kept."""


class Host:
    """A host that is started again and again in one directory, and a client of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.models = directory / "models"
        self.models.mkdir()
        self.plan = directory / "plan"
        self.client: hostd.Client | None = None
        self._reaper: subprocess.Popen[str] | None = None

    def start(self) -> hostd.Client:
        """Start it, wait until it has loaded what it finds, and return a client."""
        models = {"dir": self.models, "write_quiet_period_s": 0, "wait_for_initial_loads": True}
        places = {"runtime_dir": self.directory / "run", "state_dir": self.directory / "state"}
        config = load_config({"models": models, "log_level": "error", **places})
        read, write = os.pipe2(os.O_CLOEXEC)
        path = os.pathsep.join([str(FAULTS), str(FAULTS.parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**supervisor_environment(config, write), "PYTHONPATH": path, PLAN_VARIABLE: str(self.plan)}
        self._reaper = subprocess.Popen(
            reaper_command(), env=environment, pass_fds=[write], stderr=subprocess.DEVNULL, text=True
        )
        os.close(write)
        with open(read, encoding="utf-8") as ready:  # noqa: PTH123 - a descriptor
            if not select.select([ready], [], [], PATIENCE_S)[0]:
                raise WrongError("the host did not say what became of its start")
            said = json.loads(ready.readline() or '"it ended without a word"')
        if "ready" not in said:
            raise WrongError(f"the host does not start: {said}")
        self.client = hostd.connect(said["ready"]["endpoint"])
        return self.client

    def is_gone(self) -> bool:
        """Say whether it has ended."""
        return self._reaper is None or self._reaper.poll() is not None

    def stop(self) -> None:
        """End it, if need be, and wait for that."""
        if self.client is not None:
            self.client.close()
            self.client = None
        if self._reaper is not None:
            with self._reaper as reaper:
                if reaper.poll() is None:
                    reaper.send_signal(AT_ONCE)
                reaper.wait(PATIENCE_S)
            self._reaper = None

    # Its faults

    def arm(self, call: int, fault: str = "KILL") -> None:
        """Let it have a fault at this call from now."""
        self.plan.with_suffix(".calls").unlink(missing_ok=True)
        fresh = self.plan.with_suffix(".new")
        fresh.write_text(f"{call} {fault}")
        fresh.rename(self.plan)

    def disarm(self) -> list[str]:
        """Let it have none any more; return the calls that were counted."""
        self.plan.unlink(missing_ok=True)
        calls = self.plan.with_suffix(".calls")
        return calls.read_text().splitlines() if calls.exists() else []

    # What is there

    def has_staging(self) -> bool:
        """Say whether anything is, or may be, in staging."""
        return (self.models / STAGING).exists()

    def content(self, *, but: str = "__pycache__") -> dict[str, bytes]:
        """Return all files below the models directory but caches of code, and folders with "/" and no content.

        Of what the host keeps beside a deploy only that it is there. `but` is a folder that is left out, too. What goes
        meanwhile is left out, or not.
        """
        found = {}
        for root, folders, names in os.walk(self.models):
            folders[:] = [name for name in folders if name not in {"__pycache__", but}]
            found.update({f"{(Path(root, name)).relative_to(self.models)}/": b"" for name in folders})
            for path in (Path(root, name) for name in names):
                with contextlib.suppress(FileNotFoundError):
                    is_kept = path.name == KEPT
                    found[str(path.relative_to(self.models))] = b"kept" if is_kept else path.read_bytes()
        return dict(sorted(found.items()))

    def expected(self, text: str | None) -> dict[str, bytes]:
        """Return what `content` must be when this model, or none, is there."""
        found = {"neighbour/": b"", "neighbour/text": b"n", "neighbour/model.py": CODE, f"neighbour/{KEPT}": b"kept"}
        if text is not None:
            for name, content in {**files_of(text), KEPT: b"kept"}.items():
                parts = f"{MODEL_ID}/{name}".split("/")
                found.update({"/".join(parts[:depth]) + "/": b"" for depth in range(1, len(parts))})
                found["/".join(parts)] = content
        return dict(sorted(found.items()))

    def await_quiet(self) -> None:
        """Wait until staging is tidied up, or the host is gone."""
        eventually(lambda: self.is_gone() or not self.has_staging(), "staging was tidied up")

    def put(self, text: str | None) -> None:
        """Have this model, or none, deployed and loaded, besides a neighbour that is none of anybody's business."""
        client = self.client or self.start()
        if not (self.models / "neighbour").exists():
            client.deploy_model("neighbour", {"model.py": CODE, "text": b"n"})
        there = self.content()
        if there != self.expected(text):
            if f"{MODEL_ID}/text" in there and text is None:
                client.undeploy_model(MODEL_ID)
            elif text is not None:
                client.deploy_model(MODEL_ID, files_of(text), replace=True)
        elif text is not None:
            client.load_model(MODEL_ID, self.models / MODEL_ID)
        self.await_quiet()


def eventually(check: Callable[[], bool], what: str) -> None:
    """Wait until something is so. Raises `WrongError`."""
    end_s = time.monotonic() + PATIENCE_S
    while not check():
        if time.monotonic() > end_s:
            raise WrongError(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(0.002)


def calls_of(host: Host, scenario: Scenario) -> list[str]:
    """Carry a scenario out without a fault, and return its calls."""
    host.put(scenario.before)
    host.arm(NEVER)
    scenario.act(host.client or host.start())
    host.await_quiet()
    _check(host, scenario.after, "without a fault")
    return host.disarm()


def points_of(calls: list[str]) -> list[tuple[int, str]]:
    """Return where to kill: before each call, and half way through each write."""
    return [
        (number, fault)
        for number, call in enumerate(calls, 1)
        for fault in ("KILL", "HALF")
        if fault == "KILL" or call.startswith("pwrite")
    ]


def kill_at(host: Host, scenario: Scenario, call: int, fault: str = "KILL") -> After | None:
    """Kill the host at a call; return what a new one found, or None if the call never came. Raises `WrongError`."""
    host.put(scenario.before)
    client = host.client or host.start()
    host.arm(call, fault)
    is_answered = True
    try:
        scenario.act(client)
    except hostd.UnavailableError:
        is_answered = False
    host.await_quiet()
    if is_answered and not host.has_staging():
        host.disarm()
        _check(host, scenario.after, f"call {call} never came")
        return None
    eventually(host.is_gone, "the host killed itself")
    calls = host.disarm()
    is_confirmed = any(known.startswith(CONFIRMING) for known in calls[:-1])
    where = f"{fault} at call {call} ({calls[-1]}), answered: {is_answered}, confirmed: {is_confirmed}"
    host.stop()
    client = host.start()
    there = scenario.after if is_answered or is_confirmed else scenario.before
    _check(host, there, where)
    _repeat(client, scenario, there, where)
    eventually(lambda: not host.has_staging(), f"{where}: staging is tidied up after the same again")
    _check(host, scenario.after, f"{where}, and the same again")
    return After.NEW if there == scenario.after != scenario.before else After.OLD


def _repeat(client: hostd.Client, scenario: Scenario, there: str | None, where: str) -> None:
    """Ask for the same again; only what is done already may be refused, as that."""
    is_done = there == scenario.after != scenario.before
    expected = hostd.NotFoundError if scenario.after is None else hostd.AlreadyExistsError
    try:
        scenario.act(client)
    except (hostd.NotFoundError, hostd.AlreadyExistsError) as error:
        if not (is_done and isinstance(error, expected)):
            raise WrongError(f"{where}: the same again is refused: {error!r}") from error


def _check(host: Host, text: str | None, where: str) -> None:
    """Raise `WrongError` unless this model, or none, is wholly there and serves, and nothing else is."""
    found, expected = host.content(), host.expected(text)
    if found != expected:
        lacking, strange = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise WrongError(f"{where}: {text!r} should be there; lacking: {lacking}, strange: {strange}")
    client = host.client or host.start()
    if text is not None:
        said = client.load_model(MODEL_ID, host.models / MODEL_ID).predict()
        if said != text:
            raise WrongError(f"{where}: the model says {said!r}, its files {text!r}")
    elif any(model.id == MODEL_ID for model in client.list_models()):
        raise WrongError(f"{where}: a model without files is loaded")


def kill_everywhere(host: Host, name: str, every: int) -> Iterator[str]:
    """Kill at every call of a scenario; yield what was wrong."""
    scenario = SCENARIOS[name]
    points = points_of(calls_of(host, scenario))[::every]
    found: dict[After | None, int] = {}
    for call, fault in points:
        try:
            after = kill_at(host, scenario, call, fault)
        except WrongError as wrong:
            yield f"{name}: {wrong}"
            host.disarm()
            host.stop()
            continue
        found[after] = found.get(after, 0) + 1
    told = ", ".join(f"{count} times {after.value if after else 'no kill'}" for after, count in found.items())
    print(f"{name}: {len(points)} kills; found {told}", flush=True)


@click.command()
@click.option("--only", type=click.Choice(list(SCENARIOS)), help="One scenario instead of all.")
@click.option("--every", type=click.IntRange(1), default=1, help="Every n-th point only.")
def main(only: str | None, every: int) -> None:
    """Kill a supervisor at every system call of deploys, replacements and undeploys."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    wrongs = 0
    with tempfile.TemporaryDirectory(prefix="hostd-kills-") as directory:
        host = Host(Path(directory))
        try:
            for name in [only] if only else SCENARIOS:
                for wrong in kill_everywhere(host, name, every):
                    print(f"WRONG {wrong}", flush=True)
                    wrongs += 1
        finally:
            host.stop()
    sys.exit(1 if wrongs else 0)


if __name__ == "__main__":
    main()
