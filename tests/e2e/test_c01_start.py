"""C01: one host per runtime directory, and what a crash left is taken over. How a host ends is in `test_sudden_death`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from typing import TYPE_CHECKING, TypeAlias

import pytest
from helpers import PATIENCE_S, Service, eventually, is_there

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Serve: TypeAlias = "Callable[..., Service]"
ModelDir: TypeAlias = "Callable[..., str]"


def tree(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return what is below a directory: inodes, modes, times, and the bytes of small files."""
    found = {}
    for file in sorted(directory.rglob("*")):
        info = file.lstat()
        content = file.read_bytes() if file.is_file() else b""
        found[str(file)] = (info.st_ino, info.st_mode, info.st_mtime_ns, content)
    return found


def kill_everything(service: Service) -> None:
    """End a host as a power cut does: nobody tidies up."""
    os.kill(service.reaper.pid, signal.SIGKILL)
    service.reaper.wait(PATIENCE_S)
    eventually(lambda: not is_there(service.pid), "the supervisor ended with its reaper")


def test_c01_a_second_start_refuses_and_names_the_process_and_what_to_do(serve: Serve) -> None:
    first = serve()
    second = serve()
    assert second.ended() == 1
    said = second.said["error"]
    assert f"process {first.pid}" in said
    assert str(first.runtime_dir) in said
    assert "hostd shutdown" in said
    assert "--name" in said


def test_c01_a_second_start_changes_nothing(serve: Serve, tmp_path: Path, model_dir: ModelDir) -> None:
    models, other_state = tmp_path / "models", tmp_path / "other-state"
    models.mkdir()
    first = serve(models={"dir": models})
    with hostd.connect(first.endpoint) as client:
        model = client.load_model("echo", model_dir())
        epoch, pid = client.host_info().epoch, model.info.workers[0].pid
        before = {place: tree(place) for place in (first.runtime_dir, models)}
        second = serve(models={"dir": models}, state_dir=other_state, log_level="debug")
        assert second.ended() == 1
        assert {place: tree(place) for place in (first.runtime_dir, models)} == before
        assert not other_state.exists()
        assert model.predict(1) == 1
        assert client.host_info().epoch == epoch
        assert model.info.workers[0].pid == pid


def test_c01_the_second_start_of_many_fails_each_time_and_the_first_goes_on(serve: Serve) -> None:
    first = serve()
    for _ in range(3):
        assert str(first.pid) in serve().said["error"]
    with hostd.connect(first.endpoint) as client:
        assert client.host_info().pid == first.pid


def test_c01_a_host_of_another_directory_starts_beside_it(serve: Serve, tmp_path: Path) -> None:
    first = serve()
    other_dir = first.runtime_dir.with_name("another")
    second = serve(runtime_dir=other_dir, state_dir=tmp_path / "another-state")
    assert second.pid != first.pid
    for service in (first, second):
        with hostd.connect(service.endpoint) as client:
            assert client.host_info().pid == service.pid
            client.shutdown()
    shutil.rmtree(other_dir)


@pytest.mark.parametrize("how", ["supervisor", "reaper"])
def test_c01_what_a_crash_left_is_taken_over(serve: Serve, model_dir: ModelDir, how: str) -> None:
    first = serve()
    with hostd.connect(first.endpoint) as client:
        worker = client.load_model("echo", model_dir()).info.workers[0].pid
    if how == "supervisor":
        os.kill(first.pid, signal.SIGKILL)
        first.ended()
    else:
        kill_everything(first)
    names = {entry.name for entry in first.runtime_dir.iterdir()}
    assert names >= {"hostd.lock", "client.ipc", "workers.ipc"}, "the crash left nothing, so this shows nothing"
    second = serve()
    assert "ready" in second.said, second.said
    eventually(lambda: not is_there(worker), "no worker of the first is left")
    with hostd.connect(second.endpoint) as client:
        assert client.list_models() == []
        assert client.load_model("echo", model_dir()).predict(2) == 2


def test_c01_a_lock_that_names_a_living_process_is_stale_if_nobody_holds_it(serve: Serve) -> None:
    first = serve()
    kill_everything(first)
    # Process ids are used again: what counts is who holds the lock.
    (first.runtime_dir / "hostd.lock").write_text(f"{os.getpid()}\n")
    second = serve()
    assert second.pid != os.getpid()
    with hostd.connect(second.endpoint) as client:
        assert client.host_info().pid == second.pid
    assert (first.runtime_dir / "hostd.lock").read_text().strip() == str(second.pid)


def test_c01_a_lock_of_rubbish_and_dead_sockets_are_taken_over(serve: Serve) -> None:
    first = serve()
    directory = first.runtime_dir
    kill_everything(first)
    (directory / "hostd.lock").write_bytes(b"\xff\x00" * 500)
    for name in ("client.ipc", "workers.ipc"):
        (directory / name).unlink()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(directory / name))
    second = serve()
    assert "ready" in second.said, second.said
    third = serve()
    assert f"(process {second.pid})" in third.said["error"], "the lock must name its holder and nothing else"


def test_c01_a_start_after_an_orderly_end_needs_no_tidying_up(serve: Serve, model_dir: ModelDir) -> None:
    first = serve()
    with hostd.connect(first.endpoint) as client:
        client.load_model("echo", model_dir())
        client.shutdown()
    assert first.ended() == 0
    second = serve()
    with hostd.connect(second.endpoint) as client:
        assert client.host_info().pid == second.pid != first.pid


def test_c01_an_empty_directory_of_a_crash_is_taken_over(serve: Serve) -> None:
    first = serve()
    directory = first.runtime_dir
    kill_everything(first)
    for entry in directory.iterdir():
        entry.unlink()
    assert "ready" in serve().said
