"""The processes of a host's fronts, and a model whose calls end when the test says so."""

import os
import signal
from pathlib import Path

from helpers import eventually


def front_of(host):
    """Return the process of the host's front; none if there is none now."""
    children = Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split()
    found = [int(pid) for pid in children if b"hostd.fronts.process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found[0] if found else None


def kill_front(host):
    """Kill the front, and wait until there is another."""
    pid = front_of(host)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: front_of(host) not in (None, pid), "there is another front")


HELD = """
import pathlib, time
def load(path):
    def held(x):
        while not (pathlib.Path(path) / "go on").exists():
            time.sleep(0.01)
        return x
    return held
"""


def has_calls(host, count=1):
    """Wait until so many calls of the model `m` are in flight."""
    client = host.client()
    eventually(lambda: client.get_model("m").workers[0].in_flight == count, f"{count} calls are in flight")


def go_on(path):
    """Let the calls of a `HELD` model end."""
    (Path(path) / "go on").touch()
