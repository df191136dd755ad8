"""Both ends of a lane in one process: messages, shared memory, and what no peer of ours sends."""

from __future__ import annotations

import array
import contextlib
import gc
import os
import random
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode, encode
from hostd_workers.wire.errors import ProtocolError
from hostd_workers.wire.lane import regions, stream
from hostd_workers.wire.lane.link import Link
from hostd_workers.wire.lane.spare import KEPT_BYTES, Spare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

np = pytest.importorskip("numpy")

MAX_BYTES = 256 << 20
LONG = 200_000


def descriptors() -> int:
    """Return how many sockets and memory files this process has."""
    gc.collect()
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found += os.readlink(f"/proc/self/fd/{fd}").startswith(("socket:", "/memfd:"))
    return found


def new_link(connection: socket.socket, spare: Spare) -> Link:
    return Link(connection, stream.new_buffer(), MAX_BYTES, spare)


class Ends:
    """Two links, and a socket at which bytes can be made for the first of them."""

    def __init__(self) -> None:
        mine, its = socket.socketpair()
        self.spare = Spare()
        self.mine, self.its = new_link(mine, self.spare), new_link(its, Spare())
        raw, at_raw = socket.socketpair()
        self.raw, self.at_raw, self.victim = raw, at_raw, new_link(at_raw, Spare())

    def exchange(self, value: object, sender: Link | None = None) -> object:
        """Send a value, and return what comes out at the other end."""
        sender = sender or self.mine
        receiver = self.its if sender is self.mine else self.mine
        body, buffers = encode(value)
        sender.send(wire.pack(msg.RESULT, 1, b"", body, buffers))
        come: list[wire.Envelope] = []
        while not come:
            sender.flush()
            come = receiver.receive()
        [envelope] = come
        return decode(envelope.body, envelope.buffers)

    def settle(self) -> None:
        """Let both ends tell what they have no use for any more."""
        for _ in range(3):
            self.its.flush()
            self.mine.receive()
            self.mine.flush()
            self.its.receive()

    def close(self) -> None:
        for link in (self.mine, self.its, self.victim):
            link.close()
        self.raw.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    before = descriptors()
    ends = Ends()
    yield ends
    ends.close()
    assert descriptors() == before


def region_message(number: int, size_bytes: int) -> bytes:
    return b"".join(stream.pack(wire.pack(msg.REGION, 0, struct.pack(">IQ", number, size_bytes))))


def rights(*fds: int) -> list[tuple[int, int, array.array]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]


def test_what_is_sent_comes_out_whatever_its_size(ends: Ends) -> None:
    chance = random.Random(1)
    for size in (0, 1, 5_000, 70_000, LONG, 5_000_000):
        data = chance.randbytes(size)
        assert bytes(ends.exchange(data)) == data
        assert (ends.exchange(np.frombuffer(data, "u1")) == np.frombuffer(data, "u1")).all()


def test_the_same_memory_is_used_again_in_both_directions_and_has_a_limit(ends: Ends) -> None:
    for turn in range(20):
        for sender in (ends.mine, ends.its):
            assert (ends.exchange(np.full(LONG, turn), sender) == turn).all()
            ends.settle()
    assert len(ends.mine._own) == len(ends.its._own) == 1
    kept = [ends.exchange(np.zeros(4 << 20, "u1")) for _ in range(30)]
    kept.clear()
    ends.settle()
    assert 0 < ends.spare.size_bytes <= KEPT_BYTES
    assert (ends.exchange(np.ones(200 << 20, "u1")) == 1).all()
    ends.settle()
    assert len(ends.its._other) == len(ends.mine._own) < 30, "smaller ones made place"


def test_what_was_kept_stays_as_it_is_after_the_end_of_the_connection(ends: Ends) -> None:
    kept = [ends.exchange(np.full(LONG, 1.5)), ends.exchange(np.full(LONG, 2.5), ends.its)]
    for _ in range(3):
        ends.exchange(np.zeros(LONG))
        ends.exchange(np.zeros(LONG), ends.its)
        ends.settle()
    assert ends.its.has_used
    assert ends.mine.has_used
    ends.mine.close()
    ends.its.close()
    assert [set(each.tolist()) for each in kept] == [{1.5}, {2.5}]
    kept[0][:] = 3.0  # whatever still refers to it may write into what is its own
    assert set(kept[1].tolist()) == {2.5}


def test_what_was_put_off_is_not_done_after_the_end() -> None:
    put_off: list[threading.Timer] = []

    def later(seconds: float, do: Callable[[], None]) -> threading.Timer:
        put_off.append(threading.Timer(seconds, do))
        return put_off[-1]

    spare = Spare(later)
    spare.close()
    own = regions.OwnRegions(spare)
    placed = own.place([bytes(LONG)])
    assert placed is not None
    own.unused(placed.region)
    spare.close()
    assert [timer.finished.is_set() for timer in put_off] == [True]
    own.close()


def test_without_memory_or_descriptors_everything_goes_through_the_socket(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError("none left")

    monkeypatch.setattr(os, "memfd_create", fail)
    assert (ends.exchange(np.arange(LONG)) == np.arange(LONG)).all()
    monkeypatch.undo()
    monkeypatch.setattr(os, "ftruncate", fail)
    assert (ends.exchange(np.arange(LONG)) == np.arange(LONG)).all()
    assert len(ends.mine._own) == 0


def test_a_region_that_cannot_be_announced_now_is_forgotten(ends: Ends) -> None:
    filler = encode(b"x" * 60_000)
    while not ends.mine.wants_to_send:
        ends.mine.send(wire.pack(msg.RESULT, 1, b"", *filler))
        ends.mine.flush()
    body, buffers = encode(np.arange(LONG))
    ends.mine.send(wire.pack(msg.RESULT, 2, b"", body, buffers))
    assert len(ends.mine._own) == 0
    come: list[wire.Envelope] = []
    while not come or come[-1].id != 2:
        ends.mine.flush()
        come += ends.its.receive()
    assert (decode(come[-1].body, come[-1].buffers) == np.arange(LONG)).all()


def test_what_a_caller_changes_after_it_was_sent_is_not_changed_here(ends: Ends) -> None:
    """The socket is full, so most of it waits."""
    array_ = np.zeros(60_000, "u1")
    sent = 0
    while not ends.mine.wants_to_send:
        body, buffers = encode(array_)
        ends.mine.send(wire.pack(msg.RESULT, 1, b"", body, buffers))
        ends.mine.flush()
        sent += 1
    assert ends.mine.waiting_bytes > 0
    array_[:] = 7
    come: list[wire.Envelope] = []
    while len(come) < sent:
        ends.mine.flush()
        come += ends.its.receive()
    assert not any(decode(each.body, each.buffers).any() for each in come)


def test_the_end_is_told_after_what_came_before_it(ends: Ends) -> None:
    ends.mine.send(wire.pack(msg.RESULT, 5))
    ends.mine.flush()
    ends.mine.close()
    assert [each.id for each in ends.its.receive()] == [5]
    with pytest.raises(EOFError):
        ends.its.receive()
    ends.its.send(wire.pack(msg.RESULT, 6))
    ends.its.flush()
    assert not ends.its.wants_to_send
    body, buffers = encode(np.arange(LONG))
    ends.its.send(wire.pack(msg.RESULT, 7, b"", body, buffers))  # nor can a region be announced
    assert len(ends.its._own) == 0


def test_a_connection_that_was_reset_has_ended(ends: Ends) -> None:
    ends.victim.send(wire.pack(msg.RESULT, 1))
    ends.victim.flush()
    ends.raw.close()  # with something unread
    with pytest.raises(EOFError):
        ends.victim.receive()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (region_message(1, 4096), "comes with its descriptor"),
        (b"".join(stream.pack(wire.pack(msg.REGION, 0, b"short"))), "malformed"),
        (b"".join(stream.pack(wire.pack(msg.UNUSED, 0, struct.pack(">I", 9)))), "not in use"),
        (b"".join(stream.pack(wire.pack(msg.UNUSED, 0))), "malformed"),
        (b"".join(stream.pack(wire.pack(msg.GIVEN_UP, 0, b"1"))), "malformed"),
    ],
    ids=["no descriptor", "region", "not in use", "unused", "given up"],
)
def test_messages_about_memory_that_are_wrong_are_refused(ends: Ends, data: bytes, why: str) -> None:
    ends.raw.sendall(data)
    with pytest.raises(ProtocolError, match=why):
        ends.victim.receive()


def test_of_what_is_not_about_memory_the_link_knows_nothing(ends: Ends) -> None:
    ends.raw.sendall(
        b"".join(stream.pack(wire.pack(99, 3))) + b"".join(stream.pack(wire.pack(msg.GIVEN_UP, 0, bytes(4))))
    )
    assert [(each.kind, each.id) for each in ends.victim.receive()] == [(99, 3)]


def test_descriptors_without_messages_are_few_and_closed(ends: Ends) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    ends.raw.sendall(struct.pack(">I", 4096))
    assert ends.victim.receive() == []
    with pytest.raises(ProtocolError, match="descriptors came"):
        for _ in range(6):
            ends.raw.sendmsg([b"x"], rights(null))
            ends.victim.receive()
    os.close(null)


def test_what_else_may_come_beside_bytes_is_not_looked_at(ends: Ends) -> None:
    ends.at_raw.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ends.raw.sendall(b"".join(stream.pack(wire.pack(msg.RESULT, 3))))
    assert [each.id for each in ends.victim.receive()] == [3]


def test_regions_are_announced_once(ends: Ends) -> None:
    own = regions.OwnRegions(Spare())
    placed = own.place([bytes(LONG)])
    assert placed is not None
    assert placed.fd is not None
    for _ in range(2):
        ends.raw.sendmsg([region_message(placed.region, placed.size_bytes)], rights(placed.fd))
    assert ends.victim.receive() == []
    with pytest.raises(ProtocolError, match="there already"):
        ends.victim.receive()
    own.close()


def test_a_region_that_is_not_sealed_is_refused(ends: Ends) -> None:
    fd = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    ends.raw.sendmsg([region_message(1, 4096)], rights(fd))
    os.close(fd)
    with pytest.raises(ProtocolError, match="sealed"):
        ends.victim.receive()


def test_a_body_never_lies_in_shared_memory(ends: Ends) -> None:
    own = regions.OwnRegions(Spare())
    body = encode([1] * 100_000)[0]
    placed = own.place([body])
    assert placed is not None
    assert placed.fd is not None
    first = wire.pack(msg.CALL, 1, b"", b"x" * (wire.INLINE_BODY_BYTES + 1))[0]
    head, *rest = stream.pack([first, body], {1: (placed.region, 0)})
    ends.raw.sendmsg([region_message(placed.region, placed.size_bytes)], rights(placed.fd))
    ends.raw.sendall(b"".join([head, *rest]))
    assert ends.victim.receive() == []
    with pytest.raises(ProtocolError, match="body may not lie"):
        ends.victim.receive()
    own.close()
