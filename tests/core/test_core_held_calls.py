"""Calls that wait for the lazy load of their model: held, counted, released in order, ended exactly once."""

from __future__ import annotations

from driver import ALICE, BOB, CAROL, CONFIG, Driver

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd_workers.wire.errors import (
    AbortedError,
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    ModelError,
    ResourceExhaustedError,
    UnimplementedError,
)


def holding(host: Driver) -> tuple[int, int]:
    """Return how many calls are held, and the bytes of all calls of the host."""
    router = host.router
    return len(router.pending.by_caller), router.bytes.total


def test_c16_a_call_of_a_model_that_is_not_loaded_begins_its_load_and_waits_for_it(lazy):
    call = lazy.call(timeout_s=50)
    assert lazy.finds[-1].origin is ev.Origin.LAZY
    assert lazy.is_waiting(call)
    lazy.pass_time(20)
    lazy.up()
    assert lazy.sent(call).remaining_s == 30
    lazy.answered(lazy.sent(call))
    assert lazy.answer(call) == "done"
    assert lazy.core.next_deadline() is None


def test_held_calls_go_to_the_worker_in_the_order_in_which_they_came(lazy):
    calls = [lazy.call(client=client) for client in (ALICE, BOB, ALICE)]
    assert holding(lazy) == (3, 3)
    lazy.up()
    assert [effect.payload.caller for effect in lazy.effects_of(fx.ForwardCall)] == calls
    assert holding(lazy) == (0, 3)


def test_without_lazy_loading_no_call_is_held(host):
    host.load()
    error = host.error(host.call(), FailedPreconditionError)
    assert error.message == "model 'm' is LOADING: wait for it with retrieve_model"


def test_held_calls_get_the_error_of_the_last_try(lazy):
    calls = [lazy.call(), lazy.call(client=BOB)]
    lazy.down(ModelError("no weights"))
    lazy.pass_time(0.2)
    last = ModelError("no weights at all")
    lazy.down(last)
    assert [lazy.answer(call) for call in calls] == [last, last]
    assert holding(lazy) == (0, 0)


def test_a_held_call_has_its_own_deadline_and_the_load_goes_on(lazy):
    call, later = lazy.call(timeout_s=2), lazy.call(timeout_s=3)
    lazy.pass_time(2)
    assert lazy.error(call, DeadlineExceededError).message == "the deadline passed before the model was loaded"
    assert lazy.is_waiting(later)
    assert holding(lazy) == (1, 1)
    lazy.up()
    assert lazy.state() == "READY"
    assert lazy.sent(later).remaining_s == 1


def test_a_held_call_may_be_cancelled_and_the_load_goes_on(lazy):
    call, other = lazy.call(), lazy.call()
    lazy.feed(ev.CallCancelled(call))
    assert isinstance(lazy.error(call), CancelledError)
    assert lazy.effects_of(fx.ForwardCancel) == []
    lazy.up()
    assert [effect.payload.caller for effect in lazy.effects_of(fx.ForwardCall)] == [other]


def test_a_client_that_vanishes_takes_its_held_calls_with_it(lazy):
    lazy.call(timeout_s=5)
    stays = lazy.call(client=BOB)
    lazy.feed(ev.ClientVanished(ALICE))
    assert holding(lazy) == (1, 1)
    lazy.up()
    assert [effect.payload.caller for effect in lazy.effects_of(fx.ForwardCall)] == [stays]
    assert lazy.core.next_deadline() is None


def test_c18_an_unload_during_the_load_aborts_the_held_calls(lazy):
    call = lazy.call()
    lazy.found()
    unload = lazy.unload()
    assert lazy.error(call, AbortedError).message == "the load of model 'm' was overtaken: unload requested"
    later = lazy.call()
    lazy.gone()
    assert lazy.answer(unload).processes == 1
    lazy.up()
    assert lazy.sent(later).payload.caller == later


def test_more_calls_than_may_be_in_flight_are_not_held(lazy):
    for _ in range(CONFIG.max_in_flight):
        assert lazy.is_waiting(lazy.call())
    error = lazy.error(lazy.call(), ResourceExhaustedError)
    assert error.message == (
        "model 'm' has 4 calls that wait for it to be loaded, 4 of this client; a client may have 4 "
        "(workers.max_in_flight), and fewer if others call too: call more slowly"
    )
    assert lazy.is_waiting(lazy.call("other"))


def test_held_calls_count_against_the_bytes_in_flight(lazy):
    lazy.call(size_bytes=60)
    error = lazy.error(lazy.call("other", size_bytes=40, client=BOB), ResourceExhaustedError)
    assert error.message.startswith("calls in flight hold 60 bytes, 0 of this client; 40 more are over the limit of 99")
    lazy.finds.reverse()
    lazy.up("m")
    assert isinstance(lazy.error(lazy.call(size_bytes=40, client=BOB)), ResourceExhaustedError)
    assert lazy.is_waiting(lazy.call(size_bytes=39, client=BOB))


def test_all_that_was_held_fits_in_flight_when_it_is_released(lazy):
    calls = [lazy.call(size_bytes=size) for size in (24, 24, 17, 1)]
    calls.append(lazy.call(size_bytes=16, client=BOB))
    lazy.call("other", size_bytes=17, client=CAROL)
    assert holding(lazy) == (6, 99)
    lazy.up("m")
    assert [effect.payload.caller for effect in lazy.effects_of(fx.ForwardCall)] == calls


def test_a_call_of_a_method_that_turns_out_to_be_missing_is_refused_when_the_model_is_loaded(lazy):
    call, good = lazy.call(method="predikt"), lazy.call()
    lazy.up()
    assert isinstance(lazy.error(call), UnimplementedError)
    assert lazy.sent(good)


def test_a_request_id_of_a_held_call_may_not_be_used_again(lazy):
    call = lazy.call()
    lazy.call(request_id=call.request_id)
    first = lazy.answers[call]
    assert [type(answer) for answer in first] == [InvalidArgumentError]
    assert lazy.is_waiting(call)
    lazy.up()
    lazy.answered(lazy.sent(call))
    assert lazy.answers[call][1:] == ["done"]


def test_a_call_after_its_deadline_begins_no_load(lazy):
    assert isinstance(lazy.error(lazy.call(timeout_s=0)), DeadlineExceededError)
    assert lazy.finds == []


def test_credit_for_a_held_call_is_nothing_nor_is_what_feeds_it(lazy):
    call = lazy.call(method="generate")
    assert lazy.feed(ev.CreditGranted(call, 3)) == []
    assert lazy.feed(ev.FeedReceived(call, lazy.open)) == []


def test_calls_of_several_models_are_held_apart(lazy):
    first, second = lazy.call("a"), lazy.call("b")
    lazy.up("b")
    assert [effect.payload.caller for effect in lazy.effects_of(fx.ForwardCall)] == [second]
    assert lazy.is_waiting(first)
    assert repr(lazy.router.pending) == "<PendingCalls 1 calls of 1 models>"
