"""Calls: from a client to a READY worker and back, or refused with a reason."""

from __future__ import annotations

import math

import pytest
from driver import ALICE, BOB, CONFIG, memory_of
from outside import Asked, Said

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnimplementedError,
)
from hostd_workers.wire.lane.figures import BUCKETS_S


def test_a_call_goes_to_the_worker_under_an_id_of_ours_and_its_answer_back_under_the_clients(ready):
    payload = Asked(ev.Caller(ALICE, 77), 0)
    ready.feed(ev.CallReceived(ALICE, 77, ev.ModelId("m"), "predict", ready.now + 2.5, 10, payload))
    assert ready.effects == [fx.ForwardCall(1, 1, 2.5, payload)]
    assert ready.effects[0].payload is payload

    answer = Said(payload, "result", final=True)
    ready.feed(ev.WorkerAnswered(ev.WorkerId(1), ev.CallId(1), final=True, failed=False, payload=answer))
    assert ready.effects == [fx.RelayAnswer(ALICE, 77, answer)]
    assert ready.effects[0].payload is answer
    assert ready.core.next_deadline() is None


def test_a_call_without_a_deadline_waits_as_long_as_it_takes(ready):
    call = ready.call()
    assert ready.sent(call).remaining_s is None
    ready.pass_time(1e6)
    assert ready.is_waiting(call)
    ready.answered(ready.sent(call))
    assert ready.answer(call) == "done"


def test_a_stream_passes_items_until_its_end(ready):
    call = ready.call(method="generate")
    sent = ready.sent(call)
    for item in ("a", "b"):
        ready.answered(sent, item, final=False)
    assert ready.is_waiting(call)
    ready.answered(sent, "end")
    assert (ready.items[call], ready.answer(call)) == (["a", "b"], "end")


def test_an_error_of_the_model_passes_through_and_is_counted(ready):
    call = ready.call()
    ready.answered(ready.sent(call), "ValueError", failed=True)
    assert ready.answer(call) == "ValueError"
    model = ready.model()
    assert (model.calls, model.errors) == (1, 1)


def test_calls_and_their_last_use_are_counted(ready):
    ready.pass_time(3)
    for call in [ready.call(), ready.call()]:
        ready.answered(ready.sent(call))
    model = ready.model()
    assert (model.calls, model.errors, model.last_used_s) == (2, 0, ready.now)


def test_every_call_gets_an_id_of_its_own_whatever_ids_the_clients_choose(ready):
    calls = [ready.call(client=client, request_id=5) for client in (ALICE, BOB)]
    assert [ready.sent(call).call_id for call in calls] == [1, 2]
    ready.answered(ready.sent(calls[1]), "for bob")
    ready.answered(ready.sent(calls[0]), "for alice")
    assert [ready.answer(call) for call in calls] == ["for alice", "for bob"]


# Refusals


def test_a_call_of_an_unknown_model_is_refused_and_told_what_is_loaded(ready):
    assert ready.error(ready.call("nobody"), NotFoundError).message == "there is no model 'nobody'; loaded are: m"


@pytest.mark.parametrize("stage", ["FINDING", "SPAWNING", "LOADING", "MEASURING"])
def test_a_call_of_a_model_that_loads_is_refused_and_told_to_wait(host, stage):
    host.up_to(stage)
    error = host.error(host.call(), FailedPreconditionError)
    assert error.message == "model 'm' is LOADING: wait for it with retrieve_model"
    assert error.details == {"model_id": "m", "state": "LOADING", "reason": ""}


def test_a_call_of_a_crashed_model_is_refused_and_told_why(ready):
    ready.exited("killed by SIGSEGV")
    error = ready.error(ready.call(), FailedPreconditionError)
    assert error.message == "model 'm' is FAILED (the worker of model 'm' died: killed by SIGSEGV): load it again"
    assert error.details["reason"] == "the worker of model 'm' died: killed by SIGSEGV"


def test_a_call_of_a_quarantined_model_is_refused_and_told_where_to_look(ready):
    from hostd.core.calls.routing import refusal_of
    from hostd.core.lifecycle import ModelState

    model = ready.registry.models["m"]
    model.state, model.reason = ModelState.QUARANTINED, "it crashed 5 times"
    assert refusal_of(model).message == "model 'm' is QUARANTINED (it crashed 5 times): see explain_model"


def test_an_unknown_method_is_refused_and_told_which_are_known(ready):
    error = ready.error(ready.call(method="predikt"), UnimplementedError)
    assert error.message == "model 'm' has no method 'predikt'; it has: generate, predict"
    assert error.details == {"methods": ["generate", "predict"]}


def test_a_model_without_methods_says_so(host):
    host.up_to("LOADING")
    host.feed(ev.WorkerLoaded(ev.WorkerId(1), "python", {}, None))
    host.measured(memory=memory_of(1))
    assert host.error(host.call()).message == "model 'm' has no method 'predict'; it has: none"


def test_a_request_id_that_is_in_use_is_refused_and_the_first_call_goes_on(ready):
    first = ready.call(request_id=5)
    sent = ready.sent(first)
    ready.call(request_id=5)
    error = ready.error(first, InvalidArgumentError)
    assert error.message == "request id 5 is in use by another call of this client"
    assert ready.is_waiting(first)
    ready.answered(sent, "the first")
    assert ready.answers[first] == [error, "the first"]


def test_a_request_id_may_be_used_again_when_its_call_has_ended(ready):
    for _ in range(2):
        call = ready.call(request_id=5)
        ready.answered(ready.sent(call))
    assert ready.answers[call] == ["done", "done"]


@pytest.mark.parametrize("timeout_s", [0, -1])
def test_a_call_that_comes_after_its_deadline_is_not_forwarded(ready, timeout_s):
    error = ready.error(ready.call(timeout_s=timeout_s), DeadlineExceededError)
    assert error.message == "the deadline had passed when the call arrived"


def test_a_refused_call_does_not_count_as_one(ready):
    ready.call(method="predikt")
    model = ready.model()
    assert (model.calls, model.errors, model.last_used_s) == (0, 0, None)


def test_calls_over_the_limit_in_flight_are_refused_until_one_ends(ready):
    calls = [ready.call() for _ in range(CONFIG.max_in_flight)]
    error = ready.error(ready.call(), ResourceExhaustedError)
    assert error.message == (
        "model 'm' has 4 calls in flight, 4 of this client; a client may have 4 (workers.max_in_flight), and fewer if "
        "others call too: call more slowly"
    )
    ready.answered(ready.sent(calls[0]))
    assert ready.is_waiting(ready.call())


def test_bytes_over_the_limit_in_flight_are_refused_until_some_have_ended(ready):
    ready.up_to("READY", "other")
    big = ready.call(size_bytes=60)
    assert ready.is_waiting(ready.call("other", size_bytes=39, client=BOB))
    error = ready.error(ready.call(size_bytes=1), ResourceExhaustedError)
    assert error.message == (
        "calls in flight hold 99 bytes, 60 of this client; 1 more are over the limit of 99 "
        "(limits.max_in_flight_bytes), or over this client's share of it: send less at a time"
    )
    ready.answered(ready.sent(big))
    assert ready.is_waiting(ready.call(size_bytes=60))


def test_what_is_wrong_with_a_request_is_told_before_what_is_wrong_with_the_moment(ready):
    for _ in range(CONFIG.max_in_flight):
        ready.call(size_bytes=16)
    assert isinstance(ready.error(ready.call(method="x", timeout_s=-1)), UnimplementedError)
    assert isinstance(ready.error(ready.call(timeout_s=-1)), DeadlineExceededError)
    assert "4 calls in flight, 4 of this client" in ready.error(ready.call(size_bytes=90)).message


def test_the_times_of_calls_are_counted_by_method_while_their_model_serves(ready):
    for seconds in (0.25, 0.3, 100.0):
        call = ready.call()
        ready.pass_time(seconds)
        ready.answered(ready.sent(call))
    ((model_id, method, counts, sum_s),) = ready.queries.call_times()
    assert (model_id, method) == ("m", "predict")
    assert {bound: count for bound, count in zip((*BUCKETS_S, math.inf), counts, strict=True) if count} == {
        0.25: 1,
        0.5: 1,
        math.inf: 1,
    }
    assert sum_s == pytest.approx(100.55)
    assert not ready.queries.is_stopping
    ready.call()
    ready.shut_down()
    assert ready.queries.is_stopping
    assert ready.queries.call_times() == []
