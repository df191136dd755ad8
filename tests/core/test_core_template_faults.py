"""Templates that fail, and loads that fail in their children: what is started afresh, blamed, left out, given up."""

from __future__ import annotations

import pytest
from outside import Stage
from template_driver import TemplateDriver, failed
from world_of_templates import modules_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.templates.choosing import WARM_S
from hostd_workers.wire.errors import InvalidArgumentError, ModelError

LIB = modules_of("lib")


@pytest.fixture
def host():
    return TemplateDriver()


def test_a_load_that_fails_in_a_child_is_started_afresh_at_once_and_is_remembered(taught):
    order = taught.order("m")
    taught.warm(2)
    why = "Cannot re-initialize CUDA in forked subprocess"
    failed(taught, order, ModelError(why))
    again = taught.spawn_order()
    assert again.origination == fx.Origination(None, why)
    assert taught.model("m").state == "LOADING"
    taught.fresh(again, why)
    taught.ready_by(again)
    assert taught.model("m").workers[0].why_fresh == why
    assert taught.queries.templates().fresh == {"/models/m": why}
    taught.unload("m")
    taught.gone(again.worker_id)
    assert taught.order("m").origination.why_fresh == why
    assert taught.order("n").origination.template_id == 2


def test_a_load_that_fails_afresh_too_ends_with_that_error_and_is_nobodys_fault(taught):
    order = taught.order("m")
    taught.warm(2)
    caller = taught.load("m")
    failed(taught, order, ModelError("gRPC: not fork-safe"))
    again = taught.spawn_order()
    taught.fresh(again)
    taught.not_loaded(ModelError("as it is"), again.worker_id)
    taught.gone(again.worker_id)
    assert taught.error(caller, ModelError).message == "as it is"
    assert taught.queries.templates().fresh == {}


@pytest.mark.parametrize(
    "error", [InvalidArgumentError("no such option"), ModelError("no such weights: /models/forklift")]
)
def test_what_would_fail_in_a_fresh_worker_too_is_not_tried_afresh(taught, error):
    order = taught.order("m")
    taught.warm(2)
    failed(taught, order, error)
    assert taught.effects_of(fx.SpawnWorker) == []


def test_what_ends_of_its_own_will_is_not_started_afresh(taught):
    order = taught.order("m")
    taught.warm(2)
    taught.forked(order)
    taught.said_last_words(ModelError("SystemExit: 3"), order.worker_id)
    taught.exited(worker=order.worker_id)
    taught.gone(order.worker_id)
    assert taught.effects_of(fx.SpawnWorker) == []


def test_what_hangs_in_a_child_is_started_afresh(taught):
    order = taught.order("m")
    taught.warm(2)
    taught.forked(order)
    taught.pass_time(600)
    taught.gone(order.worker_id)
    assert taught.spawn_order().origination.template_id is None


def test_a_child_that_dies_is_started_afresh_but_not_for_its_memory(taught):
    order = taught.order("m")
    taught.warm(2)
    taught.forked(order)
    taught.exited(worker=order.worker_id)
    taught.gone(order.worker_id)
    assert taught.spawn_order().origination.template_id is None
    order = taught.order("n")
    taught.forked(order)
    taught.processes[order.worker_id].stage = Stage.ENDED
    taught.feed(ev.WorkerExited(order.worker_id, "killed by SIGKILL", ev.Death.OUT_OF_MEMORY))
    taught.gone(order.worker_id)
    assert taught.effects_of(fx.SpawnWorker) == []


def test_a_package_that_makes_a_template_unfit_is_left_out_and_the_others_stay(host):
    host.learn("good", "bad", "lib")
    host.order("m")
    assert host.started_templates()[0][1] == modules_of("good", "bad", "lib")
    host.over(2, "it starts a thread", "bad.m1")
    assert host.started_templates() == [(3, modules_of("good", "lib"))]
    assert host.queries.templates().left_out == {"bad": "it starts a thread"}
    host.warm(3)
    assert host.order("n").origination.template_id == 3


def test_a_template_that_hangs_in_an_import_is_ended_and_what_it_imported_is_blamed(taught):
    taught.order("m")
    taught.pass_time(WARM_S)
    (effect,) = taught.effects_of(fx.EndTemplate)
    assert (effect.template_id, effect.is_hanging) == (2, True)
    taught.over(2, effect.reason, "lib.m1")
    assert taught.queries.templates().left_out == {"lib": "its imports took more than 20 s"}


def test_what_never_becomes_a_template_is_given_up(taught):
    for number in range(2, 10):
        assert taught.order(f"m{number}").origination.template_id == number
        taught.over(number, "it ended")
    assert taught.order("m").origination == fx.Origination(None, "there is no template for it")


def test_a_template_that_ends_by_itself_is_started_when_it_is_wanted(taught):
    taught.order("m")
    taught.warm(2)
    taught.over(2)
    assert taught.started_templates() == []
    assert taught.order("n").origination.template_id == 3


def test_a_content_that_has_died_once_may_have_had_an_accident(taught):
    for count in (1, 2):
        order = taught.order("m")
        assert order.origination.template_id == 2
        if count == 1:
            taught.warm(2)
        taught.forked(order)
        taught.exited(worker=order.worker_id)
        taught.gone(order.worker_id)
        again = taught.spawn_order()
        taught.fresh(again)
        taught.ready_by(again)
        assert len(taught.queries.templates().fresh) == count - 1
        taught.unload("m")
        taught.gone(again.worker_id)
    assert taught.order("m").origination.template_id is None


def test_what_was_left_out_is_tried_again_after_an_installation(taught):
    taught.order("m")
    taught.over(2, "it starts a thread", "lib")
    assert taught.queries.templates().left_out
    taught.feed(ev.TemplateEnded(1, "a library was installed anew", "", True))
    taught.templates[1] = Stage.GONE
    assert taught.queries.templates().left_out == {}


def test_a_template_that_never_makes_a_worker_is_given_up(taught):
    for number in range(2, 10):
        order = taught.order(f"m{number}")
        assert order.origination.template_id == number
        taught.warm(number)
        taught.fresh(order, "its template did not fork")
        taught.over(number)
    assert taught.order("m").origination.template_id is None
