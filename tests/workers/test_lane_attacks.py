"""Clients of a lane that send nonsense, half of something, or far too much: each hurts nobody but itself."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from lane_rig import SECRET, Rig, call_of, wait_for
from mutated import mutated, samples

from hostd_workers.lane.lanes import MAX_SILENT
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.lane import stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from supervisor_rig import Supervisor

MODEL = """
    import time

    class Model:
        def predict(self, *args, **kwargs):
            return len(args)
        def x(self, *args, **kwargs):
            yield from args
        def spin(self, ms):
            until_s = time.monotonic() + ms / 1000
            while time.monotonic() < until_s:
                pass

    def load(path):
        return Model()
"""

COROUTINES = MODEL.replace("def predict", "async def predict")

MESSAGES = 5_000
"""For each kind of worker."""


@pytest.fixture(params=[MODEL, COROUTINES], ids=["plain", "coroutines"])
def rig(request: pytest.FixtureRequest, supervisor: Supervisor) -> Iterator[Rig]:
    made = Rig(supervisor, request.param)
    yield made
    made.close()


class Bad:
    """A connection whose bytes the test makes; the worker may end it at any time."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.write(b"".join(stream.pack(wire.pack(msg.LANE_HELLO, 0, SECRET))))

    def write(self, data: bytes) -> bool:
        """Send bytes, and say whether the worker is still there; what it answers is thrown away."""
        try:
            self.socket.sendall(data)
            with contextlib.suppress(BlockingIOError):
                while self.socket.recv(1 << 20, socket.MSG_DONTWAIT):
                    pass
                return False
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def close(self) -> None:
        self.socket.close()


def bytes_of(frames: Sequence[wire.Buffer]) -> bytes:
    return b"".join(bytes(part) for part in stream.pack(frames)) if frames else b""


def _call(chance: random.Random, id_: int) -> list[wire.Buffer]:
    kind, name = chance.choice([msg.CALL, msg.STREAM]), chance.choice(["predict", "x", "y", ""])
    header = msg.pack_target(msg.Target("m", name, window=chance.choice([0, 1, 9])))
    return wire.pack(kind, id_, header, chance.choice([b"", b"\xc1", b"\x92\x90\x80"]), (), chance.choice([0, 1, 9999]))


def test_malformed_and_truncated_messages_end_their_own_connections_at_most(rig: Rig) -> None:
    chance = random.Random(13)
    originals = [
        *samples(),
        *[
            wire.pack(kind, number)
            for kind in (msg.LANE_HELLO, msg.CANCEL, msg.UNUSED, msg.GIVEN_UP)
            for number in (0, 6)
        ],
        wire.pack(msg.REGION, 0, bytes(12)),
    ]
    legitimate, bad, ended = rig.client(), Bad(rig.path), 0
    for number in range(MESSAGES):
        data = bytes_of(mutated(chance.choice(originals), chance))
        match chance.randrange(6):
            case 0:
                data = data[: chance.randrange(len(data) + 1)]
            case 1:
                at = chance.randrange(len(data) + 1)
                data = data[:at] + chance.randbytes(chance.randint(1, 4)) + data[at + chance.randint(0, 4) :]
            case 2:  # behind several that are well-formed, but for what they ask for
                data = b"".join(map(bytes_of, (_call(chance, id_) for id_ in range(100, 130)))) + data
        if not bad.write(data) or chance.random() < 0.05:
            bad.close()
            bad, ended = Bad(rig.path), ended + 1
        if number % 50 == 0:
            assert legitimate.result("predict", number, id=number + 1) == 1
    bad.close()
    assert ended > MESSAGES / 50
    wait_for(lambda: rig.page.figures().connections == 1, "all that sent nonsense are gone")
    wait_for(lambda: rig.page.figures().in_flight == 0, "nothing of theirs goes on")
    assert rig.page.figures().bytes_in_flight == 0
    assert rig.process.poll() is None
    assert legitimate.result("predict", 1, 2, id=MESSAGES + 1) == 2


def test_of_connections_that_never_greet_the_oldest_make_place(rig: Rig) -> None:
    early = rig.client()
    assert early.result("predict", 1) == 1
    silent = []
    for _ in range(300):
        silent.append(_connected(rig.path))
        assert early.result("predict", id=2) == 0  # which also lets the worker look at its listener
    late = rig.client()
    assert late.result("predict", 1, 2) == 2
    dropped = [each for each in silent if _is_dropped(each)]
    assert dropped == silent[: len(dropped)]
    assert len(dropped) >= 300 - MAX_SILENT
    assert rig.page.figures().connections == 2
    assert len(os.listdir(f"/proc/{rig.process.pid}/fd")) < MAX_SILENT + 50
    for each in silent:
        each.close()


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def _is_dropped(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


def test_one_connection_that_floods_delays_another_by_a_call_at_a_time(rig: Rig) -> None:
    greedy, other = rig.client(), rig.client()
    greedy.send(*[call_of("spin", 20, id=id_) for id_ in range(1, 61)])
    wait_for(lambda: rig.page.figures().ended >= 1, "the flood is being worked off")
    for turn in range(5):
        before = rig.page.figures().ended
        assert other.result("predict", turn, id=turn + 1) == 1
        assert rig.page.figures().ended - before < 15, "it had to wait for most of another's calls"
    assert sorted(greedy.receive().id for _ in range(60)) == list(range(1, 61))


def test_descriptors_that_nobody_asked_for_are_closed(rig: Rig) -> None:
    other = rig.client()
    assert other.result("predict") == 0
    before = len(os.listdir(f"/proc/{rig.process.pid}/fd"))
    for _ in range(20):
        bad = Bad(rig.path)
        bad.socket.sendall(struct.pack(">I", 4096))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError), open(os.devnull, "rb") as null:
            for _ in range(10):
                socket.send_fds(bad.socket, [b"x"], [null.fileno()] * 3)
        bad.close()
    wait_for(lambda: rig.page.figures().connections == 1, "they are gone")
    assert other.result("predict") == 0
    wait_for(lambda: len(os.listdir(f"/proc/{rig.process.pid}/fd")) == before, "nothing of theirs is left")


def test_refusals_that_nobody_reads_are_not_piled_up(rig: Rig) -> None:
    bad, other = Bad(rig.path), rig.client()
    bad.socket.settimeout(1)
    header = msg.pack_target(msg.Target("m", "no such method" * 500))  # and no body, not even an empty list
    with pytest.raises(TimeoutError):  # the worker reads no further
        for number in range(1, 10_000):
            bad.socket.sendall(bytes_of(wire.pack(msg.CALL, number, header)))
    assert other.result("predict") == 0
    bad.close()
    wait_for(lambda: rig.page.figures().connections == 1, "it is gone")
    assert rig.page.figures().in_flight == 0
