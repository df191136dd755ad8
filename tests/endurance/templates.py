"""Templates: loads and unloads that are forked, under load, while their template is killed, stopped, and made stale.

What must hold: every load succeeds and answers, no two workers ever draw the same numbers, nothing is left of any, and
neither the supervisor nor the templates grow.
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from helpers import descendants, is_there, of_models
from template_rig import Interpreter

import hostd

KILLS_OF, STOPS_OF, TOUCHES_OF = 20, 100, 50
"""One of so many loads is followed by a kill of its template, a stop, or an installation."""

GROWTH_BYTES = 8 << 20
MOST_FDS = 80

MODEL = """
import lib, os, random, tempfile, uuid

class Model:
    def draws(self):
        return [random.random(), str(uuid.uuid4()), next(tempfile._get_candidate_names()), os.urandom(8).hex()]

def load(path):
    return Model()
"""

CALLED = "def load(path):\n    return lambda x: x\n"


def run(count, seed):
    """Load and unload so many times; return what was done, and what was wrong."""
    chance, wrong, done, drawn = random.Random(seed), [], Counter(), [set() for _ in range(4)]
    with tempfile.TemporaryDirectory(prefix="templates-") as scratch:
        interpreter = Interpreter(Path(scratch) / "venv")
        interpreter.write("lib")
        path = interpreter.model(Path(scratch) / "model", MODEL)
        busy = interpreter.model(Path(scratch) / "busy", CALLED)
        with hostd.Host(memory={"remember": "host"}) as host, host.client() as client:
            with _Calls(host, busy) as calls:
                sizes = []
                for number in range(count):
                    name = f"model-{number % 7}"
                    try:
                        draws = client.load_model(name, path).draws()
                    except hostd.HostError as error:
                        wrong.append(f"load {number}: {error}")
                        continue
                    for seen, value in zip(drawn, draws, strict=True):
                        if value in seen:
                            wrong.append(f"load {number}: {value!r} was drawn before")
                        seen.add(value)
                    template = client.get_model(name).workers[0].template
                    done["forked" if template is not None else "fresh"] += 1
                    _disturb(client, template, interpreter, chance, done)
                    client.unload_model(name)
                    if number % (count // 10 or 1) == 0:
                        sizes.append(_rss_of(host.pid))
            done["calls"], errors = calls.count, calls.errors
            wrong += errors[:5]
            client.unload_all_models()
            if left := of_models(host.pid):
                wrong.append(f"processes are left: {left}")
            settled = sizes[2:] or sizes
            if max(settled) - settled[0] > GROWTH_BYTES:
                wrong.append(f"the supervisor has grown: {sizes}")
            if (fds := len(os.listdir(f"/proc/{host.pid}/fd"))) > MOST_FDS:
                wrong.append(f"the supervisor has {fds} descriptors")
            pids = [host.pid, *descendants(host.pid)]
        if left := [pid for pid in pids if is_there(pid)]:
            wrong.append(f"left after the host: {left}")
    return {**done, "rss": sizes, "seed": seed}, wrong


class _Calls:
    """A client that calls a model without end, in a thread."""

    def __init__(self, host, path):
        self._host, self._path, self._end = host, path, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count, self.errors = 0, []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def _run(self):
        with self._host.client() as client:
            model = client.load_model("busy", self._path)
            while not self._end.is_set():
                try:
                    assert model(self.count) == self.count
                except (hostd.HostError, AssertionError) as error:
                    self.errors.append(f"a call: {error!r}")
                self.count += 1


def _disturb(client, template, interpreter, chance, done):
    pid = next((each.pid for each in client.templates_info().templates if each.id == template), None)
    if pid is not None and chance.randrange(KILLS_OF) == 0:
        os.kill(pid, signal.SIGKILL)
        done["killed"] += 1
    elif pid is not None and chance.randrange(STOPS_OF) == 0:
        os.kill(pid, signal.SIGSTOP)
        done["stopped"] += 1
    elif chance.randrange(TOUCHES_OF) == 0:
        (interpreter.site / "lib" / "__init__.py").touch()
        time.sleep(0.01)
        done["installed"] += 1


def _rss_of(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
