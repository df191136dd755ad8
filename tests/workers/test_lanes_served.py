"""Lanes: clients that call a worker without the host, each hurting nobody but itself."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from lane_rig import Client, Rig, call_of, wait_for

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode
from hostd_workers.wire.errors import ModelError, ResourceExhaustedError, UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from supervisor_rig import Supervisor

PLAIN = """
    import pathlib, time
    import numpy as np

    class Model:
        memory = np.zeros(4 << 20, "u1")
        def echo(self, x):
            return x
        def fail(self):
            raise ValueError("no")
        def size_of(self, x):
            return len(x)
        def make(self, n):
            return bytes(n)
        def again(self, n, value):
            self.memory[:n] = value
            return self.memory[:n]
        def wait(self, path):
            while not pathlib.Path(path).exists():
                time.sleep(0.002)
            return "waited"
        def count(self, n):
            yield from range(n)

    def load(path):
        return Model()
"""

ASYNC = """
    import asyncio, pathlib
    import numpy as np

    class Model:
        memory = np.zeros(4 << 20, "u1")
        async def echo(self, x):
            return x
        async def fail(self):
            raise ValueError("no")
        def size_of(self, x):
            return len(x)
        def make(self, n):
            return bytes(n)
        async def again(self, n, value):
            self.memory[:n] = value
            return self.memory[:n]
        async def wait(self, path):
            while not pathlib.Path(path).exists():
                await asyncio.sleep(0.002)
            return "waited"
        async def count(self, n):
            for number in range(n):
                yield number

    def load(path):
        return Model()
"""


@pytest.fixture(params=[PLAIN, ASYNC], ids=["plain", "coroutines"])
def rig(request: pytest.FixtureRequest, supervisor: Supervisor) -> Iterator[Rig]:
    made = Rig(supervisor, request.param)
    yield made
    made.close()


def test_calls_are_answered_and_counted(rig: Rig) -> None:
    client, other = rig.client(), rig.client()
    assert client.result("echo", 1) == 1
    assert other.result("echo", {"a": [1, None]}) == {"a": [1, None]}
    with pytest.raises(ModelError, match="no"):
        client.result("fail")
    with pytest.raises(UnimplementedError, match="no method 'nothing'"):
        client.result("nothing")
    array = np.arange(1_000_000, dtype="f8")
    assert (client.result("echo", array) == array).all()
    assert rig.supervisor.result("echo", "by the host") == "by the host"
    wait_for(lambda: rig.page.figures().ended == 5, "five calls are counted")
    figures = rig.page.figures()
    assert (figures.begun, figures.failed, figures.bytes_in_flight, figures.connections) == (5, 2, 0, 2)
    assert {each.method: sum(each.counts) for each in rig.page.by_method()} == {"echo": 3, "fail": 1, None: 1}


def test_a_burst_is_answered_in_order_and_many_answers_leave_together(rig: Rig) -> None:
    client = rig.client()
    for turn in range(5):
        client.send(*[call_of("echo", id_, id=id_) for id_ in range(turn * 60 + 1, turn * 60 + 61)])
        answers = [client.receive() for _ in range(60)]
        assert sorted(decode(answer.body) for answer in answers) == [answer.id for answer in sorted(answers, key=_id)]


@pytest.mark.parametrize("size", [5_000, 60_000, 100_000, 4 << 20])
def test_a_model_may_write_at_once_into_what_it_has_returned(rig: Rig, size: int) -> None:
    client = rig.client()
    client.send(*[call_of("again", size, id_, id=id_) for id_ in range(1, 41)])
    for _ in range(40):
        answer = client.receive()
        assert (decode(answer.body, answer.buffers) == answer.id).all()


def test_memory_that_a_model_has_read_goes_back_together_with_its_answer(rig: Rig) -> None:
    client = rig.client()
    assert client.receive_together() == [msg.LANE_WELCOME]
    client.call("size_of", np.zeros(200_000, "u1"))
    assert client.receive_together() == [msg.RESULT, msg.UNUSED]


def test_what_goes_by_the_host_is_not_written_into_by_a_call_of_a_lane(rig: Rig) -> None:
    client = rig.client()
    for turn in range(1, 11):
        rig.supervisor.call("again", 4 << 20, turn, id=turn)
        client.call("again", 4 << 20, turn + 100, id=turn)
        answer = rig.supervisor.receive()
        assert (decode(answer.body, answer.buffers) == turn).all()
        client.receive()


def _id(envelope: wire.Envelope) -> int:
    return envelope.id


def test_a_stream_goes_as_far_as_its_credit_and_can_be_cancelled(rig: Rig) -> None:
    client = rig.client()
    client.call("count", 5, id=7, kind=msg.STREAM, window=2)
    assert [decode(client.receive().body) for _ in range(2)] == [0, 1]
    assert client.result("echo", "between", id=8) == "between"
    client.send(msg.pack_credit(7, 10))
    kinds = [client.receive().kind for _ in range(4)]
    assert kinds == [msg.ITEM] * 3 + [msg.END]
    client.call("count", 5, id=9, kind=msg.STREAM, window=1)
    assert client.receive().kind == msg.ITEM
    client.send(wire.pack(msg.CANCEL, 9))
    assert (client.receive().kind, rig.page.figures().in_flight) == (msg.ERROR, 0)


@pytest.mark.parametrize(
    "first",
    [
        wire.pack(msg.LANE_HELLO, 0, b"x" * 16),
        wire.pack(msg.LANE_HELLO, 0),
        call_of("echo", 1),
        wire.pack(msg.HELLO, 0),
        [b"GET / HTTP/1.1\r\n\r\n"],
        [b""],
    ],
    ids=["another secret", "no secret", "a call", "another hello", "text", "nothing"],
)
def test_what_does_not_begin_with_the_secret_is_not_let_in(rig: Rig, first: list[bytes]) -> None:
    stranger = Client(rig.path)
    stranger.send([*first])
    assert stranger.is_ended()
    stranger.close()
    assert rig.client().result("echo", 1) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\xff",
        b"".join((b"\x00\x00\x00\x10", wire.pack(msg.LOAD, 1)[0])),
        b"\x00\x00\x00\x04abcd",
    ],
    ids=["too long", "many frames", "a kind of the host's", "no message"],
)
def test_garbage_ends_its_own_connection_and_no_other(rig: Rig, sent: bytes) -> None:
    other, bad = rig.client(), rig.client()
    bad.socket.sendall(sent)
    assert bad.is_ended()
    assert other.result("echo", 1) == 1


def test_half_a_message_and_silence_keep_nobody_waiting(rig: Rig) -> None:
    half = rig.client()
    half.socket.sendall(b"\x00\x00\x00\x50" + b"x" * 20)
    silent = [Client(rig.path) for _ in range(100)]
    assert rig.client().result("echo", 1) == 1
    assert rig.page.figures().connections == 2
    for client in silent:
        client.close()


def test_answers_that_nobody_takes_hold_up_nobody_else_and_stay_few(rig: Rig) -> None:
    greedy, other = rig.client(), rig.client()
    greedy.send(*[call_of("make", 1 << 20, id=id_) for id_ in range(1, 61)])
    for turn in range(50):
        assert other.result("echo", turn, id=turn + 1) == turn
    assert _resident_bytes(rig.process.pid) < 200 << 20
    assert sorted(greedy.receive().id for _ in range(60)) == list(range(1, 61))


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_client_may_have_so_many_calls_in_flight(rig: Rig, tmp_path: Path) -> None:
    client = rig.client()
    gate = str(tmp_path / "gate")
    client.send(*[call_of("wait", gate, id=id_) for id_ in range(1, 66)])
    refused = client.receive()
    assert refused.id == 65
    error = msg.unpack_error(refused)
    assert isinstance(error, ResourceExhaustedError)
    assert error.message.startswith(
        "model 'm' has 64 calls in flight, 64 of this client; a client may have 64 (workers."
    )
    (tmp_path / "gate").touch()
    assert sorted(client.receive().id for _ in range(64)) == list(range(1, 65))
    assert client.result("echo", 1, id=100) == 1


def test_an_id_that_is_in_use_ends_the_connection(rig: Rig, tmp_path: Path) -> None:
    client = rig.client()
    client.send(*[call_of("wait", str(tmp_path / "gate"), id=1)] * 2)
    (tmp_path / "gate").touch()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            client.receive()
    assert rig.client().result("echo", 1) == 1


def test_what_a_client_that_goes_had_asked_for_is_not_begun(rig: Rig, tmp_path: Path) -> None:
    client, other = rig.client(), rig.client()
    client.send(call_of("wait", str(tmp_path / "gate"), id=1))
    client.send(*[call_of("count", 10**9, id=id_, kind=msg.STREAM, window=10**6) for id_ in range(2, 30)])
    wait_for(lambda: rig.page.figures().begun >= 1, "something has come")
    client.close()
    (tmp_path / "gate").touch()
    assert other.result("echo", 1) == 1
    wait_for(lambda: rig.page.figures().in_flight == 0, "all have ended")
    assert rig.page.figures().connections == 1


def test_lanes_that_are_closed_give_back_what_has_not_begun_and_end_what_has(rig: Rig, tmp_path: Path) -> None:
    client, other = rig.client(), rig.client()
    wait_for(lambda: rig.page.figures().connections == 2, "both were let in")
    client.call("wait", str(tmp_path / "gate"), id=1)
    wait_for(lambda: rig.page.figures().begun == 1, "it has come")
    other.call("echo", 2, id=2)
    rig.close_lanes()
    (tmp_path / "gate").touch()
    assert decode(client.receive().body) == "waited"
    assert [(each.kind, each.id) for each in client.rest()] == [(msg.NOT_BEGUN, 0)]
    *answers, last = other.rest()
    assert (last.kind, last.id) == (msg.NOT_BEGUN, 0)
    assert [each.kind in (msg.RESULT, msg.NOT_BEGUN) for each in answers] in ([], [True])
    assert rig.supervisor.receive().kind == msg.LANES_CLOSED
    late = rig.client()
    late.call("echo", 3, id=3)
    assert [(each.kind, each.id) for each in late.rest()] == [(msg.NOT_BEGUN, 0)]
    assert rig.supervisor.result("echo", "by the host") == "by the host"
    rig.supervisor.send(wire.pack(msg.OPEN_LANES, 0))
    wait_for(lambda: is_served(rig), "calls are taken again")


def is_served(rig: Rig) -> bool:
    client = rig.client()
    client.call("echo", 5, id=5)
    return client.receive().kind == msg.RESULT


def test_without_a_lane_a_worker_says_at_once_that_it_is_closed(supervisor: Supervisor) -> None:
    supervisor.start()
    supervisor.receive()
    assert msg.unpack_map(supervisor.load(PLAIN))["lane"] is False
    supervisor.send(wire.pack(msg.CLOSE_LANES, 0))
    assert supervisor.receive().kind == msg.LANES_CLOSED


def test_a_path_that_cannot_be_used_is_no_reason_to_fail(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start()
    supervisor.receive()
    told: dict[str, Any] = {"path": str(tmp_path / "missing" / "lane"), "secret": b"s", "model_id": "m"}
    told |= {"spin_s": 0.0, "max_in_flight": 1, "max_in_flight_bytes": 1, "max_message_bytes": 1}
    answer = supervisor.load(PLAIN, lane=told)
    assert answer.kind == msg.LOADED
    assert msg.unpack_map(answer)["lane"] is False
    assert supervisor.result("echo", 1) == 1
