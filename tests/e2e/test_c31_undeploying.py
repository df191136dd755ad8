"""C31: an undeploy unloads, then removes the files, and nothing else is ever touched."""

import os
import threading

from deploy_rig import MIB, PLACES, all_at_once, await_tidy, content, entries, files_of, put, refusal
from helpers import eventually, is_there, of_models
from path_corpus import canary

import hostd

WORKERS = {"drain_timeout_s": 20.0}
"""Enough for what the tests let go at once; what hangs is given up by another host's tests."""


def test_c31_processes_files_and_empty_folders_are_gone_whether_or_not_it_was_loaded(deploying, deployer, models):
    pid = deployer.deploy_model("a/b/m", files_of("x", **{"deep/er/weights": bytes(MIB)})).pid()
    report = deployer.undeploy_model("a/b/m")
    assert (report.model_id, report.processes) == ("a/b/m", 1)
    assert report.size_bytes > 0
    assert report.freed_bytes > 0
    assert not is_there(pid), "it is answered after the proof of death"
    assert of_models(deploying.pid) == []
    eventually(lambda: entries(models) == [], "the folders on the way are removed, too")
    for ask in (deployer.retrieve_model, deployer.undeploy_model):
        assert isinstance(refusal(lambda: ask("a/b/m")), hostd.NotFoundError)  # noqa: B023
    os.kill(deployer.deploy_model("m", files_of("died")).pid(), 9)
    eventually(lambda: deployer.get_model("m").state == "FAILED", "the death is seen")
    deployer.undeploy_model("m")
    assert deployer.list_models() == []
    put(models, "by-hand", "x")
    report = deployer.undeploy_model("by-hand")
    assert (report.processes, report.size_bytes, report.freed_bytes) == (0, 0, 0)
    (models / "one.py").write_bytes(files_of("x")["model.py"])
    deployer.load_model("one.py", models / "one.py", options={"text": "x"})
    assert deployer.undeploy_model("one.py").processes == 1
    await_tidy(models)
    assert entries(models) == []


def test_c31_files_are_removed_only_after_every_process_is_gone(deployer, models, tmp_path):
    marker, gate = tmp_path / "marker", tmp_path / "gate"
    model = deployer.deploy_model("m", files_of("x"))
    call = model.submit.linger(str(marker), str(gate))
    eventually(marker.exists, "the call has begun")
    undeploying = threading.Thread(target=deployer.undeploy_model, args=("m",))
    undeploying.start()
    try:
        eventually(lambda: deployer.get_model("m").state == "UNLOADING", "the model drains")
        assert content(models / "m") == files_of("x")
        assert isinstance(refusal(model.predict), (hostd.FailedPreconditionError, hostd.AbortedError))
        for act in (
            lambda: deployer.deploy_model("m", files_of("new")),
            lambda: deployer.deploy_model("m", files_of("new"), replace=True),
            lambda: deployer.load_model("m", models / "m"),
            lambda: deployer.undeploy_model("m"),
        ):
            assert isinstance(refusal(act), (hostd.FailedPreconditionError, hostd.AlreadyExistsError))
    finally:
        gate.touch()
        undeploying.join(30)
    assert call.result(20) == "x", "a call in flight is finished first"
    await_tidy(models)
    assert entries(models) == []


def test_c31_a_load_that_is_under_way_is_overtaken(deployer, models, tmp_path):
    put(models, "m", f"gated {tmp_path / 'gate'}")
    loading = deployer.load_model("m", models / "m", wait=False)
    eventually((tmp_path / "gate.reached").exists, "it loads")
    assert deployer.undeploy_model("m").processes == 1
    assert isinstance(refusal(lambda: loading.wait(20)), (hostd.AbortedError, hostd.NotFoundError))
    assert not (models / "m").exists()


UNKNOWN = {
    "nothing": lambda models: None,
    "a link to a model": lambda models: (models / "m").symlink_to(models / "real"),
    "a link out": lambda models: (models / "m").symlink_to(models.parent),
    "a dangling link": lambda models: (models / "m").symlink_to(models / "nothing"),
    "a fifo": lambda models: os.mkfifo(models / "m"),
    "a folder of models": lambda models: put(models, "m/inner", "inner"),
    "a folder of folders of models": lambda models: put(models, "m/group/inner", "inner"),
}


def test_c31_what_is_no_model_is_refused_and_stays(deployer, models, tmp_path):
    deployer.deploy_model("real", files_of("real"))
    await_tidy(models)
    for what, make in UNKNOWN.items():
        make(models)
        before = canary(models.parent)
        kind = hostd.NotFoundError if "folder" in what or what == "nothing" else hostd.FailedPreconditionError
        assert isinstance(refusal(lambda: deployer.undeploy_model("m")), kind), what
        await_tidy(models)
        assert canary(models.parent) == before, what
        if what != "nothing":
            (models / "m").rename(tmp_path / what)
    assert deployer.retrieve_model("real").predict() == "real"


def test_c31_links_are_not_followed_and_read_only_and_very_deep_trees_are_removed(deployer, models, tmp_path):
    precious = put(tmp_path, "precious", "precious")
    place = put(models, "m", "x")
    (place / "folder").mkdir()
    for name, to in {"link": precious, "folder/up": "..", "folder/root": "/", "folder/file": precious / "text"}.items():
        (place / name).symlink_to(to)
    os.link(precious / "text", place / "hard")
    os.mkfifo(place / "fifo")
    before = canary(tmp_path)
    deployer.load_model("m", place)
    fd = os.open(place, os.O_RDONLY)
    for _ in range(600):  # a path of more than PATH_MAX bytes
        os.mkdir("deep-deep", dir_fd=fd)
        inner = os.open("deep-deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    (place / "closed").mkdir()
    (place / "closed" / "file").touch()
    (place / "closed").chmod(0)
    place.chmod(0o500)
    deployer.undeploy_model("m")
    await_tidy(models)
    assert entries(models) == []
    assert canary(tmp_path) == before


def test_c31_of_many_undeploys_on_two_hosts_one_removes_and_no_other_breaks(deployer, models):
    with hostd.Host(models={**PLACES, "dir": models, "load_on_start": False}) as other:
        theirs = other.client()
        for turn in range(8):
            deployer.deploy_model("m", files_of(f"{turn}"))
            clients = (deployer, theirs) if turn % 2 else (deployer,) * 6
            outcomes = all_at_once([lambda c=c: c.undeploy_model("m") for c in clients])
            lost = (
                (hostd.NotFoundError, hostd.AbortedError)
                if turn % 2
                else (hostd.NotFoundError, hostd.FailedPreconditionError)
            )
            assert all(isinstance(outcome, lost) for outcome in outcomes if outcome), outcomes
            assert outcomes.count(None) <= 1, "two think that they removed it"
            await_tidy(models)
            if None not in outcomes:  # both hosts gave way to the other
                assert turn % 2
                deployer.undeploy_model("m")
                await_tidy(models)
            deployer.unload_model("m")
            assert entries(models) == []
