"""Labels of models: whose count, what keeps them, and what unloads by them."""

from __future__ import annotations

import pytest
from driver import BOB, LAZY, SPEC, Driver
from memory_driver import MemoryDriver

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.standing import Standing
from hostd.labels import MAX_LABELS, labels_of
from hostd.records import ModelInfo, UnloadReport
from hostd_workers.wire.errors import AlreadyExistsError, InvalidArgumentError, ModelError

A, B = {"team": "a"}, {"team": "b", "tier": "test"}


def ready(host: Driver, model_id: str, labels: dict[str, str] | None) -> None:
    host.load(model_id, labels=labels)
    host.up()


def evicted(host: MemoryDriver, model_id: str, labels: dict[str, str]) -> None:
    host.ready(model_id, 8000)
    host.load(model_id, labels=labels)
    host.pass_time(2)
    host.predicted_load("large", 9000)
    assert host.evicted() == [model_id]
    host.unload("large")
    host.gone(host.worker_of(model_id))
    host.unload_all(team="nobody")


def unloaded(host: Driver, caller: ev.Caller) -> set[str]:
    """Let all workers that are killed go; return the models that the caller was told of."""
    for worker in host.killed():
        host.gone(worker)
    reports = host.answer(caller)
    assert isinstance(reports, list)
    assert all(isinstance(report, UnloadReport) for report in reports)
    return {report.model_id for report in reports}


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"team": "a", "tier": ""},
        {"example.org/team": "A-1_b.c", "a" * 63: "z" * 63},
        {f"{'.'.join(['d' * 62] * 4)}/n": "x"},
        {str(number): "x" for number in range(MAX_LABELS)},
    ],
)
def test_labels_have_the_form_of_those_of_kubernetes(labels):
    assert labels_of(labels) == labels


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "must be a map"),
        ({"team": 1}, "'team': 1"),
        ({1: "a"}, "1: 'a'"),
        ({"": "a"}, "'' cannot be a label: its name must be up to 63 letters"),
        ({"-team": "a"}, "cannot be a label"),
        ({"team.": "a"}, "cannot be a label"),
        ({"te am": "a"}, "cannot be a label"),
        ({"größe": "a"}, "cannot be a label"),
        ({"team\n": "a"}, "cannot be a label"),
        ({"a" * 64: "a"}, "cannot be a label"),
        ({"/team": "a"}, "the name of a domain"),
        ({"Example.org/team": "a"}, "the name of a domain"),
        ({"a..b/team": "a"}, "the name of a domain"),
        ({"a/b/team": "a"}, "the name of a domain"),
        ({f"{'d' * 254}/team": "a"}, "the name of a domain"),
        ({"team": "a b"}, "the label 'team' cannot be 'a b': it must be empty, or up to 63"),
        ({"team": "-a"}, "cannot be"),
        ({"team": "a\n"}, "cannot be"),
        ({"team": "a" * 64}, "cannot be"),
        ({str(number): "x" for number in range(MAX_LABELS + 1)}, "may have 64 labels, and 65 were given"),
    ],
)
def test_what_is_no_label_is_refused_in_words(labels, words):
    with pytest.raises(InvalidArgumentError) as refused:
        labels_of(labels)
    assert words in refused.value.message


def test_a_load_of_the_same_with_other_labels_is_that_load_and_its_labels_count(host):
    first = host.load(labels=A)
    assert host.model().labels == A
    second = host.load(labels=B, client=BOB)
    host.up()
    assert host.answer(first).labels == host.answer(second).labels == B
    assert host.answer(host.load()).labels == B
    assert host.answer(host.load(labels=A)).already_loaded
    assert host.model().labels == A
    assert host.answer(host.load(labels={})).labels == {}
    other = host.load(source=ev.LoadSource("/models/other"), labels=B)
    assert isinstance(host.error(other), AlreadyExistsError)
    assert host.model().labels == {}, "a load that is refused changes nothing"


def test_labels_stay_over_a_crash_and_a_reload_and_end_with_an_unload(host):
    ready(host, "m", A)
    host.exited()
    host.gone()
    assert host.state() == "FAILED"
    ready(host, "m", None)
    assert host.model().labels == A
    host.load(source=ev.LoadSource("/models/other"), reload=True)
    host.gone(host.killed()[0])
    host.up()
    assert host.model().labels == A
    reloaded = host.load(reload=True, labels=B, source=ev.LoadSource(None))
    host.gone(host.killed()[0])
    host.up()
    assert host.answer(reloaded).labels == B
    host.unload()
    host.gone(host.killed()[0])
    ready(host, "m", None)
    assert host.model().labels == {}


@pytest.mark.parametrize("how", ["use", "load", "load with others"])
def test_labels_stay_over_an_eviction(how):
    host = MemoryDriver()
    evicted(host, "m", A)
    (listed,) = host.queries.each_of_all_models([])
    assert isinstance(listed, ModelInfo)
    assert (listed.state, listed.labels) == ("EVICTED", A)
    if how == "use":
        host.retrieve()
    else:
        host.load(labels=B if how == "load with others" else None)
    assert host.model().labels == (B if how == "load with others" else A)


def test_labels_that_stand_are_those_of_loads_that_give_none():
    host = Driver(LAZY)
    for standing, given, expected in (
        (Standing(labels=A), None, A),
        (Standing(labels=A), B, B),
        (Standing(labels=A), {}, {}),
        (Standing(), None, {}),
        (Standing(labels=B).over(Standing(labels=A)), None, B),
        (Standing().over(Standing(labels=A)), None, A),
    ):
        host.load(labels=given)
        find = host.finds.pop()
        host.feed(ev.SpecFound(find.model_id, find.generation, SPEC, find.source.path, standing))
        host.come_up()
        assert host.model().labels == expected
        host.unload()
        host.gone(host.killed()[0])


def test_a_deploy_keeps_its_labels_beside_the_files_and_a_replacement_those_of_what_it_replaces(host):
    host.deploy(labels=A)
    host.done()
    host.commit()
    (install,) = host.effects_of(fx.InstallFiles)
    assert install.standing.labels == A
    host.done()
    host.up()
    host.done()
    assert host.model().labels == A
    for given, expected in ((None, A), (B, B), ({}, {})):
        host.deploy(replace=True, labels=given)
        host.done()
        host.commit()
        (install,) = host.effects_of(fx.InstallFiles)
        assert install.standing.labels == expected
        host.done()
        host.up()
        host.done()
        host.gone(host.killed()[0])
        assert host.model().labels == expected


def test_an_unload_by_labels_takes_what_has_all_of_them_and_nothing_else(host):
    ready(host, "a", A)
    ready(host, "b", B)
    ready(host, "both", {**A, "tier": "test"})
    ready(host, "none", None)
    assert unloaded(host, host.unload_all(team="c")) == set()
    assert unloaded(host, host.unload_all(team="a", tier="test")) == {"both"}
    reasons = [event.reason for event in host.queries.story("both")]
    assert "unload of all models with team=a, tier=test requested" in reasons
    host.load("loading", labels=A)
    assert unloaded(host, host.unload_all(team="a", at_once=True)) == {"a", "loading"}
    assert (host.state("b"), host.state("none")) == ("READY", "READY")
    assert unloaded(host, host.unload_all()) == {"b", "none"}


def test_an_unload_by_labels_forgets_what_has_failed_or_was_evicted_with_these_alone():
    host = MemoryDriver()
    for model_id, labels in (("a", A), ("b", B)):
        host.load(model_id, labels=labels)
        host.found()
        host.predicted(1000)
        host.started()
        host.not_loaded(ModelError("no weights"))
        host.gone()
    assert [model.labels for model in host.queries.each_of_all_models([])] == [A, B]
    assert unloaded(host, host.unload_all(team="a")) == set()
    assert [model.id for model in host.queries.each_of_all_models([])] == ["b"]
    evicted(host, "m", A)
    host.unload_all(team="b")
    assert [model.id for model in host.queries.each_of_all_models([])] == ["m"]
    host.unload_all(team="a")
    assert list(host.queries.each_of_all_models([])) == []
