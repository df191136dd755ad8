"""Syncs with the models directory, against real hosts: what is loaded, unloaded and left alone (C24, C25, C28).

Does not cover how changes are noticed, and when files are whole (`test_c26_following`).
"""

from __future__ import annotations

import os
import shutil
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from helpers import PATIENCE_S, eventually, is_there, never
from models_rig import AT_ONCE, FAILS, FOLLOWED, GATED, HANGS, Rig, states

import hostd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READY = "READY"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    executor = ThreadPoolExecutor(8)
    yield executor
    executor.shutdown(wait=False)  # a test that failed may have left what only the end of its host answers


@pytest.fixture
def asked(rig: Rig) -> Iterator[hostd.Client]:
    """A client of a host that looks at the directory only when it is asked to."""
    with hostd.Host(models={**AT_ONCE, "dir": rig.path}, workers={"drain_timeout_s": PATIENCE_S}) as host:
        yield host.client()


@pytest.fixture
def following(rig: Rig) -> Iterator[hostd.Client]:
    """A client of a host that follows the directory."""
    with hostd.Host(models={**FOLLOWED, "dir": rig.path}, metrics={"port": 0}) as host:
        yield host.client()


def worker_of(client: hostd.Client, model_id: str) -> int:
    (worker,) = client.get_model(model_id).workers
    assert worker.pid is not None
    return worker.pid


def wait_for_a_look(client: hostd.Client, rig: Rig) -> None:
    """Wait until the host has seen everything that is in the directory now: twice what comes later is loaded."""
    for _ in range(2):
        rig.add("probe")
        eventually(lambda: states(client).get("probe") == READY, "the directory is followed")
        rig.remove("probe")
        eventually(lambda: "probe" not in states(client), "the directory is followed")


# C24


def test_c24_a_sync_loads_what_is_new_and_unloads_what_is_gone(asked: hostd.Client, rig: Rig) -> None:
    for name in ("stays", "goes"):
        rig.add(name)
    report = asked.sync_local_models(wait=True)
    assert (sorted(report.loaded), report.unloaded, report.failed) == (["goes", "stays"], (), {})
    assert states(asked) == {"stays": READY, "goes": READY}
    stays, goes = worker_of(asked, "stays"), worker_of(asked, "goes")
    rig.remove("goes")
    rig.add("comes")
    rig.add("bad", FAILS)
    report = asked.sync_local_models(wait=True)
    assert not is_there(goes), "the report came before the proof of death"
    assert (report.loaded, report.unloaded, report.writing, report.degraded) == (("comes",), ("goes",), (), None)
    assert list(report.failed) == ["bad"]
    assert "these weights are bad" in report.failed["bad"]
    assert states(asked) == {"stays": READY, "comes": READY}
    assert worker_of(asked, "stays") == stays
    assert asked.sync_local_models(wait=True).loaded == ()


def test_c24_without_waiting_a_sync_returns_while_models_load(asked: hostd.Client, rig: Rig) -> None:
    rig.add("m", GATED)
    assert asked.sync_local_models().loaded == ("m",)
    assert states(asked) == {"m": "LOADING"}
    rig.let_go("m")
    assert asked.retrieve_model("m").predict(1) == 1


def test_c24_with_waiting_a_sync_returns_when_all_is_done(
    asked: hostd.Client, rig: Rig, pool: ThreadPoolExecutor
) -> None:
    rig.add("slow", GATED)
    rig.add("quick")
    sync = pool.submit(asked.sync_local_models, wait=True)
    eventually(lambda: states(asked) == {"slow": "LOADING", "quick": READY}, "the others do not wait for one")
    never(sync.done, "the sync returned while a model was loading", for_s=0.1)
    rig.let_go("slow")
    assert sorted(sync.result(PATIENCE_S).loaded) == ["quick", "slow"]


def test_c24_a_sync_that_waits_also_waits_for_what_another_has_begun(
    asked: hostd.Client, rig: Rig, pool: ThreadPoolExecutor
) -> None:
    rig.add("m", GATED)
    assert asked.sync_local_models().loaded == ("m",)
    syncs = [pool.submit(asked.sync_local_models, wait=True) for _ in range(2)]
    never(lambda: any(sync.done() for sync in syncs), "a sync returned while a model was loading", for_s=0.1)
    rig.let_go("m")
    assert [sync.result(PATIENCE_S).loaded for sync in syncs] == [("m",), ("m",)]


def test_c24_a_sync_may_be_told_to_load_nothing(asked: hostd.Client, rig: Rig) -> None:
    rig.add("old")
    asked.sync_local_models(wait=True)
    rig.add("new")
    rig.remove("old")
    report = asked.sync_local_models(wait=True, load=False)
    assert (report.loaded, report.unloaded) == ((), ("old",))
    assert states(asked) == {}
    assert rig.loaded_names() == {"old"}


def test_c24_models_from_elsewhere_are_left_alone(asked: hostd.Client, rig: Rig) -> None:
    beside = rig.path.with_name("models2")
    shutil.copytree(rig.make(), beside / "x")
    shutil.copytree(rig.make(), beside / "m")
    above = rig.path.with_name("mod")
    shutil.copytree(rig.make(), above)
    rig.add("m")
    paths = {"x": beside / "x", "m": beside / "m", "team/x": rig.make(), "above": above}
    for model_id, path in paths.items():
        asked.load_model(model_id, path)
    pids = {model_id: worker_of(asked, model_id) for model_id in paths}
    rig.add("new")
    assert asked.sync_local_models(wait=True).loaded == ("new",), "an id that is taken is not loaded over"
    for model_id in ("x", "m", "above"):
        shutil.rmtree(paths[model_id])
    rig.remove("m")
    assert asked.sync_local_models(wait=True).unloaded == ()
    assert {model_id: worker_of(asked, model_id) for model_id in paths} == pids


EPHEMERAL = """
    from hostd.finders import ModelSpec

    class Ids:
        looks_for = "an id"

        def find(self, model_id, path):
            return ModelSpec("python", {"module": "ephemeral:load"}) if path == model_id else None

    def load(path):
        return lambda: path
"""


def test_c24_a_model_without_files_is_left_alone_wherever_the_host_was_started(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ephemeral.py").write_text(textwrap.dedent(EPHEMERAL))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(rig.path)
    models = {**AT_ONCE, "dir": rig.path, "lazy_load": True, "poll_period_s": None}
    with hostd.Host(models=models, finders={"default": {"type": "ephemeral:Ids"}}) as host:
        client = host.client()
        assert client.retrieve_model("hub/model")() == "hub/model"
        assert client.sync_local_models(wait=True).unloaded == ()
        assert states(client) == {"hub/model": READY}


def test_c24_what_is_no_model_is_ignored(asked: hostd.Client, rig: Rig) -> None:
    rig.add("good")
    rig.add(".hidden")
    rig.add(".hostd-staging/token")
    rig.add("nested/inside")
    (rig.path / "link").symlink_to(rig.path / "good")
    (rig.path / "broken-link").symlink_to(rig.path / "nowhere")
    (rig.path / "README.txt").write_text("no model")
    (rig.path / "empty").mkdir()
    os.mkfifo(rig.path / "fifo.py")
    for odd in (b"\xff\xfe", b"line\nbreak", b"-\x1b[31m"):
        rig.make().rename(os.fsdecode(os.path.join(os.fsencode(rig.path), odd)))
    report = asked.sync_local_models(wait=True)
    assert (report.loaded, report.failed, report.writing) == (("good",), {}, ())
    assert rig.loaded_names() == {"good"}
    assert states(asked) == {"good": READY}


def test_c24_a_plain_file_that_a_finder_knows_is_a_model(asked: hostd.Client, rig: Rig) -> None:
    (rig.path / "one.py").write_text("def load(path):\n    return lambda: 7\n")
    assert asked.sync_local_models(wait=True).loaded == ("one.py",)
    assert asked.retrieve_model("one.py")() == 7
    (rig.path / "one.py").unlink()
    assert asked.sync_local_models(wait=True).unloaded == ("one.py",)


def test_c24_a_model_that_was_loaded_by_hand_from_the_directory_goes_with_its_files(
    asked: hostd.Client, rig: Rig, tmp_path: Path
) -> None:
    rig.add("m")
    (tmp_path / "way").symlink_to(rig.path)
    asked.load_model("by-hand", tmp_path / "way" / "m", "my-type")
    asked.load_model("m", rig.path / "." / "m")
    assert asked.sync_local_models(wait=True).unloaded == ()
    rig.remove("m")
    assert sorted(asked.sync_local_models(wait=True).unloaded) == ["by-hand", "m"]
    assert states(asked) == {}


@pytest.mark.parametrize("written", ["/./", "/../models/", "//"])
def test_c24_the_directory_may_be_written_in_any_way(rig: Rig, tmp_path: Path, written: str) -> None:
    (tmp_path / "link").symlink_to(rig.path)
    rig.add("m")
    with hostd.Host(models={**AT_ONCE, "dir": f"{tmp_path}/link{written}", "wait_for_initial_loads": True}) as host:
        client = host.client()
        assert states(client) == {"m": READY}
        rig.remove("m")
        assert client.sync_local_models(wait=True).unloaded == ("m",)


def test_c17_c24_a_nested_model_is_not_found_and_goes_with_its_files(asked: hostd.Client, rig: Rig) -> None:
    for name in ("team/a", "team/b"):
        rig.add(name)
    assert asked.sync_local_models(wait=True).loaded == ()
    for name in ("team/a", "team/b"):
        asked.load_model(name, rig.path / name)
    assert asked.sync_local_models(wait=True).unloaded == ()
    rig.remove("team/a")
    assert asked.sync_local_models(wait=True).unloaded == ("team/a",)
    rig.remove("team")
    assert asked.sync_local_models(wait=True).unloaded == ("team/b",)
    assert states(asked) == {}


def test_c24_a_load_whose_files_go_is_given_up(asked: hostd.Client, rig: Rig, pool: ThreadPoolExecutor) -> None:
    rig.add("m", HANGS)
    first = pool.submit(asked.sync_local_models, wait=True)
    eventually(lambda: rig.loads("m"), "the load hangs")
    rig.remove("m")
    assert asked.sync_local_models(wait=True, timeout_s=PATIENCE_S).unloaded == ("m",)
    assert "m" in first.result(PATIENCE_S).failed
    assert states(asked) == {}


def test_c24_calls_of_a_model_whose_files_go_may_finish(asked: hostd.Client, rig: Rig, tmp_path: Path) -> None:
    rig.add("m")
    asked.sync_local_models(wait=True)
    call = asked.retrieve_model("m").submit.work(str(tmp_path / "begun"), str(tmp_path / "release"))
    eventually((tmp_path / "begun").exists, "the call has begun")
    rig.remove("m")
    assert asked.sync_local_models().unloaded == ("m",)
    (tmp_path / "release").touch()
    assert call.result(PATIENCE_S) == "finished"
    eventually(lambda: states(asked) == {}, "it is unloaded afterwards")


def test_c24_many_syncs_at_once_load_each_model_once(asked: hostd.Client, rig: Rig, pool: ThreadPoolExecutor) -> None:
    names = [f"m{number}" for number in range(6)]
    for name in names:
        rig.add(name)

    def sync() -> set[str]:
        report = asked.sync_local_models(wait=True)
        assert states(asked) == dict.fromkeys(names, READY), "it did not wait for what another one has begun"
        return set(report.loaded)

    loaded = [sync.result(PATIENCE_S) for sync in [pool.submit(sync) for _ in range(8)]]
    assert set(names) in loaded
    assert [len(rig.loads(name)) for name in names] == [1] * 6


def test_c24_an_entry_that_fails_is_tried_again_only_when_it_changes_or_somebody_asks(
    following: hostd.Client, rig: Rig
) -> None:
    rig.add("bad", FAILS)
    eventually(lambda: rig.loads("bad"), "it is tried")
    wait_for_a_look(following, rig)
    assert len(rig.loads("bad")) == 1
    assert "these weights are bad" in following.sync_local_models(wait=True).failed["bad"]
    wait_for_a_look(following, rig)
    assert len(rig.loads("bad")) == 2
    (rig.path / "bad" / "model.py").write_text(rig.source())
    eventually(lambda: states(following).get("bad") == READY, "it is repaired")


def test_c24_a_sync_that_loads_nothing_causes_no_tries(following: hostd.Client, rig: Rig) -> None:
    rig.add("bad", FAILS)
    eventually(lambda: rig.loads("bad"), "it is tried")
    wait_for_a_look(following, rig)
    following.sync_local_models(wait=True, load=False)
    wait_for_a_look(following, rig)
    assert len(rig.loads("bad")) == 1


@pytest.mark.parametrize("body", ["", HANGS], ids=["served", "loading"])
def test_c24_an_entry_that_goes_and_comes_back_is_loaded(rig: Rig, body: str) -> None:
    # No look but after a notification, so that the entry is back before the directory is seen without it again.
    with hostd.Host(models={**FOLLOWED, "dir": rig.path, "poll_period_s": 3600}) as host:
        client = host.client()
        rig.add("first")
        eventually(lambda: states(client) == {"first": READY}, "the directory is watched")
        rig.add("m", body)
        eventually(lambda: rig.loads("m") and (body or states(client)["m"] == READY), "it is loaded, or hangs")
        rig.remove("m")
        eventually(lambda: "m" not in states(client), "it is unloaded")
        rig.add("m")
        eventually(lambda: states(client).get("m") == READY, "what came back is loaded")


def test_c24_entries_that_come_and_go_all_the_time_end_as_the_directory_does(
    following: hostd.Client, rig: Rig, pool: ThreadPoolExecutor
) -> None:
    over = threading.Event()

    def churn(name: str) -> None:
        for _ in range(12):
            rig.add(name)
            over.wait(0.02)
            rig.remove(name)
        rig.add(name)

    names = [f"m{number}" for number in range(4)]
    churning = [pool.submit(churn, name) for name in names]
    rig.add("stays")
    for done in churning:
        done.result(PATIENCE_S)
    wanted = dict.fromkeys([*names, "stays"], READY)
    eventually(lambda: states(following) == wanted, "the host has what the directory has")
    assert len(rig.loads("stays")) == 1


def test_c24_a_host_without_a_directory_says_so(shared: hostd.Client) -> None:
    with pytest.raises(hostd.FailedPreconditionError, match=r"models\.dir"):
        shared.sync_local_models()


# C28


def test_c28_two_hosts_on_one_directory_each_load_what_comes_and_lose_what_goes(
    following: hostd.Client, rig: Rig
) -> None:
    with hostd.Host(models={**FOLLOWED, "dir": rig.path}) as other:
        both = (following, other.client())
        rig.add("m")
        for client in both:
            eventually(lambda client=client: states(client) == {"m": READY}, "both load it")
        pids = [worker_of(client, "m") for client in both]
        assert len(set(pids)) == 2
        rig.remove("m")
        for client in both:
            eventually(lambda client=client: states(client) == {}, "a removal reaches both")
        assert not [pid for pid in pids if is_there(pid)]


def test_c28_a_deploy_and_an_undeploy_reach_the_other_host(following: hostd.Client, rig: Rig) -> None:
    with hostd.Host(models={**FOLLOWED, "dir": rig.path}) as other:
        following.deploy_model("m", rig.make())
        theirs = other.client()
        eventually(lambda: states(theirs) == {"m": READY}, "the other host loads what was deployed")
        with pytest.raises(hostd.AlreadyExistsError):
            theirs.deploy_model("m", rig.make())
        theirs.undeploy_model("m")
        eventually(lambda: states(following) == {}, "an undeploy reaches both")
        eventually(lambda: rig.residue() == [], "nothing stays in staging")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_c28_a_second_host_that_starts_and_ends_leaves_a_deploy_under_way_alone(
    following: hostd.Client, rig: Rig, end: str
) -> None:
    source = rig.source().encode()
    begun = {"model_id": "m", "files": [["model.py", len(source)]], "type": "t", "options": {}}
    flags = {"wait": True, "replace": False, "keep": False, "retries": None, "finder": None, "initializer": None}
    upload = following._verb("deploy_begin", None, **begun, **flags)["upload"]
    following._verb("deploy_write", None, upload=upload, file=0, offset=0, data=source[:100])
    with hostd.Host(models={**FOLLOWED, "dir": rig.path}) as other:
        assert other.client().sync_local_models(wait=True).loaded == ()
        if end == "kill":
            os.kill(other.pid, 9)
    following._verb("deploy_write", None, upload=upload, file=0, offset=100, data=source[100:])
    assert following._verb("deploy_commit", None, upload=upload)["state"] == READY
    assert following.retrieve_model("m").predict(1) == 1
    eventually(lambda: rig.residue() == [], "nothing stays in staging")
