"""Messages that have not come whole: what one process may leave with the supervisor, and that all of them come at last."""

import contextlib
import logging
import time
import tracemalloc
from collections import Counter

import pytest
from transport_rig import (
    COMMAND,
    GREETING,
    LIMIT_BYTES,
    MORE,
    Heard,
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

PART = frame(bytes(8 * 1024), MORE)
PARTS = LIMIT_BYTES // len(PART) - 1
"""What is almost the longest message."""

WHOLE = PART * PARTS + frame(b"last")
KEPT_BYTES = 1 << 20
"""The limit of which a process may have a half beside its oldest message."""

SLACK_BYTES = 300_000
"""What a turn brings, and what Python takes beside."""


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def listener(transport, heard):
    return transport.hear(heard, peer_buffer_bytes=KEPT_BYTES)


@pytest.fixture
def peers(transport, listener, heard):
    """Connections of this process."""
    return [known(transport, listener, heard) for _ in range(40)]


@pytest.fixture
def looks_often(monkeypatch):
    monkeypatch.setattr(polling, "LARGE_LOOK_PERIOD_S", 0.05)


@contextlib.contextmanager
def at_most(most_bytes):
    """Have so much memory held at the end of this."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[0] < most_bytes
    finally:
        tracemalloc.stop()


def settle(transport, pushes):
    """Push until nothing more is taken from any."""
    quiet, passes = [], []
    before, transport.poller.on_quiet = transport.poller.on_quiet, lambda: passes.append(1)

    def is_quiet():
        quiet.append(len(passes))
        for push in pushes:
            push()
        return len(quiet) > 20 and len(set(quiet[-20:])) == 1

    transport.until(is_quiet)
    transport.poller.on_quiet = before


def test_one_process_has_one_message_and_a_share_held_over_all_its_connections(
    transport, heard, listener, peers, others
):
    with at_most(LIMIT_BYTES + KEPT_BYTES // 2 + SLACK_BYTES):
        settle(transport, [pump(peer, PART, PARTS) for peer in peers])
    assert heard.gone == []
    others(listener.endpoint.removeprefix("ipc://")).tell(transport, "hello 1")
    transport.until(lambda: heard.messages[-1][1] == [b"hello"], "another process is heard")


UNFINISHED = {
    "half frames": GREETING + ready() + message(b"here") + announced(30_000) + bytes(20_000),
    "newcomers": GREETING + PART * 6,
    "commands": GREETING + frame(bytes(1000), COMMAND)[:900],
}


@pytest.mark.parametrize("what", UNFINISHED)
def test_whatever_is_not_whole_counts(transport, listener, what):
    number = 120
    with at_most(KEPT_BYTES // 2 + number * 4000 + SLACK_BYTES):
        for _ in range(number):
            transport.raw(listener, UNFINISHED[what])
        settle(transport, [])


def test_small_frames_count_with_what_it_takes_to_keep_them(transport, peers):
    """One by one, or they would lie where they came and cost no more than their bytes."""
    with at_most(KEPT_BYTES // 2 + SLACK_BYTES):
        for _ in range(60):
            for peer in peers:
                peer.say(frame(b"x", MORE) * 64)
            settle(transport, [])


def test_batches_that_are_not_done_count(transport, heard, peers):
    batch, counts, most = frame(wire.pack_batch([bytes(1500)] * 100)), Counter(), [0]

    def look(identity, _):
        work(0.0005)
        counts[identity] += 1
        most.append(sum(count < 100 for count in counts.values()))

    heard.on_message = look
    for peer in peers[:12]:
        peer.say(batch)
    transport.until(lambda: len(heard.messages) == 1200)
    assert max(most) <= 6, "one, what may be held beside, one more that was begun then, and one that begins"


def test_all_messages_come_whole_though_few_may_be_held(transport, heard, peers):
    pushes = [pump(peer, WHOLE, 2) for peer in peers]
    transport.until(lambda: [push() for push in pushes] and len(heard.messages) == 2 * len(peers))
    assert {len(frames) for _, frames in heard.messages} == {PARTS + 1}


def test_a_connection_with_one_message_after_another_does_not_stay_the_oldest(transport, heard, peers):
    endless = pump(peers[0], WHOLE, 100)
    transport.until(lambda: endless() or len(heard.messages) > 1)
    pushes = [endless, *(pump(peer, WHOLE, 1) for peer in peers[1:])]
    all_of_them = {b"%d" % number for number in range(1, 41)}
    transport.until(lambda: [push() for push in pushes] and {name for name, _ in heard.messages} == all_of_them)
    assert len(heard.of(b"1")) < 100, "others came only when it had nothing more to say"


def test_small_messages_come_beside_a_long_one(transport, heard, peers):
    settle(transport, [pump(peer, PART, PARTS) for peer in peers[:4]])
    peers[5].say(message(b"small"))
    transport.until(lambda: heard.messages and heard.messages[-1][1] == [b"small"])


@pytest.mark.parametrize("end", ["of the peers", "of the listener"])
def test_those_that_wait_go_on_when_the_oldest_ends(transport, heard, listener, peers, end):
    settle(transport, [pump(peer, PART, PARTS) for peer in peers])
    if end == "of the peers":
        for peer in peers:
            peer.socket.close()
        transport.until(lambda: len(heard.gone) == len(peers))
        return
    listener.close()
    over = []
    transport.loop.call_soon(over.append, 1)
    transport.until(lambda: over)


@pytest.mark.usefixtures("looks_often")
def test_a_peer_that_does_not_go_on_is_dropped_and_the_log_says_why(transport, heard, peers, caplog):
    pushes = [pump(peer, WHOLE, 1) for peer in peers[1:]]
    settle(transport, [pump(peers[0], PART, PARTS)])
    with caplog.at_level(logging.WARNING):
        transport.until(lambda: [push() for push in pushes] and len(heard.messages) == 39 and heard.gone)
    assert heard.gone == [b"1"]
    assert peers[0].has_ended()
    assert "does not send the rest of a message" in caplog.text
    assert "limits.peer_buffer_bytes" in caplog.text


@pytest.mark.usefixtures("looks_often")
def test_a_peer_that_goes_on_too_slowly_is_dropped_and_one_that_does_so_fast_enough_is_kept(transport, heard, peers):
    slow, steady = peers[:2]
    parts, next_s = iter([PART] * (PARTS - 40)), 0.0

    def is_time():
        nonlocal next_s
        now_s = time.monotonic()
        is_due = now_s > next_s
        next_s = now_s + 0.01 if is_due else next_s
        return is_due

    def trickle():
        if is_time():
            with contextlib.suppress(BrokenPipeError):
                slow.socket.send(frame(b"x", MORE))
        return heard.gone

    def flow():
        if is_time():  # for some twenty looks, in each of which a tenth of that would be enough
            steady.say(next(parts, b"") + next(parts, frame(b"last")))
        return heard.messages

    settle(transport, [pump(slow, PART, 40)])
    transport.until(trickle)
    settle(transport, [pump(steady, PART, 40)])
    transport.until(flow)
    assert heard.gone == [b"1"]


@pytest.mark.usefixtures("looks_often")
def test_a_worker_that_does_not_go_on_is_kept(transport):
    workers, clients = Heard(is_trusted=True), Heard()
    worker = known(transport, transport.hear(workers, "b", peer_buffer_bytes=KEPT_BYTES), workers)
    settle(transport, [pump(worker, PART, PARTS)])
    front = transport.hear(clients, "c", peer_buffer_bytes=KEPT_BYTES)
    settle(transport, [pump(known(transport, front, clients), PART, PARTS)])
    transport.until(lambda: clients.gone, "a client that began later is dropped")
    worker.say(frame(b"last"))
    transport.until(lambda: workers.messages)
    assert workers.gone == []
