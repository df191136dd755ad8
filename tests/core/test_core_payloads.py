"""What a call carries is let go of when the call is over: nothing of the core keeps it a moment longer."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest
from driver import ALICE, CONFIG, LAZY

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.machine import Core
from hostd.records import MethodInfo
from hostd_workers.wire.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostd.core.config import CoreConfig

MODEL = ev.ModelId("m")
SPEC = ev.LoadingSpec("python", {}, None, {}, None, None)
WORKER = ev.WorkerId(1)


class Payload:
    """Frames, as far as the core is concerned."""


class Bare:
    """A core of which nobody keeps what it was given, or what it wanted done."""

    def __init__(self, config: CoreConfig) -> None:
        self.core = Core(config)
        self.now = 1.0
        self.calls: list[ev.CallId] = []
        self.caller = ev.Caller(ALICE, 0)

    def feed(self, event: ev.Event) -> None:
        for effect in self.core.handle(event, self.now):
            if isinstance(effect, fx.ForwardCall):
                self.calls.append(effect.call_id)
        self.core.check_invariants()

    def up(self) -> None:
        if MODEL not in self.core._registry.models:
            self.feed(ev.LoadRequested(self.next(), MODEL, ev.LoadSource("/m", "t", None, None, {}), False, None))
        self.feed(ev.SpecFound(MODEL, 1, SPEC, "/m"))
        self.feed(ev.WorkerSpawned(WORKER, 7))
        self.feed(ev.WorkerSaidHello(WORKER))
        self.feed(ev.WorkerLoaded(WORKER, "python", {"predict": MethodInfo("predict")}, "predict"))
        self.feed(ev.WorkerMeasured(WORKER, None, self.now))

    def next(self) -> ev.Caller:
        self.caller = ev.Caller(ALICE, self.caller.request_id + 1)
        return self.caller

    def call(self, method: str = "predict", size_bytes: int = 1) -> weakref.ref[Payload]:
        payload = Payload()
        self.feed(ev.CallReceived(*self.next(), MODEL, method, self.now + 5, size_bytes, payload))
        return weakref.ref(payload)

    def answered(self, *, final: bool) -> weakref.ref[Payload]:
        payload = Payload()
        self.feed(ev.WorkerAnswered(WORKER, self.calls[-1], final, False, payload))
        return weakref.ref(payload)

    def late(self) -> None:
        self.now += 6
        self.feed(ev.TimePassed())


@pytest.fixture(autouse=True)
def _nothing_is_collected() -> Iterator[None]:
    """What only a collection would find is kept for as long as none comes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def ready() -> Bare:
    bare = Bare(CONFIG)
    bare.up()
    return bare


def test_a_call_that_was_sent_is_its_workers(ready: Bare) -> None:
    assert ready.call()() is None
    assert len(ready.calls) == 1


def test_answers_are_their_clients(ready: Bare) -> None:
    ready.call()
    assert ready.answered(final=False)() is None
    assert ready.answered(final=True)() is None
    assert ready.answered(final=True)() is None, "a late one"


@pytest.mark.parametrize("what", [{"method": "predikt"}, {"size_bytes": 1000}])
def test_a_call_that_is_refused_is_nobodys(ready: Bare, what: dict[str, object]) -> None:
    assert ready.call(**what)() is None  # type: ignore[arg-type]


ENDS_OF_HELD: dict[str, Callable[[Bare], object]] = {
    "cancelled": lambda bare: bare.feed(ev.CallCancelled(bare.caller)),
    "late": lambda bare: bare.late(),
    "its client has gone": lambda bare: bare.feed(ev.ClientVanished(ALICE)),
    "the load has failed": lambda bare: bare.feed(ev.SpecRefused(MODEL, 1, ModelError("no finder knows this"))),
    "unloaded": lambda bare: bare.feed(ev.ShutdownRequested(None, at_once=True)),
    "sent": lambda bare: bare.up(),
}


@pytest.mark.parametrize("end", ENDS_OF_HELD)
def test_a_held_call_is_let_go_of_when_it_ends(end: str) -> None:
    bare = Bare(LAZY)
    held = bare.call()
    assert held() is not None
    ENDS_OF_HELD[end](bare)
    assert held() is None
    assert len(bare.core._router.pending.by_caller) == 0
