"""Turns, and places that are few: no peer keeps others waiting, and what has most connections makes place for others."""

import itertools
import os
import resource
import socket
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import REPOSITORY, descriptors, eventually, line_of
from transport_rig import GREETING, LIMIT_BYTES, Heard, RawPeer, Transport, frame, known, message, ready, work

from hostd.shell.transport import listener as listening
from hostd.shell.transport.connection import Connection
from hostd.shell.transport.decoder import BUFFER_BYTES, Decoder
from hostd.shell.transport.process import PeerProcess
from hostd_workers.wire import frames as wire

FLOODS = {
    "messages": lambda number: message(b"x" * 20) * number,
    "batches": lambda number: frame(wire.pack_batch([b"x" * 20] * 1000)) * (number // 1000),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_peer_that_floods_keeps_neither_the_loop_from_its_other_work_nor_another_from_its_turn(transport, flood):
    heard = Heard()
    listener = transport.hear(heard)
    peer, other = (known(transport, listener, heard) for _ in range(2))

    def on_message(*_):
        work(0.0005)
        if len(heard.messages) == 100:
            other.say(message(b"me"))

    heard.on_message = on_message
    peer.say(FLOODS[flood](1000))
    seen = [0]

    def look():
        seen.append(len(heard.messages))
        if seen[-1] < 1001:
            transport.loop.call_soon(look)

    transport.loop.call_soon(look)
    transport.until(lambda: seen[-1] >= 1001)
    # Ten in the time of a pass; a machine that stalls makes it fewer.
    assert max(later - before for before, later in itertools.pairwise(seen)) <= 50
    assert heard.messages.index((b"2", [b"me"])) <= 150


def test_a_process_with_many_connections_has_turns_as_one(transport, others):
    heard = Heard()
    listener = transport.hear(heard)
    many = others(listener.endpoint.removeprefix("ipc://"))
    many.tell(transport, "hello 300")
    transport.until(lambda: len(heard.messages) == 300)
    other = known(transport, listener, heard)
    heard.messages.clear()

    def on_message(identity, _):
        work(0.001)
        if len(heard.messages) == 100:
            other.say(message(b"me"))

    heard.on_message = on_message
    many.tell(transport, "flood 3")
    transport.until(lambda: len(heard.messages) == 901)
    assert heard.messages.index((b"301", [b"me"])) <= 150
    # All of that process' connections have turns as well.
    order = [identity for identity, _ in heard.messages if identity != b"301"]
    assert {order.count(identity) for identity in order} == {3}


def test_what_was_read_ahead_is_heard_although_nothing_more_comes(transport):
    """The system does not tell again of what a turn has read and left for the next."""
    heard = Heard()
    peer = known(transport, transport.hear(heard), heard)
    heard.on_message = lambda *_: work(0.001)
    peer.say(message(b"first") + message(b"second", bytes(30_000)) + message(b"third"))
    transport.until(lambda: len(heard.messages) == 3)
    peer.socket.close()
    transport.until(lambda: heard.gone)


def test_half_a_header_survives_a_turn_in_which_nothing_comes():
    """What a system tells may be old; the buffer is used by others in between."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    buffer, dropped = bytearray(BUFFER_BYTES), []
    decoder = Decoder(memoryview(buffer), LIMIT_BYTES)
    told = SimpleNamespace(
        peer_buffer_bytes=1000, drop=lambda _, why: dropped.append(why), waits=lambda connection: None
    )
    with ours, theirs:
        connection = Connection(told, ours, 1, decoder, PeerProcess(1000))
        theirs.send(b"\xff" + bytes(8))
        for _ in range(2):
            connection.turn(time.monotonic() + 1)
            buffer[:] = b"\xaa" * len(buffer)
        theirs.send(GREETING[9:])
        connection.turn(time.monotonic() + 1)
    assert dropped == []


DESCRIPTORS = 128
FOR_CLIENTS = DESCRIPTORS * 3 // 4


class Scarce:
    """A process with two listeners and few descriptors."""

    def __init__(self, directory):
        path = os.pathsep.join([str(REPOSITORY / "tests"), str(REPOSITORY / "tests/shell")])
        self.log = directory / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("scarce_host.py")), str(directory), str(DESCRIPTORS)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
        self.directory = directory
        self._peers = []
        assert line_of(self.process) == "up"

    def path(self, side="clients"):
        return f"{self.directory}/{side}.ipc"

    def connect(self, side="clients", *more):
        peer = RawPeer(self.path(side), b"".join([GREETING, ready(), *more]))
        self._peers.append(peer)
        return peer

    def end(self):
        for peer in self._peers:
            peer.socket.close()
        with self.process:
            self.process.terminate()


def asks(peer, what=b"here"):
    """Send something and return the answer."""
    before = len(peer.messages())
    peer.say(message(what))
    eventually(lambda: len(peer.messages()) > before, "an answer")
    return peer.messages()[-1]


@pytest.fixture
def scarce(tmp_path):
    made = Scarce(tmp_path)
    yield made
    made.end()


def test_what_has_the_most_connections_loses_one_for_each_that_comes(scarce, others):
    greedy = others(scarce.path())
    greedy.ask("settle 100")
    alive = int(greedy.ask("alive"))
    assert FOR_CLIENTS // 2 < alive < FOR_CLIENTS
    peers = []
    for _ in range(10):
        peers.append(scarce.connect())
        assert asks(peers[-1]) == b"here"
    eventually(lambda: int(greedy.ask("alive")) == alive - 10, "the greedy one makes place")
    greedy.ask("settle 50")
    assert all(asks(peer) == b"here" for peer in peers)
    assert scarce.log.read_text().count("no more descriptors") == 1


def test_no_client_gets_one_of_the_descriptors_that_are_not_for_clients(transport, others, monkeypatch):
    """However many processes there are: the one that comes gets the number of the one that goes."""
    most, heard = len(descriptors()) + 30, Heard()
    monkeypatch.setattr(listening, "_MAX_CLIENT_FD", most)
    listener = transport.hear(heard)
    heard.on_message = listener.send
    processes = [others(listener.endpoint.removeprefix("ipc://")) for _ in range(3)]
    for what in ("settle 40", "settle 8", "settle 8"):
        for process in processes:
            process.tell(transport, what)
    assert max(each.fd for each in listener._connections.values()) < most
    shares = [int(process.ask("alive")) for process in processes]
    assert sum(shares) == len(listener._connections)
    assert max(shares) - min(shares) <= 2


def test_workers_connect_where_clients_have_all_that_is_theirs(scarce, others):
    others(scarce.path()).ask("settle 200")
    for _ in range(15):
        assert asks(scarce.connect("workers")) == b"here"


def test_what_connects_again_and_again_keeps_nothing_out(scarce, others):
    """One that has come first and says its hello late is not the one that makes place for them."""
    good = scarce.connect()
    eventually(good.frames, "it is ready")
    flood = others(scarce.path())
    for what in ("connect 100", "greet 100", "hello 100"):
        flood.ask(what)
    assert asks(good) == asks(scarce.connect()) == b"here"


@pytest.mark.parametrize("side", ["clients", "workers"])
def test_where_no_descriptor_is_left_those_that_come_wait(scarce, side):
    inside = scarce.connect()
    assert asks(inside, b"exhaust") == b"exhaust"
    waiting = [scarce.connect(side, message(b"let me in")) for _ in range(3)]
    eventually(lambda: "cannot accept" in scarce.log.read_text(), "it has tried")
    for _ in range(20):
        assert asks(inside) == b"here"
    assert asks(inside, b"free") == b"free"
    for peer in waiting:
        eventually(peer.messages, "it is let in")
    assert scarce.log.read_text().count("cannot accept") == 1


def test_after_a_moment_without_descriptors_others_are_accepted(transport, caplog):
    heard, (soft, hard) = Heard(), resource.getrlimit(resource.RLIMIT_NOFILE)
    listener = transport.hear(heard)
    inside = known(transport, listener, heard)
    for _ in range(2):
        coming = transport.raw(listener, GREETING + ready() + message(b"let me in"))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            transport.until(lambda: "cannot accept" in caplog.text)
            before, tries = len(heard.of(b"1")), []
            transport.loop.call_later(0.35, tries.append, 3)
            transport.until(lambda tries=tries: tries)
            inside.say(message(b"still here") * 50)
            transport.until(lambda before=before: len(heard.of(b"1")) == before + 50)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        transport.until(lambda coming=coming: len(coming.frames()) == 1)
        assert caplog.text.count("cannot accept") == 1
        caplog.clear()


def test_a_thousand_idle_connections_cost_little(tmp_path, monkeypatch):
    heard = Heard()
    with Transport(tmp_path) as transport:
        listener = transport.hear(heard)
        known(transport, listener, heard)
        ours = [
            tracemalloc.Filter(True, f"{Path(listening.__file__).parent}/*"),
            tracemalloc.Filter(True, "*/socket.py"),
        ]
        tracemalloc.start()
        try:
            for _ in range(300):
                known(transport, listener, heard)
            snapshot = tracemalloc.take_snapshot().filter_traces(ours)
        finally:
            tracemalloc.stop()
        used = sum(each.size for each in snapshot.statistics("filename"))
        assert used / 300 < 2500
