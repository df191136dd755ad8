"""What people see of models: one list of all, their settings with origins, their calls, and unloads without a drain."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from driver import ALICE, BOB, CONFIG, LAZY, METHODS, SPEC, Driver, source_of
from lists import all_models

from hostd.core import events as ev
from hostd_workers.wire.errors import (
    AbortedError,
    ModelError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)


def entry(name: str, state: str = "AVAILABLE", reason: str = "") -> ev.DirectoryEntry:
    return ev.DirectoryEntry(ev.ModelId(name), f"/models/{name}", state, reason)


def calls(host: Driver) -> list[tuple[str, str, str]]:
    known = host.queries.explain("m", host.now)
    assert known is not None
    return [(call["method"], call["state"], call["why"]) for call in known["calls"]]


# One list


def test_one_list_has_every_model_once_with_its_state_and_the_reason(ready, tight):
    ready.load("bad")
    ready.down(ModelError("no weights"))
    entries = [entry("m"), entry("bad"), entry("new"), entry("link", "IGNORED", "it is a link")]
    listed = {model.id: (model.state, model.path, model.reason) for model in all_models(ready, *entries)}
    assert listed == {
        "bad": ("FAILED", "/models/bad", "no weights"),
        "link": ("IGNORED", "/models/link", "it is a link"),
        "m": ("READY", "/models/m", "loaded in 0.000 s"),
        "new": ("AVAILABLE", "/models/new", "loaded with load_model or sync_local_models"),
    }
    assert [model.id for model in ready.queries.list_models()] == ["m"]
    tight.evict_to_the_end()
    (evicted,) = [model for model in all_models(tight, entry("m")) if model.id == "m"]
    assert (evicted.state, evicted.path) == ("EVICTED", "/models/m")
    assert evicted.reason.startswith("evicted for 8.8 KiB")
    assert (set(evicted.methods), evicted.default_method, evicted.loader) == (set(METHODS), "predict", "python")
    assert [tight.queries.get_model("m"), tight.queries.get_absent("m")] == [None, evicted]
    for record in all_models(ready, *entries):
        known = ready.queries.get_model(record.id) or ready.queries.get_absent(record.id, entries)
        assert known == record, "each by itself is as it is in the list"
    assert ready.queries.get_absent("nix", entries) is None


def test_a_request_for_what_is_not_there_makes_no_model():
    host = Driver(LAZY)
    host.retrieve("nix")
    host.not_found(NotFoundError("nothing there"))
    host.load("typo", source_of("/typo"))
    host.not_found(NotFoundError("there is nothing at /typo"))
    listed = all_models(host, entry("new"))
    assert [(model.id, model.state) for model in listed] == [("new", "AVAILABLE"), ("typo", "FAILED")]
    assert listed[0].reason.startswith("loaded when it is used")


@pytest.mark.parametrize("ask", ["unload", "unload_all"])
def test_an_unload_forgets_why_a_load_has_failed(ready, ask):
    ready.load("bad")
    ready.down(ModelError("no weights"))
    assert [model.id for model in all_models(ready)] == ["bad", "m"]
    if ask == "unload":
        ready.unload("bad")
    else:
        ready.unload_all()
    assert [model.id for model in all_models(ready)] == ["m"]


def test_explain_knows_what_is_merely_in_the_directory(host):
    assert host.queries.explain("new", host.now) is None
    known = host.queries.explain("new", host.now, [entry("old"), entry("new")])
    assert (known["state"], known["model"]["path"], known["story"]) == ("AVAILABLE", "/models/new", [])


# Settings


def test_settings_say_where_each_was_given():
    host = Driver(dataclasses.replace(CONFIG, idle_ttl_s=5.0, own_python="/usr/bin/python3"))
    options = {"a": 1, "b": 2}
    assert host.queries.explain("m", host.now) is None
    host.load(source=source_of("/m", b=2))
    assert host.queries.explain("m", host.now)["settings"] == []
    origins = {"options.a": "/m/model.yaml", "options.b": "the load", "memory_limit": "/m/model.yaml"}
    limits = ev.MemoryPolicy(limit_bytes=400)
    host.found(SPEC._replace(options=options, env={"A": "1"}, memory=limits, origins=origins, methods=("predict",)))
    found = {s["name"]: (s["value"], s["origin"]) for s in host.queries.explain("m", host.now)["settings"]}
    assert found["options.a"] == (1, "/m/model.yaml")
    assert found["options.b"] == (2, "the load")
    assert found["memory_limit"] == (400, "/m/model.yaml")
    assert found["idle_ttl_s"] == (5.0, "memory.idle_ttl_s")
    assert found["python"] == ("/usr/bin/python3", "the host's own")
    assert found["loader"] == ("python", "recognised by its files")
    assert found["cpu_threads"] == (1, "its share of 1 cores when it was loaded")
    assert (found["env.A"][0], found["methods"][0]) == ("1", ["predict"])
    set_by_host = Driver(dataclasses.replace(CONFIG, python="/opt/python", cpu_threads=3))
    set_by_host.up_to("READY")
    found = {
        s["name"]: (s["value"], s["origin"]) for s in set_by_host.queries.explain("m", set_by_host.now)["settings"]
    }
    assert found["python"] == ("/opt/python", "workers.python")
    assert found["cpu_threads"] == (3, "workers.cpu_threads")


# Calls


def test_calls_in_flight_are_told_with_their_callers_and_ages(ready):
    ready.call(method="predict", client=ALICE)
    ready.pass_time(2)
    second = ready.call(method="generate", client=BOB)
    ready.pass_time(1)
    told = ready.queries.explain("m", ready.now)["calls"]
    assert [(call["method"], call["caller"].client, round(call["age_s"])) for call in told] == [
        ("predict", ALICE, 3),
        ("generate", BOB, 1),
    ]
    ready.answered(ready.sent(second))
    assert calls(ready) == [("predict", "sent", "")]


@pytest.mark.parametrize(
    ("leave", "why"),
    [
        (lambda host, call: host.feed(ev.ClientVanished(call.client)), "its caller has gone"),
        (lambda host, call: host.feed(ev.CallCancelled(call)), "its caller has cancelled it"),
        (lambda host, _: host.pass_time(3), "its deadline has passed"),
    ],
    ids=["gone", "cancelled", "late"],
)
def test_a_call_that_nobody_waits_for_is_told_until_its_worker_has_ended_it(ready, leave: Any, why: str):
    call = ready.call(timeout_s=3)
    sent = ready.sent(call)
    leave(ready, call)
    assert calls(ready) == [("predict", "left", why)]
    ready.answered(sent, final=False)
    assert calls(ready) == [("predict", "left", why)]
    ready.answered(sent)
    assert calls(ready) == []


def test_calls_that_were_left_count_until_their_worker_has_ended_them():
    """Or a model that hangs would be sent calls without end, by callers that give up and call again."""
    host = Driver(dataclasses.replace(CONFIG, max_in_flight=2))
    host.up_to("READY")
    left = [host.call() for _ in range(2)]
    for call in left:
        host.feed(ev.CallCancelled(call))
    assert calls(host) == [("predict", "left", "its caller has cancelled it")] * 2
    assert isinstance(host.error(host.call()), ResourceExhaustedError)
    host.answered(host.sent(left[0]))
    assert host.is_waiting(host.call())


def test_calls_that_wait_for_a_lazy_load_are_told():
    host = Driver(LAZY)
    host.call(timeout_s=50)
    host.pass_time(2)
    (call,) = host.queries.explain("m", host.now)["calls"]
    assert (call["method"], call["state"], round(call["age_s"])) == ("predict", "held", 2)
    host.up()
    assert calls(host) == [("predict", "sent", "")]


def test_workers_that_are_being_killed_are_not_asked_for_their_stacks(ready):
    assert ready.queries.workers_of("m") == [ready.worker]
    ready.unload()
    assert ready.worker_state() == "KILLING"
    assert ready.queries.workers_of("m") == ready.queries.workers_of("nix") == []


# Unloads without a drain


def test_an_unload_at_once_waits_for_no_call(ready):
    call, worker = ready.call(), ready.worker
    unload = ready.unload(at_once=True)
    assert ready.killed() == [worker]
    ready.gone()
    assert isinstance(ready.error(call), AbortedError)
    assert ready.answer(unload).processes == 1


def test_an_unload_at_once_ends_a_drain(ready):
    ready.call()
    first = ready.unload()
    assert ready.worker_state() == "DRAINING"
    second = ready.unload(at_once=True)
    assert ready.worker_state() == "KILLING"
    ready.gone()
    assert ready.answer(first) == ready.answer(second)


def test_an_unload_of_all_at_once_waits_for_no_call(ready):
    ready.call()
    unload = ready.unload_all(at_once=True)
    assert ready.worker_state() == "KILLING"
    ready.gone()
    assert len(ready.answer(unload)) == 1


# Why a worker died


def test_a_crash_is_told_with_its_stack_and_where_the_rest_is(ready):
    call = ready.call()
    stack = "Fatal Python error: Segmentation fault\n  File x"
    ready.exited("killed by SIGSEGV", stack=stack)
    error = ready.error(call, UnavailableError)
    assert error.message == (
        f"the worker of model 'm' died: killed by SIGSEGV; hostd logs m has its whole stack\n{stack}"
    )
    assert error.details["stack"] == stack


def test_a_limit_that_was_broken_is_told_with_where_it_was_set(host):
    host.load()
    limits = ev.MemoryPolicy(limit_bytes=100)
    host.found(SPEC._replace(memory=limits, origins={"memory_limit": "/m/model.yaml"}))
    host.come_up(ev.Memory(1, 500, 500, None, 500))
    reason = host.model().reason
    host.gone()
    assert host.queries.explain("m", host.now)["reason"].endswith(
        "which /m/model.yaml sets. Raise memory_limit there, or have it use less"
    ), reason


def test_a_load_in_progress_is_explained_by_its_step(host, tight):
    def reason() -> str:
        return host.queries.explain("m", host.now)["reason"]

    caller = host.load(retries=1)
    assert reason() == "its finder is asked how to load it"
    host.found()
    assert reason() == "its worker starts (spawned 0.0 ms ago)"
    host.started()
    host.pass_time(3)
    assert reason() == f"its worker loads it (spawned 3.00 s ago, pid {5000 + host.worker})"
    host.not_loaded(ModelError("no weights"))
    assert reason() == "its load has failed, and its worker is ended: no weights"
    host.gone()
    retry = "try 1 of 2 failed, the next in 0.2 s: no weights"
    assert reason() == retry
    host.pass_time(60)
    host.found()
    assert reason() == f"its worker starts (spawned 0.0 ms ago); before that: {retry}"
    assert host.is_waiting(caller)
    tight.load("p")
    tight.found()
    assert tight.queries.explain("p", tight.now)["reason"] == (
        "what it needs is looked up, before it gets memory of the budget"
    )
    tight.predicted(8000)
    tight.predicted_load("q", 8000)
    assert tight.queries.explain("q", tight.now)["reason"].startswith("it waits for 7.8 KiB")
