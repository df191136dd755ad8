"""Messages that have not come whole: what one process may leave with the supervisor, and that all of them come at last."""

from __future__ import annotations

import contextlib
import logging
import time
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from transport_rig import (
    COMMAND,
    GREETING,
    LIMIT_BYTES,
    MORE,
    Heard,
    Others,
    Transport,
    announced,
    frame,
    known,
    message,
    pump,
    ready,
    work,
)

from hostd.shell.transport import poller as polling
from hostd_workers.wire import frames as wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transport_rig import RawPeer

    from hostd.shell.transport.listener import Listener

PART = frame(bytes(8 * 1024), MORE)
PARTS = LIMIT_BYTES // len(PART) - 1
"""What is almost the longest message."""

KEPT_BYTES = 1 << 20
"""The limit of which a process may have a half beside its oldest message."""

SLACK_BYTES = 300_000
"""What a turn brings, and what Python takes beside."""


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    with Transport(tmp_path) as made:
        yield made


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def listener(transport: Transport, heard: Heard) -> Listener:
    return transport.hear(heard, peer_buffer_bytes=KEPT_BYTES)


@pytest.fixture
def other(listener: Listener) -> Iterator[Others]:
    """Another process."""
    made = Others(listener.endpoint.removeprefix("ipc://"))
    yield made
    made.end()


@pytest.fixture
def peers(transport: Transport, listener: Listener, heard: Heard) -> list[RawPeer]:
    """Connections of this process."""
    return [known(transport, listener, heard) for _ in range(40)]


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "LARGE_LOOK_PERIOD_S", 0.05)


def settle(transport: Transport, pushes: list[Callable[[], bool]]) -> None:
    """Push until nothing more is taken from anybody."""
    quiet: list[int] = []
    passes: list[int] = []
    before, transport.poller.on_quiet = transport.poller.on_quiet, lambda: passes.append(1)

    def is_quiet() -> bool:
        seen = len(passes)
        for push in pushes:
            push()
        quiet.append(seen)
        return len(quiet) > 20 and len(set(quiet[-20:])) == 1

    transport.until(is_quiet)
    transport.poller.on_quiet = before


# What is held


def test_one_process_has_one_message_and_a_share_held_over_however_many_connections(
    transport: Transport, heard: Heard, peers: list[RawPeer], other: Others
) -> None:
    pushes = [pump(peer, PART, PARTS) for peer in peers]
    tracemalloc.start()
    try:
        settle(transport, pushes)
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held_bytes < LIMIT_BYTES + KEPT_BYTES // 2 + SLACK_BYTES
    assert heard.gone == []
    other.tell(transport, "hello 1")
    transport.until(lambda: heard.messages[-1][1] == [b"hello"], "another process is heard")


@pytest.mark.parametrize(
    ("what", "first"),
    {
        "half frames": GREETING + ready() + message(b"here") + announced(30_000) + bytes(20_000),
        "newcomers": GREETING + PART * 6,
        "commands": GREETING + frame(bytes(1000), COMMAND)[:900],
    }.items(),
)
def test_whatever_is_not_whole_counts(transport: Transport, listener: Listener, what: str, first: bytes) -> None:
    number = 120
    tracemalloc.start()
    try:
        for _ in range(number):
            transport.raw(listener, first)
        settle(transport, [])
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held_bytes < KEPT_BYTES // 2 + number * 4000 + SLACK_BYTES, what


def test_small_frames_count_with_what_it_takes_to_keep_them(transport: Transport, peers: list[RawPeer]) -> None:
    """One by one, or they would lie where they came and cost no more than their bytes."""
    tracemalloc.start()
    try:
        for _ in range(60):
            for peer in peers:
                peer.say(frame(b"x", MORE) * 64)
            settle(transport, [])
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held_bytes < KEPT_BYTES // 2 + SLACK_BYTES


def test_batches_that_are_not_done_count(transport: Transport, heard: Heard, peers: list[RawPeer]) -> None:
    batch = frame(wire.pack_batch([bytes(1500)] * 100))
    counts: Counter[bytes] = Counter()
    most = 0

    def look(identity: bytes, _: object) -> None:
        nonlocal most
        work(0.0005)
        counts[identity] += 1
        most = max(most, sum(count < 100 for count in counts.values()))

    heard.on_message = look
    for peer in peers[:12]:
        peer.say(batch)
    transport.until(lambda: len(heard.messages) == 1200)
    assert most <= 6, "one, what may be held beside, one more that was begun then, and one that begins"


# All come at last


def test_all_messages_come_whole_though_few_may_be_held(
    transport: Transport, heard: Heard, peers: list[RawPeer]
) -> None:
    pushes = [pump(peer, PART * PARTS + frame(b"last"), 2) for peer in peers]
    transport.until(lambda: [push() for push in pushes] and len(heard.messages) == 2 * len(peers))
    assert {len(frames) for _, frames in heard.messages} == {PARTS + 1}


def test_a_connection_with_one_message_after_another_does_not_stay_the_oldest(
    transport: Transport, heard: Heard, peers: list[RawPeer]
) -> None:
    endless = pump(peers[0], PART * PARTS + frame(b"last"), 100)
    transport.until(lambda: endless() or len(heard.messages) > 1)
    pushes = [pump(peer, PART * PARTS + frame(b"last"), 1) for peer in peers[1:]]
    everybody = {b"%d" % number for number in range(1, 41)}
    transport.until(lambda: [push() for push in (endless, *pushes)] and {who for who, _ in heard.messages} == everybody)
    assert len(heard.of(b"1")) < 100, "others came only when it had nothing more to say"


def test_small_messages_come_beside_a_long_one(transport: Transport, heard: Heard, peers: list[RawPeer]) -> None:
    settle(transport, [pump(peer, PART, PARTS) for peer in peers[:4]])
    peers[5].say(message(b"small"))
    transport.until(lambda: heard.messages and heard.messages[-1][1] == [b"small"])


def test_those_that_wait_go_on_when_the_oldest_ends(transport: Transport, heard: Heard, peers: list[RawPeer]) -> None:
    settle(transport, [pump(peer, PART, PARTS) for peer in peers])
    for peer in peers:
        peer.socket.close()
    transport.until(lambda: len(heard.gone) == len(peers))


def test_a_listener_can_be_closed_while_some_wait(
    transport: Transport, listener: Listener, peers: list[RawPeer]
) -> None:
    settle(transport, [pump(peer, PART, PARTS) for peer in peers])
    listener.close()
    over: list[int] = []
    transport.loop.call_soon(over.append, 1)
    transport.until(lambda: over)


# Those that do not go on


@pytest.mark.usefixtures("looks_often")
def test_whoever_does_not_go_on_is_dropped_and_the_log_says_why(
    transport: Transport, heard: Heard, peers: list[RawPeer], caplog: pytest.LogCaptureFixture
) -> None:
    pushes = [pump(peer, PART * PARTS + frame(b"last"), 1) for peer in peers[1:]]
    settle(transport, [pump(peers[0], PART, PARTS)])
    with caplog.at_level(logging.WARNING):
        transport.until(lambda: [push() for push in pushes] and len(heard.messages) == 39 and heard.gone)
    assert heard.gone == [b"1"]
    assert peers[0].has_ended()
    assert "does not send the rest of a message" in caplog.text
    assert "limits.peer_buffer_bytes" in caplog.text


@pytest.mark.usefixtures("looks_often")
def test_whoever_goes_on_too_slowly_is_dropped_and_whoever_does_so_fast_enough_is_kept(
    transport: Transport, heard: Heard, peers: list[RawPeer]
) -> None:
    slow, steady = peers[:2]
    parts = iter([PART] * (PARTS - 40))
    next_s = 0.0

    def trickle() -> bool:
        nonlocal next_s
        if time.monotonic() > next_s:
            next_s = time.monotonic() + 0.01
            with contextlib.suppress(BrokenPipeError):
                slow.socket.send(frame(b"x", MORE))
        return bool(heard.gone)

    def flow() -> bool:
        nonlocal next_s
        if time.monotonic() > next_s:  # for some twenty looks, in each of which a tenth of that would be enough
            next_s = time.monotonic() + 0.01
            steady.say(next(parts, b"") + next(parts, frame(b"last")))
        return bool(heard.messages)

    settle(transport, [pump(slow, PART, 40)])
    transport.until(trickle)
    settle(transport, [pump(steady, PART, 40)])
    transport.until(flow)
    assert heard.gone == [b"1"]


@pytest.mark.usefixtures("looks_often")
def test_a_worker_that_does_not_go_on_is_kept(transport: Transport) -> None:
    workers = Heard(is_trusted=True)
    back = transport.hear(workers, "b", peer_buffer_bytes=KEPT_BYTES)
    worker = known(transport, back, workers)
    settle(transport, [pump(worker, PART, PARTS)])
    clients = Heard()
    front = transport.hear(clients, "c", peer_buffer_bytes=KEPT_BYTES)
    settle(transport, [pump(known(transport, front, clients), PART, PARTS)])
    transport.until(lambda: clients.gone, "a client that began later is dropped")
    worker.say(frame(b"last"))
    transport.until(lambda: workers.messages)
    assert workers.gone == []
