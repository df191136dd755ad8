"""Records and stories: what the core tells of its models, now and afterwards."""

from __future__ import annotations

import json

import pytest
from driver import ALICE, METHODS, Driver, memory_of, source_of

from hostd.core import events as ev
from hostd.core.config import CoreConfig
from hostd.core.machine import Core
from hostd.records import ModelInfo, WorkerInfo
from hostd_workers.wire.errors import NotFoundError

WALL_S = 1_700_000_000.0


@pytest.fixture
def host() -> Driver:
    """A host with a clock that shows 1000 when it is WALL_S + 1000 since the epoch."""
    return Driver(wall_offset_s=WALL_S)


def test_a_model_that_loads_is_described_without_inventing_anything(host):
    host.load("m", source_of("/models/m", "special"))
    assert host.model() == ModelInfo(
        id="m", state="LOADING", path="/models/m", type="special", generation=1, created_s=WALL_S + 1000
    )


def test_a_ready_model_is_described_in_wall_clock_time(host):
    host.load()
    host.pass_time(1)
    host.found()
    host.started()
    host.pass_time(2)
    host.loaded()
    host.measured(memory=ev.Memory(processes=2, rss_bytes=400, uss_bytes=300, pss_bytes=350, peak_bytes=500))
    host.pass_time(4)
    host.call()
    worker = WorkerInfo(
        id=1,
        pid=5001,
        state="READY",
        processes=2,
        rss_bytes=400,
        uss_bytes=300,
        pss_bytes=350,
        peak_bytes=500,
        in_flight=1,
        sampled_s=WALL_S + 1003,
        started_s=WALL_S + 1001,
    )
    expected = ModelInfo(
        id="m",
        state="READY",
        path="/models/m",
        type="standalone-model",
        loader="python",
        generation=1,
        size=400,
        size_source="measured",
        methods=METHODS,
        default_method="predict",
        workers=(worker,),
        calls=1,
        errors=0,
        created_s=WALL_S + 1000,
        ready_s=WALL_S + 1003,
        load_duration_s=3,
        last_used_s=WALL_S + 1007,
        reason="loaded in 3.000 s",
        charge_bytes=300,
        cpu_threads=1,
    )
    assert host.model() == expected
    assert ModelInfo.from_dict(json.loads(json.dumps(expected.to_dict()))) == expected


def test_a_worker_that_was_not_measured_is_described_with_unknowns(host):
    host.up_to("SPAWNING")
    (worker,) = host.model().workers
    assert worker == WorkerInfo(id=1, pid=None, state="SPAWNING", started_s=WALL_S + 1000)


def test_a_sample_replaces_the_one_before_and_one_that_failed_does_not(host):
    host.up_to("READY")
    host.measured(memory=memory_of(2000))
    host.measured(memory=None)
    assert host.model().size == 2000
    assert host.model().workers[0].rss_bytes == 2000


def test_a_sample_of_a_tree_that_is_being_killed_is_not_the_size_of_its_model(host):
    host.up_to("READY")
    caller = host.unload()
    host.measured(memory=memory_of(1))
    assert host.model().size == 1000
    assert host.model().workers[0].rss_bytes == 1000
    host.gone()
    assert host.answer(caller).size_bytes == 1000


def test_a_failed_model_has_no_size_since_what_it_took_was_given_back(host):
    host.up_to("READY")
    host.exited()
    host.gone()
    model = host.model()
    assert (model.state, model.size, model.size_source, model.workers) == ("FAILED", None, "unknown", ())


def test_without_an_offset_records_show_the_clock_of_the_core():
    core = Core()
    core.handle(ev.LoadRequested(ev.Caller(ALICE, 1), ev.ModelId("m"), source_of(), wait=True, deadline_s=None), 7.0)
    assert core.queries.get_model("m").created_s == core.queries.story("m")[0].time_s == 7.0


def test_models_are_listed_by_id(host):
    for name in ("b", "a/b", "c", "a"):
        host.load(name)
    assert [model.id for model in host.queries.list_models()] == ["a", "a/b", "b", "c"]


def test_a_list_that_is_read_step_by_step_shows_each_model_as_it_is_then(host):
    for name in ("a", "b", "c"):
        host.load(name)
    assert sorted(host.queries.loaded()) == [(name, number, f"/models/{name}") for number, name in enumerate("abc", 1)]
    models = host.queries.each_model()
    assert next(models).id == "a"
    host.unload("b")
    host.pin("c")
    assert [(model.id, model.is_pinned) for model in models] == [("c", True)]
    assert host.queries.model_count() == 2


def test_what_nobody_loaded_has_no_record_and_no_story(host):
    assert host.state("nobody") is None
    assert host.queries.story("nobody") == []
    assert host.queries.list_models() == []


def test_workers_are_counted_from_their_order_to_the_proof_of_their_end(host):
    assert host.queries.worker_count() == 0
    host.up_to("SPAWNING")
    assert host.queries.worker_count() == 1
    host.unload()
    assert host.queries.worker_count() == 1
    host.gone()
    assert host.queries.worker_count() == 0


def test_a_worker_is_in_use_while_it_has_calls_and_was_since_its_last_one_ended(host):
    def activity(since_s: float) -> tuple[bool, bool]:
        return host.queries.activity(ev.WorkerId(1), since_s)[:2]

    assert activity(0) == (False, False)
    host.up_to("STARTED")
    assert activity(0) == (False, False)
    host.greeted()
    assert activity(0) == (False, True)
    host.loaded()
    host.measured()
    assert activity(0) == (False, False)
    call = host.call()
    host.pass_time(100)
    assert activity(host.now) == (True, False)
    host.answered(host.sent(call))
    ended_s = host.now
    host.pass_time(1)
    assert activity(ended_s) == (True, False)
    assert activity(host.now) == (False, False)


def test_the_repr_of_a_worker_and_a_model_shows_id_state_pid_and_counts(host):
    host.up_to("READY")
    host.call()
    registry = host.registry
    assert repr(registry.workers[ev.WorkerId(1)]) == "<Worker 1 of m READY pid=5001 calls=1>"
    assert repr(registry.models["m"]) == "<Model m#1 READY workers=[<Worker 1 of m READY pid=5001 calls=1>]>"
    host.load("n")
    assert repr(registry.models["n"].load) == "<Load of n#2 FINDING try=1>"


# Stories

LIFE = [
    ("model", None, "NEW", "LOADING", "LOAD", "load of /models/m requested"),
    ("worker", None, "NEW", "SPAWNING", "SPAWN", "load of /models/m requested"),
    ("worker", 5001, "SPAWNING", "IDLE", "HELLO", "the worker said hello"),
    ("worker", 5001, "IDLE", "LOADING", "ASSIGN", "load /models/m"),
    ("worker", 5001, "LOADING", "READY", "MEASURED", "loaded and measured"),
    ("model", None, "LOADING", "READY", "LOAD_SUCCEEDED", "loaded in 0.000 s"),
    ("model", None, "READY", "UNLOADING", "UNLOAD", "unload requested"),
    ("worker", 5001, "READY", "DRAINING", "DRAIN", "unload requested"),
    ("worker", 5001, "DRAINING", "KILLING", "DRAINED", "the last call in flight has ended"),
    ("worker", 5001, "KILLING", "DEAD", "GONE", "3 processes are gone"),
    ("model", None, "UNLOADING", "UNLOADED", "ALL_GONE", "3 processes are gone"),
]


def test_the_story_of_a_model_tells_every_transition_once_with_cause_and_reason(host):
    host.up_to("READY")
    call = host.call()
    host.unload()
    host.answered(host.sent(call))
    host.exited("killed by SIGKILL")
    host.gone(processes=3)
    story = host.queries.story("m")
    assert [(e.subject, e.pid, e.old, e.new, e.cause, e.reason) for e in story] == LIFE
    assert story == host.announced
    assert {(e.model_id, e.model_type, e.generation) for e in story} == {("m", "standalone-model", 1)}
    assert {e.worker_id for e in story if e.subject == "worker"} == {1}
    assert {e.worker_id for e in story if e.subject == "model"} == {None}
    assert {e.time_s for e in story} == {WALL_S + 1000}


def test_a_story_says_when_and_why_a_model_without_a_path_was_loaded(host):
    host.pass_time(5)
    host.load("m", source_of(None))
    host.found()
    host.started()
    assert host.queries.story("m")[0].time_s == WALL_S + 1005
    assert host.queries.story("m")[0].reason == "load of no path requested"
    assert host.queries.story("m")[-1].reason == "load no path"


def test_the_story_goes_on_over_generations(host):
    host.up_to("READY")
    host.exited()
    host.up_to("READY")
    host.gone(ev.WorkerId(1))
    generations = [event.generation for event in host.queries.story("m")]
    assert generations == [*sorted(generations[:-1]), 1]
    assert set(generations) == {1, 2}


def test_a_story_is_a_copy(host):
    host.load()
    host.queries.story("m").clear()
    assert len(host.queries.story("m")) == 1


def test_a_story_keeps_the_last_transitions_only():
    host = Driver(CoreConfig(story_length=4))
    for _ in range(3):
        host.up_to("READY")
        host.unload()
        host.gone()
    assert [event.new for event in host.queries.story("m")] == ["UNLOADING", "KILLING", "DEAD", "UNLOADED"]


def test_stories_of_models_that_are_gone_are_kept_up_to_a_limit_the_newest_of_them():
    host = Driver(CoreConfig(stories_kept=3))
    host.load("stays")
    for number in range(6):
        host.load(f"m{number}")
        host.not_found(NotFoundError("x"))
    host.load("also stays")
    assert len(host.registry.stories) == 3 + 2
    assert [n for n in range(6) if host.queries.story(f"m{n}")] == [3, 4, 5]
    assert host.queries.story("stays")


def test_the_story_that_goes_first_is_the_one_in_which_nothing_happened_for_longest():
    host = Driver(CoreConfig(stories_kept=2))
    for name in ("a", "b", "a", "c"):
        host.load(name)
        host.not_found(NotFoundError("x"))
    host.load("d")
    assert [name for name in "abc" if host.queries.story(name)] == ["a", "c"]


def test_the_story_of_a_model_that_is_there_is_never_dropped():
    host = Driver(CoreConfig(stories_kept=0))
    for number in range(5):
        host.load(f"m{number}", wait=False)
    assert all(host.queries.story(f"m{number}") for number in range(5))
    host.unload("m0")
    host.load("m5")
    assert host.queries.story("m0") == []
