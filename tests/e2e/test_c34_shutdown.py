"""The end of a real host, whatever is under way: nothing is left, and nobody stays without an answer (C34).

The end of `hostd.Host` blocks is in `test_embedded`, sudden deaths are in `test_sudden_death`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from deploy_rig import Raw
from faults import STALLS
from helpers import FAULTY, PATIENCE_S, Service, at_most, eventually, is_there, new_tag, state_of, tagged
from models_rig import AT_ONCE, FAILS, FOLLOWED, GATED, HANGS, Rig, causes, states

import hostd
from hostd.config.loading import load_config
from hostd.hosts.launch import AT_ONCE as KILL_ALL
from hostd.hosts.launch import reaper_command, supervisor_environment

pytestmark = pytest.mark.usefixtures("way")

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from pathlib import Path

LONG_S = 3600.0
MARK = "SHUTDOWN_TEST"
MARKER = "COMPLETE"

PLUGINS = """
    import pathlib, time

    class Finder:
        looks_for = "nothing that ever comes"

        def __init__(self, base):
            self._base = pathlib.Path(base)

        def find(self, model_id, path):
            (self._base / "plugin-called").touch()
            time.sleep(3600)

    class Scan(Finder):
        pass

    class Sizer(Finder):
        def estimate(self, model_id, path, model_type):
            self.find(model_id, path)
"""


@dataclass
class Case:
    """A served host, its models directory, and what waits for something of it."""

    service: Service
    client: hostd.Client
    rig: Rig
    base: Path
    pool: ThreadPoolExecutor
    tag: str
    closing: contextlib.ExitStack
    waiting: list[Future[Any]] = field(default_factory=list)

    def ask(self, what, *args, **kwargs):
        """Ask for what will not be done before the end."""
        self.waiting.append(self.pool.submit(what, *args, **kwargs))
        return self.waiting[-1]

    def check_end(self):
        """Wait for the end, and see that nothing is left and everybody has an answer."""
        assert self.service.ended() == 0
        assert not is_there(self.service.pid)
        assert tagged(self.tag, MARK) == set()
        left = {entry.name for entry in self.service.runtime_dir.iterdir()}
        assert left <= {"hostd.lock"}, "sockets are left"
        assert self.rig.residue() == [], "staging is left"
        for answer in self.waiting:
            assert isinstance(answer.exception(PATIENCE_S), (hostd.AbortedError, hostd.UnavailableError))


@pytest.fixture
def start(serve, tmp_path, rig, pool, install, monkeypatch):
    """Serve a host; keywords are its settings."""
    install(plugins_that_hang=PLUGINS)
    tag = new_tag()
    monkeypatch.setenv(MARK, tag)
    closing = contextlib.ExitStack()

    def begin(**settings):
        models = {**AT_ONCE, "dir": rig.path, **settings.pop("models", {})}
        service = serve(models=models, **settings)
        client = closing.enter_context(hostd.connect(service.endpoint))
        return Case(service, client, rig, tmp_path, pool, tag, closing)

    with closing:
        yield begin


# Ways to end


def by_verb(case):
    case.client.shutdown()
    assert tagged(case.tag, MARK) <= {case.service.pid, case.service.reaper.pid}, "answered before all was gone"


def by_sigterm(case):
    case.service.reaper.terminate()


def by_sigint(case):
    case.service.reaper.send_signal(signal.SIGINT)


# What may be under way


def serves(case):
    for number in range(3):
        case.client.load_model(f"m{number}", case.rig.make()).predict(1)


def has_hung_calls(case):
    for death in STALLS:
        evidence = case.base / f"evidence-{death}"
        options = {"stage": "infer", "death": death, "evidence": str(evidence)}
        model = case.client.load_model(death, FAULTY, options=options)
        case.ask(model.predict, 1)
        eventually(evidence.exists, "it hangs")


def has_hung_loads(case):
    for death in STALLS:
        evidence = case.base / f"evidence-{death}"
        options = {"stage": "load", "death": death, "evidence": str(evidence)}
        case.ask(case.client.load_model, death, FAULTY, options=options)
        eventually(evidence.exists, "it hangs")


def has_grandchildren(case):
    options = {"stage": "load", "death": "grandchildren", "evidence": str(case.base / "evidence")}
    case.client.load_model("m", FAULTY, options=options)


def waits_for_a_retry(case):
    case.ask(case.client.load_model, "m", case.rig.make(FAILS), retries=9)
    eventually(lambda: "RETRY" in causes(case.client, "m"), "it failed")


def waits_for_files(case):
    case.rig.add("m")
    case.ask(case.client.retrieve_model, "m")
    case.ask(case.client.call, "m", "predict", (1,), {}, None)
    eventually(lambda: states(case.client) == {"m": "LOADING"}, "somebody waits for it")


def has_a_sync_under_way(case):
    case.rig.add("m", HANGS, {MARKER: ""})
    case.ask(case.client.sync_local_models, wait=True)
    eventually(lambda: case.rig.loads("m"), "a load of the sync hangs")


def has_deploys_under_way(case):
    raw = Raw(case.service.endpoint)
    case.closing.callback(raw.__exit__)
    upload = raw.ask("deploy_begin", model_id="sent", files=[["model.py", 100], ["data/x", 10]])["upload"]
    raw.ask("deploy_write", upload=upload, file=0, offset=0, data=b"x" * 50)
    assert case.rig.residue() != []
    case.ask(case.client.deploy_model, "new", case.rig.make(HANGS))
    eventually(lambda: case.rig.loads("new"), "the load of the deploy hangs")
    case.client.deploy_model("m", case.rig.make())
    case.ask(case.client.deploy_model, "m", case.rig.make(HANGS), replace=True)
    eventually(lambda: len(case.rig.loads("m")) == 2, "the load of the new one hangs")


def has_hung_unloads(case):
    model = case.client.load_model("m", case.rig.make())
    case.ask(model.work, str(case.base / "begun"), str(case.base / "never"))
    eventually((case.base / "begun").exists, "the call has begun")
    case.pool.submit(case.client.unload_model, "m")
    case.pool.submit(case.client.unload_all_models)
    eventually(lambda: states(case.client) == {"m": "UNLOADING"}, "the unload has begun")


UNDER_WAY = [
    serves,
    has_hung_calls,
    has_hung_loads,
    has_grandchildren,
    waits_for_a_retry,
    waits_for_files,
    has_a_sync_under_way,
    has_deploys_under_way,
    has_hung_unloads,
]


ENDS = (by_verb, by_sigterm, by_sigint)


@pytest.mark.parametrize("under_way", UNDER_WAY, ids=lambda under_way: under_way.__name__)
def test_c34_nothing_is_left_of_a_host_that(start, under_way):
    end = ENDS[UNDER_WAY.index(under_way) % len(ENDS)]
    waits = {"drain_timeout_s": 0.4, "retry_backoff_s": LONG_S, "retry_max_backoff_s": LONG_S}
    case = start(models={**FOLLOWED, "poll_period_s": None, "completion_marker": MARKER}, workers=waits)
    before = sorted(os.listdir(case.rig.path))
    under_way(case)
    end(case)
    case.check_end()
    deployed = {"new"} & set(os.listdir(case.rig.path)) - set(before)
    assert not deployed, "files of a deploy that was answered with an error are left"


@pytest.mark.parametrize("kind", ["finder", "scan", "sizer"])
def test_c34_a_plugin_that_hangs_keeps_no_host_from_ending(start, tmp_path, kind):
    hung = {"type": f"plugins_that_hang:{kind.title()}", "config": {"base": str(tmp_path)}}
    tables = {"finder": {"finders": {"hung": hung}}, "scan": {"finders": {"default": hung}}}
    case = start(**tables.get(kind, {"sizers": {"default": hung}}))
    path = case.rig.add("m")
    asks = {
        "finder": lambda: case.client.load_model("m", path, finder="hung"),
        "scan": lambda: case.client.sync_local_models(wait=True),
        "sizer": lambda: case.client.estimate_model_size("m", path),
    }
    case.ask(asks[kind])
    eventually((tmp_path / "plugin-called").exists, "it hangs")
    try:
        by_sigterm(case)
        case.check_end()
    finally:
        case.service.reaper.send_signal(KILL_ALL)  # or the client would wait for its answer, too


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda second: second.name)
def test_c34_a_second_signal_ends_it_at_once_and_all_that_asked_for_the_end_are_answered(start, tmp_path, second):
    case = start(workers={"drain_timeout_s": LONG_S})
    model = case.client.load_model("m", case.rig.make())
    pid = model.pid()
    case.ask(model.options(timeout_s=None).work, str(tmp_path / "begun"), str(tmp_path / "never"))
    eventually((tmp_path / "begun").exists, "the call has begun")
    case.ask(case.client.load_model, "loading", case.rig.make(GATED))
    ends = [case.pool.submit(case.client.shutdown) for _ in range(4)]
    eventually(lambda: states(case.client).get("m") == "UNLOADING", "the host drains")
    by_sigint(case) if second == signal.SIGTERM else by_sigterm(case)
    with at_most(PATIENCE_S, "the end after a second signal"):
        case.service.reaper.send_signal(second)
        case.check_end()
    errors = [end.exception(PATIENCE_S) for end in ends]
    assert None in errors
    assert all(error is None or isinstance(error, hostd.UnavailableError) for error in errors)
    assert not is_there(pid)


def test_c34_from_the_first_signal_on_nothing_new_is_begun(start, tmp_path):
    case = start(models=FOLLOWED, workers={"drain_timeout_s": LONG_S})
    model = case.client.load_model("m", case.rig.make())
    call = model.submit.work(str(tmp_path / "begun"), str(tmp_path / "release"))
    eventually((tmp_path / "begun").exists, "the call has begun")
    case.service.reaper.terminate()
    eventually(lambda: states(case.client) == {"m": "UNLOADING"}, "the host drains")
    case.rig.add("late")
    asks = [
        lambda: case.client.load_model("x", case.rig.make()),
        lambda: case.client.retrieve_model("late"),
        lambda: case.client.call("late", "predict", (1,), {}, None),
        case.client.sync_local_models,
        lambda: case.client.deploy_model("x", case.rig.make()),
        lambda: case.client.undeploy_model("late"),
    ]
    for ask in asks:
        with pytest.raises(hostd.UnavailableError, match="shutting down"):
            ask()
    assert case.client.host_info().pid == case.service.pid, "it still says how it is"
    (tmp_path / "release").touch()
    assert call.result(PATIENCE_S) == "finished"
    case.check_end()
    assert case.rig.loaded_names() == {"../workshop/0"}


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.2, 0.3, 0.4, "loading", "waiting"])
def test_c34_a_signal_at_any_moment_of_the_start_leaves_nothing(rig, tmp_path, monkeypatch, moment):
    tag = new_tag()
    monkeypatch.setenv(MARK, tag)
    rig.add("m", HANGS)
    places = {"runtime_dir": tmp_path / "r", "state_dir": tmp_path / "s"}
    models = {**FOLLOWED, "dir": rig.path, "wait_for_initial_loads": moment == "waiting"}
    environment = supervisor_environment(load_config({**places, "models": models}))
    with subprocess.Popen(
        reaper_command(), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as reaper:
        if isinstance(moment, str):
            eventually(lambda: rig.loads("m"), "a load of the start hangs")
        else:
            threading.Event().wait(moment)
        reaper.terminate()
        code = reaper.wait(PATIENCE_S)
    assert {pid for pid in tagged(tag, MARK) if state_of(pid) not in ("", "Z")} == set()
    if isinstance(moment, str):
        assert code == 0
        assert {entry.name for entry in (tmp_path / "r").iterdir()} <= {"hostd.lock"}
