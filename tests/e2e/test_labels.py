"""Labels: models are listed and unloaded by them, and they last as long as what they are given to."""

import os

import pytest
from deploy_rig import await_tidy
from helpers import is_there

import hostd

CODE = b"def load(path):\n    return len\n"
A = {"team": "a"}


def ids(models):
    return [model.id for model in models]


def test_models_are_listed_and_unloaded_by_their_labels(shared, rig):
    path = rig.make()
    for model_id, labels in (("a", A), ("both", {**A, "example.org/tier": ""}), ("b", {"team": "b"}), ("none", None)):
        shared.load_model(model_id, path, labels=labels)
    pids = {model.id: model.workers[0].pid for model in shared.list_models()}
    assert ids(shared.list_models(labels=A)) == ["a", "both"]
    assert ids(shared.list_models(labels={**A, "example.org/tier": ""}, all=True)) == ["both"]
    assert ids(shared.list_models(labels={})) == ["a", "b", "both", "none"]
    again = shared.load_model("a", path, labels={"team": "b"})
    assert (again.already_loaded, again.info.labels) == (True, {"team": "b"})
    assert ids(shared.list_models(labels={"team": "b"})) == ["a", "b"]
    assert {report.model_id for report in shared.unload_all_models(labels={"team": "b"})} == {"a", "b"}
    assert [is_there(pids[model_id]) for model_id in ("a", "b", "both", "none")] == [False, False, True, True]
    assert ids(shared.list_models()) == ["both", "none"]
    for refused in ({}, {"te am": "a"}, {"team": 1}, [("team", "a")]):
        with pytest.raises(hostd.InvalidArgumentError, match="label"):
            shared.unload_all_models(labels=refused)
    assert ids(shared.list_models()) == ["both", "none"]
    for ask in (
        lambda: shared.load_model("c", path, labels={"team": "-"}),
        lambda: shared.list_models(labels={"team": "-"}),
        lambda: shared.deploy_model("c", {"model.py": CODE}, labels={"team": "-"}),
    ):
        with pytest.raises(hostd.InvalidArgumentError, match="label"):
            ask()


def test_labels_of_a_deploy_hold_after_a_restart_and_those_of_a_load_for_that_load(rig):
    with hostd.Host(models={"dir": rig.path}) as host:
        client = host.client()
        assert client.deploy_model("m", {"model.py": CODE}, labels=A).info.labels == A
        client.load_model("m", rig.path / "m", labels={"run": "7"})
        await_tidy(rig.path)
    with hostd.Host(models={"dir": rig.path, "load_on_start": False, "lazy_load": True}) as host:
        client = host.client()
        assert client.retrieve_model("m").info.labels == A
        client.unload_model("m")
        client.deploy_model("m", {"model.py": CODE}, replace=True)
        await_tidy(rig.path)
    with hostd.Host(models={"dir": rig.path, "wait_for_initial_loads": True}) as host:
        assert host.client().get_model("m").labels == A, "a replacement of what is not loaded keeps them, too"


def test_labels_are_declared_and_one_that_is_wrong_is_told(rig):
    path = os.fspath(rig.make())
    preload = {"good": {"path": path, "labels": A}, "bad": {"path": path, "labels": {"team": "-"}}}
    with hostd.Host(models={"wait_for_initial_loads": True}, preload=preload) as host:
        client = host.client()
        assert client.get_model("good").labels == A
        assert client.load_model("good", path).info.labels == A
        assert "the label 'team' cannot be '-'" in client.sync_local_models(wait=True).failed["bad"]
