"""The runtime's manager of models, over workers; one for all tests of a file."""

import sys

import pytest


@pytest.fixture(scope="module")
def manager(_no_process_is_left):
    """caikit's manager of models, with our loader and sizer.

    Ends before the look at what is left, which pytest 7 does not see to if the last test of a file is without it.
    """
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
