"""The driver of the core's tests: what clients, finders and workers do, each in one short call.

`Outside` asserts what must hold however the core is driven; here is only how to drive it.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

from outside import Asked, Outside, Process, Said, Stage

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.config import CoreConfig
from hostd.core.machine import Core
from hostd.records import MethodInfo, ModelInfo, SizeEstimate
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from files_on_paper import Operation

ALICE, BOB, CAROL = map(ev.ClientId, (b"alice", b"bob", b"carol"))
CONFIG = CoreConfig(
    spawn_timeout_s=30,
    load_timeout_s=600,
    drain_timeout_s=10,
    max_in_flight=4,
    max_in_flight_bytes=99,
    models_dir="/models",
)
LAZY = dataclasses.replace(CONFIG, lazy_load=True, lazy_load_retries=1)
FILES = (("model.py", 3),)
METHODS = {"predict": MethodInfo("predict"), "generate": MethodInfo("generate", streams=True)}
SPEC = ev.LoadingSpec("python", {}, None, {}, None, None)


def source_of(path: str | None = "/models/m", kind: str = "standalone-model", **options: object) -> ev.LoadSource:
    return ev.LoadSource(path, kind, None, None, options)


def memory_of(rss_bytes: int, processes: int = 1) -> ev.Memory:
    return ev.Memory(processes, rss_bytes, rss_bytes // 2, None, rss_bytes * 2)


class Driver(Outside):
    """A core and everything around it."""

    def __init__(self, config: CoreConfig = CONFIG, *, wall_offset_s: float = 0.0) -> None:
        super().__init__(Core(config, wall_offset_s))
        self._ids = itertools.count(1)

    # What clients ask

    def load(
        self,
        model_id: str = "m",
        source: ev.LoadSource | None = None,
        *,
        wait: bool = True,
        retries: int | None = None,
        timeout_s: float | None = None,
        client: ev.ClientId = ALICE,
        reload: bool = False,
        labels: Mapping[str, str] | None = None,
        cancel_on_timeout: bool = False,
    ) -> ev.Caller:
        source, deadline_s = source or source_of(f"/models/{model_id}"), self._deadline(timeout_s)
        how = (source, wait, deadline_s, retries, reload, labels, cancel_on_timeout)
        return self._ask(client, ev.LoadRequested, ev.ModelId(model_id), *how)

    def retrieve(
        self,
        model_id: str = "m",
        *,
        timeout_s: float | None = None,
        generation: int | None = None,
        client: ev.ClientId = ALICE,
    ) -> ev.Caller:
        return self._ask(client, ev.RetrieveRequested, ev.ModelId(model_id), self._deadline(timeout_s), generation)

    def unload(
        self, model_id: str = "m", *, at_once: bool = False, timeout_s: float | None = None, client: ev.ClientId = ALICE
    ) -> ev.Caller:
        return self._ask(client, ev.UnloadRequested, ev.ModelId(model_id), self._deadline(timeout_s), at_once)

    def unload_all(
        self, *, at_once: bool = False, timeout_s: float | None = None, client: ev.ClientId = ALICE, **labels: str
    ) -> ev.Caller:
        return self._ask(client, ev.UnloadAllRequested, self._deadline(timeout_s), at_once, labels)

    def shut_down(self, *, at_once: bool = False, client: ev.ClientId | None = ALICE) -> ev.Caller | None:
        """Have a client shut the host down, or a signal."""
        caller = None if client is None else self.caller(client)
        self.feed(ev.ShutdownRequested(caller, at_once))
        return caller

    def signal(self, *, at_once: bool = False) -> None:
        self.shut_down(at_once=at_once, client=None)

    def pin(self, model_id: str = "m", *, is_pinned: bool = True, client: ev.ClientId = ALICE) -> ev.Caller:
        return self._ask(client, ev.PinRequested, ev.ModelId(model_id), is_pinned)

    def deploy(
        self,
        model_id: str = "m",
        *,
        retries: int | None = None,
        replace: bool = False,
        keep: bool = False,
        wait: bool = True,
        client: ev.ClientId = ALICE,
        labels: Mapping[str, str] | None = None,
    ) -> ev.Caller:
        how = (FILES, source_of(None), retries, replace, keep, wait, (), (), labels)
        return self._ask(client, ev.DeployRequested, ev.ModelId(model_id), *how)

    def commit(
        self, files: int | None = None, *, timeout_s: float | None = None, client: ev.ClientId = ALICE
    ) -> ev.Caller:
        return self._ask(client, ev.DeployCommitRequested, self._files_id(files), self._deadline(timeout_s))

    def abort(self, files: int | None = None, *, client: ev.ClientId = ALICE) -> ev.Caller:
        return self._ask(client, ev.DeployAbortRequested, self._files_id(files))

    def undeploy(
        self, model_id: str = "m", *, timeout_s: float | None = None, client: ev.ClientId = ALICE
    ) -> ev.Caller:
        return self._ask(client, ev.UndeployRequested, ev.ModelId(model_id), self._deadline(timeout_s))

    def sync(
        self,
        *,
        wait: bool = True,
        load: bool = True,
        retry_all: bool = False,
        is_leaving: bool = False,
        timeout_s: float | None = None,
        client: ev.ClientId = ALICE,
        declared: Mapping[ev.ModelId, ev.Declared] | None = None,
    ) -> ev.Caller:
        deadline_s = self._deadline(timeout_s)
        return self._ask(client, ev.SyncRequested, wait, load, retry_all, deadline_s, is_leaving, declared)

    def call(
        self,
        model_id: str = "m",
        method: str = "predict",
        *,
        timeout_s: float | None = None,
        size_bytes: int = 1,
        client: ev.ClientId = ALICE,
        request_id: int | None = None,
    ) -> ev.Caller:
        caller = self.caller(client, request_id)
        payload, deadline_s = Asked(caller, next(self._ids)), self._deadline(timeout_s)
        self.feed(ev.CallReceived(*caller, ev.ModelId(model_id), method, deadline_s, size_bytes, payload))
        return caller

    def caller(self, client: ev.ClientId = ALICE, request_id: int | None = None) -> ev.Caller:
        return ev.Caller(client, next(self._ids) if request_id is None else request_id)

    def _ask(self, client: ev.ClientId, request: Callable[..., ev.Event], *arguments: object) -> ev.Caller:
        caller = self.caller(client)
        self.feed(request(caller, *arguments))
        return caller

    # What becomes of it

    def answer(self, caller: ev.Caller) -> object:
        """Return the one answer that a caller got."""
        answers = self.answers.get(caller, [])
        assert len(answers) == 1, f"{caller} got {len(answers)} answers: {answers}"
        return answers[0]

    def error(self, caller: ev.Caller, kind: type[HostError] | tuple[type[HostError], ...] = HostError) -> HostError:
        """Return the one answer that a caller got, which is an error of this kind."""
        answer = self.answer(caller)
        assert isinstance(answer, kind), answer
        return answer

    def is_waiting(self, caller: ev.Caller) -> bool:
        return self.open[caller] > 0

    def model(self, model_id: str = "m") -> ModelInfo:
        """Return the record of a model that there is."""
        model = self.queries.get_model(model_id)
        assert model is not None, f"there is no model {model_id}"
        return model

    def state(self, model_id: str = "m") -> str | None:
        """Return the state of a model, or None if there is no such model."""
        model = self.queries.get_model(model_id)
        return model.state if model else None

    @property
    def worker(self) -> ev.WorkerId:
        """The worker that was ordered last."""
        return max(self.processes)

    def worker_state(self, worker: ev.WorkerId | None = None) -> str | None:
        """Return the state of a worker, or None if the core has forgotten it."""
        known = self.registry.workers.get(self.worker if worker is None else worker)
        return known.state.value if known else None

    def effects_of(self, kind: type[fx.Effect]) -> list[fx.Effect]:
        """Return the effects of one kind that the last event had."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def killed(self) -> list[ev.WorkerId]:
        """Return the workers that the last event had killed."""
        return [effect.worker_id for effect in self.effects_of(fx.KillWorker)]

    # What finders and workers do

    def found(self, spec: ev.LoadingSpec = SPEC, *, path: str | None = None) -> None:
        find = self.finds.pop()
        self.feed(ev.SpecFound(find.model_id, find.generation, spec, path or find.source.path))

    def delayed(self, reason: str = "weights.bin has just changed") -> None:
        find = self.finds[-1]
        self.feed(ev.SpecDelayed(find.model_id, find.generation, reason))

    def not_found(self, error: HostError) -> None:
        find = self.finds.pop()
        self.feed(ev.SpecRefused(find.model_id, find.generation, error))

    def spawned(self, worker: ev.WorkerId | None = None) -> None:
        process = self._process(worker)
        process.stage = Stage.RUNNING
        self.feed(ev.WorkerSpawned(process.id, 5000 + process.id))

    def not_spawned(self, error: HostError, worker: ev.WorkerId | None = None) -> None:
        process = self._process(worker)
        process.stage = Stage.GONE
        self.feed(ev.WorkerSpawnFailed(process.id, error))

    def greeted(self, worker: ev.WorkerId | None = None) -> None:
        process = self._process(worker)
        process.has_greeted = True
        self.feed(ev.WorkerSaidHello(process.id))

    def started(self, worker: ev.WorkerId | None = None) -> None:
        """Let a worker's process run, and say hello."""
        self.spawned(worker)
        self.greeted(worker)

    def loaded(
        self,
        worker: ev.WorkerId | None = None,
        default_method: str | None = "predict",
        lane: ev.Lane | None = None,
        *,
        has_close: bool = False,
    ) -> None:
        process = self._process(worker)
        process.has_loaded, process.has_close = True, has_close
        self.feed(ev.WorkerLoaded(process.id, "python", METHODS, default_method, lane=lane, has_close=has_close))

    def closed(self, worker: ev.WorkerId | None = None, problem: str = "") -> None:
        self.feed(ev.ModelClosed(self._process(worker).id, problem))

    def not_loaded(self, error: HostError, worker: ev.WorkerId | None = None) -> None:
        self.feed(ev.WorkerRefusedLoad(self._process(worker).id, error))

    def measured(
        self,
        worker: ev.WorkerId | None = None,
        memory: ev.Memory | None = None,
        *,
        estimate: SizeEstimate | None = None,
        asked_s: float | None = None,
    ) -> None:
        process = self._process(worker)
        process.is_sampled = process.has_loaded
        process.samples_due = 0
        self.feed(ev.WorkerMeasured(process.id, memory, self.now if asked_s is None else asked_s, estimate))

    def said_last_words(self, error: HostError, worker: ev.WorkerId | None = None) -> None:
        self.feed(ev.WorkerSpokeLastWords(self._process(worker).id, error))

    def disconnected(self, worker: ev.WorkerId | None = None, reason: str = "end of file") -> None:
        process = self._process(worker)
        process.is_disconnected = True
        self.feed(ev.WorkerDisconnected(process.id, reason))

    def exited(self, how: str = "exit code 1", worker: ev.WorkerId | None = None, *, stack: str = "") -> None:
        process = self._process(worker)
        process.stage = Stage.ENDED
        self.feed(ev.WorkerExited(process.id, how, stack=stack))

    def not_ended(
        self, worker: ev.WorkerId | None = None, reason: str = "process 7 runs as root", *, is_beyond_reach: bool = True
    ) -> None:
        process = self._process(worker)
        assert process.is_killed, "nothing resists that was not killed"
        process.is_beyond_reach = is_beyond_reach
        self.feed(ev.WorkerNotEnded(process.id, reason, is_beyond_reach))

    def gone(
        self, worker: ev.WorkerId | None = None, *, freed_bytes: int = 100, processes: int = 1, output: str = ""
    ) -> None:
        process = self._process(worker)
        assert process.is_killed, "the outside proves the end only of what it was told to kill"
        process.stage = Stage.GONE
        self.feed(ev.WorkerGone(process.id, freed_bytes, processes, output))

    def up(self, model_id: str | None = None) -> None:
        """Let the load that began last succeed."""
        if model_id is not None:
            self.finds.sort(key=lambda find: find.model_id == model_id)
        self.found()
        self.come_up()

    def come_up(self, memory: ev.Memory | None = None) -> None:
        """Let the worker that was ordered last load its model."""
        self.started()
        self.loaded()
        self.measured(memory=memory or memory_of(1000))

    def down(self, error: HostError) -> None:
        """Let the try that began last fail in its worker, which then ends."""
        self.found()
        self.started()
        self.not_loaded(error)
        self.gone()

    def up_to(self, stage: str, model_id: str = "m", *, timeout_s: float | None = None) -> ev.Caller:
        """Load a model until it is FINDING, SPAWNING, STARTED, LOADING, MEASURING or READY, and return the caller that waits."""
        caller = self.load(model_id, timeout_s=timeout_s)
        stages = ("FINDING", "SPAWNING", "STARTED", "LOADING", "MEASURING", "READY")
        steps = (self.found, self.spawned, self.greeted, self.loaded, lambda: self.measured(memory=memory_of(1000)))
        for step in steps[: stages.index(stage)]:
            step()
        return caller

    # What the disk does

    def done(self, files: int | None = None) -> None:
        """Let the disk do the next step of an operation on files, of the last one if none is named."""
        self.feed(self.files.next_event(self._operation(files)))

    def not_done(self, error: HostError, files: int | None = None) -> None:
        """Let the next step of an operation on files fail."""
        self.feed(self.files.next_event(self._operation(files), error))

    def next_step(self, files: int | None = None) -> type[fx.Effect] | None:
        """Return the kind of the step that the disk has to do next."""
        pending = self._operation(files).pending
        return type(pending[0]) if pending else None

    def deploy_up_to(self, step: str, model_id: str = "m", **options: bool | int | None) -> ev.Caller:
        """Bring a deploy to STAGING, UPLOADING, INSTALLING, FINDING, LOADING or CONFIRMING; return the caller that waits for it."""
        caller = self.deploy(model_id, **options)  # type: ignore[arg-type]
        if step == "STAGING":
            return caller
        self.done()
        if step == "UPLOADING":
            return caller
        caller = self.commit()
        further = {"FINDING": (), "LOADING": (self.found, self.started), "CONFIRMING": (self.up,)}
        for do in () if step == "INSTALLING" else (self.done, *further[step]):
            do()
        return caller

    def deployed(self, model_id: str = "m", **options: bool | int | None) -> object:
        """Deploy a model to the end, and return the answer."""
        caller = self.deploy_up_to("CONFIRMING", model_id, **options)
        self.done()
        return self.answer(caller)

    def scanned(self, found: tuple[str, ...] = (), gone: tuple[str, ...] = ()) -> None:
        """Let the scan in hand end: entries with these ids may be loaded, and these loaded models are gone."""
        scan = self._scan()
        entries = tuple((ev.ModelId(model_id), f"/models/{model_id}") for model_id in found)
        self.feed(ev.DirectoryScanned(scan.sync_id, entries, tuple(map(ev.ModelId, gone))))

    def unavailable(self, reason: str = "no such directory: /models") -> None:
        self.feed(ev.DirectoryUnavailable(self._scan().sync_id, reason))

    def _scan(self) -> fx.ScanDirectory:
        scan, self.files.scan = self.files.scan, None
        assert scan is not None, "nobody wants a scan"
        return scan

    def _operation(self, files: int | None) -> Operation:
        return self.files.operations[self._files_id(files)]

    def _files_id(self, files: int | None) -> ev.FilesId:
        return max(self.files.operations) if files is None else ev.FilesId(files)

    # What a worker answers

    def sent(self, caller: ev.Caller) -> fx.ForwardCall:
        """Return the last call of a caller as its worker got it."""
        calls = [call for process in self.processes.values() for call in process.calls.values()]
        return max((call for call in calls if call.payload.caller == caller), key=lambda call: call.call_id)

    def answered(self, call: fx.ForwardCall, text: str = "done", *, final: bool = True, failed: bool = False) -> None:
        if final:
            self.processes[call.worker_id].calls.pop(call.call_id, None)
        said = Said(call.payload, text, final)
        self.feed(ev.WorkerAnswered(call.worker_id, call.call_id, final, failed, said))

    def _process(self, worker: ev.WorkerId | None) -> Process:
        return self.processes[self.worker if worker is None else worker]

    def _deadline(self, timeout_s: float | None) -> float | None:
        return None if timeout_s is None else self.now + timeout_s
