"""Lanes in this process, turn by turn: a client takes its answers at the moment that matters."""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from lane_rig import SECRET, Client, call_of

from hostd_workers.lane import connection
from hostd_workers.lane.lanes import Lanes
from hostd_workers.methods import methods_of
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.lane import page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALLS = 60
BYTES = 60_000
"""Of an answer: too short for shared memory, and 60 of them are more than a connection holds."""


class Model:
    def make(self, n: int) -> bytes:
        return bytes(n)

    def keep(self, array: Any) -> None:
        self.kept = array


class Here:
    """The lanes of a worker, and one client."""

    def __init__(self, path: str) -> None:
        told = {
            "path": path,
            "spin_s": 0.0,
            "secret": SECRET,
            "model_id": "m",
            "max_in_flight": CALLS,
        }
        told |= {"max_in_flight_bytes": 1 << 30, "max_message_bytes": 1 << 28}
        methods = methods_of(Model(), None)
        self.lanes = Lanes(told, methods, page.Writer(None, sorted(methods)))
        self.client = Client(path)
        self.client.send(wire.pack(msg.LANE_HELLO, 0, SECRET))
        self.answered: list[int] = []

    def take_in(self) -> None:
        while self._is_ready():
            self.lanes.poll(0)

    def drain(self) -> None:
        """Have the client take all that waits for it."""
        with contextlib.suppress(BlockingIOError):
            while select.select([self.client.socket], [], [], 0)[0]:
                self.answered += [each.id for each in self.client.link.receive() if each.kind == msg.RESULT]

    def _is_ready(self) -> bool:
        return bool(select.select([self.lanes.fileno()], [], [], 0)[0])

    @property
    def is_quiet(self) -> bool:
        return not self._is_ready() and not self.lanes.has_work

    @property
    def is_choked(self) -> bool:
        return any(lane.is_choked for lane in self.lanes._lanes.values())

    def close(self) -> None:
        self.client.close()
        self.take_in()
        self.lanes._listener._socket.close()
        self.lanes._epoll.close()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    made = Here(str(tmp_path / "lane"))
    yield made
    made.close()


def test_calls_go_on_when_a_client_takes_its_answers_between_two_looks(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WAITING_BYTES", BYTES // 2)  # so that all that waits leaves at once
    step = connection.Lane.step

    def step_and_drain(lane: connection.Lane) -> None:
        step(lane)
        if here.is_choked:
            here.drain()

    monkeypatch.setattr(connection.Lane, "step", step_and_drain)
    here.client.send(*[call_of("make", BYTES, id=id_) for id_ in range(1, CALLS + 1)])
    here.take_in()
    while here.lanes.has_work:
        here.lanes.step()
        here.take_in()
    for _ in range(2):
        here.drain()
        here.take_in()
    assert here.answered == [*range(1, CALLS + 1)]


def test_a_worker_rests_after_a_client_that_was_late_has_taken_its_answers(here: Here) -> None:
    here.client.send(call_of("keep", np.ones(100_000), id=1))
    here.take_in()
    here.lanes.step()
    here.client.send(*[call_of("make", BYTES, id=id_) for id_ in range(2, 7)])
    here.take_in()
    while here.lanes.has_work:
        here.lanes.step()
    here.drain()
    here.lanes.rest()  # which looks whether the array is kept, and sends what has waited
    here.drain()
    assert (here.is_quiet, here.answered) == (True, [*range(1, 7)])
