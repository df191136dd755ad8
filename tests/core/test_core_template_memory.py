"""Templates and the budget: what they hold, when they go, and what forked workers are charged with."""

from __future__ import annotations

import dataclasses

import pytest
from driver import memory_of
from template_driver import AUTO, SKLEARN, TemplateDriver, failed
from world_of_templates import modules_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.bookkeeping.templates import Base, Kind, Learned
from hostd_workers.wire.errors import FailedPreconditionError

LIB = modules_of("lib")


@pytest.fixture
def host():
    return TemplateDriver()


def test_the_baseline_of_a_forked_worker_is_not_noted(host):
    order = host.order("m")
    host.warm(1)
    host.forked(order)
    host.feed(ev.BaselineMeasured(order.worker_id, 77))
    assert host.model("m").workers[0].baseline_bytes is None


def test_the_size_of_a_forked_worker_is_its_charge(taught):
    order = taught.order("m")
    taught.warm(2)
    taught.forked(order)
    taught.ready_by(order, charge_bytes=300)
    assert (taught.model("m").size, taught.model("first").size) == (300, 1000)
    fresh = taught.order("n")
    taught.fresh(fresh)
    taught.ready_by(fresh, charge_bytes=300)
    assert taught.model("n").size == 600


@pytest.fixture
def tight():
    return TemplateDriver(dataclasses.replace(AUTO, budget_bytes=10_000))


def predicted(host, model_id, need_bytes, spec=SKLEARN):
    """Have a model found that needs so much."""
    host.load(model_id)
    host.found(spec)
    wanted = host.predictions.pop()
    host.feed(ev.SizePredicted(wanted.model_id, wanted.generation, ev.Prediction(need_bytes, "remembered")))
    return wanted


def test_what_templates_hold_counts_against_the_budget(tight):
    wanted = predicted(tight, "m", 1000)
    assert wanted.is_forked
    order = tight.spawn_order()
    tight.warm(1)
    tight.forked(order)
    tight.ready_by(order)
    memory = tight.queries.memory()
    assert (memory.measured_bytes, memory.templates_bytes, memory.free_bytes) == (1000, 2000, 7000)


def test_a_load_that_leaves_no_room_for_a_template_starts_afresh(tight):
    tight.feed(ev.ImportsRecalled(((Kind(Base(), "sklearn"), Learned(LIB, 1, 1.0, held_bytes=2000)),)))
    predicted(tight, "m", 9000)
    assert tight.spawn_order().origination.why_fresh == "there is no template for it"


def test_a_template_without_workers_goes_before_any_model(tight):
    predicted(tight, "m", 1000)
    order = tight.spawn_order()
    tight.warm(1)
    tight.fresh(order)
    tight.ready_by(order)
    tight.pass_time(2)
    predicted(tight, "n", 8000)
    assert tight.ends() == [1]
    assert tight.effects_of(fx.SpawnWorker) == [], "its memory is not free yet"
    tight.over(1)
    assert tight.spawn_order().model_id == "n"
    assert tight.model("m").state == "READY"


def test_models_go_with_their_template_where_they_alone_are_not_enough(tight):
    predicted(tight, "m", 1000)
    order = tight.spawn_order()
    tight.warm(1, held_bytes=5000)
    tight.forked(order)
    tight.ready_by(order)
    tight.pass_time(2)
    predicted(tight, "n", 9000)
    assert tight.killed() == [order.worker_id]
    tight.gone(order.worker_id)
    assert tight.ending == {1}
    tight.over(1)
    assert tight.spawn_order().model_id == "n"


def test_models_that_free_nothing_that_is_needed_stay_when_others_go_with_their_template(tight):
    orders = []
    for number, held_bytes in ((1, 1000), (2, 5000)):
        predicted(tight, f"m{number}", 500, SKLEARN._replace(python=f"/python{number}"))
        orders.append(tight.spawn_order())
        tight.warm(number, held_bytes)
        tight.forked(orders[-1])
        tight.ready_by(orders[-1], charge_bytes=500)
        tight.pass_time(2)
    predicted(tight, "n", 8000)
    assert tight.killed() == [orders[1].worker_id]


def test_a_failed_child_waits_in_line_for_its_fresh_start(tight):
    predicted(tight, "m", 1000)
    order = tight.spawn_order()
    tight.warm(1)
    failed(tight, order, FailedPreconditionError("it has its own", details={"forked": True}))
    again = tight.spawn_order()
    assert (again.model_id, again.origination.template_id) == ("m", None)


def test_no_more_templates_go_than_is_needed_those_of_least_worth_first(tight):
    for number, held_bytes in ((1, 1000), (2, 3000), (3, 1000)):
        predicted(tight, f"m{number}", 500, SKLEARN._replace(python=f"/python{number}"))
        order = tight.spawn_order()
        tight.warm(number, held_bytes)
        tight.fresh(order)
        tight.ready_by(order, charge_bytes=500)
        tight.pass_time(2)
    predicted(tight, "n", 5000)
    assert tight.ends() == [2]


def test_what_was_learned_makes_no_template_without_memory_for_it():
    host = TemplateDriver(dataclasses.replace(AUTO, budget_bytes=10_000, baseline_bytes=4000))
    predicted(host, "m", 5000)
    order = host.spawn_order()
    host.warm(1, held_bytes=1000)
    host.forked(order)
    predicted(host, "n", 1000)
    assert host.spawn_order().origination.template_id == 2
    host.loaded(order.worker_id)
    host.feed(ev.WorkerImported(order.worker_id, LIB))
    assert host.ends() == [2]


def test_the_pages_of_a_dead_template_count_as_long_as_workers_share_them(tight):
    orders = []
    for model_id in ("m", "n"):
        predicted(tight, model_id, 1000)
        orders.append(tight.spawn_order())
        if model_id == "m":
            tight.warm(1)
        tight.forked(orders[-1])
        tight.ready_by(orders[-1])
    tight.over(1)
    assert tight.queries.memory().templates_bytes == 2000
    tight.unload("n")
    tight.gone(orders[1].worker_id)
    assert tight.queries.memory().templates_bytes == 0, "they are the last worker's alone, and measured with it"
    tight.unload("m")
    tight.gone(orders[0].worker_id)
    assert tight.queries.templates().templates == ()


def test_a_limit_does_not_count_what_a_worker_has_inherited_of_a_dead_template(taught):
    limited = SKLEARN._replace(memory=ev.MemoryPolicy(limit_bytes=1500))
    order = taught.order("m", limited)
    taught.warm(2)
    taught.forked(order)
    taught.ready_by(order)
    taught.over(2)
    taught.feed(ev.WorkerMeasured(order.worker_id, memory_of(6000), taught.now))
    assert taught.model("m").state == "READY"
    taught.feed(ev.WorkerMeasured(order.worker_id, memory_of(8000), taught.now))
    assert taught.model("m").state == "FAILED"
