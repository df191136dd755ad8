"""The storm: calls on lanes, while models are unloaded, evicted, replaced and killed, and clients are killed and cancel.

What must hold: every call ends once, with the right answer or with a typed error that is true (`storm_truth`); nothing
that a model or a caller keeps ever changes; when all is over, no descriptor and no shared memory is left of a client
that has gone, and no socket of a worker that has ended.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
from helpers import FDS_OF_TEMPLATE, TAG, eventually, new_tag, tagged

import hostd
from endurance.storm_truth import DRAIN_S, Fault, Truth

sys.path.insert(0, str(Path(__file__).resolve().parent))

from storm_client import Call

KINDS = ("sync", "asyncio", "sync", "asyncio")
VICTIMS = ("sync", "asyncio")
"""Of which one is killed and another takes its place, again and again."""

MODELS = {"plain": {}, "other": {}, "coroutines": {"coroutines": True}, "deployed": {}}
BUDGET = "480MiB"
SIZE = "80MiB"
BIG_SIZE = "300MiB"
"""Of a model that comes now and then: others have to make way for it."""

HELD_BYTES = 200 << 20

MAX_IN_FLIGHT = 96
TROUBLES = 3
PAUSE_S = (0.05, 0.6)
PATIENCE_S = 120.0
LEFT_S = 10.0
REGION = "memfd:hostd-lane "
FAULTS = ["unload", "now", "reload", "kill", "kill", "replace", "evict", "evict", "kill client", "kill client"]
TOLD = 20
"""Problems that are told in full."""


class World:
    """A host with models, what is done to them, and the clients that call them."""

    def __init__(self, host, directory, seed):
        self.host = host
        self.directory = directory
        self.seed = seed
        self.client = host.client(timeout_s=PATIENCE_S)
        self.truth = Truth()
        self.done = Counter()
        self.whole = set()
        """The clients that were not killed, and have written down each of their calls."""
        self.wrong = []
        self.ran = directory / "ran"
        self.source = Path(__file__).with_name("storm_model.py").read_bytes()
        self.over = threading.Event()
        self._locks = {name: threading.Lock() for name in (*MODELS, "big", "client")}
        self._books = []
        self._victims = []
        for name, size in (("model", SIZE), ("big", BIG_SIZE)):
            (directory / name).mkdir()
            (directory / name / "model.py").write_bytes(self.source)
            (directory / name / "model.yaml").write_text(f"size: {size}\n", "utf-8")
        self._clean = {}
        """What of lanes a worker has that nobody has called."""
        for model_id in MODELS:
            self.load(model_id)
            with hostd.connect(host.endpoint, direct=False) as client:
                client.retrieve_model(model_id).forget()  # its event loop is there now, with sockets of its own
            [pid] = self._pids(model_id)
            self._clean[model_id] = _of_lanes(pid)

    def load(self, model_id):
        """Load a model, or load it again."""
        options = {"ran": str(self.ran), **MODELS[model_id]}
        if model_id == "deployed":
            files = {"model.py": self.source, "model.yaml": f"size: {SIZE}\n".encode()}
            while True:
                try:
                    self.client.deploy_model(model_id, files, options=options, replace=True, timeout_s=PATIENCE_S)
                except hostd.FailedPreconditionError as error:
                    if error.details.get("state") != "LOADING":  # again, after an eviction
                        raise
                    self.client.retrieve_model(model_id, timeout_s=PATIENCE_S)
                else:
                    return
        else:
            self.client.load_model(model_id, self.directory / "model", options=options, timeout_s=PATIENCE_S)

    # Clients

    def start(self, kind, count):
        """Start a client that makes so many direct calls, or calls until it is killed (0)."""
        name = f"{kind}-{len(self._books)}"
        book = self.directory / f"book-{name}"
        book.touch()  # it may be killed before it has done anything
        self._books.append(book)
        told = {"endpoint": self.host.endpoint, "name": name, "kind": kind, "models": list(MODELS)}
        told |= {"seed": self.seed, "count": count, "book": str(book)}
        command = [sys.executable, str(Path(__file__).with_name("storm_client.py")), json.dumps(told)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(self, process):
        """Wait for a client's last call, and look at what it has left."""
        said, complaints = process.communicate()
        if process.returncode or complaints:
            self.wrong.append(f"a client ended with {process.returncode}: ...{complaints[-500:]}")
            return
        report = json.loads(said.splitlines()[-1])
        self.whole.add(report.pop("name"))
        self.wrong += [f"{name} has left: {left}" for name, left in report.items() if left]

    def calls(self):
        """Return what all clients have written down; the last line of one that was killed may be half a line."""
        lines = [line for book in self._books for line in book.read_text("utf-8").splitlines(keepends=True)]
        return [Call(*json.loads(line)) for line in lines if line.endswith("\n")]

    # Faults

    def trouble(self, chance):
        """Do harm, until the storm is over."""
        while not self.over.wait(chance.uniform(*PAUSE_S)):
            kind, model_id = chance.choice(FAULTS), chance.choice(list(MODELS))
            if kind == "kill client":
                with self._locks["client"]:
                    self._kill_client(chance)
            elif kind == "evict":
                with self._locks["big"]:
                    self._make_room(chance)
            else:
                with self._locks[model_id]:
                    self._harm("reload" if kind == "replace" and model_id != "deployed" else kind, model_id, chance)
            self.done[kind] += 1

    def _harm(self, kind, model_id, chance):
        fault = Fault(kind, model_id)
        self.truth.faults.append(fault)
        if kind == "kill":
            self._kill(model_id)
        elif kind in ("unload", "now"):
            self.client.unload_model(model_id, now=kind == "now", timeout_s=PATIENCE_S)
            self.over.wait(chance.choice([0, 0, 0.1]))
        if kind == "reload":
            self.client.load_model(model_id, reload=True, timeout_s=PATIENCE_S)
        else:
            self.load(model_id)
        fault.ended_s = time.monotonic()

    def _kill(self, model_id):
        for pid in self._pids(model_id):
            self.truth.killed[pid] = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            # Or a load would find that it still serves.
            eventually(lambda: pid not in self._pids(model_id), "its end is known")  # noqa: B023 - called at once

    def _pids(self, model_id):
        models = [model for model in self.client.list_models() if model.id == model_id]
        return [worker.pid for model in models for worker in model.workers if worker.pid and worker.state != "DEAD"]

    def _kill_client(self, chance):
        if len(self._victims) < len(VICTIMS):
            self._victims.append(self.start(VICTIMS[len(self._victims)], 0))
            return
        victim = self._victims.pop(0)
        with victim:
            victim.stdout.readline()
            self.over.wait(chance.uniform(0, 0.5))
            victim.kill()

    def _make_room(self, chance):
        options = {"ran": str(self.ran), "hold_bytes": HELD_BYTES}
        self.client.load_model("big", self.directory / "big", options=options, timeout_s=PATIENCE_S)
        self.over.wait(chance.choice([0, 0.2]))
        self.client.unload_model("big", timeout_s=PATIENCE_S)

    def end(self):
        """Kill the clients that call without end."""
        for victim in self._victims:
            with victim:
                victim.kill()

    # What is left

    def look_at_what_is_left(self):
        """Look for what the clients, which have gone, have left in workers and in the runtime directory."""
        with hostd.connect(self.host.endpoint, timeout_s=PATIENCE_S) as client:
            for model_id in MODELS:
                if changed := client.retrieve_model(model_id).forget():
                    self.wrong.append(f"{model_id} kept arrays that have changed: {changed}")
        for model_id in MODELS:
            self.client.retrieve_model(model_id, timeout_s=PATIENCE_S)
            [worn] = self._pids(model_id)
            clean = self._clean[model_id]
            with contextlib.suppress(AssertionError):
                eventually(lambda: _of_lanes(worn) == clean, "all clients have gone", within_s=LEFT_S)  # noqa: B023
            if (left := _of_lanes(worn)) != clean:
                self.wrong.append(f"the worker of {model_id} has {left}, and a new one {clean}")
        self.client.unload_all_models(timeout_s=PATIENCE_S)
        left = [name for name in os.listdir(self.client.host_info().runtime_dir) if name.startswith("lane-")]
        if left:
            self.wrong.append(f"sockets of workers are left: {left}")


def _of_lanes(pid):
    """Return how many descriptors of the kinds that lanes take a process has, and how much shared memory it has mapped.

    Others come with the first use of a library, such as those of the thread with which pyzmq frees memory.
    """
    kinds = Counter()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            kinds[os.readlink(fd).partition(":[")[0]] += 1
    mapped = Path(f"/proc/{pid}/maps").read_text().count(REGION)
    return {"sockets": kinds["socket"], "regions": kinds[f"/{REGION}(deleted)"], "mapped": mapped}


def run(count, seed):
    """Let clients make so many calls on lanes; return what was done, and what was wrong."""
    tag = new_tag()
    os.environ[TAG] = tag
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="storm-") as scratch:
        directory = Path(scratch)
        (directory / "models").mkdir()
        settings = {
            "workers": {"drain_timeout_s": DRAIN_S, "max_in_flight": MAX_IN_FLIGHT},
            "memory": {"budget": BUDGET, "min_residence_s": 0, "sample_period_s": 0.2, "admission_timeout_s": 60},
            "models": {"dir": str(directory / "models")},
        }
        with hostd.Host(log_level="error", **settings) as host:
            supervisor = psutil.Process(host.pid)
            with hostd.connect(host.endpoint):
                before_fds = supervisor.num_fds()
            world = World(host, directory, seed)
            clients = [world.start(kind, count // len(KINDS)) for kind in KINDS]
            troubles = [
                threading.Thread(target=_note_errors, args=(world, random.Random(f"{seed} {number}")))
                for number in range(TROUBLES)
            ]
            for trouble in troubles:
                trouble.start()
            for client in clients:
                world.wait_for(client)
            world.over.set()
            for trouble in troubles:
                trouble.join()
            world.end()
            world.look_at_what_is_left()
            evictions = world.client.memory_info().evictions
            before_fds += FDS_OF_TEMPLATE * len(world.client.templates_info().templates)
            with contextlib.suppress(AssertionError):
                eventually(lambda: supervisor.num_fds() <= before_fds, "the descriptors are closed")
            if (fds := supervisor.num_fds()) > before_fds:
                world.wrong.append(f"the supervisor has {fds} descriptors, it had {before_fds}")
        if left := tagged(tag):
            world.wrong.append(f"processes outlived the host: {sorted(left)}")
        calls, ran = world.calls(), world.ran.read_text("utf-8").splitlines()
    wrong = world.wrong + world.truth.wrong(calls, ran, world.whole)
    ends = Counter(call.end for call in calls)
    direct = sum(call.is_direct for call in calls)
    if ends["ok"] < len(calls) / 2:
        wrong.append(f"of {len(calls)} calls {ends['ok']} ended well: they were hardly calls")
    report = {
        "calls": len(calls),
        "seed": seed,
        "seconds": round(time.monotonic() - began_s, 1),
        "direct": direct,
        "ran": len(ran),
        "longest_s": round(max(call.ended_s - call.began_s for call in calls), 2) if calls else None,
        "ends": dict(sorted(ends.items())),
        "faults_by_kind": dict(sorted(world.done.items())),
        "evictions": evictions,
        "wrong": len(wrong),
    }
    return report, [each[:600] for each in wrong[:TOLD]]


def _note_errors(world, chance):
    try:
        world.trouble(chance)
    except hostd.HostError as error:
        world.wrong.append(f"what does harm was told {error.status.name}: {error}")
        raise
