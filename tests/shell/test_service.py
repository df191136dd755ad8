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
from helpers import PATIENCE_S, eventually, never

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


@pytest.mark.parametrize("output", ["open", "full", "closed"])
def test_it_prints_where_it_is_and_serves_also_if_it_cannot(tmp_path, output):
    config = load_config({"runtime_dir": tmp_path / "r", "state_dir": tmp_path / "s"})
    read, write = os.pipe()
    if output == "closed":
        os.close(read)
    with open(write, "wb") as pipe, open("/dev/full", "wb") as full:
        host = subprocess.Popen(
            reaper_command(),
            env=supervisor_environment(config),
            stdout=full if output == "full" else pipe,
            stderr=subprocess.PIPE,
            text=True,
        )
    with host:
        if output == "open":
            with open(read, encoding="utf-8") as said:
                words = said.readline()
            assert re.fullmatch(r"hostd \S+ is ready at ipc://\S+ \(process \d+\)\n", words)
        else:
            while "it is ready" not in (line := host.stderr.readline()):
                assert line, "it has ended"
        with hostd.connect(config.endpoint) as client:
            assert client.host_info().state == "READY"
        host.terminate()
        host.communicate(timeout=PATIENCE_S)
        assert host.returncode == 0
    if output == "full":
        os.close(read)


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


def test_of_many_that_start_together_one_wins(serve):
    with ThreadPoolExecutor(5) as pool:
        services = [future.result() for future in [pool.submit(serve) for _ in range(5)]]
    winners = [service for service in services if "ready" in service.said]
    assert len(winners) == 1
    with hostd.connect(winners[0].endpoint) as client:
        assert client.host_info().pid == winners[0].pid


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


def test_a_worker_runs_as_is_set_without_our_tokens_and_each_of_its_transitions_is_logged_once(serve, model_dir):
    """A signal to the supervisor itself ends it as one to its reaper does."""
    service = serve(workers={"python": sys.executable})
    source = """
        import os, sys
        def load(path):
            return lambda: [sys.executable, *sorted(name for name in os.environ if name.startswith("HOSTD_"))]
    """
    with hostd.connect(service.endpoint) as client:
        assert client.host_info().pid == service.pid != service.reaper.pid
        model = client.load_model("echo", model_dir(source))
        assert model() == [sys.executable, "HOSTD_CPU_THREADS", "HOSTD_HOST", "HOSTD_MODEL_ID"]
        pid = model.info.workers[0].pid
        client.unload_model("echo")
    os.kill(service.pid, signal.SIGTERM)
    _, log = service.reaper.communicate(timeout=PATIENCE_S)
    for transition in ("LOADING -> READY", "KILLING -> DEAD"):
        assert log.count(f"model=echo worker=1 pid={pid} worker: {transition}") == 1, log
    assert "Traceback" not in log
    assert service.reaper.returncode == 0


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
