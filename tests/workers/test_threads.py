"""How many threads a loader's library uses when nobody gives a number."""

import pytest

from hostd_workers.loaders._common import threads as _threads
from hostd_workers.loaders._common.threads import allotted_threads, announce_threads, openmp_threads
from hostd_workers.wire.errors import InvalidArgumentError


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch):
    for name in ("HOSTD_CPU_THREADS", *_threads._VARIABLES):
        monkeypatch.delenv(name, raising=False)


def test_a_number_that_is_given_wins(monkeypatch):
    monkeypatch.setenv("HOSTD_CPU_THREADS", "3")
    assert openmp_threads(7) == 7
    for wrong in (0, -1, "2", True, False, 1.5):
        with pytest.raises(InvalidArgumentError, match="threads must be a number from 1 on"):
            openmp_threads(wrong)


def test_else_it_is_what_the_host_allots(monkeypatch):
    monkeypatch.setenv("HOSTD_CPU_THREADS", "3")
    assert (allotted_threads(), openmp_threads(None)) == (3, 3)
    announce_threads(3)  # as the host's environment does
    assert openmp_threads(None) == 3


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_what_somebody_has_set_for_the_library_is_left_to_it(monkeypatch, variable):
    monkeypatch.setenv("HOSTD_CPU_THREADS", "3")
    monkeypatch.setenv(variable, "8")
    assert openmp_threads(None) is None
    assert allotted_threads() == 3


@pytest.mark.parametrize("text", [None, "", "0", "-2", "many", "2.5", "٣"])
def test_without_a_number_from_the_host_the_library_decides(monkeypatch, text):
    if text is not None:
        monkeypatch.setenv("HOSTD_CPU_THREADS", text)
    assert allotted_threads() is None
    assert openmp_threads(None) is None
