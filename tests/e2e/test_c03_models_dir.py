"""C03 to C05: the models directory and its settings, and what a start makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from helpers import PATIENCE_S, eventually, never

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from helpers import Service

Serve: TypeAlias = "Callable[..., Service]"
ModelDir: TypeAlias = "Callable[..., str]"

BAD = "def load(path):\n    raise ValueError('spoilt weights')\n"
GOOD = "class M:\n    def predict(self, x):\n        return x\ndef load(path):\n    return M()\n"
WAITING = """
import os, time
def load(path):
    open(os.path.join(os.path.dirname(path), "..", "begun"), "w").close()
    while not os.path.exists(os.path.join(os.path.dirname(path), "..", "go")):
        time.sleep(0.005)
    return lambda x: x
"""

AT_ONCE = {"write_quiet_period_s": 0}


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    return directory


def put(directory: Path, name: str, source: str = GOOD) -> Path:
    (directory / name).mkdir(parents=True)
    (directory / name / "model.py").write_text(source)
    return directory / name


def states(client: hostd.Client) -> dict[str, str]:
    return {model.id: model.state for model in client.list_models()}


def why_not(**settings: Any) -> str:
    """Return why a host with these settings does not start."""
    with pytest.raises(hostd.HostError) as caught, hostd.Host(**settings):
        pytest.fail("the host has started", pytrace=False)
    return caught.value.message


# C03


def test_c03_without_a_models_directory_a_host_runs(
    host: hostd.Host, client: hostd.Client, model_dir: ModelDir
) -> None:
    assert client.host_info().models_dir is None
    assert client.load_model("echo", model_dir()).predict(1) == 1
    with pytest.raises(hostd.FailedPreconditionError, match=r"models\.dir"):
        client.sync_local_models()


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_c03_a_directory_that_is_not_there_is_a_warning_and_the_host_runs_without_it(
    serve: Serve, tmp_path: Path, model_dir: ModelDir, kind: str
) -> None:
    directory = tmp_path / "absent"
    if kind == "file":
        directory.touch()
    service = serve(models={"dir": directory})
    with hostd.connect(service.endpoint) as client:
        assert client.host_info().models_dir is None
        (trouble,) = client.host_info().degraded
        assert str(directory) in trouble
        assert client.load_model("echo", model_dir()).predict(1) == 1
        client.shutdown()
    said = service.reaper.communicate(timeout=PATIENCE_S)[1]
    (warning,) = [line for line in said.splitlines() if "WARNING" in line]
    assert str(directory) in warning
    assert "models.dir" in warning


def test_c03_with_lazy_loading_a_missing_directory_stops_the_start_and_is_shown(tmp_path: Path) -> None:
    said = why_not(models={"dir": tmp_path / "absent", "lazy_load": True})
    assert str(tmp_path / "absent") in said
    assert "lazy_load" in said


def test_c03_with_lazy_loading_an_unset_directory_stops_the_start_and_says_what_to_set() -> None:
    said = why_not(models={"lazy_load": True})
    assert "models.dir" in said
    assert "not set" in said


def test_c03_with_lazy_loading_and_a_directory_a_host_starts(models_dir: Path) -> None:
    put(models_dir, "echo")
    with hostd.Host(models_dir=models_dir, models={"lazy_load": True, "load_on_start": False, **AT_ONCE}) as host:
        assert host.client().host_info().models_dir == str(models_dir)
        assert host.client().retrieve_model("echo").predict(1) == 1


# C04


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("lazy_load", 1),
        ("lazy_load", "perhaps"),
        ("poll_period_s", "often"),
        ("poll_period_s", True),
        ("poll_period_s", -1),
        ("poll_period_s", [1]),
        ("write_quiet_period_s", "long"),
        ("write_quiet_period_s", False),
        ("load_on_start", 0),
        ("wait_for_initial_loads", {}),
        ("lazy_load_retries", 1.5),
        ("lazy_load_retries", True),
        ("lazy_load_retries", -1),
        ("dir", 7),
        ("dir", ""),
    ],
)
def test_c04_a_wrong_type_stops_the_start_and_names_the_field(models_dir: Path, name: str, wrong: Any) -> None:
    assert f"models.{name}" in why_not(models={"dir": models_dir, name: wrong})


@pytest.mark.parametrize(
    "settings",
    [
        {"poll_period_s": None, "write_quiet_period_s": None},
        {"poll_period_s": 0, "write_quiet_period_s": 0},
        {"poll_period_s": 0.5, "write_quiet_period_s": -3},
    ],
    ids=repr,
)
def test_c04_periods_may_be_a_number_or_null(models_dir: Path, settings: dict[str, Any]) -> None:
    put(models_dir, "fresh")  # seconds old: a quiet period that is on would be waited for
    with hostd.Host(models_dir=models_dir, models={"wait_for_initial_loads": True, **settings}) as host:
        assert states(host.client()) == {"fresh": "READY"}
        assert "BEING_WRITTEN" not in str(host.client().explain_model("fresh")["story"])


def test_c04_with_a_directory_lazy_loading_and_a_period_the_directory_is_followed(models_dir: Path) -> None:
    with hostd.Host(models_dir=models_dir, models={"lazy_load": True, "poll_period_s": 0.1, **AT_ONCE}) as host:
        client = host.client()
        put(models_dir, "later")
        eventually(lambda: states(client) == {"later": "READY"}, "the new model is loaded by itself")
        (models_dir / "later").rename(models_dir.parent / "elsewhere")
        eventually(lambda: states(client) == {}, "what is gone is unloaded by itself")


@pytest.mark.parametrize(
    "settings",
    [
        {"lazy_load": False, "poll_period_s": 0.05},
        {"lazy_load": True, "poll_period_s": 0},
        {"lazy_load": True, "poll_period_s": None},
    ],
    ids=repr,
)
def test_c04_without_lazy_loading_or_a_period_nothing_is_followed(models_dir: Path, settings: dict[str, Any]) -> None:
    with hostd.Host(models_dir=models_dir, models={**AT_ONCE, **settings}) as host:
        client = host.client()
        put(models_dir, "later")
        never(client.list_models, "nobody asked for a sync", for_s=1.0)
        assert client.sync_local_models(wait=True).loaded == ("later",)


# C05


@pytest.mark.parametrize("wait", [True, False])
def test_c05_a_bad_model_does_not_stop_the_start_nor_the_good_ones(models_dir: Path, wait: bool) -> None:
    put(models_dir, "bad", BAD)
    put(models_dir, "worse", "this is no python")
    put(models_dir, "good")
    (models_dir / "settings").mkdir()
    (models_dir / "settings" / "model.yaml").write_text("loder: python\n")
    models = {"wait_for_initial_loads": wait, "lazy_load_retries": 0, **AT_ONCE}
    with hostd.Host(models_dir=models_dir, models=models) as host:
        client = host.client()
        if wait:
            assert states(client) == {"good": "READY"}
        eventually(lambda: states(client) == {"good": "READY"}, "the good one serves, and the others are given up")
        assert client.retrieve_model("good").predict(1) == 1
        assert "spoilt weights" in client.explain_model("bad")["reason"]
        assert "loder" in client.explain_model("settings")["reason"]


def test_c05_without_waiting_the_host_is_ready_while_models_load(models_dir: Path) -> None:
    put(models_dir, "slow", WAITING)
    with hostd.Host(models_dir=models_dir, models=AT_ONCE) as host:
        client = host.client()
        assert states(client) == {"slow": "LOADING"}
        (models_dir.parent / "go").touch()
        assert client.retrieve_model("slow")(3) == 3


def test_c05_with_waiting_the_host_is_ready_when_they_have_loaded(serve: Serve, models_dir: Path) -> None:
    (models_dir.parent / "go").touch()
    for name in ("a", "b", "c"):
        put(models_dir, name, WAITING)
    service = serve(models={"dir": models_dir, "wait_for_initial_loads": True, **AT_ONCE})
    with hostd.connect(service.endpoint) as client:
        assert states(client) == {"a": "READY", "b": "READY", "c": "READY"}


@pytest.mark.parametrize(
    "settings",
    [
        {"lazy_load": False},
        {"lazy_load": True, "poll_period_s": 0},
        {"lazy_load": True},
    ],
    ids=repr,
)
def test_c05_without_load_on_start_nothing_is_loaded_by_the_start(models_dir: Path, settings: dict[str, Any]) -> None:
    put(models_dir, "there")
    models = {"load_on_start": False, "wait_for_initial_loads": True, **AT_ONCE, **settings}
    with hostd.Host(models_dir=models_dir, models=models) as host:
        client = host.client()
        never(client.list_models, "nobody asked for this model", for_s=1.0)
