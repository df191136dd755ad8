"""The proof itself: `check_invariants` finds whatever is made wrong by hand."""

from __future__ import annotations

import pytest
from driver import ALICE, BOB, Driver

from hostd.core import events as ev
from hostd.core.lifecycle import ModelState, WorkerState
from hostd.core.models import Cause, Load, Unload
from hostd.core.unloading import UnloadAll
from hostd_workers.wire.errors import AbortedError, InternalError


def model_of(host):
    return host.registry.models["m"]


def worker_of(host):
    return host.registry.workers[ev.WorkerId(1)]


def unloading(host):
    host.unload()
    return model_of(host)


def hold(host, model_id):
    caller = host.caller()
    call = ev.CallReceived(*caller, ev.ModelId(model_id), "predict", None, 1, None)
    host.router.pending.hold(call, caller)


DAMAGE = {
    "a DEAD worker is registered": (
        lambda host: setattr(worker_of(host), "state", WorkerState.DEAD),
        "<Worker 1 of m DEAD pid=5001 calls=1> is DEAD but registered",
    ),
    "a model is registered under another id": (
        lambda host: host.registry.models.__setitem__("x", model_of(host)),
        "<Model m#1 READY .*> is registered as x",
    ),
    "an UNLOADED model is registered": (
        lambda host: setattr(unloading(host), "state", ModelState.UNLOADED),
        "<Model m#1 UNLOADED .*> is registered as m",
    ),
    "a worker without a registered model": (
        lambda host: host.registry.models.clear(),
        "<Worker 1 of m READY pid=5001 calls=1> belongs to no registered model",
    ),
    "a worker of an earlier generation that nobody waits for": (
        lambda host: (host.exited(), host.load(), model_of(host).earlier.clear()),
        "<Worker 1 of m KILLING pid=5001 calls=0> belongs to no registered model",
    ),
    "a route to a worker that is not READY": (
        lambda host: (host.exited(), model_of(host).ready.append(worker_of(host))),
        "would not route to exactly its READY workers",
    ),
    "no route to a worker that is READY": (
        lambda host: (model_of(host).ready.clear(), setattr(model_of(host), "state", ModelState.FAILED)),
        "would not route to exactly its READY workers",
    ),
    "a READY model without a READY worker": (
        lambda host: (host.exited(), setattr(model_of(host), "state", ModelState.READY)),
        "serves without being READY, or the other way round",
    ),
    "a FAILED model with a READY worker": (
        lambda host: setattr(model_of(host), "state", ModelState.FAILED),
        "serves without being READY, or the other way round",
    ),
    "a load of a model that serves": (
        lambda host: setattr(model_of(host), "load", Load(model_of(host), Cause.ASKED, 0)),
        "has a load and is not LOADING, or the other way round",
    ),
    "a load that has failed and goes on": (
        lambda host: (host.load("x"), setattr(host.registry.models["x"].load, "error", AbortedError(""))),
        "has the error of a load that is not ENDING, or the other way round",
    ),
    "an unload of a model that serves": (
        lambda host: setattr(model_of(host), "unload", Unload(model_of(host), 0.0)),
        "has an unload and is not UNLOADING, or the other way round",
    ),
    "an unload that waits for nobody": (
        lambda host: unloading(host).workers.clear(),
        "waits for nobody",
    ),
    "a call that only its worker knows": (
        lambda host: worker_of(host).calls.add(99),
        "the calls of the workers, of the callers and of the table differ",
    ),
    "a call that only its caller knows": (
        lambda host: host.router.by_caller.__setitem__(ev.Caller(ALICE, 9), 99),
        "the calls of the workers, of the callers and of the table differ",
    ),
    "a call that only the table knows": (
        lambda host: host.router.calls.__setitem__(99, next(iter(host.router.calls.values()))),
        "the calls of the workers, of the callers and of the table differ",
    ),
    "bytes that do not add up": (
        lambda host: host.router.bytes.take(BOB, 2),
        "3 bytes do not add up",
    ),
    "bytes of a client that do not add up": (
        lambda host: host.router.bytes.take(ALICE, 2),
        "3 bytes of a client do not add up to 1",
    ),
    "a place of a call that nobody has": (
        lambda host: worker_of(host).shares.take(ALICE),
        "the calls of a worker and those of its clients differ",
    ),
    "a place of a request that nobody has": (
        lambda host: host.registry.waiting._shares.take(ALICE),
        "0 requests that wait do not add up",
    ),
    "an unload of all that waits for what is gone": (
        lambda host: host.core._unloading.unload_alls.append(UnloadAll({"gone"})),
        "waits for models that are gone",
    ),
    "a successor of nobody": (
        lambda host: (
            host.deploy_up_to("LOADING", replace=True),
            host.registry.successors.__setitem__("x", host.registry.successors.pop("m")),
        ),
        "<Model m#2 LOADING .*> succeeds nobody",
    ),
    "a successor that is registered under another id": (
        lambda host: (
            host.deploy_up_to("LOADING", replace=True),
            host.registry.successors.__setitem__("x", host.registry.successors.pop("m")),
        ),
        "<Model m#2 LOADING .*> is registered as x",
    ),
    "a caller that waits where it is not": (
        lambda host: (host.load("x"), host.registry.models["x"].load.waiters.clear()),
        "Caller.* waits where it is not",
    ),
    "a call that is held for a model that does not load": (
        lambda host: hold(host, "nowhere"),
        "calls are held for 'nowhere', which is not loading",
    ),
    "held calls that do not add up": (
        lambda host: (hold(host, "m"), host.router.pending._by_model["m"].shares.take(ALICE)),
        "the calls that are held and those of their clients differ",
    ),
    "a deploy that reserves what is not reserved": (
        lambda host: (host.deploy_up_to("INSTALLING", "x"), host.registry.reserved.clear()),
        "<Deploy 1 of x INSTALLING> reserves what is not reserved",
    ),
    "an undeploy that reserves nothing": (
        lambda host: (host.undeploy("x"), host.registry.reserved.clear()),
        "<Undeploy 1 of x CHECKING> reserves nothing",
    ),
    "an unload of all that waits for nothing": (
        lambda host: host.core._unloading.unload_alls.append(UnloadAll(set())),
        "waits for models that are gone",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(name):
    damage, problem = DAMAGE[name]
    host = Driver()
    host.up_to("READY")
    host.call(size_bytes=1)
    host.core.check_invariants()
    damage(host)
    with pytest.raises(InternalError, match=f"a broken invariant: .*{problem}"):
        host.core.check_invariants()


def test_an_event_that_the_core_does_not_know_is_an_error_of_ours(host):
    with pytest.raises(KeyError):
        host.core.handle(object(), 0.0)


def test_questions_change_nothing(host):
    host.up_to("READY")
    for ask in (
        host.queries.list_models,
        host.model,
        lambda: host.queries.story("m"),
        host.queries.worker_count,
        lambda: host.queries.activity(ev.WorkerId(1), host.now),
        host.queries.memory,
        lambda: host.queries.explain("m", host.now),
        lambda: host.queries.plan_load("n", ev.Prediction(10, "declared"), host.now),
        lambda: host.queries.is_finding(ev.ModelId("m"), 1),
        lambda: host.queries.degraded,
        host.core.next_deadline,
    ):
        assert ask() == ask()
    assert host.core.handle(ev.TimePassed(), host.now) == []


def test_what_the_core_is_made_with_by_default_are_the_limits_of_the_configuration():
    from hostd.config.settings import LimitsConfig, WorkersConfig
    from hostd.core.machine import Core

    config, workers = Core()._registry.config, WorkersConfig()
    assert (config.spawn_timeout_s, config.load_timeout_s, config.drain_timeout_s, config.max_in_flight) == (
        workers.spawn_timeout_s,
        workers.load_timeout_s,
        workers.drain_timeout_s,
        workers.max_in_flight,
    )
    assert config.max_in_flight_bytes == LimitsConfig().max_in_flight_bytes
