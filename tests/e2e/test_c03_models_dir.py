"""C03 to C05: the models directory and its settings, and what a start makes of them."""

import pytest
from helpers import PATIENCE_S, eventually, never
from models_rig import AT_ONCE, FAILS, GATED, causes, states

import hostd


def why_not(kind, **settings):
    """Return why a host with these settings does not start."""
    with pytest.raises(kind) as caught, hostd.Host(**settings):
        pytest.fail("the host has started", pytrace=False)
    return caught.value.message


# C03


def test_c03_without_a_models_directory_or_one_that_is_not_there_a_host_runs(host, client, serve, tmp_path, model_dir):
    assert client.host_info().models_dir is None
    assert client.load_model("echo", model_dir()).predict(1) == 1
    with pytest.raises(hostd.FailedPreconditionError, match=r"models\.dir"):
        client.sync_local_models()
    assert client.list_models(all=True)[0].id == "echo"
    (tmp_path / "file").touch()
    for directory in (tmp_path / "absent", tmp_path / "file"):
        service = serve(models={"dir": directory})
        with hostd.connect(service.endpoint) as theirs:
            assert theirs.host_info().models_dir is None
            (trouble,) = theirs.host_info().degraded
            assert str(directory) in trouble
            assert theirs.load_model("echo", model_dir()).predict(1) == 1
            theirs.shutdown()
        said = service.reaper.communicate(timeout=PATIENCE_S)[1]
        (warning,) = [line for line in said.splitlines() if "WARNING" in line]
        assert str(directory) in warning
        assert "models.dir" in warning


def test_c03_with_lazy_loading_a_missing_or_unset_directory_stops_the_start(tmp_path):
    said = why_not(hostd.FailedPreconditionError, models={"dir": tmp_path / "absent", "lazy_load": True})
    assert str(tmp_path / "absent") in said
    assert "lazy_load" in said
    said = why_not(hostd.FailedPreconditionError, models={"lazy_load": True})
    assert "models.dir" in said
    assert "not set" in said


# C04

WRONG = {
    "lazy_load": [1, "perhaps"],
    "poll_period_s": ["often", True, -1, [1]],
    "write_quiet_period_s": ["long", False],
    "load_on_start": [0],
    "wait_for_initial_loads": [{}],
    "lazy_load_retries": [1.5, True, -1],
    "dir": [7, ""],
}


def test_c04_a_wrong_type_stops_the_start_and_names_the_field(rig):
    for name, values in WRONG.items():
        for wrong in values:
            said = why_not(hostd.InvalidArgumentError, models={"dir": rig.path, name: wrong})
            assert f"models.{name}" in said, wrong


@pytest.mark.parametrize(
    "settings",
    [
        {"poll_period_s": None, "write_quiet_period_s": None, "lazy_load": True},
        {"poll_period_s": 0, "write_quiet_period_s": 0, "lazy_load": True},
        {"poll_period_s": 0.05, "write_quiet_period_s": -3},
    ],
    ids=repr,
)
def test_c04_periods_may_be_a_number_or_null_and_without_lazy_loading_or_a_period_nothing_is_followed(rig, settings):
    rig.add("fresh")  # seconds old: a quiet period that is on would be waited for
    with hostd.Host(models={"dir": rig.path, "wait_for_initial_loads": True, **settings}) as host:
        client = host.client()
        assert states(client) == {"fresh": "READY"}
        assert "BEING_WRITTEN" not in causes(client, "fresh")
        rig.add("later")
        never(lambda: "later" in states(client), "nothing asked for a sync", for_s=0.5)
        assert client.sync_local_models(wait=True).loaded == ("later",)


# C05


@pytest.mark.parametrize("wait", [True, False])
def test_c05_a_bad_model_does_not_stop_the_start_nor_the_good_ones(rig, wait):
    rig.add("bad", FAILS)
    rig.add("worse", files={"model.py": "this is no python"})
    rig.add("settings", files={"model.yaml": "loder: python\n"})
    rig.add("good", GATED)
    if wait:
        rig.let_go("good")
    with hostd.Host(models={**AT_ONCE, "dir": rig.path, "wait_for_initial_loads": wait}) as host:
        client = host.client()
        assert states(client).get("good") == ("READY" if wait else "LOADING")
        rig.let_go("good")
        eventually(lambda: states(client) == {"good": "READY"}, "the good one serves, and the others are given up")
        assert client.retrieve_model("good").predict(1) == 1
        assert "these weights are bad" in client.explain_model("bad")["reason"]
        assert "loder" in client.explain_model("settings")["reason"]


@pytest.mark.parametrize("settings", [{"lazy_load": False}, {"lazy_load": True}], ids=repr)
def test_c05_without_load_on_start_nothing_is_loaded_by_the_start(rig, settings):
    rig.add("there")
    models = {**AT_ONCE, "dir": rig.path, "load_on_start": False, "wait_for_initial_loads": True, **settings}
    with hostd.Host(models=models) as host:
        client = host.client()
        assert client.host_info().models_dir == str(rig.path)
        never(client.list_models, "nothing asked for this model", for_s=0.5)
        if settings["lazy_load"]:
            assert client.retrieve_model("there").predict(1) == 1
