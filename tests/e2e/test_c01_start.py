"""C01: one host per runtime directory, and what a crash left is taken over. How a host ends is in `test_sudden_death`."""

import os
import signal
import socket

from helpers import PATIENCE_S, eventually, is_there

import hostd


def tree(directory):
    """Return what is below a directory: inodes, modes, times, and the bytes of small files."""
    found = {}
    for file in sorted(directory.rglob("*")):
        info = file.lstat()
        content = file.read_bytes() if file.is_file() else b""
        found[str(file)] = (info.st_ino, info.st_mode, info.st_mtime_ns, content)
    return found


def kill_everything(service):
    """End a host as a power cut does: nobody tidies up."""
    os.kill(service.reaper.pid, signal.SIGKILL)
    service.reaper.wait(PATIENCE_S)
    eventually(lambda: not is_there(service.pid), "the supervisor ended with its reaper")


def test_c01_a_second_start_refuses_changes_nothing_and_says_what_to_do(serve, tmp_path, model_dir):
    models, other_state = tmp_path / "models", tmp_path / "other-state"
    models.mkdir()
    first = serve(models={"dir": models})
    with hostd.connect(first.endpoint) as client:
        model = client.load_model("echo", model_dir())
        epoch, pid = client.host_info().epoch, model.info.workers[0].pid
        before = {place: tree(place) for place in (first.runtime_dir, models)}
        for _ in range(2):
            second = serve(models={"dir": models}, state_dir=other_state, log_level="debug")
            assert second.ended() == 1
            for words in (f"process {first.pid}", str(first.runtime_dir), "hostd shutdown", "--name"):
                assert words in second.said["error"]
        assert {place: tree(place) for place in (first.runtime_dir, models)} == before
        assert not other_state.exists()
        assert model.predict(1) == 1
        assert client.host_info().epoch == epoch
        assert model.info.workers[0].pid == pid


def spoil(directory):
    """Leave a lock of rubbish, and sockets that nothing listens at."""
    (directory / "hostd.lock").write_bytes(b"\xff\x00" * 500)
    for name in ("client.ipc", "workers.ipc"):
        (directory / name).unlink()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(directory / name))


def empty(directory):
    for entry in directory.iterdir():
        entry.unlink()


LEFT = {
    "all of it": lambda directory: None,
    "a lock that names a living process": lambda directory: (directory / "hostd.lock").write_text(f"{os.getpid()}\n"),
    "rubbish": spoil,
    "nothing": empty,
}


def test_c01_what_a_crash_left_is_taken_over(serve, model_dir):
    service = serve()
    with hostd.connect(service.endpoint) as client:
        worker = client.load_model("echo", model_dir()).info.workers[0].pid
    os.kill(service.pid, signal.SIGKILL)
    service.ended()
    for what, leave in LEFT.items():
        directory = service.runtime_dir
        names = {entry.name for entry in directory.iterdir()}
        assert names >= {"hostd.lock", "client.ipc", "workers.ipc"}, "the crash left nothing, so this shows nothing"
        leave(directory)
        service = serve()
        assert "ready" in service.said, (what, service.said)
        eventually(lambda: not is_there(worker), "no worker of the first is left")  # noqa: B023 - waited for
        assert (directory / "hostd.lock").read_text().strip() == str(service.pid)
        with hostd.connect(service.endpoint) as client:
            assert (client.host_info().pid, client.list_models()) == (service.pid, [])
            worker = client.load_model("echo", model_dir()).info.workers[0].pid
        kill_everything(service)
