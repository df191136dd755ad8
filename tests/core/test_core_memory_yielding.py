"""Models in use that yield for others, and models that grow: nobody waits for ever, and nobody is cut off."""

from __future__ import annotations

import pytest
from driver import BOB, SPEC
from memory_driver import KEPT, is_refused

from hostd.core import effects as fx
from hostd.core.memory.admission import IDLE_LOOK_S
from hostd_workers.wire.errors import FailedPreconditionError, NotFoundError


def is_yielding(host, model_id: str = "a") -> bool:
    return host.registry.models[model_id].is_yielding


@pytest.fixture
def asked(tight):
    """A host with a model `a` in use that was asked to yield for `m`; the call is in `tight.first`."""
    tight.ready("a", 8000)
    tight.first = tight.busy("a")
    tight.waiter = tight.predicted_load("m", 6000)
    tight.pass_time(1)
    assert is_yielding(tight)
    return tight


def test_a_model_in_use_yields_after_the_patience_of_the_load_and_its_own_residence(tight):
    tight.in_use("a", 8000)
    tight.pass_time(0.5)
    tight.predicted_load("m", 6000)
    tight.pass_time(0.9)
    assert not is_yielding(tight)
    assert tight.sent(tight.call("a")), "it serves until then"
    tight.pass_time(0.1)
    assert is_yielding(tight)


def test_new_calls_of_a_model_that_yields_wait_and_are_served_by_its_next_load(asked):
    held = [asked.call("a", client=BOB), asked.call("a")]
    assert all(map(asked.is_waiting, held))
    assert asked.effects_of(fx.ForwardCall) == []
    asked.end_call(asked.first)
    assert asked.answer(asked.first) == "done"
    assert asked.evicted() == ["a"]
    asked.gone(asked.worker_of("a"))
    asked.comes_up("m", 6000)
    assert asked.answer(asked.waiter).state == "READY"
    asked.found()
    asked.predicted(8000)
    assert asked.queries.memory().waiting == ("a",)
    asked.pass_time(1)
    assert asked.evicted() == ["m"]
    asked.gone(asked.worker_of("m"))
    asked.comes_up("a", 8000)
    for call in held:
        asked.end_call(call)
        assert asked.answer(call) == "done"


def test_a_model_that_yields_answers_a_retrieve(asked):
    assert asked.answer(asked.retrieve("a")).state == "READY"


@pytest.mark.parametrize("ends", ["unload", "timeout", "room", "pin"])
def test_calls_are_let_go_again_when_the_load_in_line_goes(asked, ends):
    held = asked.call("a")
    if ends == "unload":
        asked.unload("m")
    elif ends == "timeout":
        asked.pass_time(60)
        assert is_refused(asked.error(asked.waiter))
    elif ends == "room":
        asked.sampled(3000, asked.worker_of("a"))
        assert asked.state("m") == "LOADING"
    else:
        asked.pin("a")
        assert is_refused(asked.error(asked.waiter))
    assert not is_yielding(asked)
    asked.end_call(held)
    assert asked.answer(held) == "done"
    assert asked.state("a") == "READY"


def test_a_commit_of_a_deploy_lets_the_calls_of_the_model_go_that_yields(asked):
    asked.deploy("a", replace=True)
    asked.done()
    held = asked.call("a")
    asked.commit()
    assert asked.sent(held)
    assert not is_yielding(asked)


@pytest.mark.parametrize("is_lazy", [False, True])
def test_a_crash_of_a_model_that_yields_ends_or_moves_the_calls_that_wait(tight, lazy_tight, is_lazy):
    host = lazy_tight if is_lazy else tight
    host.in_use("a", 8000)
    host.predicted_load("m", 6000)
    host.pass_time(1)
    held = host.call("a")
    host.exited(worker=host.worker_of("a"))
    if is_lazy:
        assert host.is_waiting(held)
        assert host.finds[-1].model_id == "a"
    else:
        assert isinstance(host.error(held), FailedPreconditionError)


@pytest.mark.parametrize("is_lazy", [False, True])
def test_an_unload_of_a_model_that_yields(tight, lazy_tight, is_lazy):
    host = lazy_tight if is_lazy else tight
    first = host.in_use("a", 8000)
    host.predicted_load("m", 6000)
    host.pass_time(1)
    held = host.call("a")
    unload = host.unload("a", client=BOB)
    host.end_call(first)
    host.gone(host.worker_of("a"))
    assert host.answer(unload).processes == 1
    if is_lazy:
        assert host.is_waiting(held)
    else:
        assert isinstance(host.error(held), NotFoundError)


def test_a_call_that_does_not_end_holds_others_up_only_for_so_long(asked):
    """What is next in line would keep the model yielding for ever, and its new calls waiting."""
    held = asked.call("a")
    asked.pass_time(30)
    asked.predicted_load("n", 6000)
    asked.pass_time(29.9)
    assert is_yielding(asked)
    assert asked.is_waiting(held)
    assert asked.queries.memory().waiting == ("n",), "the first was refused"
    asked.pass_time(0.1)
    assert not is_yielding(asked)
    asked.end_call(held)
    asked.pass_time(10)
    asked.end_call(asked.busy("a"))
    asked.predicted_load("o", 6000)
    asked.pass_time(49)
    assert not is_yielding(asked)
    asked.pass_time(1.5)
    assert is_yielding(asked), "it is asked again"


def test_as_many_models_in_use_yield_as_are_needed(tight):
    for model_id, bytes in (("a", 3000), ("b", 3000), ("c", 3000)):
        tight.ready(model_id, bytes)
        tight.pass_time(1)
    for model_id in "abc":
        tight.busy(model_id)
        tight.pass_time(1)
    tight.predicted_load("m", 6000)
    tight.pass_time(1)
    assert [is_yielding(tight, model_id) for model_id in "abc"] == [True, True, False]


def test_a_load_does_not_disturb_models_in_use_while_they_would_not_suffice(tight):
    tight.ready("a", 4000)
    tight.predicted_load("b", 5000)
    tight.pass_time(2)
    tight.busy("a")
    tight.predicted_load("m", 8000)
    tight.pass_time(5)
    assert not is_yielding(tight)
    tight.comes_up("b", 5000)
    tight.pass_time(1)
    assert is_yielding(tight)


# Growth


def test_growth_over_the_budget_has_others_evicted(tight):
    for model_id in "abc":
        tight.ready(model_id, 3000)
        tight.pass_time(2)
    tight.sampled(4000, tight.worker_of("c"))
    assert tight.evicted() == []
    tight.sampled(5000, tight.worker_of("c"))
    assert tight.evicted() == ["a"]
    assert "because model 'c' has grown" in tight.model("a").reason
    assert tight.queries.memory().over_budget is None
    tight.gone(tight.worker_of("a"))
    assert tight.queries.memory().evictions == {"GROWTH": 1}
    assert tight.queries.memory().free_bytes == 2000


def test_growth_that_nothing_can_yield_for_names_the_grower(tight):
    tight.ready("a", 4000, spec=KEPT)
    tight.ready("b", 4000, spec=KEPT)
    tight.sampled(9000, tight.worker_of("b"))
    over = tight.queries.memory().over_budget
    assert over == (
        "models hold 2.9 KiB more than the budget of 9.8 KiB; model 'b' has grown most, by 4.9 KiB since it was loaded"
    )
    told = tight.queries.story("b")[-1]
    assert (told.cause, told.reason) == ("GROWN", over)
    tight.sampled(9500, tight.worker_of("b"))
    assert [event.cause for event in tight.queries.story("b")].count("GROWN") == 1
    assert is_refused(tight.error(tight.predicted_load("m", 100)))
    tight.sampled(5000, tight.worker_of("b"))
    assert tight.queries.memory().over_budget is None


def test_growth_waits_for_models_that_were_loaded_just_now(tight):
    tight.ready("a", 4000, spec=KEPT)
    tight.ready("b", 4000)
    tight.sampled(9000, tight.worker_of("a"))
    assert tight.evicted() == []
    tight.pass_time(1)
    assert tight.evicted() == ["b"]


def test_models_in_use_yield_for_growth_after_their_residence(tight):
    call = tight.in_use("a", 4000)
    tight.sampled(11_000, tight.worker_of("a"))
    assert not is_yielding(tight)
    tight.pass_time(1)
    assert is_yielding(tight)
    held = tight.call("a", client=BOB)
    tight.end_call(call)
    assert tight.evicted() == ["a"]
    tight.gone()
    tight.come_back("a")
    tight.end_call(held)


def test_an_endless_call_of_a_model_that_has_grown_holds_others_up_only_for_so_long(tight):
    tight.in_use("a", 4000)
    tight.pass_time(2)
    tight.sampled(11_000, tight.worker_of("a"))
    held = tight.call("a", client=BOB)
    tight.pass_time(59.9)
    assert tight.is_waiting(held)
    tight.pass_time(0.1)
    tight.end_call(held)
    assert tight.sent(tight.call("a"))
    tight.oversleep(500)
    assert is_yielding(tight)
    tight.oversleep(500)
    assert is_yielding(tight), "asked anew, after it was asked for longer than that"


def test_a_load_in_line_waits_until_growth_has_its_room(tight):
    tight.ready("a", 4000)
    tight.ready("b", 4000, spec=KEPT)
    tight.pass_time(2)
    tight.sampled(7000, tight.worker_of("b"))
    assert tight.evicted() == ["a"]
    tight.predicted_load("m", 2000)
    assert tight.queries.memory().waiting == ("m",)
    tight.gone(tight.worker_of("a"))
    assert tight.queries.memory().waiting == ()


def test_memory_adds_up_over_generations(tight):
    tight.ready("a", 4000)
    tight.exited()
    tight.predicted_load("a", 4000, SPEC)
    memory = tight.queries.memory()
    assert (memory.measured_bytes, memory.reserved_bytes, memory.free_bytes) == (4000, 4000, 2000)


def test_what_comes_free_by_itself_is_looked_at_soon_and_not_at_every_call(tight, monkeypatch):
    """A look costs with every model; calls of others must not pay for a load that waits."""
    tight.ready("a", 2000)
    tight.ready("b", 7000)
    tight.pass_time(60)
    long = tight.busy("b")
    tight.predicted_load("m", 6000)
    decided = []
    decide = tight.planning.decide
    monkeypatch.setattr(tight.planning, "decide", lambda *need: decided.append(need) or decide(*need))
    for _ in range(500):
        tight.end_call(tight.busy("a"))
        tight.pass_time(0.0001)
    assert len(decided) <= 2 * (0.05 / IDLE_LOOK_S + 1)
    tight.pass_time(IDLE_LOOK_S)
    tight.end_call(tight.busy("a"))
    tight.end_call(long)
    assert tight.evicted() == []
    tight.pass_time(IDLE_LOOK_S)
    assert tight.evicted() == ["b"]


def test_a_model_that_is_called_again_and_again_is_seen_in_its_first_pause(tight):
    tight.ready("a", 8000)
    tight.pass_time(60)
    call = tight.busy("a")
    tight.predicted_load("m", 6000)
    tight.now += IDLE_LOOK_S / 10
    tight.end_call(call)
    assert tight.evicted() == ["a"]


def test_what_was_asked_to_yield_goes_with_its_last_call(asked):
    asked.now += IDLE_LOOK_S / 10
    asked.end_call(asked.first)
    assert asked.evicted() == ["a"]
