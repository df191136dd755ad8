"""A host that answers from memory, and a way to run the command line against it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from click.testing import CliRunner, Result

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
LAST = UnloadReport("ranker", 320 * MIB, 310 * MIB, 3, 0.0425)
MEMORY = MemoryInfo(
    budget_bytes=2000 * MIB,
    budget_source="80% of the machine",
    measured_bytes=300 * MIB,
    free_bytes=1700 * MIB,
    evictions={"room": 2, "idle": 1},
    unloads=4,
    freed_bytes=900 * MIB,
    last_unload=LAST,
)
WRITER = replace(
    DIGITS, id="writer", methods={"write": MethodInfo("write", streams=True)}, default_method="write", loader="python"
)
BROKEN = replace(
    DIGITS,
    id="broken",
    state="FAILED",
    reason="its load raised ValueError: no such tree",
    workers=(),
    size=None,
    charge_bytes=0,
)
PLAN = LoadPlan("digits", "start", 300 * MIB, "remembered", 2000 * MIB, 1700 * MIB)


@dataclass
class FakeModel:
    """A handle whose every method answers with what it was called with."""

    info: ModelInfo
    answer: Any = None
    already_loaded: bool = False

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.answer if self.answer is not None else {"method": method, "args": args, "kwargs": kwargs}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call("", *args, **kwargs)

    @property
    def stream(self) -> FakeModel:
        return self

    def write(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from ("one", 2, [args, kwargs])


@dataclass
class FakeClient:
    """What `hostd.connect` returns, without a host; it notes what it was asked."""

    models: dict[str, ModelInfo] = field(default_factory=lambda: {"digits": DIGITS})
    refusal: HostError | None = None
    answer: Any = None
    unloaded: dict[str, ModelInfo] = field(default_factory=dict)
    fails_after: int | None = None
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    log: tuple[LogLine, ...] = (
        LogLine(1e9 + 0.25, "worker 3, pid 4242, started: load of /srv/digits requested", is_note=True),
        LogLine(1e9 + 1.5, "first"),
        LogLine(1e9 + 1.5, "sec\x1b[2Jond"),
    )
    deploy_refusal: HostError | None = None
    synced: SyncReport = field(default_factory=SyncReport)
    degraded: tuple[str, ...] = ()
    memory: MemoryInfo = MEMORY
    pid: int = 41
    state: str = "READY"
    reloaded: dict[str, Any] = field(default_factory=dict)
    already_loaded: bool = False
    plan: LoadPlan = PLAN
    explained: dict[str, Any] = field(default_factory=dict)

    def connect(self, endpoint: str | None, **timeouts: float) -> FakeClient:
        self.asked.append(("connect", endpoint, timeouts))
        if self.refusal is not None:
            raise self.refusal
        return self

    async def connect_async(self, endpoint: str | None, **timeouts: float) -> FakeAsyncClient:
        return FakeAsyncClient(self.connect(endpoint, **timeouts))

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.asked.append(("close",))

    def get_model(self, model_id: str) -> ModelInfo:
        if model_id not in self.models:
            raise NotFoundError(f"no model {model_id!r} is loaded")
        return self.models[model_id]

    def list_models(self, *, all: bool = False) -> list[ModelInfo]:
        return list((self.models | (self.unloaded if all else {})).values())

    def model_stacks(self, model_id: str) -> dict[int, str]:
        return {4242: f"Current thread of {self.get_model(model_id).id}\n  File x\n"}

    def retrieve_model(self, model_id: str, *, timeout_s: float | None = None) -> FakeModel:
        return FakeModel(self.get_model(model_id), self.answer)

    def load_model(self, model_id: str, path: str, model_type: str, **how: Any) -> FakeModel:
        self.asked.append(("load", model_id, path, model_type, how))
        return FakeModel(self.get_model(model_id), already_loaded=self.already_loaded)

    def unload_model(self, model_id: str, *, now: bool = False, timeout_s: float | None = None) -> UnloadReport:
        self.asked.append(("unload", model_id, now))
        if model_id == "stuck":
            raise HostError("it will not go")
        if model_id not in self.models:
            return UnloadReport(model_id)
        return UnloadReport(model_id, 312 * MIB, 300 * MIB, 1, 0.0425)

    def unload_all_models(self, *, now: bool = False, timeout_s: float | None = None) -> list[UnloadReport]:
        self.asked.append(("unload all", now))
        return [self.unload_model(model_id) for model_id in self.models]

    def deploy_model(self, model_id: str, files: Any, model_type: str, **how: Any) -> FakeModel:
        self.asked.append(("deploy", model_id, files, model_type, how))
        if self.deploy_refusal is not None:
            raise self.deploy_refusal
        if how["progress"] is not None:
            for sent_mib in (1, 150, 300):
                how["progress"](sent_mib * MIB, 300 * MIB)
        return FakeModel(self.get_model(model_id))

    def undeploy_model(self, model_id: str, *, timeout_s: float | None = None) -> UnloadReport:
        if model_id == "unknown":
            raise NotFoundError("there is no model 'unknown' in /models")
        return self.unload_model(model_id)

    def sync_local_models(self, wait: bool, load: bool, *, timeout_s: float | None = None) -> SyncReport:
        self.asked.append(("sync", wait, load, timeout_s))
        return self.synced

    def estimate_model_size(self, *args: str) -> SizeEstimate:
        self.asked.append(("estimate", *args))
        return SizeEstimate(400 * MIB, "remembered")

    def explain_model(self, model_id: str) -> dict[str, Any]:
        return {
            "state": self.get_model(model_id).state,
            "reason": "a reason",
            "story": [next(self.events(None)).to_dict()],
            **self.explained,
        }

    def memory_info(self) -> MemoryInfo:
        return self.memory

    def plan_load(self, model_id: str, path: str, model_type: str, **how: Any) -> LoadPlan:
        self.asked.append(("plan", model_id, path, model_type, how))
        return self.plan

    def pin_model(self, model_id: str) -> ModelInfo:
        self.models[model_id] = replace(self.get_model(model_id), pinned=True)
        return self.models[model_id]

    def unpin_model(self, model_id: str) -> ModelInfo:
        self.models[model_id] = replace(self.get_model(model_id), pinned=False)
        return self.models[model_id]

    def events(self, model_id: str | None) -> Iterator[Event]:
        moved = {"subject": "worker", "old": "LOADING", "new": "READY", "reason": "loaded"}
        yield Event(time_s=1e9, model_id=model_id or "digits", worker_id=3, pid=4242, **moved)

    def log_lines(self, model_id: str, *, tail: int | None, follow: bool) -> Iterator[LogLine]:
        self.asked.append(("logs", model_id, tail, follow))
        self.get_model(model_id)
        yield from self.log

    def host_info(self) -> HostInfo:
        return HostInfo(
            self.pid,
            "e",
            "0.1.0",
            1,
            "ipc:///run/x",
            time.time() - 7300,
            1,
            1,
            60 * MIB,
            None,
            "/run",
            "/state",
            "py",
            "/models",
            self.degraded,
            "default",
            state=self.state,
        )

    def reload_config(self) -> dict[str, Any]:
        return self.reloaded

    def shutdown(self) -> None:
        self.asked.append(("shutdown",))


@dataclass
class FakeAsyncModel:
    """A handle whose calls take a moment, and fail after the client's `fails_after`."""

    record: ModelInfo
    client: FakeClient
    calls: int = 0

    async def info(self) -> ModelInfo:
        return self.record

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0.001)
        self.calls += 1
        self.client.asked.append(("call", method, args, kwargs))
        if self.client.fails_after is not None and self.calls > self.client.fails_after:
            raise UnavailableError("the worker died")

    @property
    def stream(self) -> FakeAsyncModel:
        return self

    async def write(self, *args: Any, **kwargs: Any) -> AsyncIterator[int]:
        for item in range(5):
            await self.call("write", *args, **kwargs)
            yield item


@dataclass
class FakeAsyncClient:
    """What `hostd.AsyncClient.connect` returns, without a host."""

    client: FakeClient

    async def __aenter__(self) -> FakeAsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.client.asked.append(("close",))

    async def retrieve_model(self, model_id: str, *, timeout_s: float | None = None) -> FakeAsyncModel:
        return FakeAsyncModel(self.client.get_model(model_id), self.client)


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("HOSTD_", "_HOSTD"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def run(client: FakeClient) -> Run:
    """Run a command line against the fake host; the result has `exit_code`, `stdout` and `stderr`."""

    def invoke(*args: str, stdin: str | bytes | None = None) -> Result:
        session = Session(connect=client.connect, connect_async=client.connect_async)
        return CliRunner().invoke(root, args, input=stdin, obj=session, prog_name="hostd")

    return invoke


@pytest.fixture
def digits() -> ModelInfo:
    return DIGITS


@pytest.fixture
def writer() -> ModelInfo:
    return WRITER


@pytest.fixture
def broken() -> ModelInfo:
    return BROKEN


@pytest.fixture
def memory() -> MemoryInfo:
    return MEMORY
