"""The supervisor's process: who may hold a runtime directory, how it starts, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import PATIENCE_S, SOON_S, at_most, eventually, is_there, never

import hostd
from hostd.config.loading import load_config
from hostd.hosts.launch import reaper_command, supervisor_environment

SLOW = """
    import pathlib, time

    class Slow:
        def work(self, marker, release):
            pathlib.Path(marker).touch()
            while not pathlib.Path(release).exists():
                time.sleep(0.002)
            return "finished"

    def load(path):
        return Slow()
"""


# Starting


def test_it_says_where_it_is_when_it_is_ready(serve):
    service = serve()
    with hostd.connect(service.endpoint) as client:
        assert client.host_info().pid == service.pid
    assert service.pid != service.reaper.pid


def test_without_anybody_to_tell_it_prints_where_it_is(tmp_path):
    config = load_config({"runtime_dir": tmp_path / "r", "state_dir": tmp_path / "s"})
    command, environment = reaper_command(), supervisor_environment(config)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as host:
        assert re.fullmatch(r"hostd \S+ is ready at ipc://\S+ \(process \d+\)\n", host.stdout.readline())
        host.terminate()
        assert host.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("output", ["full", "closed"])
def test_it_serves_also_if_it_cannot_print_where_it_is(tmp_path, output):
    config = load_config({"runtime_dir": tmp_path / "r", "state_dir": tmp_path / "s"})
    read, pipe = os.pipe()
    os.close(read)
    with open(pipe, "wb") as closed, open("/dev/full", "wb") as full:
        host = subprocess.Popen(
            reaper_command(),
            env=supervisor_environment(config),
            stdout=full if output == "full" else closed,
            stderr=subprocess.PIPE,
            text=True,
        )
    with host:
        while "it is ready" not in (line := host.stderr.readline()):
            assert line, "it has ended"
        with hostd.connect(config.endpoint) as client:
            assert client.host_info().state == "READY"
        host.terminate()
        assert host.wait(PATIENCE_S) == 0


def test_a_hang_up_that_is_ignored_ends_nothing(serve):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup(1) does
    try:
        service = serve()
    finally:
        signal.signal(signal.SIGHUP, before)
    for pid in (service.reaper.pid, service.pid):
        status = Path(f"/proc/{pid}/status").read_text()
        ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
        assert int(ignored, 16) >> signal.SIGHUP - 1 & 1
    service.reaper.terminate()
    assert service.ended() == 0


def test_a_second_host_in_one_directory_is_refused_and_names_the_first(serve):
    first = serve()
    before = {entry.name: entry.stat().st_ino for entry in first.runtime_dir.iterdir()}
    second = serve()
    assert str(first.pid) in second.said["error"]
    assert str(first.runtime_dir) in second.said["error"]
    assert second.ended() == 1
    assert {entry.name: entry.stat().st_ino for entry in first.runtime_dir.iterdir()} == before
    with hostd.connect(first.endpoint) as client:
        assert client.host_info().pid == first.pid


def test_of_many_that_start_together_one_wins(serve):
    with ThreadPoolExecutor(5) as pool:
        services = [future.result() for future in [pool.submit(serve) for _ in range(5)]]
    winners = [service for service in services if "ready" in service.said]
    assert len(winners) == 1
    with hostd.connect(winners[0].endpoint) as client:
        assert client.host_info().pid == winners[0].pid


def test_what_a_killed_host_left_is_taken_over(serve):
    first = serve()
    os.kill(first.pid, signal.SIGKILL)
    first.ended()
    assert {entry.name for entry in first.runtime_dir.iterdir()} >= {"client.ipc", "workers.ipc", "hostd.lock"}
    second = serve()
    assert second.runtime_dir == first.runtime_dir
    with hostd.connect(second.endpoint) as client:
        assert client.host_info().pid == second.pid


def test_a_client_finds_the_host_that_was_started_again(serve, model_dir):
    first = serve()
    with hostd.connect(first.endpoint) as client:
        model = client.load_model("echo", model_dir())
        epoch = client.host_info().epoch
        call = model.submit.predict(1)
        call.result(PATIENCE_S)
        os.kill(first.pid, signal.SIGKILL)
        first.ended()
        with at_most(5.0 + SOON_S, "a call while no host is there"), pytest.raises(hostd.UnavailableError):
            model.predict(1)
        serve()
        assert client.host_info().epoch != epoch
        with pytest.raises(hostd.NotFoundError):
            model.predict(1)


def test_a_call_in_flight_when_the_host_is_killed_is_unavailable(serve, model_dir, tmp_path):
    service = serve()
    with hostd.connect(service.endpoint) as client:
        call = client.load_model("slow", model_dir(SLOW)).submit.work(str(tmp_path / "m"), str(tmp_path / "r"))
        eventually((tmp_path / "m").exists, "the call has begun")
        os.kill(service.pid, signal.SIGKILL)
        with at_most(SOON_S, "the error of a call whose host is gone"), pytest.raises(hostd.UnavailableError):
            call.result(PATIENCE_S)


def test_a_file_where_a_socket_belongs_is_not_overwritten(serve):
    service = serve()
    directory = service.runtime_dir
    service.reaper.terminate()
    service.ended()
    (directory / "client.ipc").write_text("precious")
    refused = serve()
    assert "client.ipc" in refused.said["error"]
    assert refused.ended() == 1
    assert (directory / "client.ipc").read_text() == "precious"


def test_a_directory_that_others_may_enter_is_refused(serve, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    refused = serve(runtime_dir=tmp_path / "open")
    assert "0700" in refused.said["error"]
    assert refused.ended() == 1


def test_a_link_in_the_place_of_the_lock_is_not_followed(serve, tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run" / "hostd.lock").symlink_to(tmp_path / "victim")
    refused = serve(runtime_dir=tmp_path / "run")
    assert "error" in refused.said
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_port_that_is_taken_stops_the_start_with_the_reason(serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = serve(metrics={"port": port})
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in refused.said["error"]
    assert "another metrics.port (--metrics-port PORT" in refused.said["error"]
    assert refused.ended() == 1
    refused = serve(metrics={"port": port, "host": "192.0.2.1"})
    assert f"cannot listen at 192.0.2.1:{port}: Cannot assign requested address" in refused.said["error"]
    assert "metrics.host" in refused.said["error"]


def test_a_state_directory_that_cannot_be_made_stops_the_start_with_the_reason(serve, tmp_path):
    (tmp_path / "file").write_text("")
    refused = serve(state_dir=tmp_path / "file" / "state")
    assert str(tmp_path / "file") in refused.said["error"]


def test_only_its_user_can_reach_it(serve):
    directory = serve().runtime_dir
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {entry.stat().st_uid for entry in directory.iterdir()} == {os.getuid()}


def test_its_tokens_are_in_no_environment_but_the_workers(serve, model_dir):
    source = "import os\ndef load(path):\n    return lambda: sorted(name for name in os.environ if name.startswith('HOSTD_'))\n"
    with hostd.connect(serve().endpoint) as client:
        assert client.load_model("m", model_dir(source))() == ["HOSTD_CPU_THREADS", "HOSTD_HOST", "HOSTD_MODEL_ID"]


# Ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(serve, model_dir, number):
    service = serve()
    client = hostd.connect(service.endpoint)
    pid = client.load_model("echo", model_dir()).info.workers[0].pid
    service.reaper.send_signal(number)
    assert service.ended() == 0
    assert not is_there(pid)
    assert not is_there(service.pid)
    assert {entry.name for entry in service.runtime_dir.iterdir()} <= {"hostd.lock"}
    client.close()


def test_a_signal_to_the_supervisor_itself_does_the_same(serve, model_dir):
    service = serve()
    with hostd.connect(service.endpoint) as client:
        client.load_model("echo", model_dir())
    os.kill(service.pid, signal.SIGTERM)
    assert service.ended() == 0


def test_a_signal_lets_calls_in_flight_finish(serve, model_dir, tmp_path):
    service = serve(workers={"drain_timeout_s": 20})
    with hostd.connect(service.endpoint) as client:
        model = client.load_model("slow", model_dir(SLOW))
        call = model.submit.work(str(tmp_path / "m"), str(tmp_path / "r"))
        eventually((tmp_path / "m").exists, "the call has begun")
        service.reaper.terminate()
        eventually(lambda: client.get_model("slow").state == "UNLOADING", "the host drains")
        with pytest.raises(hostd.UnavailableError, match="shutting down"):
            client.load_model("other", model_dir())
        never(lambda: service.reaper.poll() is not None, "the host ended with a call in flight", for_s=0.1)
        (tmp_path / "r").touch()
        assert call.result(PATIENCE_S) == "finished"
        assert service.ended() == 0


def test_a_second_signal_ends_it_at_once(serve, model_dir, tmp_path):
    service = serve(workers={"drain_timeout_s": 60})
    with hostd.connect(service.endpoint) as client:
        model = client.load_model("slow", model_dir(SLOW))
        call = model.submit.work(str(tmp_path / "m"), str(tmp_path / "r"))
        eventually((tmp_path / "m").exists, "the call has begun")
        service.reaper.terminate()
        eventually(lambda: client.get_model("slow").state == "UNLOADING", "the host drains")
        with at_most(SOON_S, "the end after a second signal"):
            service.reaper.terminate()
            assert service.ended() == 0
        with pytest.raises((hostd.AbortedError, hostd.UnavailableError)):
            call.result(PATIENCE_S)


def test_a_client_can_shut_it_down_and_is_answered_when_nothing_is_left(serve, model_dir):
    service = serve()
    with hostd.connect(service.endpoint) as client:
        pids = [client.load_model(f"m{i}", model_dir()).info.workers[0].pid for i in range(3)]
        client.shutdown()
        assert not [pid for pid in pids if is_there(pid)]
    assert service.ended() == 0


def test_a_signal_while_models_load_does_not_wait_for_them(serve, model_dir):
    service = serve()
    with hostd.connect(service.endpoint) as client:
        client.load_model("m", model_dir("import time\ndef load(path):\n    time.sleep(3600)\n"), wait=False)
        with at_most(SOON_S, "the end of a host with a load that hangs"):
            service.reaper.terminate()
            assert service.ended() == 0


def test_each_transition_is_logged_once_with_model_worker_and_pid(serve, model_dir):
    service = serve()
    with hostd.connect(service.endpoint) as client:
        pid = client.load_model("echo", model_dir()).info.workers[0].pid
        client.unload_model("echo")
    service.reaper.terminate()
    _, log = service.reaper.communicate(timeout=PATIENCE_S)
    ready = [line for line in log.splitlines() if f"model=echo worker=1 pid={pid} worker: LOADING -> READY" in line]
    dead = [line for line in log.splitlines() if f"model=echo worker=1 pid={pid} worker: KILLING -> DEAD" in line]
    assert (len(ready), len(dead)) == (1, 1), log
    assert "Traceback" not in log


def test_the_workers_interpreter_can_be_set_for_the_whole_host(serve, model_dir):
    path = model_dir("import sys\ndef load(path):\n    return lambda: sys.executable\n")
    with hostd.connect(serve(workers={"python": sys.executable}).endpoint) as client:
        assert client.load_model("m", path)() == sys.executable
