"""A host that answers from memory, and ways to run the command line in this process."""

import asyncio
import time
from dataclasses import dataclass, field, replace

from click.testing import CliRunner

from hostd.cli.root import root
from hostd.cli.session import Session
from hostd.log_lines import LogLine
from hostd.records import (
    Event,
    HostInfo,
    LoadPlan,
    MemoryInfo,
    MethodInfo,
    ModelInfo,
    SizeEstimate,
    SyncReport,
    TemplatesInfo,
    UnloadReport,
    WorkerInfo,
)
from hostd_workers.wire.errors import HostError, NotFoundError, UnavailableError

MIB = 2**20
DIGITS = ModelInfo(
    id="digits",
    state="READY",
    path="/srv/digits",
    type="standalone-model",
    loader="sklearn",
    size=312 * MIB,
    size_source="measured",
    methods={name: MethodInfo(name) for name in ("predict_proba", "predict")},
    default_method="predict",
    workers=(
        WorkerInfo(1, 4242, "READY", 1, 312 * MIB, 300 * MIB, 305 * MIB, 320 * MIB, started_s=time.time() - 3700),
    ),
    calls=17,
    load_duration_s=1.234,
    last_used_s=time.time() - 12600,
    charge_bytes=300 * MIB,
)
WRITER = replace(
    DIGITS, id="writer", methods={"write": MethodInfo("write", streams=True)}, default_method="write", loader="python"
)
NO_TREE = "its load raised ValueError: no such tree"
BROKEN = replace(DIGITS, id="broken", state="FAILED", reason=NO_TREE, workers=(), size=None, charge_bytes=0)
MEMORY = MemoryInfo(
    budget_bytes=2000 * MIB,
    budget_source="80% of the machine",
    measured_bytes=300 * MIB,
    free_bytes=1700 * MIB,
    evictions={"room": 2, "idle": 1},
    unloads=4,
    freed_bytes=900 * MIB,
    last_unload=UnloadReport("ranker", 320 * MIB, 310 * MIB, 3, 0.0425),
)
PLAN = LoadPlan("digits", "start", 300 * MIB, "remembered", 2000 * MIB, 1700 * MIB)
LOG = (
    LogLine(1e9 + 0.25, "worker 3, pid 4242, started: load of /srv/digits requested", is_note=True),
    LogLine(1e9 + 1.5, "first"),
    LogLine(1e9 + 1.5, "sec\x1b[2Jond"),
)
HOST = {"version": "0.1.0", "protocol": 1, "endpoint": "ipc:///run/x", "models": 1, "workers": 1, "rss_bytes": 60 * MIB}
HOST |= {"metrics_port": None, "runtime_dir": "/run", "state_dir": "/state", "python": "py", "models_dir": "/models"}


def rows(text):
    """Return the lines of a text, with one blank between words."""
    return [" ".join(line.split()) for line in text.splitlines()]


@dataclass
class FakeModel:
    """A handle; every method answers with what it was called with."""

    info: ModelInfo
    answer: object = None
    already_loaded: bool = False

    def call(self, method, *args, **kwargs):
        return self.answer if self.answer is not None else {"method": method, "args": args, "kwargs": kwargs}

    def __call__(self, *args, **kwargs):
        return self.call("", *args, **kwargs)

    @property
    def stream(self):
        return self

    def write(self, *args, **kwargs):
        yield from ("one", 2, [args, kwargs])


@dataclass
class FakeClient:
    """What `hostd.connect` returns, without a host; it notes what it was asked."""

    models: dict = field(default_factory=lambda: {"digits": DIGITS})
    unloaded: dict = field(default_factory=dict)
    refusal: HostError | None = None
    deploy_refusal: HostError | None = None
    answer: object = None
    fails_after: int | None = None
    asked: list = field(default_factory=list)
    log: tuple = LOG
    synced: SyncReport = field(default_factory=SyncReport)
    degraded: tuple = ()
    memory: MemoryInfo = MEMORY
    templates: TemplatesInfo = field(default_factory=TemplatesInfo)
    pid: int = 41
    state: str = "READY"
    reloaded: dict = field(default_factory=dict)
    already_loaded: bool = False
    plan: LoadPlan = PLAN
    explained: dict = field(default_factory=dict)

    def connect(self, endpoint, **timeouts):
        self.asked.append(("connect", endpoint, timeouts))
        if self.refusal is not None:
            raise self.refusal
        return self

    async def connect_async(self, endpoint, **timeouts):
        return FakeAsyncClient(self.connect(endpoint, **timeouts))

    def was_asked(self, verb):
        return [one[1:] for one in self.asked if one[0] == verb]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.asked.append(("close",))

    def get_model(self, model_id):
        if model_id not in self.models:
            raise NotFoundError(f"no model {model_id!r} is loaded")
        return self.models[model_id]

    def list_models(self, *, all=False, labels=None):
        models = (self.models | (self.unloaded if all else {})).values()
        return [model for model in models if (labels or {}).items() <= model.labels.items()]

    def model_stacks(self, model_id):
        return {4242: f"Current thread of {self.get_model(model_id).id}\n  File x\n"}

    def retrieve_model(self, model_id, *, timeout_s=None):
        return FakeModel(self.get_model(model_id), self.answer)

    def load_model(self, model_id, path, model_type, **how):
        self.asked.append(("load", model_id, path, model_type, how))
        return FakeModel(self.get_model(model_id), already_loaded=self.already_loaded)

    def unload_model(self, model_id, *, now=False, timeout_s=None):
        self.asked.append(("unload", model_id, now))
        if model_id == "stuck":
            raise HostError("it will not go")
        if model_id not in self.models:
            return UnloadReport(model_id)
        return UnloadReport(model_id, 312 * MIB, 300 * MIB, 1, 0.0425)

    def unload_all_models(self, *, labels=None, now=False, timeout_s=None):
        self.asked.append(("unload all", labels, now))
        return [self.unload_model(model.id) for model in self.list_models(labels=labels)]

    def deploy_model(self, model_id, files, model_type, **how):
        self.asked.append(("deploy", model_id, files, model_type, how))
        if self.deploy_refusal is not None:
            raise self.deploy_refusal
        if how["progress"] is not None:
            for sent_mib in (1, 150, 300):
                how["progress"](sent_mib * MIB, 300 * MIB)
        return FakeModel(self.get_model(model_id))

    def undeploy_model(self, model_id, *, timeout_s=None):
        if model_id == "unknown":
            raise NotFoundError("there is no model 'unknown' in /models")
        return self.unload_model(model_id)

    def sync_local_models(self, wait, load, *, timeout_s=None):
        self.asked.append(("sync", wait, load, timeout_s))
        return self.synced

    def estimate_model_size(self, *args):
        self.asked.append(("estimate", *args))
        return SizeEstimate(400 * MIB, "remembered")

    def explain_model(self, model_id):
        story = [next(self.events(None)).to_dict()]
        return {"state": self.get_model(model_id).state, "reason": "a reason", "story": story, **self.explained}

    def memory_info(self):
        return self.memory

    def templates_info(self):
        return self.templates

    def plan_load(self, model_id, path, model_type, **how):
        self.asked.append(("plan", model_id, path, model_type, how))
        return self.plan

    def pin_model(self, model_id, *, pinned=True):
        self.models[model_id] = replace(self.get_model(model_id), pinned=pinned)
        return self.models[model_id]

    def unpin_model(self, model_id):
        return self.pin_model(model_id, pinned=False)

    def events(self, model_id):
        moved = {"subject": "worker", "old": "LOADING", "new": "READY", "reason": "loaded"}
        yield Event(time_s=1e9, model_id=model_id or "digits", worker_id=3, pid=4242, **moved)

    def log_lines(self, model_id, *, tail, follow):
        self.asked.append(("logs", model_id, tail, follow))
        self.get_model(model_id)
        yield from self.log

    def host_info(self):
        now = {"started_s": time.time() - 7300, "degraded": self.degraded, "name": "default", "state": self.state}
        return HostInfo(pid=self.pid, epoch="e", **HOST, **now)

    def reload_config(self):
        return self.reloaded

    def shutdown(self):
        self.asked.append(("shutdown",))


@dataclass
class FakeAsyncModel:
    """A handle; calls take a moment, and fail after the client's `fails_after`."""

    record: ModelInfo
    client: FakeClient
    calls: int = 0

    async def info(self):
        return self.record

    async def call(self, method, *args, **kwargs):
        await asyncio.sleep(0.001)
        self.calls += 1
        self.client.asked.append(("call", method, args, kwargs))
        if self.client.fails_after is not None and self.calls > self.client.fails_after:
            raise UnavailableError("the worker died")

    @property
    def stream(self):
        return self

    async def write(self, *args, **kwargs):
        for item in range(5):
            await self.call("write", *args, **kwargs)
            yield item


@dataclass
class FakeAsyncClient:
    """What `hostd.AsyncClient.connect` returns, without a host."""

    client: FakeClient

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        self.client.asked.append(("close",))

    async def retrieve_model(self, model_id, *, timeout_s=None):
        return FakeAsyncModel(self.client.get_model(model_id), self.client)


def fake_session(client):
    return Session(connect=client.connect, connect_async=client.connect_async)


def invoke(*args, session=Session, stdin=None, **environment):
    """Run a command line; the result has `exit_code`, `stdout` and `stderr`."""
    how = {"input": stdin, "obj": session(), "env": environment, "prog_name": "hostd"}
    return CliRunner().invoke(root, args, **how)
