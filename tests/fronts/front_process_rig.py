"""The processes of a host's fronts, and a model whose calls end when the test says so."""

import os
import signal
import socket
import urllib.error
import urllib.request
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from helpers import PATIENCE_S, eventually

import hostd


@contextmanager
def starting(**defaults):
    """Give what starts a host with such fronts; it is stopped after the block."""
    hosts = []

    def start(max_in_flight=1024, **fronts):
        workers = {"templates": "off", "max_in_flight": max_in_flight}
        hosts.append(hostd.Host(fronts={**defaults, **fronts}, workers=workers, log_level="info"))
        hosts[-1].start()
        return hosts[-1]

    yield start
    for host in hosts:
        host.stop()


def url_of(host):
    return host.client().host_info().fronts["http"]


def status_of(url, path="/v2/health/ready", body=None, **headers):
    request = urllib.request.Request(url + path, body, {name.replace("_", "-"): v for name, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@contextmanager
def connections(url, count):
    host, _, port = url.removeprefix("http://").partition(":")
    opened = [socket.create_connection((host, int(port))) for _ in range(count)]
    try:
        yield opened
    finally:
        for one in opened:
            one.close()


def front_of(host):
    """Return the process of the host's front; none if there is none now."""
    children = Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split()
    found = [int(pid) for pid in children if b"hostd.fronts.process" in _command(pid)]
    return found[0] if found else None


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
        return b""


def kill_front(host):
    """Kill the front, and wait until there is another."""
    pid = front_of(host)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: front_of(host) not in (None, pid), "there is another front")


HELD = """
import pathlib, time
class Held:
    def __init__(self, path):
        self.path = pathlib.Path(path)
    def predict(self, x):
        while not (self.path / "go on").exists():
            time.sleep(0.01)
        return x
    def generate(self, prompt):
        return self.predict(prompt)
def load(path):
    return Held(path)
"""


def has_calls(host, count=1):
    """Wait until so many calls of the model `m` are in flight."""
    client = host.client()
    eventually(lambda: client.get_model("m").workers[0].in_flight == count, f"{count} calls are in flight")


def two_tokens(file):
    """Write a file of two tokens that may call, and return them as the header `Authorization`."""
    tokens = ["first-first-first-first", "second-second-second-second"]
    file.write_text("".join(f"call {token}\n" for token in tokens))
    file.chmod(0o600)
    return [f"Bearer {token}" for token in tokens]


@contextmanager
def shared_by(ask, first, second, *, refused):
    """Have two callers ask until each is refused, of 24 places; all other answers must be there after the block.

    The first alone has two thirds, the second half of what the first leaves.
    """
    with ThreadPoolExecutor(22) as pool:
        waiting = set()
        for caller, count in ((first, 16), (second, 4)):
            asked = {pool.submit(ask, caller) for _ in range(count + 1)}
            done, left = wait(asked, PATIENCE_S, FIRST_COMPLETED)
            assert [answer.result() for answer in done] == [refused]
            waiting |= left
        assert [answer for answer in waiting if answer.done()] == []
        yield
        assert refused not in {answer.result() for answer in waiting}


def go_on(path):
    """Let the calls of a `HELD` model end."""
    (Path(path) / "go on").touch()
