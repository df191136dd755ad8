"""Which loads a trace of requests costs: by the host's own policy, and by another to compare it with.

Offline and on paper: no process, no clock. `host_loads` drives a `Core`; its workers load in the given time, answer at
once and are proven dead at once; `lru_loads` is a pure function of the trace. Used by benchmarks that compare what a
real host did with what its policy says.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.config import CoreConfig
from hostd.core.machine import Core
from hostd.records import MethodInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLIENT = ev.ClientId(b"trace")
METHODS = {"predict": MethodInfo("predict")}
SPEC = ev.LoadingSpec("python", {}, None, {}, None, None)


class Size(NamedTuple):
    """What a model holds once it is loaded, what it takes at most meanwhile, and for how long it loads."""

    bytes: int
    peak_bytes: int
    load_s: float


class Request(NamedTuple):
    """Somebody calls a model."""

    time_s: float
    model_id: str


class Outcome(NamedTuple):
    """What a trace cost: loads (those of the first use included), evictions, and requests that failed."""

    loads: int
    evictions: int
    failed: int


def host_loads(
    trace: Sequence[Request],
    sizes: Mapping[str, Size],
    budget_bytes: int,
    *,
    min_residence_s: float = 1.0,
    call_s: float = 0.0,
    admission_timeout_s: float = 60.0,
) -> Outcome:
    """Return what the host's own policy makes of a trace; a call takes `call_s` in its worker."""
    core = Core(
        CoreConfig(
            models_dir="/models",
            lazy_load=True,
            budget_bytes=budget_bytes,
            min_residence_s=min_residence_s,
            admission_timeout_s=admission_timeout_s,
            max_in_flight=len(trace) + 1,
        )
    )
    return _Paper(core, sizes, call_s).run(trace)


def lru_loads(trace: Sequence[Request], sizes: Mapping[str, Size], budget_bytes: int) -> Outcome:
    """Return what plain least recently used costs: requests in order of time, each load at once."""
    resident: OrderedDict[str, int] = OrderedDict()
    loads = evictions = failed = 0
    for request in sorted(trace):
        size_bytes = sizes[request.model_id].bytes
        if request.model_id in resident:
            resident.move_to_end(request.model_id)
        elif size_bytes > budget_bytes:
            failed += 1
        else:
            while sum(resident.values()) + size_bytes > budget_bytes:
                resident.popitem(last=False)
                evictions += 1
            resident[request.model_id] = size_bytes
            loads += 1
    return Outcome(loads, evictions, failed)


class _Paper:
    """Everything around a core, on paper: events that are due, in order of time."""

    def __init__(self, core: Core, sizes: Mapping[str, Size], call_s: float) -> None:
        self._core = core
        self._sizes = sizes
        self._call_s = call_s
        self._due: list[tuple[float, int, ev.Event]] = []
        self._count = itertools.count()
        self._models: dict[ev.WorkerId, str] = {}
        self._loads = self._evictions = self._failed = 0

    def run(self, trace: Sequence[Request]) -> Outcome:
        for number, request in enumerate(trace):
            self._at(
                request.time_s, ev.CallReceived(CLIENT, number, ev.ModelId(request.model_id), "predict", None, 1, None)
            )
        while self._due or self._core.next_deadline() is not None:
            wake_s = self._core.next_deadline()
            if wake_s is not None and (not self._due or wake_s < self._due[0][0]):
                now_s: float = wake_s
                event: ev.Event = ev.TimePassed()
            else:
                now_s, _, event = heapq.heappop(self._due)
            for effect in self._core.handle(event, now_s):
                self._carry_out(effect, now_s)
        return Outcome(self._loads, self._evictions, self._failed)

    def _at(self, time_s: float, event: ev.Event) -> None:
        heapq.heappush(self._due, (time_s, next(self._count), event))

    def _carry_out(self, effect: fx.Effect, now_s: float) -> None:
        match effect:
            case fx.FindSpec(model_id, generation, source):
                self._at(now_s, ev.SpecFound(model_id, generation, SPEC, source.path))
            case fx.PredictSize(model_id, generation):
                size = self._sizes[model_id]
                prediction = ev.Prediction(size.peak_bytes, size.bytes, "remembered")
                self._at(now_s, ev.SizePredicted(model_id, generation, prediction))
            case fx.SpawnWorker(worker_id, model_id):
                self._models[worker_id] = model_id
                self._loads += 1
                self._at(now_s, ev.WorkerSpawned(worker_id, worker_id))
                self._at(now_s, ev.WorkerSaidHello(worker_id))
            case fx.SendLoad(worker_id, model_id):
                self._at(now_s + self._sizes[model_id].load_s, ev.WorkerLoaded(worker_id, "python", METHODS, "predict"))
            case fx.MeasureWorker(worker_id):
                size = self._sizes[self._models[worker_id]]
                memory = ev.Memory(1, size.bytes, size.bytes, None, size.peak_bytes)
                self._at(now_s, ev.WorkerMeasured(worker_id, memory, now_s))
            case fx.ForwardCall(worker_id, call_id):
                self._at(now_s + self._call_s, ev.WorkerAnswered(worker_id, call_id, True, False, None))
            case fx.KillWorker(worker_id):
                self._at(now_s, ev.WorkerGone(worker_id, self._sizes[self._models[worker_id]].bytes, 1))
            case _:
                self._note(effect)

    def _note(self, effect: Any) -> None:
        self._failed += isinstance(effect, fx.AnswerError)
        self._evictions += isinstance(effect, fx.Announce) and effect.event.cause == "EVICT"
