"""Syncs with the models directory, against real hosts: what is loaded, unloaded and left alone (C24, C25, C28).

Does not cover how changes are noticed, and when files are whole (`test_c26_following`).
"""

import os
import shutil

import pytest
from deploy_rig import CODE, Raw, files_of
from helpers import PATIENCE_S, eventually, is_there, never
from models_rig import AT_ONCE, FAILS, FOLLOWED, GATED, HANGS, Work, states

import hostd

READY = "READY"


@pytest.fixture
def following(rig):
    """A client of a host that follows the directory."""
    with hostd.Host(models={**FOLLOWED, "dir": rig.path}) as host:
        yield host.client()


def worker_of(client, model_id):
    (worker,) = client.get_model(model_id).workers
    return worker.pid


def wait_for_a_look(client, rig):
    """Wait until the host has seen everything that is in the directory now: twice what comes later is loaded."""
    for _ in range(2):
        rig.add("probe")
        eventually(lambda: states(client).get("probe") == READY, "the directory is followed")
        rig.remove("probe")
        eventually(lambda: "probe" not in states(client), "the directory is followed")


# C24


def test_c24_a_sync_loads_what_is_new_and_unloads_what_is_gone(lazy, lazy_rig):
    for name in ("stays", "goes"):
        lazy_rig.add(name)
    report = lazy.sync_local_models(wait=True)
    assert (sorted(report.loaded), report.unloaded, report.failed) == (["goes", "stays"], (), {})
    assert states(lazy) == {"stays": READY, "goes": READY}
    stays, goes = worker_of(lazy, "stays"), worker_of(lazy, "goes")
    lazy_rig.remove("goes")
    lazy_rig.add("bad", FAILS)
    (lazy_rig.path / "one.py").write_text("def load(path):\n    return lambda: 7\n")
    report = lazy.sync_local_models(wait=True)
    assert not is_there(goes), "the report came before the proof of death"
    assert (report.loaded, report.unloaded, report.writing, report.degraded) == (("one.py",), ("goes",), (), None)
    assert list(report.failed) == ["bad"]
    assert "these weights are bad" in report.failed["bad"]
    assert states(lazy) == {"stays": READY, "one.py": READY}
    assert worker_of(lazy, "stays") == stays
    lazy_rig.add("new")
    lazy_rig.remove("one.py")
    report = lazy.sync_local_models(wait=True, load=False)
    assert (report.loaded, report.unloaded) == ((), ("one.py",))
    assert lazy_rig.loads("new") == []


def test_c24_a_sync_waits_if_it_is_told_to_also_for_what_another_has_begun(lazy, lazy_rig, pool):
    names = [f"m{number}" for number in range(4)]
    for name in names:
        lazy_rig.add(name)
    lazy_rig.add("slow", GATED)
    assert sorted(lazy.sync_local_models().loaded) == [*names, "slow"]
    syncs = [pool.submit(lazy.sync_local_models, wait=True) for _ in range(8)]
    ready = dict.fromkeys(names, READY)
    eventually(lambda: states(lazy) == {**ready, "slow": "LOADING"}, "the others do not wait for one")
    never(lambda: any(sync.done() for sync in syncs), "a sync returned while a model was loading", for_s=0.1)
    lazy_rig.let_go("slow")
    assert {"slow"} in [{*sync.result(PATIENCE_S).loaded} - {*names} for sync in syncs]
    assert states(lazy) == {**ready, "slow": READY}
    assert [len(lazy_rig.loads(name)) for name in (*names, "slow")] == [1] * 5


def test_c24_models_from_elsewhere_are_left_alone(lazy, lazy_rig, tmp_path):
    beside, above = lazy_rig.path.with_name("models2"), lazy_rig.path.with_name("mod")
    for place in (beside / "x", beside / "m", above):
        shutil.copytree(lazy_rig.make(), place)
    lazy_rig.add("m")
    paths = {"x": beside / "x", "m": beside / "m", "team/x": lazy_rig.make(), "above": above}
    for model_id, path in paths.items():
        lazy.load_model(model_id, path)
    pids = {model_id: worker_of(lazy, model_id) for model_id in paths}
    lazy_rig.add("new")
    assert lazy.sync_local_models(wait=True).loaded == ("new",), "an id that is taken is not loaded over"
    for model_id in ("x", "m", "above"):
        shutil.rmtree(paths[model_id])
    lazy_rig.remove("m")
    assert lazy.sync_local_models(wait=True).unloaded == ()
    assert {model_id: worker_of(lazy, model_id) for model_id in paths} == pids


def test_c24_what_is_no_model_is_ignored(lazy, lazy_rig):
    for name in ("good", ".hidden", ".hostd-staging/token", "nested/inside"):
        lazy_rig.add(name)
    (lazy_rig.path / "link").symlink_to(lazy_rig.path / "good")
    (lazy_rig.path / "broken-link").symlink_to(lazy_rig.path / "nowhere")
    (lazy_rig.path / "README.txt").write_text("no model")
    (lazy_rig.path / "empty").mkdir()
    os.mkfifo(lazy_rig.path / "fifo.py")
    for odd in (b"\xff\xfe", b"line\nbreak", b"-\x1b[31m"):
        lazy_rig.make().rename(os.fsdecode(os.path.join(os.fsencode(lazy_rig.path), odd)))
    report = lazy.sync_local_models(wait=True)
    assert (report.loaded, report.failed, report.writing) == (("good",), {}, ())
    assert lazy_rig.loaded_names() == {"good"}
    assert states(lazy) == {"good": READY}


def test_c24_what_was_loaded_by_hand_from_the_directory_goes_with_its_files(lazy, lazy_rig, tmp_path):
    for name in ("m", "team/a", "team/b"):
        lazy_rig.add(name)
    (tmp_path / "way").symlink_to(lazy_rig.path)
    lazy.load_model("by-hand", tmp_path / "way" / "m", "my-type")
    for name in ("m", "team/a", "team/b"):
        lazy.load_model(name, lazy_rig.path / "." / name)
    assert lazy.sync_local_models(wait=True).unloaded == ()
    for gone, ids in (("m", ["by-hand", "m"]), ("team/a", ["team/a"]), ("team", ["team/b"])):
        lazy_rig.remove(gone)
        assert sorted(lazy.sync_local_models(wait=True).unloaded) == ids
    assert states(lazy) == {}


def test_c24_models_have_one_path_however_they_were_found_and_the_directory_was_named(rig, tmp_path):
    (tmp_path / "link").symlink_to(rig.path)
    for name in ("synced", "deployed"):
        rig.add(name)
    named = f"{tmp_path}/link/../models/.//"
    with hostd.Host(models={**AT_ONCE, "dir": named, "wait_for_initial_loads": True}) as host:
        client = host.client()
        client.deploy_model("deployed", {"model.py": rig.source().encode()}, replace=True)
        paths = {model.id: model.path for model in client.list_models()}
        assert paths == {name: str(rig.path / name) for name in ("synced", "deployed")}
        rig.remove("synced")
        assert client.sync_local_models(wait=True).unloaded == ("synced",)


def test_c24_a_load_whose_files_go_is_given_up_and_calls_may_finish(lazy, lazy_rig, tmp_path, pool):
    lazy_rig.add("busy")
    work = Work(lazy.retrieve_model("busy"), tmp_path)
    lazy_rig.add("m", HANGS)
    first = pool.submit(lazy.sync_local_models, wait=True)
    eventually(lambda: lazy_rig.loads("m"), "the load hangs")
    lazy_rig.remove("m")
    assert lazy.sync_local_models(wait=True, timeout_s=PATIENCE_S).unloaded == ("m",)
    assert "m" in first.result(PATIENCE_S).failed
    lazy_rig.remove("busy")
    assert lazy.sync_local_models().unloaded == ("busy",)
    work.finish()
    eventually(lambda: states(lazy) == {}, "it is unloaded afterwards")


def test_c24_an_entry_that_fails_is_tried_again_only_when_it_changes_or_a_client_asks(following, rig):
    rig.add("bad", FAILS)
    eventually(lambda: rig.loads("bad"), "it is tried")
    following.sync_local_models(wait=True, load=False)
    wait_for_a_look(following, rig)
    assert len(rig.loads("bad")) == 1
    assert "these weights are bad" in following.sync_local_models(wait=True).failed["bad"]
    wait_for_a_look(following, rig)
    assert len(rig.loads("bad")) == 2
    (rig.path / "bad" / "model.py").write_text(rig.source())
    eventually(lambda: states(following).get("bad") == READY, "it is repaired")


def test_c24_an_entry_that_goes_and_comes_back_is_loaded(rig):
    # No look but after a notification, so that the entry is back before the directory is seen without it again.
    with hostd.Host(models={**FOLLOWED, "dir": rig.path, "poll_period_s": 3600}) as host:
        client = host.client()
        rig.add("first")
        eventually(lambda: states(client) == {"first": READY}, "the directory is watched")
        for name, body in (("served", ""), ("loading", HANGS)):
            rig.add(name, body)
            wanted = "LOADING" if body else READY
            eventually(lambda n=name, s=wanted: rig.loads(n) and states(client)[n] == s, "it is loaded, or hangs")
            rig.remove(name)
            eventually(lambda n=name: n not in states(client), "it is unloaded")
            rig.add(name)
            eventually(lambda n=name: states(client).get(n) == READY, "what came back is loaded")


# C28


def test_c28_what_comes_goes_or_is_deployed_reaches_two_hosts_on_one_directory(following, rig):
    with hostd.Host(models={**FOLLOWED, "dir": rig.path}) as other:
        theirs = other.client()
        both = (following, theirs)
        rig.add("m")
        for client in both:
            eventually(lambda client=client: states(client) == {"m": READY}, "both load it")
        pids = {worker_of(client, "m") for client in both}
        assert len(pids) == 2
        rig.remove("m")
        for client in both:
            eventually(lambda client=client: states(client) == {}, "a removal reaches both")
        assert not [pid for pid in pids if is_there(pid)]
        following.deploy_model("n", rig.make())
        eventually(lambda: states(theirs) == {"n": READY}, "the other host loads what was deployed")
        with pytest.raises(hostd.AlreadyExistsError):
            theirs.deploy_model("n", rig.make())
        theirs.undeploy_model("n")
        eventually(lambda: states(following) == {}, "an undeploy reaches both")
        eventually(lambda: rig.residue() == [], "nothing stays in staging")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_c28_a_second_host_that_starts_and_ends_leaves_a_deploy_under_way_alone(following, rig, end):
    with Raw(following.endpoint) as raw:
        upload = raw.upload("m", files_of("hello"))
        with hostd.Host(models={**FOLLOWED, "dir": rig.path}) as other:
            assert other.client().sync_local_models(wait=True).loaded == ()
            if end == "kill":
                os.kill(other.pid, 9)
        raw.ask("deploy_write", upload=upload, file=0, offset=0, data=CODE)
        assert raw.ask("deploy_commit", upload=upload)["state"] == READY
    assert following.retrieve_model("m").predict() == "hello"
    eventually(lambda: rig.residue() == [], "nothing stays in staging")
