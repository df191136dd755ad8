"""Direct lanes in the core: which clients are told of them, what they count for, and how a worker with clients is ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from driver import ALICE, BOB, Driver, memory_of
from memory_driver import RESTLESS

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.calls import lanes
from hostd.core.memory.admission import LANE_LOOK_S
from hostd_workers.wire.errors import (
    AbortedError,
    FailedPreconditionError,
    HostError,
    ModelError,
    NotFoundError,
    UnavailableError,
)
from hostd_workers.wire.lane.figures import BUCKETS_S, Figures, MethodFigures

if TYPE_CHECKING:
    from memory_driver import MemoryDriver


@dataclass
class FakeLane:
    """What a page says, as a test sets it."""

    figures_: Figures = field(default_factory=lambda: Figures(0, 0, 0, 0, 0.0, 0))
    methods: list[MethodFigures] = field(default_factory=list)
    address: dict[str, object] = field(default_factory=lambda: {"path": "/run/lane"})
    reads: int = 0

    def figures(self) -> Figures:
        return self.figures_

    def durations_s(self) -> list[float]:
        self.reads += 1
        return [0.5] * self.figures_.ended

    def by_method(self) -> list[MethodFigures]:
        return self.methods

    def shows(self, **figures: float) -> None:
        self.figures_ = self.figures_._replace(**figures)


@pytest.fixture
def lane() -> FakeLane:
    return FakeLane()


@pytest.fixture
def host(host: Driver, lane: FakeLane) -> Driver:
    """A host with one READY model, `m`, whose worker has a lane."""
    host.up_to("LOADING")
    host.loaded(lane=lane)
    host.measured(memory=memory_of(1000))
    return host


def open_lane(host: Driver, model_id: str = "m") -> ev.Caller:
    caller = host.caller()
    host.feed(ev.LaneRequested(caller, ev.ModelId(model_id)))
    return caller


def fate(host: Driver, worker: int = 1, client: ev.ClientId = ALICE) -> ev.Caller:
    caller = host.caller(client)
    host.feed(ev.FateRequested(caller, ev.WorkerId(worker), None))
    return caller


def told(host: Driver, caller: ev.Caller) -> list[object]:
    """Return what the request for a lane was answered by the last event; None: it is over."""
    return [effect.value for effect in host.effects_of(fx.Answer) if effect.caller == caller]


def test_a_client_is_told_the_way_to_a_worker_that_is_ready_and_when_that_is_over(host, lane):
    asked = open_lane(host)
    assert told(host, asked) == [lane.address]
    host.unload("m")
    assert told(host, asked) == [None]


def test_a_client_that_asks_again_has_one_lane(host, lane):
    first = open_lane(host)
    again = open_lane(host)
    assert (told(host, first), told(host, again)) == ([None], [lane.address])
    host.exited("exit code 1")
    assert (told(host, first), told(host, again)) == ([], [None])


def test_a_client_that_has_gone_is_told_nothing(host):
    asked = open_lane(host)
    host.feed(ev.ClientVanished(ALICE))
    host.unload("m")
    assert told(host, asked) == []


def test_of_several_workers_none_but_a_serving_one_is_told(host):
    assert isinstance(host.error(open_lane(host, "other")), NotFoundError)
    host.unload("m")
    assert isinstance(host.error(open_lane(host)), HostError)


def test_a_worker_without_a_lane_is_called_by_the_host(host):
    host.up_to("READY", "plain")
    error = host.error(open_lane(host, "plain"))
    assert isinstance(error, FailedPreconditionError)
    assert error.message == "the worker of model 'plain' takes calls from the host alone"


def test_calls_by_lanes_are_shown_as_all_others(host, lane):
    host.answered(host.sent(host.call()), failed=True)
    lane.shows(begun=7, ended=5, failed=2, last_use_s=host.now + 100.0, connections=1)
    info = host.core.queries.get_model("m")
    assert (info.calls, info.errors, info.workers[0].in_flight) == (8, 3, 2)
    assert info.latency_p50_s == 0.5
    assert info.last_used_s == host.now + 100.0


def test_latencies_are_sorted_once_per_call_that_ends(host, lane):
    def latency_s() -> tuple[float | None, int]:
        (model,) = host.queries.list_models()
        return model.latency_p50_s, lane.reads

    assert latency_s() == (None, 1)
    lane.shows(begun=2, ended=1)
    assert latency_s() == latency_s() == (0.5, 2)
    lane.shows(begun=9)
    assert latency_s() == (0.5, 2), "what has begun changes nothing"
    caller = host.call()
    host.pass_time(0.25)
    host.answered(host.sent(caller))
    assert latency_s() == latency_s() == (0.5, 3)
    host.answered(host.sent(host.call()))
    assert latency_s() == (0.25, 4), "of 0.5, 0.25 and 0 s"


def test_the_metrics_count_calls_by_lanes_with_the_others(host, lane):
    host.answered(host.sent(host.call()))
    counts = [0] * (len(BUCKETS_S) + 1)
    counts[3] = 4
    lane.methods = [MethodFigures("predict", counts, 2.0), MethodFigures(None, counts, 1.0)]
    for _ in range(2):  # to ask changes nothing
        times = {each.method: (sum(each.counts), each.sum_s) for each in host.core.queries.call_times()}
        assert times == {"predict": (5, 2.0), "(other)": (4, 1.0)}


def test_explain_tells_how_many_call_directly(host, lane):
    lane.shows(begun=7, ended=5, connections=2)
    assert host.core.queries.explain("m", host.now)["direct"] == {"clients": 2, "calls": 7, "in_flight": 2}
    assert host.core.queries.get_model("m").workers[0].direct_clients == 2


def test_a_worker_without_clients_is_killed_at_once(host):
    host.unload("m")
    assert host.killed() == [1]


def test_a_worker_with_clients_closes_its_lanes_before_it_is_killed(host, lane):
    open_lane(host)
    unload = host.unload("m")
    assert host.effects_of(fx.CloseLanes) == [fx.CloseLanes(ev.WorkerId(1))]
    assert (host.worker_state(), host.killed()) == ("DRAINING", [])
    host.feed(ev.LanesClosed(ev.WorkerId(1)))
    assert host.killed() == [1]
    host.gone()
    assert host.answer(unload)


@pytest.mark.parametrize("last", ["lane", "host"])
def test_calls_by_the_host_and_by_lanes_are_both_waited_for(host, last):
    open_lane(host)
    call = host.sent(host.call())
    host.unload("m")
    steps = [lambda: host.answered(call), lambda: host.feed(ev.LanesClosed(ev.WorkerId(1)))]
    first, second = steps if last == "lane" else reversed(steps)
    first()
    assert host.worker_state() == "DRAINING"
    second()
    assert host.worker_state() == "KILLING"


def test_lanes_that_do_not_close_in_time_are_ended(host, lane):
    open_lane(host)
    host.unload("m")
    asked = fate(host)
    host.pass_time(host.core._registry.config.drain_timeout_s)
    assert host.killed() == [1]
    error = host.error(asked)
    assert isinstance(error, AbortedError)
    assert "calls did not end within" in error.message


def test_at_once_is_at_once(host, lane):
    open_lane(host)
    host.unload("m", at_once=True)
    assert host.killed() == [1]


def test_a_client_that_has_lost_a_lane_hears_what_the_other_callers_hear(host, lane):
    open_lane(host)
    call = host.call(client=BOB)
    early = fate(host)
    assert host.is_waiting(early)
    host.exited("signal 11 (SIGSEGV)")
    late = fate(host)
    assert {host.error(caller).message for caller in (early, late, call)} == {host.error(call).message}
    assert "SIGSEGV" in host.error(late).message


def test_of_a_worker_that_nobody_remembers_nothing_is_known(host):
    assert isinstance(host.error(fate(host, 99)), UnavailableError)


def test_when_a_worker_has_ended_its_calls_are_the_models(host, lane):
    counts = [0] * (len(BUCKETS_S) + 1)
    counts[3] = 4
    lane.shows(begun=5, ended=4, failed=1, last_use_s=host.now + 9.0, connections=1)
    lane.methods = [MethodFigures("predict", counts, 2.0), MethodFigures(None, counts, 1.0)]
    host.exited("exit code 1")
    host.gone()
    info = host.core.queries.get_model("m")
    assert (info.calls, info.errors, info.last_used_s) == (5, 2, host.now + 9.0)
    model = host.core._registry.models["m"]
    assert {name: times.sum_s for name, times in model.latencies.by_method.items()} == {"predict": 2.0, "(other)": 1.0}


def test_lanes_that_say_that_they_are_closed_unasked_change_nothing(host):
    assert host.feed(ev.LanesClosed(ev.WorkerId(1))) == []
    assert host.feed(ev.LanesClosed(ev.WorkerId(77))) == []
    assert host.worker_state() == "READY"


@pytest.fixture
def yielding(tight: MemoryDriver, lane: FakeLane) -> MemoryDriver:
    """A host with a model `a` that a lane uses, and which was asked to yield for `m`."""
    tight.predicted_load("a", 8000)
    tight.comes_up("a", 8000, lane)
    client = open_lane(tight, "a")
    lane.shows(begun=1, connections=1)
    tight.waiter = tight.predicted_load("m", 6000)
    tight.pass_time(1)
    assert tight.effects_of(fx.CloseLanes) == [fx.CloseLanes(tight.worker_of("a"))]
    assert told(tight, client) == [None]
    return tight


def test_a_model_that_yields_closes_its_lanes_and_is_evicted_when_they_are(yielding, lane):
    worker = yielding.worker_of("a")
    assert isinstance(yielding.error(open_lane(yielding, "a")), HostError)
    lane.shows(ended=1)
    yielding.feed(ev.LanesClosed(worker))
    assert yielding.killed() == [worker]
    yielding.gone(worker)
    yielding.comes_up("m", 6000)
    assert yielding.answer(yielding.waiter).state == "READY"


def test_a_model_that_need_not_yield_any_more_opens_its_lanes_again(yielding, lane):
    worker = yielding.worker_of("a")
    yielding.unload("m")
    assert yielding.effects_of(fx.OpenLanes) == []
    assert isinstance(yielding.error(open_lane(yielding, "a")), FailedPreconditionError)
    yielding.feed(ev.LanesClosed(worker))
    assert yielding.effects_of(fx.OpenLanes) == [fx.OpenLanes(worker)]
    assert told(yielding, open_lane(yielding, "a")) == [lane.address]


def test_a_worker_of_which_nothing_is_left_was_not_late(host):
    open_lane(host)
    host.unload("m")
    host.feed(ev.LanesClosed(ev.WorkerId(1)))
    asked = fate(host)
    host.pass_time(host.registry.config.drain_timeout_s)
    assert host.is_waiting(asked)
    host.gone()
    assert host.error(asked).message == "model 'm' was unloaded"


def test_of_a_worker_that_could_not_be_started_its_error_is_said(host):
    host.load("n")
    host.found()
    asked = fate(host, 2)
    host.not_spawned(ModelError("no process"))
    assert {host.error(asked).message, host.error(fate(host, 2)).message} == {"no process"}


def test_old_fates_are_forgotten(host, monkeypatch):
    monkeypatch.setattr(lanes, "FATES_KEPT", 1)
    host.exited("exit code 1")
    assert "exit code 1" in host.error(fate(host)).message
    host.gone()
    host.load("n")
    host.found()
    host.not_spawned(ModelError("no process"))
    assert host.error(fate(host)).message == "the worker is not known any more; whether the call was begun is unknown"


def test_an_unload_gives_the_calls_of_what_was_replaced_their_time(host):
    open_lane(host)
    host.deploy_up_to("CONFIRMING", replace=True)
    host.done()
    assert host.effects_of(fx.CloseLanes) == [fx.CloseLanes(ev.WorkerId(1))]
    host.unload("m")
    assert host.killed() == [2]
    assert host.worker_state(ev.WorkerId(1)) == "DRAINING"
    host.feed(ev.LanesClosed(ev.WorkerId(1)))
    assert host.killed() == [1]


@pytest.fixture
def used(tight: MemoryDriver, lane: FakeLane) -> MemoryDriver:
    """A host with a budget that a model `a` nearly fills, which a client calls by a lane."""
    tight.predicted_load("a", 8000)
    tight.comes_up("a", 8000, lane)
    tight.pass_time(2)
    open_lane(tight, "a")
    lane.shows(begun=1)
    return tight


def has_evicted(host: Driver) -> list[str]:
    return [event.model_id for event in host.announced if event.cause == "EVICT"]


def test_a_model_is_in_use_by_a_lane_until_its_call_has_ended_of_which_nobody_tells(used, lane):
    used.predicted_load("m", 6000)
    used.pass_time(0.5)
    assert has_evicted(used) == []
    lane.shows(ended=1)
    used.pass_time(LANE_LOOK_S)
    assert has_evicted(used) == ["a"]
    lane.shows(begun=2)  # between the look at the figures and the order to close
    assert used.worker_state(ev.WorkerId(1)) == "DRAINING"
    lane.shows(ended=2)
    used.feed(ev.LanesClosed(ev.WorkerId(1)))
    assert used.killed() == [1]


def test_what_a_client_sends_by_the_host_waits_while_the_lanes_of_a_model_close(yielding, lane):
    held = yielding.call("a")
    assert yielding.is_waiting(held)
    assert yielding.effects_of(fx.ForwardCall) == []
    yielding.unload("m")
    assert [call.payload.caller for call in yielding.effects_of(fx.ForwardCall)] == [held]


def test_lanes_that_never_close_hold_an_eviction_up_for_so_long(yielding, lane):
    worker = yielding.worker_of("a")
    lane.shows(ended=1)
    yielding.pass_time(LANE_LOOK_S)
    assert has_evicted(yielding) == ["a"]
    assert not yielding.processes[worker].is_killed
    yielding.pass_time(yielding.registry.config.drain_timeout_s)
    assert yielding.processes[worker].is_killed


def test_a_model_that_a_lane_uses_does_not_idle(tight, lane):
    tight.predicted_load("a", 1000, RESTLESS)
    tight.comes_up("a", 1000, lane)
    lane.shows(begun=1)
    tight.pass_time(22)
    lane.shows(ended=1, last_use_s=tight.now)
    tight.pass_time(4)
    assert has_evicted(tight) == []
    tight.pass_time(1)
    assert has_evicted(tight) == ["a"]


def test_the_way_to_a_model_that_is_to_yield_is_told_to_nobody(tight, lane):
    tight.predicted_load("a", 8000)
    tight.comes_up("a", 8000, lane)
    tight.busy("a")
    tight.predicted_load("m", 6000)
    tight.pass_time(1)
    assert tight.registry.models["a"].is_yielding
    assert isinstance(tight.error(open_lane(tight, "a")), HostError)
