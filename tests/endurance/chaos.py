"""Chaos: clients ask for everything that there is, while workers, clients and models fail in every way.

What must hold: every request ends, with what was asked for or with a typed error, before its deadline and a grace; a
right answer is the right one; when all is over nothing is left of any model, and the supervisor has its size again.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
from helpers import FDS_OF_TEMPLATE, TAG, eventually, new_tag, tagged, template_host

import hostd

CLIENTS = 3
TIMEOUT_S = 20.0
GRACE_S = 20.0
"""A machine of two cores that is busy with all this may be late; a request that is lost is not late but gone."""

GROWTH_BYTES = 64 << 20

GOOD = """
import os, subprocess, sys, time

class Model:
    def echo(self, x):
        return x

    def slow(self, seconds):
        time.sleep(seconds)
        return seconds

    def items(self, count, size):
        for number in range(count):
            yield number.to_bytes(4, "big") * size

    def helper(self):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        return os.getpid()

    def fail(self):
        raise ValueError("as asked")

    def leave(self, how):
        os._exit(how)

    def grow(self, mebibytes):
        self.kept = bytearray(os.urandom(1024) * 1024 * mebibytes)

def load(path):
    return Model()
"""

BAD = {
    "raises": "def load(path):\n    raise RuntimeError('as written')\n",
    "exits": "import os\ndef load(path):\n    os._exit(3)\n",
    "dies": "import os, signal\ndef load(path):\n    os.kill(os.getpid(), signal.SIGSEGV)\n",
    "syntax": "def load(path:\n",
    "sleeps": "import time\ndef load(path):\n    time.sleep(1)\n    return lambda: 1\n",
}

BYSTANDER = """
import sys, hostd
with hostd.connect(sys.argv[1]) as client:
    print("ready", flush=True)
    while True:
        for model in client.list_models():
            try:
                handle = client.retrieve_model(model.id, timeout_s=5)
                futures = [handle.submit.echo(number) for number in range(50)]
                list(handle.stream.items(20, 1000))
                [future.result() for future in futures]
            except hostd.HostError:
                pass
"""


class World:
    """A host, the directories of its models, and the books of what was asked and what came of it."""

    def __init__(self, host, directory, over_s):
        self.host = host
        self.directory = directory
        self.over_s = over_s
        self.done = Counter()
        self.faults = Counter()
        self.wrong = []
        self.latest_s = 0.0
        self.good = self._write("good", GOOD)
        self.bad = {name: self._write(name, source) for name, source in BAD.items()}

    def _write(self, name, source):
        folder = self.directory / name
        folder.mkdir()
        (folder / "model.py").write_text(textwrap.dedent(source), "utf-8")
        return str(folder)

    @property
    def is_over(self):
        return time.monotonic() > self.over_s

    def ask(self, name, work):
        """Ask for something, and note how it ended."""
        began_s = time.monotonic()
        try:
            work()
        except hostd.HostError as error:
            self.done[f"{name}: {error.status.name}"] += 1
            if error.status is hostd.Status.INTERNAL:
                self.wrong.append(f"{name}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever else comes is what this looks for
            self.wrong.append(f"{name}: {type(error).__name__}: {error}")
        else:
            self.done[name] += 1
        finally:
            took_s = time.monotonic() - began_s
            self.latest_s = max(self.latest_s, took_s)
            if took_s > TIMEOUT_S + GRACE_S:
                self.wrong.append(f"{name} took {took_s:.0f} s")


def _client(world, chance):
    ids = [f"m{number}" for number in range(4)]
    with hostd.connect(world.host.endpoint, timeout_s=TIMEOUT_S) as client:
        while not world.is_over:
            model_id = chance.choice(ids)
            name, work = chance.choice(_WORK)
            world.ask(name, lambda: work(world, client, chance, model_id))  # noqa: B023 - called at once


def _load(world, client, chance, model_id):
    client.load_model(model_id, world.good, wait=chance.random() < 0.8, timeout_s=TIMEOUT_S)


def _load_bad(world, client, chance, model_id):
    client.load_model(f"{model_id}-bad", world.bad[chance.choice(list(world.bad))], timeout_s=TIMEOUT_S)


def _unload(_, client, chance, model_id):
    client.unload_model(model_id + chance.choice(["", "", "-bad"]), timeout_s=TIMEOUT_S)


def _echo(world, client, chance, model_id):
    model = client.retrieve_model(model_id, timeout_s=TIMEOUT_S)
    sent = chance.randbytes(chance.choice([8, 8, 8, 5000, 300_000]))
    for _ in range(chance.randint(1, 60)):
        if model.echo(sent) != sent:
            world.wrong.append("an answer that was not this call's")


def _pipeline(world, client, chance, model_id):
    model = client.retrieve_model(model_id, timeout_s=TIMEOUT_S)
    futures = {number: model.submit.echo(number) for number in range(chance.randint(1, 200))}
    for number, future in futures.items():
        if chance.random() < 0.05:
            future.cancel()
        elif future.result() != number:
            world.wrong.append("an answer that was not this call's")


def _stream(world, client, chance, model_id):
    model = client.retrieve_model(model_id, timeout_s=TIMEOUT_S)
    until = chance.randint(0, 300)
    with contextlib.closing(model.stream.items(200, chance.choice([1, 1000, 20_000]))) as items:
        for number, item in enumerate(items):
            if item[:4] != number.to_bytes(4, "big"):
                world.wrong.append("an item that was not the next")
            if number == until:
                return


def _slow(_, client, chance, model_id):
    model = client.retrieve_model(model_id, timeout_s=TIMEOUT_S)
    model.options(timeout_s=chance.choice([0.01, 5])).slow(chance.choice([0.005, 0.1]))


def _misbehave(_, client, chance, model_id):
    model = client.retrieve_model(model_id, timeout_s=TIMEOUT_S)
    chance.choice([model.fail, model.helper, lambda: model.grow(20), lambda: model.leave(chance.choice([0, 7]))])()


def _look(_, client, chance, model_id):
    chance.choice(
        [
            client.list_models,
            client.host_info,
            lambda: client.explain_model(model_id),
            lambda: client.get_model(model_id),
        ]
    )()


def _deploy(_, client, chance, model_id):
    deployed = f"{model_id}-deployed"
    if chance.random() < 0.5:
        client.deploy_model(deployed, {"model.py": GOOD.encode()}, replace=True, timeout_s=TIMEOUT_S)
    else:
        client.undeploy_model(deployed, timeout_s=TIMEOUT_S)


def _reconnect(world, _, chance, model_id):
    with hostd.connect(world.host.endpoint, timeout_s=TIMEOUT_S) as other:
        model = other.retrieve_model(model_id, timeout_s=TIMEOUT_S)
        for number in range(chance.randint(0, 50)):
            model.submit.echo(number)  # and leaves without the answers


_WORK = [
    *[("load", _load)] * 8,
    ("load of a bad model", _load_bad),
    ("unload", _unload),
    *[("echo", _echo)] * 6,
    *[("pipeline", _pipeline)] * 3,
    *[("stream", _stream)] * 3,
    ("slow", _slow),
    ("misbehave", _misbehave),
    *[("look", _look)] * 3,
    ("deploy", _deploy),
    ("reconnect", _reconnect),
]


def _break_things(world, chance):
    """Kill and stop workers, their helpers, and clients."""
    bystanders = []
    stopped = []
    while not world.is_over:
        time.sleep(chance.uniform(0.05, 0.4))
        with hostd.connect(world.host.endpoint) as client:
            pids = [worker.pid for model in client.list_models() for worker in model.workers if worker.pid]
        fault = chance.choice(["kill", "kill", "stop", "go on", "segv", "new client", "kill client", "stop client"])
        with contextlib.suppress(ProcessLookupError):
            if fault == "new client" and len(bystanders) < 3:
                command = [sys.executable, "-c", BYSTANDER, world.host.endpoint]
                bystanders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            elif fault == "kill client" and bystanders:
                bystander = bystanders.pop(chance.randrange(len(bystanders)))
                bystander.kill()
                bystander.wait()
            elif fault == "stop client" and bystanders:
                chance.choice(bystanders).send_signal(chance.choice([signal.SIGSTOP, signal.SIGCONT]))
            elif fault == "go on" and stopped:
                os.kill(stopped.pop(), signal.SIGCONT)
            elif fault in {"kill", "stop", "segv"} and pids:
                pid = chance.choice(pids)
                os.kill(pid, {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "segv": signal.SIGSEGV}[fault])
                if fault == "stop":
                    stopped.append(pid)
            else:
                continue
            world.faults[fault] += 1
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    for bystander in bystanders:
        bystander.kill()
        bystander.wait()


def run(seconds, seed):
    """Let chaos reign for some seconds; return what was done, and what was wrong."""
    tag = new_tag()
    os.environ[TAG] = tag
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        directory = Path(scratch)
        (directory / "models").mkdir()
        settings = {"workers": {"drain_timeout_s": 1.0}, "models": {"dir": str(directory / "models")}}
        with hostd.Host(log_level="error", **settings) as host, host.client() as client:
            supervisor = psutil.Process(host.pid)
            before_bytes, before_fds = supervisor.memory_info().rss, supervisor.num_fds()
            world = World(host, directory, time.monotonic() + seconds)
            threads = [
                threading.Thread(target=_client, args=(world, random.Random(f"{seed} {number}")))
                for number in range(CLIENTS)
            ]
            threads.append(threading.Thread(target=_break_things, args=(world, random.Random(seed))))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            client.unload_all_models(timeout_s=60)
            for model in client.list_models():
                client.unload_model(model.id, timeout_s=60)
            left = {pid for pid in tagged(tag) - {host.pid, supervisor.ppid()} if template_host(pid) is None}
            before_fds += FDS_OF_TEMPLATE * len(client.templates_info().templates)
            if left:
                world.wrong.append(f"processes outlived their models: {sorted(left)}")
            with contextlib.suppress(AssertionError):
                eventually(lambda: supervisor.num_fds() <= before_fds, "the descriptors are closed")
            grown_bytes, fds = supervisor.memory_info().rss - before_bytes, supervisor.num_fds()
            if grown_bytes > GROWTH_BYTES:
                world.wrong.append(f"the supervisor has grown by {grown_bytes} bytes")
            if fds > before_fds:
                world.wrong.append(f"the supervisor has {fds} descriptors, it had {before_fds}")
        if left := tagged(tag):
            world.wrong.append(f"processes outlived the host: {sorted(left)}")
    report = {
        "seconds": seconds,
        "seed": seed,
        "requests": sum(world.done.values()),
        "faults": sum(world.faults.values()),
        "longest_s": round(world.latest_s, 2),
        "supervisor_grown_bytes": grown_bytes,
        "ends": dict(sorted(world.done.items())),
        "faults_by_kind": dict(sorted(world.faults.items())),
    }
    return report, world.wrong
