"""A host with models of each kind, and a front before it."""

import importlib.util

import pytest

import hostd

# Not skipped here, because below are tests of fronts that need neither; the files that need them import the rig.
if all(importlib.util.find_spec(name) for name in ("orjson", "tritonclient")):
    from oip_rig import Front, write_onnx, write_python, write_sklearn


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    """A models directory: `kinds` and `team/kinds` in Python, `classifier` of scikit-learn, `sum` of ONNX, `spare`."""
    directory = tmp_path_factory.mktemp("oip") / "models"
    for name in ("kinds", "team/kinds", "spare"):
        write_python(directory / name)
    write_sklearn(directory / "classifier")
    write_onnx(directory / "sum")
    return directory


@pytest.fixture(scope="module")
def fronts():
    """The fronts that the host itself has."""
    return {}


@pytest.fixture(scope="module")
def fronted(models_dir, fronts):
    """A host that has loaded them, but `spare`."""
    models = {"dir": models_dir, "load_on_start": False, "poll_period_s": None, "write_quiet_period_s": 0}
    with hostd.Host(models=models, memory={"remember": "host"}, fronts=fronts) as host:
        client = host.client()
        for name in ("kinds", "team/kinds", "classifier", "sum"):
            client.load_model(name, models_dir / name)
        yield host


@pytest.fixture(scope="module")
def front(fronted):
    """Its front."""
    with Front(fronted.endpoint) as running:
        yield running
