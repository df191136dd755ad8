"""Templates: what loads are forked from, what is learned from them, and which templates there are."""

from __future__ import annotations

import dataclasses

import pytest
from driver import SPEC, memory_of
from outside import Stage
from template_driver import AUTO, SKLEARN, TemplateDriver
from world_of_templates import modules_of

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.bookkeeping.templates import Base, Kind, Learned
from hostd.core.templates.choosing import HOLD_S, IDLE_S, MOST
from hostd_workers.wire.errors import InvalidArgumentError

LIB = modules_of("lib")


@pytest.fixture
def host():
    return TemplateDriver()


# What a load is forked from


def test_the_first_load_is_forked_from_the_bare_template_for_which_it_waits(host):
    order = host.order("m")
    assert host.started_templates() == [(1, ())]
    assert order.origination == fx.Origination(1, wait_s=HOLD_S)
    again = host.order("n", SPEC)
    assert (host.started_templates(), again.origination.template_id) == ([], 1)


def test_what_a_load_has_imported_is_in_the_template_of_the_next_ones(taught):
    order = taught.order("m")
    assert taught.started_templates() == [(2, LIB)]
    assert order.origination.template_id == 2
    taught.warm(2)
    taught.forked(order)
    taught.ready_by(order)
    info = taught.queries.templates()
    assert [(t.libraries, t.forks, t.workers, t.held_bytes) for t in info.templates] == [
        ((), 1, 1, 2000),
        (("lib",), 1, 1, 2000),
    ]
    assert taught.model("m").workers[0].template == 2
    assert taught.order("n").origination.template_id == 2


@pytest.mark.parametrize("is_early", [False, True])
def test_a_forked_worker_is_told_that_it_is_also_when_its_hello_comes_before_its_process_is_known(host, is_early):
    order = host.order("m")
    host.warm(1)
    if is_early:
        host.greeted(order.worker_id)
        host.spawned_from(order)
    else:
        host.forked(order)
    assert [effect.is_forked for effect in host.effects_of(fx.SendLoad)] == [True]


def test_few_modules_are_not_worth_a_template(host):
    order = host.order("m")
    host.warm(1)
    host.forked(order)
    host.loaded()
    host.feed(ev.WorkerImported(order.worker_id, ("small",)))
    host.measured(memory=memory_of(1000))
    assert host.order("n").origination.template_id == 1


@pytest.mark.parametrize("how", ["env", "python", "loader", "initializer"])
def test_loads_that_may_import_otherwise_have_templates_of_their_own(taught, how):
    other = {
        "env": SKLEARN._replace(env={"OMP_NUM_THREADS": "4"}),
        "python": SKLEARN._replace(python="/other/python"),
        "loader": SKLEARN._replace(loader="onnx"),
        "initializer": SKLEARN._replace(initializer=("own:make", {})),
    }[how]
    order = taught.order("m", other)
    started = taught.effects_of(fx.StartTemplate)
    if how == "env":
        assert order.origination.template_id is None, "the bare one would save nobody anything"
        taught.fresh(order)
        taught.ready_by(order, "lib")
        order = taught.order("n", other)
        started = taught.effects_of(fx.StartTemplate)
        assert started == [fx.StartTemplate(2, Base(None, (("OMP_NUM_THREADS", "4"),)), LIB)]
    elif how == "python":
        assert started == [fx.StartTemplate(2, Base("/other/python"), ())]
    assert order.origination.template_id == (2 if started else 1)


def test_models_with_code_of_their_own_are_alike_if_they_import_alike(host):
    host.learn("lib", spec=SPEC, model_id="a")
    host.learn("lib", spec=SPEC, model_id="b")
    order = host.order("a2", SPEC)
    assert order.origination.template_id == 1, "another path, of which nothing is known"
    host.unload("a")
    host.gone(host.worker_of("a")) if hasattr(host, "worker_of") else host.gone(1)
    again = host.order("a", SPEC)
    assert host.started_templates() == [(2, LIB)]
    assert again.origination.template_id == 2
    host.warm(2)
    host.unload("b")
    host.gone(2)
    assert host.order("b", SPEC).origination.template_id == 2


def test_isolated_models_and_hosts_without_templates_start_afresh(taught):
    order = taught.order("m", SKLEARN._replace(is_isolated=True))
    assert order.origination == fx.Origination(None, "isolation: fresh")
    off = TemplateDriver(dataclasses.replace(AUTO, templates="off"))
    assert off.order("m").origination == fx.Origination()
    assert off.queries.templates().templates == ()


def test_a_list_of_modules_is_one_template_of_each_interpreter(host):
    host = TemplateDriver(dataclasses.replace(AUTO, templates=("lib", "other")))
    assert host.order("m").origination.template_id == 1
    assert host.started_templates() == [(1, ("lib", "other"))]
    assert host.order("n", SPEC).origination.template_id == 1
    host.order("o", SPEC._replace(python="/other"))
    assert host.started_templates() == [(2, ("lib", "other"))]


# While nothing is known


def test_others_of_a_kind_wait_for_what_the_first_shows(host):
    first = host.order("m")
    host.warm(1)
    host.forked(first)
    second, third = host.order("n"), host.order("o")
    assert second.origination.template_id == third.origination.template_id == 2
    assert host.started_templates() == []
    assert [t.state for t in host.queries.templates().templates] == ["READY", "LEARNING"]
    host.loaded(first.worker_id)
    host.feed(ev.WorkerImported(first.worker_id, LIB))
    assert host.started_templates() == [(2, LIB)]


def test_they_do_not_wait_for_one_that_fails_or_takes_long(host):
    first = host.order("m", SKLEARN)
    host.warm(1)
    host.forked(first)
    host.order("n")
    host.not_loaded(InvalidArgumentError("wrong"), first.worker_id)
    host.gone(first.worker_id)
    assert host.ends() == [2]
    host.over(2)
    late = host.order("o")
    assert late.origination.template_id == 3, "the second is learned from"
    host.pass_time(HOLD_S)
    assert host.ends() == [3]


# Libraries


def test_no_load_waits_for_longer_than_it_would_take_itself(taught):
    assert taught.order("m").origination.wait_s == pytest.approx(HOLD_S)
    taught.pass_time(HOLD_S + 1)
    assert taught.order("n").origination.wait_s == 0


def test_what_loads_lack_comes_with_another_template_in_its_place(taught):
    for model_id in ("m", "n"):
        order = taught.order(model_id)
        if model_id == "m":
            taught.warm(2)
        taught.forked(order)
        taught.ready_by(order, "more")
    order = taught.order("o")
    assert order.origination.template_id == 2, "it does not wait for the new one"
    assert taught.started_templates() == [(3, modules_of("lib", "more"))]
    taught.warm(3)
    assert taught.ends() == []
    assert [t.state for t in taught.queries.templates().templates] == ["READY", "RETIRED", "READY"]
    assert taught.order("p").origination.template_id == 3
    for model_id, worker in (("m", 2), ("n", 3)):
        assert taught.ends() == []
        taught.unload(model_id)
        taught.gone(worker)
    assert taught.ends() == [2], "nobody needs it any more"


# Which templates there are


def test_what_is_learned_is_kept_for_later_hosts(taught):
    order = taught.order("m")
    taught.warm(2)
    (effect,) = taught.effects_of(fx.RememberImports)
    assert effect.learned.held_bytes == 2000
    assert taught.imports[0] is not None
    taught.forked(order)
    taught.loaded()
    taught.feed(ev.WorkerImported(order.worker_id, ()))
    (effect,) = taught.effects_of(fx.RememberImports)
    assert (effect.kind, effect.learned.modules, effect.learned.loads) == (Kind(Base(), "sklearn"), LIB, 2)


def test_what_was_usual_is_warmed_and_what_was_not_is_known(host):
    seldom, usual = Kind(Base(), "onnx"), Kind(Base(), "sklearn")
    host.feed(ev.ImportsRecalled(((seldom, Learned(LIB, 1, 9.0)), (usual, Learned(LIB, 5, 1.0))), usual))
    assert host.started_templates() == [(1, LIB)]
    assert host.order("m").origination.template_id == 1
    assert host.order("n", SKLEARN._replace(loader="onnx")).origination.template_id == 1, "it imports the same"


def test_the_bare_one_that_was_started_with_the_host_is_taken_note_of_once(host):
    host.feed(ev.ImportsRecalled((), is_bare_begun=True))
    (start,) = host.effects_of(fx.StartTemplate)
    assert (start.base, start.modules) == (Base(), ())
    host.load("m")
    host.found(SKLEARN)
    assert host.spawn_order().origination.template_id == start.template_id
    host.feed(ev.ImportsRecalled((), is_bare_begun=True))
    assert host.effects_of(fx.StartTemplate) == []


def test_a_template_that_nobody_needs_ends_after_a_while(taught):
    taught.unload("first")
    taught.gone()
    taught.pass_time(IDLE_S - 1)
    assert taught.ends() == []
    taught.pass_time(2)
    assert taught.ending == {1}


def test_a_template_with_living_workers_stays(taught):
    taught.pass_time(3 * IDLE_S)
    assert not taught.ending


def test_there_are_only_so_many_and_the_least_worth_go(host):
    for number in range(MOST + 1):
        order = host.order(f"m{number}", SKLEARN._replace(python=f"/python{number}"))
        host.warm(order.origination.template_id)
        if number > 0:
            host.forked(order)
            host.ready_by(order)
        else:
            host.fresh(order)
            host.ready_by(order)
    assert host.ending == {1}, "the others have workers"


def test_all_end_before_the_host_does(taught):
    taught.order("m")
    taught.feed(ev.ShutdownRequested(None))
    assert taught.ending == {1, 2}
    for process in list(taught.processes.values()):
        if process.stage is Stage.ORDERED:
            taught.spawned(process.id)
        taught.gone(process.id)
    taught.over(1)
    assert not taught.has_stopped
    taught.over(2)
    assert taught.has_stopped


# What comes late


def test_what_comes_of_a_template_that_is_gone_changes_nothing(taught):
    taught.feed(ev.TemplateReady(99, 1, 1.0, 1000))
    taught.feed(ev.TemplateEnded(99, "late"))
    taught.feed(ev.WorkerImported(99, LIB))
    assert len(taught.queries.templates().templates) == 1
    taught.order("m")
    taught.feed(ev.ShutdownRequested(None))
    taught.feed(ev.TemplateReady(2, 1, 1.0, 1000))
    assert [t.state for t in taught.queries.templates().templates] == ["ENDING", "ENDING"]
    taught.feed(ev.ShutdownRequested(None))
    assert taught.ends() == []


def test_what_a_worker_says_of_imports_counts_once_and_only_of_its_load(taught):
    order = taught.order("m")
    taught.warm(2)
    taught.feed(ev.WorkerImported(order.worker_id, modules_of("early")))
    taught.forked(order)
    taught.feed(ev.WorkerImported(order.worker_id, ("good", "a-b", "c.__main__", "x" * 300)))
    taught.loaded(order.worker_id)
    taught.feed(ev.WorkerImported(order.worker_id, modules_of("again")))
    assert taught.imports[-1].learned.modules == (*LIB, "good")
