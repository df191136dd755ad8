"""What `doctor` looks at, on this machine and on ones that lack something."""

import importlib.metadata
import json
import os
import re
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
import zmq

from hostd.cli.doctor import checks, trial
from hostd.cli.doctor.checks import Verdict, local_checks
from hostd_workers.wire.errors import UnavailableError

NAMES = (
    "python",
    "byte code",
    "system",
    "zeromq",
    "msgpack",
    "pidfd",
    "prctl",
    "memory",
    "children",
    "cgroup",
    "devices",
    "limits",
)


@pytest.fixture(autouse=True)
def _directories(tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTD_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOSTD_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch):
    """Whether a real one works is tried with a real host (`test_cli_real_host`)."""
    monkeypatch.setattr(trial, "one_worker", lambda: checks.Check("worker", Verdict.OK, "not tried"))


def found(name, verdict):
    (check,) = (check for check in local_checks() if check.name == name)
    assert check.verdict is verdict
    return check


def test_this_machine_can_host_models_and_looking_changes_nothing(tmp_path):
    made = local_checks()
    assert [check.name for check in made] == [*NAMES, "runtime dir", "state dir", "extras"]
    assert [check for check in made if check.verdict is Verdict.FAIL] == []
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_answers_is_named(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["checks"][-1]["name"] == "host"
    assert "pid 41, 1 model, up 2h 1m, at ipc:///run/x" in report["checks"][-1]["found"]


def test_no_host_is_something_to_look_at_not_a_failure(run, client):
    client.refusal = UnavailableError("nobody answers at ipc:///run/x: start one with `hostd serve`")
    result = run("doctor")
    assert result.exit_code == 0
    assert "nobody answers at ipc:///run/x: start one with `hostd serve`" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("0 that must be fixed")
    assert client.asked[0][2]["connect_timeout_s"] <= 2


def test_what_must_be_fixed_makes_the_exit_code_1_and_no_worker_is_tried(run, tmp_path):
    (tmp_path / "state").write_text("", "ascii")
    result = run("doctor")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].endswith("1 that must be fixed")
    report = json.loads(run("doctor", "--json").stdout)
    assert report["ok"] is False
    assert "worker" not in {check["name"] for check in report["checks"]}


def test_a_runtime_directory_that_is_open_to_others_or_cannot_be_made_fails(monkeypatch, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    check = found("runtime dir", Verdict.FAIL)
    assert check.advice == f"close it with: chmod 0700 {tmp_path / 'run'}"
    (tmp_path / "file").write_text("", "ascii")
    monkeypatch.setenv("HOSTD_RUNTIME_DIR", str(tmp_path / "file" / "run"))
    found("runtime dir", Verdict.FAIL)


def test_a_state_directory_that_others_may_write_or_that_is_none_fails(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    check = found("state dir", Verdict.FAIL)
    assert "may be written by others (mode 0777)" in check.found
    assert f"chmod 0700 {state}" in check.advice
    state.rmdir()
    state.write_text("", "ascii")
    found("state dir", Verdict.FAIL)


def test_a_wrong_setting_fails_with_what_is_wrong(monkeypatch):
    monkeypatch.setenv("HOSTD_RUNTIME_DIR", "/" + "x" * 200)
    assert "allows 107" in found("settings", Verdict.FAIL).found


@pytest.mark.parametrize(("version", "verdict"), [("1.2.2", "FAIL"), ("1.2.3", "OK"), ("2.0.0", "OK")])
def test_a_msgpack_that_leaks_fails(monkeypatch, version, verdict):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    found("msgpack", Verdict[verdict])


def test_an_old_libzmq_and_a_sandbox_without_pidfds_fail_and_few_open_files_are_something_to_look_at(monkeypatch):
    def refused(_pid):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(zmq, "zmq_version", lambda: "4.2.5")
    found("zeromq", Verdict.FAIL)
    monkeypatch.setattr(os, "pidfd_open", refused)
    assert "seccomp" in found("pidfd", Verdict.FAIL).advice
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    found("limits", Verdict.WARN)


def test_extras_that_are_not_there_are_named_with_their_command(monkeypatch):
    monkeypatch.setitem(checks.EXTRAS, "odd", ("no_such_library",))
    check = found("extras", Verdict.OK)
    assert "odd" in check.found.partition("not installed: ")[2]
    assert re.search(r" -m pip install .*\bodd\b", check.advice)


def test_every_extra_of_a_loader_is_looked_for_and_no_other():
    offered = importlib.metadata.metadata("hostd").get_all("Provides-Extra")
    others = {"test", "heavy", "demo", "bench", "gpu", "http", "grpc", "caikit"}
    assert set(offered) - others == set(checks.EXTRAS)


# Devices


class NVMLError(Exception):
    pass


def nvml(count):
    driver = {"nvmlSystemGetDriverVersion": lambda: "580.1", "nvmlDeviceGetCount": count}
    devices = {"nvmlDeviceGetHandleByIndex": lambda index: index, "nvmlDeviceGetComputeRunningProcesses": refuse_third}
    return SimpleNamespace(nvmlInit=int, nvmlShutdown=int, NVMLError=NVMLError, **driver, **devices)


def refuse_third(device):
    if device == 2:
        raise NVMLError("Not Supported")
    return []


def broken():
    raise NVMLError("Driver Not Loaded")


@pytest.mark.parametrize(
    ("module", "verdict", "words"),
    [
        (nvml(lambda: 2), Verdict.OK, "2 by NVIDIA, driver 580.1"),
        (nvml(lambda: 0), Verdict.OK, "0 by NVIDIA, driver 580.1: nothing"),
        (nvml(lambda: 3), Verdict.WARN, "Not Supported"),
        (nvml(broken), Verdict.WARN, "Driver Not Loaded"),
        (None, Verdict.WARN, "is not known"),
    ],
)
def test_where_there_is_a_driver_it_is_said_whether_devices_are_measured(monkeypatch, tmp_path, module, verdict, words):
    driver = tmp_path / "version"
    monkeypatch.setattr(checks, "_NVIDIA_DRIVER", (driver,))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    found("devices", Verdict.OK)  # without a driver nothing is wrong
    driver.touch()
    check = found("devices", verdict)
    assert words in check.found
    assert bool(check.advice) is (verdict is Verdict.WARN)


def test_modules_that_every_process_would_compile_are_something_to_look_at(monkeypatch, tmp_path):
    (tmp_path / "module.py").touch()
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert checks._byte_code([tmp_path]).verdict is checks.Verdict.OK
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    check = checks._byte_code([tmp_path])
    assert (check.verdict, check.found[:23]) == (checks.Verdict.WARN, "1 of 1 module have none")
    subprocess.run(check.advice.partition(": ")[2], shell=True, check=True)
    assert checks._byte_code([tmp_path]).verdict is checks.Verdict.OK
