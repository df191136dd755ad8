"""Ends of calls other than an answer: deadlines, cancellations, workers and clients that are lost."""

from __future__ import annotations

import dataclasses

import pytest
from driver import ALICE, BOB, LAZY, Driver
from outside import Asked, Said

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.calls.routing import GONE_AT_ONCE, GONE_PAUSE_S
from hostd_workers.wire.errors import (
    CancelledError,
    DeadlineExceededError,
    ResourceExhaustedError,
    UnavailableError,
)


@pytest.fixture
def roomy() -> Driver:
    """A host with models that may have very many calls."""
    return Driver(dataclasses.replace(LAZY, max_in_flight=10 * GONE_AT_ONCE, max_in_flight_bytes=2**30))


def test_a_call_that_is_not_answered_in_time_gets_its_deadline_and_the_worker_is_told(ready):
    call = ready.call(timeout_s=2)
    sent = ready.sent(call)
    assert ready.core.next_deadline() == ready.now + 2
    ready.pass_time(1.9)
    assert ready.is_waiting(call)
    ready.pass_time(0.1)
    assert ready.error(call, DeadlineExceededError).message == "the deadline passed before the model answered"
    assert ready.processes[ready.worker].cancelled == [sent.call_id]
    assert ready.model().errors == 1
    assert ready.core.next_deadline() is None


def test_deadlines_come_in_their_order_and_a_late_look_ends_all_that_have_passed(ready):
    late, soon, later = ready.call(timeout_s=2), ready.call(timeout_s=1), ready.call(timeout_s=3)
    assert ready.core.next_deadline() == ready.now + 1
    ready.oversleep(2.5)
    assert [effect.caller for effect in ready.effects_of(fx.AnswerError)] == [soon, late]
    assert ready.is_waiting(later)


def test_a_look_at_the_clock_that_comes_too_early_changes_nothing(ready):
    ready.call(timeout_s=2)
    assert ready.feed(ev.TimePassed()) == []


def test_a_cancelled_call_is_answered_and_the_worker_is_told(ready):
    call = ready.call(timeout_s=5)
    sent = ready.sent(call)
    ready.feed(ev.CallCancelled(call))
    assert ready.effects_of(fx.ForwardCancel) == [fx.ForwardCancel(1, sent.call_id)]
    assert ready.error(call, CancelledError).message == "the call was cancelled by its caller"
    assert ready.core.next_deadline() is None


def test_cancelling_or_feeding_what_is_not_in_flight_changes_nothing(ready):
    call = ready.call()
    ready.answered(ready.sent(call))
    for caller in (call, ev.Caller(ALICE, 999), ev.Caller(BOB, call.request_id)):
        assert ready.feed(ev.CallCancelled(caller)) == []
        assert ready.feed(ev.CreditGranted(caller, 1)) == []
        assert ready.feed(ev.FeedReceived(caller, Asked(caller, 1))) == []


def test_a_client_cannot_cancel_the_call_of_another(ready):
    call = ready.call(request_id=5, client=BOB)
    assert ready.feed(ev.CallCancelled(ev.Caller(ALICE, 5))) == []
    assert ready.is_waiting(call)


def test_credit_goes_to_the_worker_of_the_stream(ready):
    call = ready.call(method="generate")
    ready.feed(ev.CreditGranted(call, 16))
    assert ready.effects == [fx.ForwardCredit(1, ready.sent(call).call_id, 16)]


def test_what_feeds_a_call_goes_to_its_worker(ready):
    call = ready.call()
    item = Asked(call, 1)
    ready.feed(ev.FeedReceived(call, item))
    assert ready.effects == [fx.ForwardFeed(1, ready.sent(call).call_id, item)]


@pytest.mark.parametrize(("is_full", "error"), [(True, ResourceExhaustedError), (False, UnavailableError)])
def test_a_call_of_which_an_item_was_lost_ends_in_its_worker_too(ready, is_full, error):
    call = ready.call(timeout_s=5)
    sent = ready.sent(call)
    ready.feed(ev.WorkerUnreachable(ev.WorkerId(1), sent.call_id, is_full, has_begun=True))
    assert ready.effects_of(fx.ForwardCancel) == [fx.ForwardCancel(1, sent.call_id)]
    ready.error(call, error)
    assert ready.core.next_deadline() is None
    assert ready.feed(ev.WorkerUnreachable(ev.WorkerId(1), sent.call_id, is_full, has_begun=True)) == []


LATE = {
    "the deadline": lambda host, call: host.pass_time(5),
    "the cancellation": lambda host, call: host.feed(ev.CallCancelled(call)),
    "the last answer": lambda host, call: host.answered(host.sent(call)),
    "the client's end": lambda host, call: host.feed(ev.ClientVanished(call.client)),
    "the worker's end": lambda host, call: host.exited(),
}


@pytest.mark.parametrize("after", LATE)
@pytest.mark.parametrize("final", [True, False])
def test_what_comes_late_is_dropped(ready, after, final):
    call = ready.call(timeout_s=5)
    sent = ready.sent(call)
    LATE[after](ready, call)
    answers, model = list(ready.answers.get(call, [])), ready.model()
    said = Said(sent.payload, "late", final)
    assert ready.feed(ev.WorkerAnswered(sent.worker_id, sent.call_id, final, failed=True, payload=said)) == []
    assert ready.feed(ev.WorkerUnreachable(sent.worker_id, sent.call_id, is_full=False)) == []
    assert ready.answers.get(call, []) == answers
    assert ready.model() == model


def test_what_another_worker_says_of_a_call_is_dropped(ready):
    ready.up_to("READY", "liar")
    call = ready.call()
    sent = ready.sent(call)
    said = Said(sent.payload, "a lie", final=True)
    assert ready.feed(ev.WorkerAnswered(ev.WorkerId(2), sent.call_id, final=True, failed=False, payload=said)) == []
    ready.answered(sent, "the truth")
    assert ready.answer(call) == "the truth"
    assert ready.model("liar").errors == 0


def test_the_death_of_a_worker_ends_its_calls_in_their_order_and_no_others(ready):
    ready.up_to("READY", "other")
    calls, other = [ready.call(timeout_s=9) for _ in range(4)], ready.call("other")
    ready.exited("killed by SIGKILL", ev.WorkerId(1))
    assert [effect.caller for effect in ready.effects_of(fx.AnswerError)] == calls
    for call in calls:
        error = ready.error(call, UnavailableError)
        assert error.message == "the worker of model 'm' died: killed by SIGKILL"
        assert error.details == {"exit": "killed by SIGKILL", "pid": 5001, "model_id": "m"}
    assert ready.is_waiting(other)
    assert ready.core.next_deadline() is None
    model = ready.model()
    assert (model.state, model.errors) == ("FAILED", 4)
    assert model.reason == "the worker of model 'm' died: killed by SIGKILL"


def test_a_call_to_a_worker_with_a_full_queue_is_refused(ready):
    call = ready.call(timeout_s=5)
    ready.feed(ev.WorkerUnreachable(ev.WorkerId(1), ready.sent(call).call_id, is_full=True))
    error = ready.error(call, ResourceExhaustedError)
    assert error.message == "the queue of the model's worker is full: call more slowly, or load replicas"
    assert ready.core.next_deadline() is None


def test_a_call_to_a_worker_without_a_connection_was_not_sent(ready):
    call = ready.call()
    ready.feed(ev.WorkerUnreachable(ev.WorkerId(1), ready.sent(call).call_id, is_full=False))
    error = ready.error(call, UnavailableError)
    assert error.message == "the model's worker lost its connection; the call was not sent"
    assert ready.model().errors == 1


def test_the_calls_of_a_client_that_vanished_are_cancelled_and_nobody_is_answered(ready):
    lost, stays = [ready.call(timeout_s=5) for _ in range(2)], ready.call(client=BOB)
    ids = [ready.sent(call).call_id for call in lost]
    ready.feed(ev.ClientVanished(ALICE))
    assert ready.effects == [fx.ForwardCancel(1, call_id) for call_id in ids]
    assert ready.core.next_deadline() is None
    ready.answered(ready.sent(stays))
    assert not set(lost) & set(ready.answers)
    assert ready.model().errors == 0


def test_very_many_calls_of_a_client_that_vanished_end_in_slices_so_that_others_are_served_between(roomy):
    roomy.up_to("READY", "m")
    lost = [roomy.call("m") for _ in range(2 * GONE_AT_ONCE + 7)]
    roomy.feed(ev.ClientVanished(ALICE))
    sizes = [len(roomy.effects_of(fx.ForwardCancel))]
    while roomy.core.next_deadline() is not None:
        others = roomy.call("m", client=BOB)
        roomy.answered(roomy.sent(others))
        assert roomy.answer(others) == "done"
        roomy.pass_time(GONE_PAUSE_S)
        sizes.append(len(roomy.effects_of(fx.ForwardCancel)))
    assert sizes == [GONE_AT_ONCE, GONE_AT_ONCE, 7]
    assert len(roomy.processes[roomy.worker].cancelled) == len(lost)


def test_calls_that_are_held_and_those_of_a_worker_end_in_slices_together(roomy):
    roomy.up_to("READY", "m")
    for model_id, many in (("m", 10), ("lazy", GONE_AT_ONCE + 10)):
        for _ in range(many):
            roomy.call(model_id)
    pending = roomy.router.pending.by_caller
    roomy.feed(ev.ClientVanished(ALICE))
    assert (len(pending), roomy.effects_of(fx.ForwardCancel)) == (10, [])
    roomy.pass_time(GONE_PAUSE_S)
    assert (len(pending), len(roomy.effects_of(fx.ForwardCancel))) == (0, 10)


def test_a_client_that_nobody_knows_may_vanish(ready):
    assert ready.feed(ev.ClientVanished(ev.ClientId(b"nobody"))) == []


def test_every_end_gives_back_the_bytes_and_the_place_of_a_call(ready):
    ends = (
        lambda call: ready.answered(ready.sent(call)),
        lambda call: ready.answered(ready.sent(call), failed=True),
        lambda call: ready.feed(ev.CallCancelled(call)),
        lambda call: ready.pass_time(5),
        lambda call: ready.feed(ev.WorkerUnreachable(ev.WorkerId(1), ready.sent(call).call_id, is_full=True)),
        lambda call: ready.feed(ev.ClientVanished(call.client)),
    )
    for end in ends:
        call = ready.call(size_bytes=99, timeout_s=5, request_id=1)
        assert ready.is_waiting(call)
        sent = ready.sent(call)
        end(call)
        assert not ready.is_waiting(call)
        ready.answered(sent)  # a worker ends every call that it was sent
    router = ready.router
    assert [len(books) for books in (router.calls, router.by_caller, router.bytes)] == [0, 0, 0]
    assert len(ready.registry.timers) == 0
