"""Isolation from the user's hosts, the proof that a test left nothing behind, and hosts to test with."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import zlib
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
import zmq
from helpers import (
    FAULTY,
    TAG,
    descendants,
    describe,
    descriptors,
    eventually,
    new_tag,
    start_service,
    tagged,
    template_host,
    threads,
)
from zmq.utils.garbage import gc as zmq_gc

import hostd
from hostd.client import context
from hostd.hosts.launch import AT_ONCE

with contextlib.suppress(ImportError):
    # Its import starts threads, which must not look like those of the first test that uses an array.
    import numpy as np  # noqa: F401

with contextlib.suppress(ImportError):
    import hypothesis

    # A machine that stalls must not make an example of itself; without a deadline "too slow" is 30 s of drawing.
    hypothesis.settings.register_profile("hostd", deadline=None)
    hypothesis.settings.load_profile("hostd")

sys.path.append(str(FAULTY))  # tests choose from its tables

DRAIN_TIMEOUT_S = 0.4
QUICK = {"workers": {"drain_timeout_s": DRAIN_TIMEOUT_S}}
"""Settings of hosts under test: nobody should have to wait for a drain that is bound to fail."""

SETTLE_S = 60.0
"""How long the end of what a test closed may take: a library's thread, a reaper that still tidies up."""

MAY_STAY = ("/run/hostd", ".log", ".log.1", "/state/sizes.sqlite")
"""The directory of all hosts, and of a host that goes on the logs of models, and the sizes once it has learned some."""

ECHO = """
    class Echo:
        def predict(self, x):
            return x

        def generate(self, n):
            yield from range(n)

    def load(path, **options):
        return Echo()
"""


def pytest_configure(config):
    # A shell's `&` and nohup ignore signals for all that they start, and a host obeys that.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    config.addinivalue_line("markers", "heavy: takes seconds, because it repeats or moves much memory")
    config.addinivalue_line("markers", "caikit: needs the extra `caikit`, and is skipped without it (.ci/caikit.sh)")
    config.addinivalue_line("markers", "heavy_loader: needs a library of the extra `heavy`, and is skipped without it")


def pytest_collection_finish():
    """Leave what the collection made out of all further collections of garbage: with it each takes 0.15 s, and every test
    of real processes makes one.
    """
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers(config):
    """Return what `-n auto` means: a process more than cores, because a third of the time a test waits for others."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture(scope="session", autouse=True)
def _isolated():
    """Keep the tests away from the hosts and settings of whoever runs them."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("HOSTD_", "XDG_"))]:
        del os.environ[name]
    # Not pytest's own directory: a socket's path may have 107 bytes.
    base = tempfile.mkdtemp(prefix="hostd-t-")
    for name, directory in (("XDG_RUNTIME_DIR", "run"), ("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config")):
        os.environ[name] = os.path.join(base, directory)
        os.mkdir(os.environ[name], 0o700)
    os.environ[TAG] = new_tag()
    _send_without_copying()
    context.of_this_process().socket(zmq.PAIR).close()  # the clients' context stays, with two threads
    yield
    zmq_gc.stop()
    os.environ.clear()
    os.environ.update(before)
    shutil.rmtree(base)


_state_homes = itertools.count()


@pytest.fixture(autouse=True)
def _remembers_nothing_of_other_tests(request):
    """Give the hosts of each test a place of their own for what all hosts of a user remember."""
    before = os.environ["XDG_STATE_HOME"]
    if {"e2e", "shell", "cli", "fronts"} & set(request.path.parts):
        os.environ["XDG_STATE_HOME"] = f"{before}/{next(_state_homes)}"
        os.mkdir(os.environ["XDG_STATE_HOME"], 0o700)
    yield
    os.environ["XDG_STATE_HOME"] = before


def _send_without_copying():
    """Bring pyzmq's thread for messages that are not copied into being: it comes with the first of them, and stays."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender, context.socket(zmq.PULL) as receiver:
        sender.bind("inproc://once")
        receiver.connect("inproc://once")
        sender.send(bytes(1 << 20), copy=False)
        receiver.recv()


COVERAGE = "COVERAGE_PROCESS_CONFIG"
"""With this in its environment a process measures its coverage."""

MEASURED_SHARE = 4
"""Of so many tests, one measures the coverage of the processes that it starts, too."""


@pytest.fixture(autouse=True)
def _measured_sparingly(request):
    """Have most tests start processes without coverage, which takes a third of their time; the same ones each time.

    Which lines they reach is told by a share of the tests as well as by all: there are hundreds for each.
    """
    is_measured = zlib.crc32(request.node.nodeid.encode()) % MEASURED_SHARE == 0
    settings = None if is_measured else os.environ.pop(COVERAGE, None)
    yield
    if settings is not None:
        os.environ[COVERAGE] = settings


def _files_below(directory):
    # Not Path.rglob, which raises if a reaper tidies up meanwhile.
    return {os.path.join(base, name) for base, *names in os.walk(directory) for name in (*names[0], *names[1])}


@dataclass
class Traces:
    """What there is of processes, descriptors, threads and runtime files at one moment.

    A host that several tests share keeps the templates that one of them has brought it to.
    """

    processes: set[int] = field(default_factory=lambda: set(descendants()) | tagged(os.environ[TAG]))
    descriptors: dict[int, str] = field(default_factory=descriptors)
    threads: set[int] = field(default_factory=threads)
    files: set[str] = field(default_factory=lambda: _files_below(os.environ["XDG_RUNTIME_DIR"]))

    def since(self, before):
        """Return what is here and was not before."""
        new = {pid for pid in self.processes - before.processes if template_host(pid) not in before.processes}
        opened = {fd: to for fd, to in self.descriptors.items() if before.descriptors.get(fd) != to}
        found = {
            "processes": describe(new) or sorted(new),
            "descriptors": opened,
            "threads": sorted(self.threads - before.threads),
            "files": sorted(file for file in self.files - before.files if not file.endswith(MAY_STAY)),
        }
        return {kind: left for kind, left in found.items() if left}


@pytest.fixture(autouse=True)
def _nothing_is_left(request):
    """After a test of real processes: no process, descriptor, thread, socket or directory that was not there before."""
    if not {"e2e", "shell"} & set(request.path.parts):
        yield
        return
    before = Traces()
    yield
    request.node.funcargs.clear()  # a client gives its last descriptor back when nobody refers to it any more
    left = {}

    def is_clean():
        gc.collect()  # the traceback of an error that a test expected may hold what the test has let go
        left.clear()
        left.update(Traces().since(before))
        return not left

    try:
        eventually(is_clean, "the test left nothing behind", within_s=SETTLE_S)
    except AssertionError:
        pytest.fail(f"the test left behind: {left}", pytrace=False)


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left():
    """After the tests of a file: no process of theirs, which those that look at memory or ends take for a worker's."""
    before = set(descendants())
    yield
    try:
        eventually(lambda: set(descendants()) <= before, "the file left no process behind", within_s=SETTLE_S)
    except AssertionError:
        pytest.fail(f"the file left behind: {describe(set(descendants()) - before)}", pytrace=False)


@pytest.fixture
def no_tracker():
    """End the process that multiprocessing starts for spawned pools and shared memory; it would stay to the end."""
    yield
    resource_tracker._resource_tracker._stop()


@pytest.fixture
def host():
    """A host for one test, which may harm it."""
    with hostd.Host(**QUICK) as running:
        yield running


@pytest.fixture
def client(host):
    """A client of the test's own host; it is closed with it."""
    return host.client()


@pytest.fixture(scope="module")
def shared_host():
    """A host for all tests of a file, which do it no harm; it knows nothing of what other files have loaded."""
    with hostd.Host(**QUICK, memory={"remember": "host"}) as running:
        yield running


@pytest.fixture
def shared(shared_host):
    """A client of the file's host; what the test loaded is unloaded afterwards."""
    with hostd.connect(shared_host.endpoint) as client:
        yield client
        client.unload_all_models()


@pytest.fixture
def model_dir(tmp_path):
    """Write a python model and return its path; `settings` is the text of a `model.yaml`, `files` are others."""
    count = 0

    def write(source=ECHO, *, settings=None, files=None):
        nonlocal count
        count += 1
        directory = tmp_path / f"model-{count}"
        directory.mkdir()
        written = {"model.py": source, **({"model.yaml": settings} if settings else {}), **(files or {})}
        for name, text in written.items():
            (directory / name).write_text(textwrap.dedent(text), "utf-8")
        return str(directory)

    return write


@pytest.fixture
def serve(tmp_path):
    """Start hosts as `hostd serve` does, in one runtime directory unless told otherwise; they are killed afterwards."""
    started = []
    base = Path(os.environ["XDG_RUNTIME_DIR"], "hostd")
    base.mkdir(mode=0o700, exist_ok=True)

    def start(**settings):
        runtime_dir = Path(settings.get("runtime_dir", base / "served"))
        state_dir = tmp_path / ("state" if runtime_dir == base / "served" else f"state-{runtime_dir.name}")
        places = {"runtime_dir": runtime_dir, "state_dir": state_dir, "log_level": "info"}
        service = start_service(**{**QUICK, **places, **settings})
        started.append(service)  # by several threads, perhaps: the last one need not be this one
        return service

    yield start
    for service in started:
        with service.reaper as reaper:
            reaper.send_signal(AT_ONCE)
    shutil.rmtree(base / "served", ignore_errors=True)
