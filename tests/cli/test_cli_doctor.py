"""What `doctor` looks at, on this machine and on ones that lack something."""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import zmq

from hostd.cli.doctor import checks, trial
from hostd.cli.doctor.checks import Verdict, local_checks
from hostd_workers.wire.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ("python", "system", "zeromq", "msgpack", "pidfd", "prctl", "memory", "children", "cgroup", "devices", "limits")


@pytest.fixture(autouse=True)
def _directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTD_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOSTD_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a real one works is tried with a real host (`test_cli_real_host`)."""
    monkeypatch.setattr(trial, "one_worker", lambda: checks.Check("worker", Verdict.OK, "not tried"))


def found(name: str) -> checks.Check:
    (check,) = (check for check in local_checks() if check.name == name)
    return check


def test_this_machine_can_host_models() -> None:
    made = local_checks()
    assert [check.name for check in made] == [*NAMES, "runtime dir", "state dir", "extras"]
    assert [check for check in made if check.verdict is Verdict.FAIL] == []


def test_looking_changes_nothing(tmp_path: Path) -> None:
    local_checks()
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_answers_is_named(run, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["checks"][-1]["name"] == "host"
    assert "pid 41, 1 model, up 2h 1m, at ipc:///run/x" in report["checks"][-1]["found"]


def test_no_host_is_something_to_look_at_not_a_failure(run, client) -> None:
    client.refusal = UnavailableError("nobody answers at ipc:///run/x: start one with `hostd serve`")
    result = run("doctor")
    assert result.exit_code == 0
    assert "nobody answers at ipc:///run/x: start one with `hostd serve`" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("0 that must be fixed")
    assert client.asked[0][2]["connect_timeout_s"] <= 2


def test_what_must_be_fixed_makes_the_exit_code_1_and_no_worker_is_tried(run, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("", "ascii")
    result = run("doctor")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].endswith("1 that must be fixed")
    report = json.loads(run("doctor", "--json").stdout)
    assert report["ok"] is False
    assert "worker" not in {check["name"] for check in report["checks"]}


def test_a_runtime_directory_open_to_others_fails_with_the_command_that_closes_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    check = found("runtime dir")
    assert check.verdict is Verdict.FAIL
    assert check.advice == f"close it with: chmod 0700 {tmp_path / 'run'}"


def test_a_runtime_directory_that_cannot_be_made_fails(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "ascii")
    monkeypatch.setenv("HOSTD_RUNTIME_DIR", str(tmp_path / "file" / "run"))
    assert found("runtime dir").verdict is Verdict.FAIL


def test_a_state_directory_that_is_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("", "ascii")
    assert found("state dir").verdict is Verdict.FAIL


def test_a_state_directory_that_others_may_write_fails_with_the_command_that_closes_it(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    check = found("state dir")
    assert check.verdict is Verdict.FAIL
    assert "may be written by others (mode 0777)" in check.found
    assert f"chmod 0700 {tmp_path / 'state'}" in check.advice


def test_a_wrong_setting_fails_with_what_is_wrong(monkeypatch) -> None:
    monkeypatch.setenv("HOSTD_RUNTIME_DIR", "/" + "x" * 200)
    check = found("settings")
    assert check.verdict is Verdict.FAIL
    assert "allows 107" in check.found


@pytest.mark.parametrize(
    ("version", "verdict"), [("1.2.2", Verdict.FAIL), ("1.2.3", Verdict.OK), ("2.0.0", Verdict.OK)]
)
def test_a_msgpack_that_leaks_fails(monkeypatch, version: str, verdict: Verdict) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    assert found("msgpack").verdict is verdict


def test_an_old_libzmq_fails(monkeypatch) -> None:
    monkeypatch.setattr(zmq, "zmq_version", lambda: "4.2.5")
    assert found("zeromq").verdict is Verdict.FAIL


def test_a_sandbox_without_pidfds_fails(monkeypatch) -> None:
    def refused(_pid: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refused)
    check = found("pidfd")
    assert check.verdict is Verdict.FAIL
    assert "seccomp" in check.advice


def test_few_open_files_are_something_to_look_at(monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    assert found("limits").verdict is Verdict.WARN


def test_extras_that_are_not_there_are_named_with_their_command(monkeypatch) -> None:
    monkeypatch.setitem(checks.EXTRAS, "odd", ("no_such_library",))
    check = found("extras")
    assert "odd" in check.found.partition("not installed: ")[2]
    assert check.advice.partition(" -m pip install ")[2].partition("]")[0].split(",")[-1] == "odd"


def test_every_extra_of_a_loader_is_looked_for_and_no_other() -> None:
    offered = importlib.metadata.metadata("hostd").get_all("Provides-Extra")
    assert set(offered) - {"test", "heavy", "demo", "bench", "gpu"} == set(checks.EXTRAS)


# Devices


class NVMLError(Exception):
    pass


def nvml(count: Callable[[], int]) -> SimpleNamespace:
    driver = {"nvmlSystemGetDriverVersion": lambda: "580.1", "nvmlDeviceGetCount": count}
    devices = {"nvmlDeviceGetHandleByIndex": lambda index: index, "nvmlDeviceGetComputeRunningProcesses": refuse_third}
    return SimpleNamespace(nvmlInit=int, nvmlShutdown=int, NVMLError=NVMLError, **driver, **devices)


def refuse_third(device: int) -> list[object]:
    if device == 2:
        raise NVMLError("Not Supported")
    return []


def broken() -> int:
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
def test_where_there_is_a_driver_it_is_said_whether_devices_are_measured(
    monkeypatch, tmp_path: Path, module: SimpleNamespace | None, verdict: Verdict, words: str
) -> None:
    driver = tmp_path / "version"
    monkeypatch.setattr(checks, "_NVIDIA_DRIVER", (driver,))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert found("devices").verdict is Verdict.OK, "without a driver nothing is wrong"
    driver.touch()
    check = found("devices")
    assert (check.verdict, words in check.found) == (verdict, True)
    assert bool(check.advice) is (verdict is Verdict.WARN)
