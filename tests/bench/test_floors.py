"""The floors do what they say: their answers are right, from processes that are gone afterwards."""

from contextlib import ExitStack

import pytest

from benchmarks.busy import busy
from benchmarks.callers import SMALL, callers
from benchmarks.floors import digits, memfd, unix_server
from benchmarks.floors.lane import Shape
from benchmarks.models import digits_row, write_digits
from benchmarks.outside import children_of


def test_a_memfd_brings_the_array_and_brings_it_back():
    pytest.importorskip("numpy")
    with memfd.open_lane(Shape(1 << 20)) as lane:
        assert lane.answer != lane.payload
        lane.call()
        assert lane.answer == lane.payload


def test_a_memfd_without_an_echo_brings_nothing_back():
    pytest.importorskip("numpy")
    with memfd.open_lane(Shape(1 << 20, is_echo=False)) as lane:
        lane.call()
        assert not any(lane.answer)


def test_the_worker_of_many_sockets_echoes_each_and_goes_on_when_one_has_left():
    with unix_server.serving(SMALL) as path, unix_server.open_lane(path, SMALL) as stays:
        with unix_server.open_lane(path, SMALL) as leaves:
            leaves.send()
            stays.call()
            leaves.receive()
            assert bytes(leaves.answer) == leaves.payload
            assert bytes(stays.answer) == stays.payload
        stays.call()


def test_clients_in_processes_measure_together():
    with unix_server.serving(SMALL) as path, callers(3, "benchmarks.callers", "unix", path) as clients:
        for depth in (1, 4):
            round_ = clients.measure(depth, 0.01)
            assert len(round_.latencies_s) >= 3 * 5
            assert 0 < round_.p50_s <= round_.elapsed_s


def test_the_digits_model_answers_the_same_through_every_floor(tmp_path):
    pytest.importorskip("sklearn")
    path = write_digits(tmp_path)
    import joblib

    expected = joblib.load(path).predict(digits_row())
    with ExitStack() as stack:
        lane = stack.enter_context(digits.open_socket(path))
        lane.call()
        assert bytes(lane.answer) == expected.tobytes()
        for open_lane in digits.FLOORS.values():
            stack.enter_context(open_lane(path)).call()


def test_a_busy_program_is_a_process_per_core_that_ends_with_the_block():
    import os

    before = children_of(os.getpid())
    with busy(1.5):
        assert len(children_of(os.getpid())) == len(before) + 2
    assert children_of(os.getpid()) == before
