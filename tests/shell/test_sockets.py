"""The ROUTER sockets on an event loop, with real peers: nothing is lost, nothing blocks, the order stays."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from helpers import PATIENCE_S, at_most

from hostd.shell.sockets import BATCH, PASSES, Pump, RouterSocket, Unsent
from hostd_workers.wire import frames as wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

MESSAGE = wire.pack(2, 7, b"header", b"body")[0]


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as made:
        yield made


class Side:
    """A bound socket that notes what it hears and what could not be sent."""

    def __init__(self, context: zmq.Context[Any], directory: Path, name: str = "a", **options: Any) -> None:
        self.heard: list[tuple[bytes, list[Any]]] = []
        self.unsent: list[tuple[bytes, Sequence[Any], Unsent]] = []
        self.on_message: Callable[[bytes, list[Any]], None] = lambda identity, frames: None
        self._options = {"max_frame_bytes": 1 << 20, **options}
        self.socket = RouterSocket(
            context,
            f"ipc://{directory}/{name}.ipc",
            self._hear,
            lambda *what: self.unsent.append(what),
            **self._options,
        )

    def _hear(self, identity: bytes, frames: list[Any]) -> None:
        self.heard.append((identity, [bytes(frame) for frame in frames]))
        self.on_message(identity, frames)


@pytest.fixture
def side(context: zmq.Context[Any], tmp_path: Path) -> Iterator[Side]:
    made = Side(context, tmp_path)
    with made.socket:
        yield made


@pytest.fixture
def connect(context: zmq.Context[Any], side: Side) -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    """Connect a peer; it is known to the socket when this returns."""
    peers: list[zmq.Socket[bytes]] = []

    def make(identity: bytes, **options: int) -> zmq.Socket[bytes]:
        peer = context.socket(zmq.DEALER)
        peers.append(peer)
        peer.linger = 0
        peer.setsockopt(zmq.IDENTITY, identity)
        for name, value in options.items():
            peer.setsockopt(getattr(zmq, name), value)
        peer.connect(side.socket.endpoint)
        peer.send(b"here")
        run(until(lambda pump: side.heard and side.heard[-1] == (identity, [b"here"]), side))
        side.heard.clear()
        return peer

    yield make
    for peer in peers:
        peer.close()


def run(awaitable: Awaitable[Any]) -> Any:
    return asyncio.run(asyncio.wait_for(awaitable, PATIENCE_S))


async def until(is_true: Callable[[Pump], Any], *sides: Side) -> None:
    """Pump until something is true; the loop only wakes for the sockets, so a lost wake-up is a time-out."""
    pump = Pump(asyncio.get_running_loop())
    quiet = asyncio.Event()
    pump.on_quiet = quiet.set
    for side in sides:
        pump.add(side.socket)
    try:
        while not is_true(pump):
            quiet.clear()
            await quiet.wait()
    finally:
        pump.stop()


# Receiving


def test_messages_come_whole_with_their_sender(side: Side, connect: Callable[..., zmq.Socket[bytes]]) -> None:
    peer = connect(b"peer")
    peer.send_multipart([MESSAGE, b"x" * 100_000, b""])
    run(until(lambda _: side.heard, side))
    assert side.heard == [(b"peer", [MESSAGE, b"x" * 100_000, b""])]


def test_every_message_of_a_burst_is_heard_in_order(side: Side, connect: Callable[..., zmq.Socket[bytes]]) -> None:
    peer = connect(b"peer", SNDHWM=0)
    for number in range(BATCH * PASSES * 3):
        peer.send(number.to_bytes(4, "big"))
    run(until(lambda _: len(side.heard) == BATCH * PASSES * 3, side))
    assert [int.from_bytes(frames[0], "big") for _, frames in side.heard] == list(range(BATCH * PASSES * 3))


def test_a_peer_that_floods_does_not_keep_the_loop_from_its_other_work(
    side: Side, connect: Callable[..., zmq.Socket[bytes]]
) -> None:
    peer = connect(b"peer", SNDHWM=0)
    total = BATCH * PASSES * 20
    for _ in range(total):
        peer.send(b"x")
    turns: list[int] = []

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        pumping = asyncio.ensure_future(until(lambda _: len(side.heard) == total, side))
        while not pumping.done():
            turns.append(len(side.heard))
            woken = loop.create_future()
            loop.call_soon(woken.set_result, None)
            await woken
        await pumping

    run(watch())
    # Two turns of the loop go by between two looks, and the pump may be due twice in each.
    assert max(later - earlier for earlier, later in itertools.pairwise(turns)) <= BATCH * PASSES * 4


def test_a_handler_that_fails_costs_its_message_and_no_other(
    side: Side, connect: Callable[..., zmq.Socket[bytes]]
) -> None:
    peer = connect(b"peer")
    side.socket.batching.add(b"peer")
    failures: list[dict[str, Any]] = []

    def fail_once(identity: bytes, frames: list[Any]) -> None:
        side.socket.send(identity, [MESSAGE])
        if bytes(frames[0]) == b"bad":
            raise ZeroDivisionError

    side.on_message = fail_once
    for message in (b"good", b"bad", b"also good"):
        peer.send(message)

    async def watch() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        await until(lambda _: len(side.heard) == 3, side)

    run(watch())
    assert [type(failure["exception"]) for failure in failures] == [ZeroDivisionError]
    answers = 0
    while answers < 3:
        assert peer.poll(PATIENCE_S * 1000), "what was held back when the handler failed is never sent"
        frame = peer.recv()
        answers += len(wire.unpack_batch(frame)) if frame[0] == wire.BATCH else 1


def test_a_batch_is_taken_apart_and_a_malformed_one_is_dropped(
    side: Side, connect: Callable[..., zmq.Socket[bytes]]
) -> None:
    peer = connect(b"peer")
    batch = wire.pack_batch([MESSAGE, MESSAGE + b"2"])
    peer.send(batch[:-1])
    peer.send(batch)
    peer.send(wire.pack_batch([batch]))
    peer.send(b"last")
    run(until(lambda _: side.heard and side.heard[-1][1] == [b"last"], side))
    assert [frames for _, frames in side.heard] == [[MESSAGE], [MESSAGE + b"2"], [batch], [b"last"]]


def test_a_message_of_too_many_frames_is_dropped(side: Side, connect: Callable[..., zmq.Socket[bytes]]) -> None:
    peer = connect(b"peer")
    peer.send_multipart([b"x"] * (wire.MAX_FRAMES + 1))
    peer.send(b"last")
    run(until(lambda _: side.heard, side))
    assert [frames for _, frames in side.heard] == [[b"last"]]


def test_what_one_socket_hears_and_sends_on_the_other_is_pumped_too(
    context: zmq.Context[Any], tmp_path: Path, side: Side, connect: Callable[..., zmq.Socket[bytes]]
) -> None:
    """Four hundred times there and back: one swallowed edge of a descriptor, and this waits for ever."""
    front, other = connect(b"front"), Side(context, tmp_path, "b")
    with other.socket, context.socket(zmq.DEALER) as back:
        back.linger = 0
        back.setsockopt(zmq.IDENTITY, b"back")
        back.connect(other.socket.endpoint)
        back.send(b"here")
        run(until(lambda _: other.heard, other))
        side.on_message = lambda _, frames: other.socket.send(b"back", [bytes(frames[0])])
        other.on_message = lambda _, frames: side.socket.send(b"front", [bytes(frames[0])])

        async def play() -> None:
            loop, done = asyncio.get_running_loop(), []

            def hop() -> None:
                for socket, answer in ((back, back.send), (front, lambda _: None)):
                    while socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                        message = socket.recv()
                        answer(message)
                        if socket is front:
                            done.append(message)
                            if len(done) < 400:
                                front.send(b"%d" % len(done))

            pump = Pump(loop)
            for part in (side, other):
                pump.add(part.socket)
            front.send(b"0")
            while len(done) < 400:  # the peers look again and again, but the pump only when it is woken
                hop()
                woken = loop.create_future()
                loop.call_later(0.0002, woken.set_result, None)
                await woken
            pump.stop()

        run(play())


# Sending


def test_an_unknown_peer_is_gone_and_a_full_one_is_full(side: Side, connect: Callable[..., zmq.Socket[bytes]]) -> None:
    side.socket.send(b"nobody", [MESSAGE])
    assert side.unsent == [(b"nobody", [MESSAGE], Unsent.GONE)]
    side.unsent.clear()
    connect(b"slow", RCVHWM=1)
    with at_most(PATIENCE_S, "filling a peer's queue"):
        while not side.unsent:
            side.socket.send(b"slow", [MESSAGE, b"x" * 60_000])
    identity, frames, why = side.unsent[0]
    assert (identity, why) == (b"slow", Unsent.FULL)
    assert frames == [MESSAGE, b"x" * 60_000]


def test_small_messages_to_one_peer_leave_together_in_order(
    side: Side, connect: Callable[..., zmq.Socket[bytes]]
) -> None:
    peer = connect(b"peer")
    side.socket.batching.add(b"peer")
    side.socket.cork()
    for number in range(3):
        side.socket.send(b"peer", [b"%d" % number])
    side.socket.send(b"peer", [b"big", b"x" * 100_000])
    side.socket.send(b"peer", [b"3"])
    side.socket.uncork()
    side.socket.send(b"peer", [b"4"])
    received = [peer.recv_multipart() for _ in range(4)]
    assert wire.unpack_batch(received[0][0]) == [b"0", b"1", b"2"]
    assert [frames[0] for frames in received[1:]] == [b"big", b"3", b"4"]


def test_more_messages_than_a_batch_may_hold_leave_in_several(
    side: Side, connect: Callable[..., zmq.Socket[bytes]]
) -> None:
    peer = connect(b"peer")
    side.socket.batching.add(b"peer")
    side.socket.cork()
    messages = [b"%d" % number for number in range(wire.MAX_BATCH_MESSAGES * 2 + 1)]
    for message in messages:
        side.socket.send(b"peer", [message])
    side.socket.uncork()
    received: list[bytes] = []
    while len(received) < len(messages):
        frame = peer.recv()
        received += wire.unpack_batch(frame) if frame[0] == wire.BATCH else [frame]
    assert received == messages


def test_a_peer_that_does_not_know_batches_gets_none(side: Side, connect: Callable[..., zmq.Socket[bytes]]) -> None:
    peer = connect(b"plain")
    side.socket.cork()
    side.socket.send(b"plain", [b"1"])
    side.socket.send(b"plain", [b"2"])
    side.socket.uncork()
    assert [peer.recv(), peer.recv()] == [b"1", b"2"]


def test_what_cannot_be_sent_is_told_in_order_even_if_the_next_could(
    side: Side, connect: Callable[..., zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue may have room again a moment later; a message that went out then would overtake the earlier ones."""
    connect(b"peer")
    side.socket.batching.add(b"peer")
    refusals = [Unsent.FULL]
    monkeypatch.setattr(side.socket, "try_send", lambda *_: refusals.pop() if refusals else None)
    side.socket.cork()
    for message in (b"1", b"2"):
        side.socket.send(b"peer", [message])
    side.socket.send(b"peer", [b"3", b"x" * 100_000])
    side.socket.uncork()
    assert [frames[0] for _, frames, _ in side.unsent] == [b"1", b"2", b"3"]


# Limits and ends


def test_a_frame_over_the_limit_costs_its_sender_the_connection(
    side: Side, connect: Callable[..., zmq.Socket[bytes]]
) -> None:
    big, other = connect(b"big"), connect(b"other")
    big.send(b"x" * ((1 << 20) + 1))
    other.send(b"still here")
    run(until(lambda _: side.heard, side))
    assert side.heard == [(b"other", [b"still here"])]


def test_other_users_are_turned_away(context: zmq.Context[Any], tmp_path: Path) -> None:
    side = Side(context, tmp_path, "private", owner_uid=os.geteuid() + 1)
    with side.socket, context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        monitor = peer.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        peer.connect(side.socket.endpoint)
        assert monitor.poll(PATIENCE_S * 1000)
        event, _ = monitor.recv_multipart()
        assert int.from_bytes(event[:2], "little") == zmq.EVENT_DISCONNECTED
        peer.disable_monitor()
        monitor.close(0)


def test_what_was_sent_just_before_the_end_arrives(side: Side, connect: Callable[..., zmq.Socket[bytes]]) -> None:
    peer = connect(b"peer")
    side.socket.send(b"peer", [b"goodbye"])
    side.socket.close(linger_ms=1000)
    assert peer.poll(PATIENCE_S * 1000)
    assert peer.recv() == b"goodbye"


def test_a_pump_that_was_stopped_does_nothing_more(side: Side, connect: Callable[..., zmq.Socket[bytes]]) -> None:
    peer = connect(b"peer")

    async def use() -> int:
        loop = asyncio.get_running_loop()
        pump = Pump(loop)
        pump.add(side.socket)
        pump.soon()
        pump.stop()
        peer.send(b"too late")
        turns = 0
        for _ in range(20):
            woken = loop.create_future()
            loop.call_soon(woken.set_result, None)
            await woken
            turns += pump._is_due
        return turns

    assert run(use()) <= 1
    assert side.heard == []
