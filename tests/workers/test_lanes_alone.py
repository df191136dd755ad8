"""The worker's end of lanes in the test's own process, one look and one step at a time."""

from __future__ import annotations

import os
import resource
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from lane_rig import SECRET, Client, call_of

from hostd_workers.lane import lanes as module
from hostd_workers.lane import listener
from hostd_workers.lane.lanes import Lanes
from hostd_workers.methods import methods_of
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode_call
from hostd_workers.wire.errors import ResourceExhaustedError
from hostd_workers.wire.lane import page, stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hostd_workers.wire.lane.page import Page


class Model:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def echo(self, x: Any) -> Any:
        self.seen.append(x)
        return x

    def blocks(self, n: int) -> Iterator[bytes]:
        for number in range(n):
            self.seen.append(number)
            yield bytes(60_000)

    def size(self, array: Any) -> int:
        return int(array.size)

    def zeros(self, n: int) -> Any:
        import numpy as np

        return np.zeros(n)

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)


class Alone:
    """Lanes, and clients whose messages they take when they are told to."""

    def __init__(self, directory: Path) -> None:
        self.model = Model()
        fd = page.new()
        self.path = str(directory / "lane")
        told = {
            "path": self.path,
            "spin_s": 0.0,
            "secret": SECRET,
            "model_id": "m",
            "max_in_flight": 4,
        }
        told |= {"max_in_flight_bytes": 1_000_000, "max_message_bytes": 1 << 24}
        methods = methods_of(self.model, None)
        self.lanes = Lanes(told, methods, page.Writer(fd, sorted(methods)))
        self.page: Page = page.Page(fd, sorted(methods))
        os.close(fd)
        self.clients: list[Client] = []

    def client(self) -> Client:
        client = Client(self.path)
        self.clients.append(client)
        client.send(wire.pack(msg.LANE_HELLO, 0, SECRET))
        self.look()
        return client

    def look(self) -> None:
        """Take in all that has come."""
        for _ in range(8):
            self.lanes.poll(0)

    def work(self) -> None:
        """Do all that there is to do."""
        self.look()
        while self.lanes.has_work:
            self.lanes.step()
            self.look()
        self.lanes.flush()

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.look()
        self.page.close()
        listening = self.lanes._listener  # which ends with its process otherwise
        listening._socket.close()
        os.close(listening._reserve)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    made = Alone(tmp_path)
    yield made
    made.close()


def long_call(id_: int) -> tuple[bytes, bytes]:
    """Return a call with 300,000 bytes in two halves."""
    body, buffers = encode_call((bytearray(300_000),), {})
    frames = wire.pack(msg.CALL, id_, msg.pack_target(msg.Target("m", "echo")), body, buffers)
    data = b"".join(stream.pack(frames))
    return data[:200_000], data[200_000:]


def test_of_messages_that_are_not_whole_one_goes_on_if_a_process_has_many(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNFINISHED_BYTES", 250_000)
    first, second, third, other = (alone.client() for _ in range(4))
    alone.look()
    for client, id_ in ((first, 1), (second, 2)):
        client.socket.send(long_call(id_)[0])
        alone.look()
    third.socket.send(long_call(3)[0])
    alone.look()
    second.socket.send(long_call(2)[1])
    alone.work()
    assert alone.model.seen == [], "the second waits for the first"
    assert other_is_served(alone, other)
    first.socket.send(long_call(1)[1])
    alone.work()
    third.close()
    alone.work()
    assert [len(seen) for seen in alone.model.seen] == [1, 300_000, 300_000]


def other_is_served(alone: Alone, client: Client) -> bool:
    client.call("echo", "x")
    alone.work()
    return decode(client.receive().body) == "x"


def test_each_step_runs_one_call_of_each_client(alone: Alone) -> None:
    first, second = alone.client(), alone.client()
    first.send(*[call_of("echo", f"first {id_}", id=id_) for id_ in (1, 2, 3)])
    second.send(call_of("echo", "second", id=1))
    alone.look()
    assert repr(alone.lanes) == "<Lanes 2 connections, 2 have work>"
    alone.lanes.step()
    assert sorted(alone.model.seen) == ["first 1", "second"]
    alone.lanes.step()
    alone.lanes.step()
    assert alone.model.seen[2:] == ["first 2", "first 3"]
    assert not alone.lanes.has_work
    assert [decode(first.receive().body) for _ in range(3)] == ["first 1", "first 2", "first 3"]
    assert second.receive().id == 1


def test_limits_of_calls_and_of_bytes_are_those_of_the_host(alone: Alone) -> None:
    client = alone.client()
    client.send(*[call_of("echo", id_, id=id_) for id_ in range(1, 6)])
    alone.look()
    alone.lanes.flush()
    assert isinstance(msg.unpack_error(client.receive()), ResourceExhaustedError)
    alone.work()
    assert [client.receive().id for _ in range(4)] == [1, 2, 3, 4]
    client.send(call_of("echo", b"x" * 2_000_000, id=7))
    alone.look()
    alone.lanes.flush()
    assert "max_in_flight_bytes" in msg.unpack_error(client.receive()).message
    figures = alone.page.figures()
    assert (figures.begun, figures.ended, figures.bytes_in_flight) == (4, 4, 0)


def test_a_stream_is_cancelled_and_given_credit(alone: Alone) -> None:
    client = alone.client()
    client.call("count", 9, id=1, kind=msg.STREAM, window=1)
    alone.work()
    assert client.receive().kind == msg.ITEM
    client.send(msg.pack_credit(1, 2))
    alone.work()
    assert [client.receive().kind for _ in range(2)] == [msg.ITEM] * 2
    client.send(wire.pack(msg.CANCEL, 1))
    alone.work()
    assert client.receive().kind == msg.ERROR
    figures = alone.page.figures()
    assert (figures.cancelled, figures.failed, figures.executions) == (1, 0, 1)


@pytest.mark.parametrize("bad", [wire.pack(msg.LOAD, 1), [b"\0"]], ids=["another's kind", "no message"])
def test_what_no_client_sends_ends_the_connection_and_its_calls(alone: Alone, bad: list[bytes]) -> None:
    client, other = alone.client(), alone.client()
    client.call("count", 9, id=1, kind=msg.STREAM)
    alone.look()
    client.send([*bad])
    alone.look()
    figures = alone.page.figures()
    assert (figures.connections, figures.begun, figures.cancelled, figures.in_flight) == (1, 1, 1, 0)
    assert client.is_ended()
    other.call("echo", 1, id=2)
    alone.work()
    assert other.receive().id == 2


def test_a_client_that_reads_nothing_is_not_worked_for_until_it_does(alone: Alone) -> None:
    greedy, other = alone.client(), alone.client()
    greedy.call("blocks", 100, id=1, kind=msg.STREAM, window=101)
    alone.look()
    while alone.lanes.has_work:
        alone.lanes.step()
        alone.lanes.flush()
    assert len(alone.model.seen) < 50
    greedy.call("echo", "later", id=2)
    other.call("echo", "at once", id=1)
    alone.work()
    assert decode(other.receive().body) == "at once"
    assert "later" not in alone.model.seen
    came: list[wire.Envelope] = []
    while not came or {msg.END, msg.RESULT} - {each.kind for each in came}:
        came += greedy.link.receive()
        alone.work()
    assert len(came) == 1 + 100 + 2


def test_lanes_are_closed_when_what_had_come_is_over_and_open_again(alone: Alone) -> None:
    over: list[bool] = []
    client, idle = alone.client(), alone.client()
    client.call("echo", 1, id=1)
    alone.look()
    alone.lanes.close(lambda: over.append(True))
    assert over == []
    client.call("echo", 2, id=2)
    alone.look()
    alone.work()
    assert over == [True]
    assert sorted((each.kind, each.id) for each in client.rest()) == [
        (msg.RESULT, 1),
        (msg.NOT_BEGUN, 0),
        (msg.NOT_BEGUN, 2),
    ]
    assert [each.id for each in idle.rest()] == [0]
    late = alone.client()
    assert [(each.kind, each.id) for each in late.rest()] == [(msg.NOT_BEGUN, 0)]
    alone.lanes.open()
    again = alone.client()
    again.call("echo", 3, id=3)
    alone.work()
    assert again.receive().id == 3
    assert alone.model.seen == [1, 3]


def test_a_client_whose_socket_is_full_hears_of_the_end_when_it_has_read(alone: Alone) -> None:
    over: list[bool] = []
    client = alone.client()
    (lane,) = alone.lanes._lanes.values()
    nothing = b"".join(stream.pack(wire.pack(msg.END, 7)))
    with socket.socket(fileno=os.dup(lane.fd)) as full, pytest.raises(BlockingIOError):
        while True:  # either all of so short a message fits or nothing of it
            full.send(nothing)
    alone.lanes.close(lambda: over.append(True))
    alone.work()
    assert over == []
    came: list[wire.Envelope] = []
    while not over:
        came += client.link.receive()
        alone.work()
    came += client.rest()
    assert (came[-1].kind, came[-1].id) == (msg.NOT_BEGUN, 0)


def test_the_oldest_that_say_nothing_make_place(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SILENT", 2)
    silent = [Client(alone.path) for _ in range(4)]
    alone.clients += silent
    alone.look()
    assert [_is_ended(each) for each in silent] == [True, True, False, False]
    monkeypatch.setattr(module, "MAX_LANES", 1)
    alone.client()
    assert alone.page.figures().connections <= 1


def test_a_client_for_which_there_is_no_descriptor_is_ended_at_once(alone: Alone) -> None:
    served = alone.client()
    refused = Client(alone.path)
    alone.clients.append(refused)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        alone.look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert _is_ended(refused)
    served.call("echo", 1)
    later = alone.client()
    later.call("echo", 2)
    alone.work()
    assert (served.receive().id, later.receive().id) == (1, 1)


def test_processes_of_other_users_are_not_let_in(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_CREDENTIALS", _Stranger())
    stranger = Client(alone.path)
    alone.clients.append(stranger)
    alone.look()
    assert _is_ended(stranger)


def test_a_path_that_somebody_has_cannot_be_listened_at(alone: Alone) -> None:
    before = len(os.listdir("/proc/self/fd"))
    told = {
        "path": alone.path,
        "spin_s": 0.0,
        "secret": SECRET,
        "model_id": "m",
        "max_in_flight": 1,
    }
    told |= {"max_in_flight_bytes": 1, "max_message_bytes": 1}
    with pytest.raises(OSError, match="in use"):
        Lanes(told, methods_of(alone.model, None), page.Writer(None, ()))
    assert len(os.listdir("/proc/self/fd")) == before


def test_another_descriptor_is_looked_at_too(alone: Alone) -> None:
    here, there = socket.socketpair()
    alone.lanes.also(here.fileno())
    assert not alone.lanes.poll(0)
    there.sendall(b"x")
    assert alone.lanes.poll(-1)
    assert alone.lanes.fileno() > 0
    here.close()
    there.close()


class _Stranger:
    size = 12

    def unpack(self, _: bytes) -> tuple[int, int, int]:
        return (1, os.geteuid() + 1, 1)


def _is_ended(client: Client) -> bool:
    try:
        client.link.receive()
    except EOFError:
        return True
    return False


def test_a_loop_that_runs_calls_by_itself_is_told_when_there_is_something_to_send(alone: Alone) -> None:
    told: list[bool] = []
    alone.lanes.tell(lambda: told.append(True), threading.Timer)
    client = alone.client()
    told.clear()
    client.call("echo", 1)
    alone.look()
    assert told == []
    alone.lanes.step()
    assert told == [True]


def test_memory_of_a_client_is_given_back_before_the_worker_waits(alone: Alone) -> None:
    np = pytest.importorskip("numpy")
    client = alone.client()
    for turn in range(3):
        client.call("size", np.zeros(100_000), id=turn + 1)
        alone.work()
        assert decode(client.receive().body) == 100_000
        alone.lanes.rest()
        assert client.link.receive() == []
    assert len(client.link._own) == 1


def test_pages_that_are_not_used_go_back_to_the_system_while_the_worker_waits(alone: Alone) -> None:
    np = pytest.importorskip("numpy")
    client = alone.client()
    client.call("zeros", 100_000)
    alone.work()
    result = client.receive()
    assert not np.asarray(decode(result.body, result.buffers)).any()
    del result
    client.send(wire.pack(msg.CANCEL, 99))  # which also says that the memory is not in use
    alone.look()
    here, there = socket.socketpair()
    alone.lanes.also(here.fileno())
    timer = threading.Timer(2.0, there.sendall, (b"x",))
    timer.start()
    assert alone.lanes.poll(-1)
    timer.join()
    assert alone.lanes._books.spare.size_bytes == 0
    here.close()
    there.close()
