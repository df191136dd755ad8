"""C31: an undeploy unloads, then removes the files, and nothing else is ever touched."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from deploy_rig import MIB, PLACES, await_tidy, content, emptied, entries, files_of, put, refusal
from helpers import descendants, eventually, is_there
from path_corpus import canary

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("around") / "models"


@pytest.fixture(scope="module")
def host(models: Path) -> Iterator[hostd.Host]:
    models.mkdir()
    # Enough for what the tests let go at once; what hangs is given up by another host's tests.
    with hostd.Host(models={**PLACES, "dir": models}, workers={"drain_timeout_s": 20.0}) as running:
        yield running


@pytest.fixture
def client(host: hostd.Host, models: Path) -> Iterator[hostd.Client]:
    with emptied(host, models) as made:
        yield made


@pytest.mark.parametrize("model_id", ["m", "team/m", "a/b/c/m"])
def test_c31_processes_files_and_empty_folders_are_gone(
    host: hostd.Host, client: hostd.Client, models: Path, model_id: str
) -> None:
    pid = client.deploy_model(model_id, files_of("x", **{"deep/er/weights": bytes(MIB)})).pid()
    report = client.undeploy_model(model_id)
    assert (report.model_id, report.processes) == (model_id, 1)
    assert report.size_bytes > 0
    assert report.freed_bytes > 0
    assert not is_there(pid), "it is answered after the proof of death"
    assert descendants(host.pid) == []
    assert not (models / model_id).exists()
    eventually(lambda: entries(models) == [], "the folders on the way are removed, too")
    assert isinstance(refusal(lambda: client.retrieve_model(model_id)), hostd.NotFoundError)
    assert isinstance(refusal(lambda: client.undeploy_model(model_id)), hostd.NotFoundError)
    assert client.deploy_model(model_id, files_of("again")).predict() == "again"


def test_c31_files_are_removed_only_after_every_process_is_gone(
    client: hostd.Client, models: Path, tmp_path: Path
) -> None:
    marker, gate = tmp_path / "marker", tmp_path / "gate"
    model = client.deploy_model("m", files_of("x"))
    call = model.submit.linger(str(marker), str(gate))
    eventually(marker.exists, "the call has begun")
    undeploying = threading.Thread(target=client.undeploy_model, args=("m",))
    undeploying.start()
    try:
        eventually(lambda: client.get_model("m").state == "UNLOADING", "the model drains")
        assert content(models / "m") == files_of("x")
        assert isinstance(refusal(model.predict), (hostd.FailedPreconditionError, hostd.AbortedError))
        for act in (
            lambda: client.deploy_model("m", files_of("new")),
            lambda: client.deploy_model("m", files_of("new"), replace=True),
            lambda: client.load_model("m", models / "m"),
            lambda: client.undeploy_model("m"),
        ):
            assert isinstance(refusal(act), (hostd.FailedPreconditionError, hostd.AlreadyExistsError))
    finally:
        gate.touch()
        undeploying.join(30)
    assert call.result(20) == "x", "a call in flight is finished first"
    await_tidy(models)
    assert entries(models) == []


@pytest.mark.parametrize("how", ["deployed", "by hand"])
def test_c31_what_is_not_loaded_is_removed_too(client: hostd.Client, models: Path, how: str) -> None:
    if how == "deployed":
        client.deploy_model("m", files_of("x"))
        client.unload_model("m")
    else:
        put(models, "m", "x")
    report = client.undeploy_model("m")
    assert (report.processes, report.size_bytes, report.freed_bytes) == (0, 0, 0)
    await_tidy(models)
    assert entries(models) == []


def test_c31_a_model_whose_process_died_is_removed(client: hostd.Client, models: Path) -> None:
    model = client.deploy_model("m", files_of("x"))
    os.kill(model.pid(), 9)
    eventually(lambda: client.get_model("m").state == "FAILED", "the death is seen")
    client.undeploy_model("m")
    assert client.list_models() == []
    assert not (models / "m").exists()


def test_c31_a_model_that_is_one_file_is_removed(client: hostd.Client, models: Path) -> None:
    (models / "one.py").write_bytes(files_of("x")["model.py"])
    client.load_model("one.py", models / "one.py", options={"text": "x"})
    assert client.undeploy_model("one.py").processes == 1
    assert not (models / "one.py").exists()


def test_c31_a_load_that_is_under_way_is_overtaken(client: hostd.Client, models: Path, tmp_path: Path) -> None:
    put(models, "m", f"gated {tmp_path / 'gate'}")
    loading = client.load_model("m", models / "m", wait=False)
    eventually((tmp_path / "gate.reached").exists, "it loads")
    assert client.undeploy_model("m").processes == 1
    assert isinstance(refusal(lambda: loading.wait(20)), (hostd.AbortedError, hostd.NotFoundError))
    assert not (models / "m").exists()


UNKNOWN: dict[str, Callable[[Path], object]] = {
    "nothing": lambda models: None,
    "a link to a model": lambda models: (models / "m").symlink_to(models / "real"),
    "a link out": lambda models: (models / "m").symlink_to(models.parent),
    "a dangling link": lambda models: (models / "m").symlink_to(models / "nothing"),
    "a fifo": lambda models: os.mkfifo(models / "m"),
    "a folder of models": lambda models: put(models, "m/inner", "inner"),
    "a folder of folders of models": lambda models: put(models, "m/group/inner", "inner"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_c31_what_is_no_model_is_refused_and_stays(client: hostd.Client, models: Path, what: str) -> None:
    client.deploy_model("real", files_of("real"))
    await_tidy(models)
    UNKNOWN[what](models)
    before = canary(models.parent)
    kind = hostd.NotFoundError if "folder" in what or what == "nothing" else hostd.FailedPreconditionError
    try:
        assert isinstance(refusal(lambda: client.undeploy_model("m")), kind)
        await_tidy(models)
        assert canary(models.parent) == before
        assert client.retrieve_model("real").predict() == "real"
    finally:
        if (models / "m").is_symlink() or (models / "m").is_fifo():
            (models / "m").unlink()


def test_c31_a_folder_is_not_removed_from_under_its_models(client: hostd.Client, models: Path) -> None:
    inner = client.deploy_model("team/inner", files_of("inner"))
    client.deploy_model("team/other", files_of("other"))
    assert isinstance(
        refusal(lambda: client.undeploy_model("team")), (hostd.NotFoundError, hostd.FailedPreconditionError)
    )
    client.undeploy_model("team/other")
    await_tidy(models)
    assert entries(models / "team") == ["inner"]
    assert inner.predict() == "inner"
    put(models, "team/outer", "outer")
    (models / "team" / "model.py").write_bytes(b"")  # now it is a model with models in it
    assert isinstance(refusal(lambda: client.undeploy_model("team")), hostd.FailedPreconditionError)
    assert inner.reads() == "inner"
    (models / "team" / "model.py").unlink()


def test_c31_links_in_a_model_are_removed_and_not_followed(client: hostd.Client, models: Path, tmp_path: Path) -> None:
    precious = put(tmp_path, "precious", "precious")
    place = put(models, "m", "x")
    (place / "link").symlink_to(precious)
    (place / "folder").mkdir()
    (place / "folder" / "up").symlink_to("..")
    (place / "folder" / "root").symlink_to("/")
    (place / "folder" / "file").symlink_to(precious / "text")
    os.link(precious / "text", place / "hard")
    os.mkfifo(place / "fifo")
    before = canary(tmp_path)
    client.load_model("m", place)
    client.undeploy_model("m")
    await_tidy(models)
    assert entries(models) == []
    assert canary(tmp_path) == before


def test_c31_read_only_and_very_deep_trees_are_removed(client: hostd.Client, models: Path) -> None:
    place = put(models, "m", "x")
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
    client.undeploy_model("m")
    await_tidy(models)
    assert entries(models) == []


def test_c31_a_model_that_is_loaded_from_elsewhere_keeps_its_files(
    client: hostd.Client, models: Path, tmp_path: Path
) -> None:
    elsewhere = client.load_model("m", put(tmp_path, "elsewhere", "elsewhere"))
    assert isinstance(refusal(lambda: client.undeploy_model("m")), hostd.NotFoundError)
    assert elsewhere.predict() == "elsewhere", "nothing is unloaded for files that are not there"
    assert content(tmp_path / "elsewhere") == files_of("elsewhere")


def test_c31_of_many_undeploys_at_once_one_removes_and_no_other_breaks(client: hostd.Client, models: Path) -> None:
    for turn in range(5):
        client.deploy_model("m", files_of(f"{turn}"))
        outcomes: list[object] = []

        def undeploy() -> None:
            try:
                outcomes.append(client.undeploy_model("m").processes)  # noqa: B023
            except hostd.HostError as error:
                outcomes.append(type(error))  # noqa: B023

        threads = [threading.Thread(target=undeploy) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert outcomes.count(1) == 1, outcomes
        assert set(outcomes) <= {1, hostd.FailedPreconditionError, hostd.NotFoundError}
        await_tidy(models)
        assert entries(models) == []


def test_c31_two_hosts_that_undeploy_one_id_remove_it_once(client: hostd.Client, models: Path) -> None:
    with hostd.Host(models={**PLACES, "dir": models, "load_on_start": False}) as other:
        clients = (client, other.client())
        for turn in range(8):
            client.deploy_model("m", files_of(f"{turn}"))
            done: list[bool] = []

            def undeploy(theirs: hostd.Client) -> None:
                try:
                    theirs.undeploy_model("m")
                    done.append(True)  # noqa: B023
                except (hostd.NotFoundError, hostd.AbortedError):
                    done.append(False)  # noqa: B023

            threads = [threading.Thread(target=undeploy, args=(theirs,)) for theirs in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert len(done) == 2
            assert done.count(True) <= 1, "both think that they removed it"
            await_tidy(models)
            if True not in done:  # both gave way to the other
                client.undeploy_model("m")
                await_tidy(models)
            client.unload_model("m")
            assert entries(models) == []
