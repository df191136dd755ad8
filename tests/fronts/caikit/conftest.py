"""The runtime's manager of models, over workers; one for all tests of a file."""

import sys

import pytest


@pytest.fixture(scope="module")
def manager():
    """caikit's manager of models, with our loader and sizer."""
    from caikit_rig import LOADER, SIZER, configure

    from hostd.fronts.caikit import hosting

    manager = configure(loaders={"default": LOADER}, sizers={"default": SIZER})
    yield manager
    manager.unload_all_models()
    for hosted in list(hosting._running.values()):
        hosted.stop()
    hosting._running.clear()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The path of a saved model."""
    from caikit_rig import sample, saved

    return saved(sample.Answerer("Hi"), tmp_path_factory.mktemp("models") / "answerer")


@pytest.fixture(scope="module")
def model(manager, path):
    """A model over a worker."""
    return manager.load_model("answerer", path, "any").model()


@pytest.fixture
def tell(capsys):
    """Write a line that is seen in the output of the tests: a figure."""

    def write(line):
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write
