"""Congestion: whoever sends more to a peer than that takes waits for it, but not for long, and nobody else does."""

from __future__ import annotations

import logging
import socket
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from transport_rig import SMALL_BYTES, Heard, Relay, Transport, known, message, pump

from hostd.shell.transport import process
from hostd.shell.transport.listener import Unsent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK = bytes(16 * 1024)


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    with Transport(tmp_path) as made:
        yield made


def test_whoever_does_not_read_holds_up_who_sends_to_him_and_is_dropped(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay(transport)
    deaf, good, worker = relay.client(), relay.client(), relay.worker()
    push = pump(worker, message(b"1" + CHUNK), 300)
    most = 0

    def is_over() -> bool:
        nonlocal most
        push()
        if not relay.clients.gone:
            most = max(most, len(relay.workers.messages))
        return bool(relay.clients.gone)

    with caplog.at_level(logging.WARNING):
        transport.until(is_over)
    assert "does not read its answers" in caplog.text
    assert most * len(CHUNK) < 4 * SMALL_BYTES, "more was taken than may wait"
    transport.until(push)
    worker.say(message(b"2 for the other"))
    transport.until(good.messages)
    assert len(relay.workers.messages) == 301, "those that nobody waits for are heard all the same"
    assert relay.clients.gone == [b"1"]
    assert deaf.has_ended()


def test_others_are_heard_while_one_is_held_up(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATIENCE_S", 3600)
    relay = Relay(transport)
    relay.client()
    good, worker, other = relay.client(), relay.worker(), relay.worker()
    push = pump(worker, message(b"1" + CHUNK), 300)
    transport.until(lambda: push() or len(relay.workers.messages) * len(CHUNK) > SMALL_BYTES)
    other.say(message(b"2 hello"))
    transport.until(lambda: good.messages() == [b"2 hello"])
    assert not push()


def test_what_a_peer_takes_frees_those_who_wait_for_it(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATIENCE_S", 3600)
    relay = Relay(transport)
    slow, worker = relay.client(), relay.worker()
    push = pump(worker, message(b"1" + CHUNK), 300)
    held = {False: 0, True: 0}

    def read() -> bool:
        push()
        held[relay.back._connections[b"1"].blockers > 0] += 1
        slow.hear(50_000)
        return len(slow.received) >= 300 * len(CHUNK)

    transport.until(read)
    transport.until(lambda: len(slow.messages()) == 300)
    assert held[True] > 10
    assert relay.clients.gone == []
    assert repr(relay.front._connections[b"1"]).endswith(", 0 bytes wait>")


@pytest.mark.parametrize(("bytes_per_s", "is_kept"), [(4 << 20, True), (250_000, False)])
def test_a_slow_reader_is_kept_if_it_takes_enough_and_dropped_if_not(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, bytes_per_s: int, is_kept: bool
) -> None:
    """Else it would hold up the worker, and with it all others, for as long as it likes."""
    monkeypatch.setattr(process, "BUFFERS_PER_S", 1 / 16)  # a MiB a second is enough
    relay = Relay(transport, peer_buffer_bytes=16 << 20)
    slow, worker = relay.client(), relay.worker()
    push = pump(worker, message(b"1" + CHUNK), 3000)
    last_s = 0.0

    def read() -> bool:
        nonlocal last_s
        push()
        now_s = time.monotonic()
        if now_s - last_s > 0.1:
            slow.hear(min(1 << 20, int((now_s - last_s) * bytes_per_s)))
            last_s = now_s
        return bool(relay.clients.gone) or len(slow.received) > 10 << 20

    transport.until(read)
    assert (relay.clients.gone == []) is is_kept


def test_a_process_holds_others_up_for_so_long_in_all_however_many_connections_it_has(transport: Transport) -> None:
    relay = Relay(transport)
    clients = [relay.client() for _ in range(8)]
    worker = relay.worker()
    push = pump(worker, b"".join(message(b"%d" % number + CHUNK) for number in range(1, 9)), 40)
    began_s = time.monotonic()
    transport.until(lambda: push() and len(relay.workers.messages) == 320)
    assert time.monotonic() - began_s < 4, "each of them has held the worker up for a second"
    assert len(relay.clients.gone) >= len(clients) - 1


def test_many_connections_that_do_not_read_are_one_that_does_not(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PATIENCE_S", 0.1)
    relay = Relay(transport)
    good, *_ = [relay.client() for _ in range(9)]
    workers = [relay.worker() for _ in range(9)]
    pushes = [pump(worker, message(b"%d" % number + CHUNK), 28) for number, worker in enumerate(workers, 1)]
    most = 0

    def is_over() -> bool:
        nonlocal most
        good.hear()
        most = max(most, sum(each.queued_bytes for each in relay.front._connections.values()))
        return sum(push() for push in pushes) == len(pushes) and len(relay.workers.messages) == 9 * 28

    transport.until(is_over)
    assert most < 2 * SMALL_BYTES, "so much may wait for one process, and what was under way to it"
    assert b"1" not in relay.clients.gone, "the one that reads"
    assert relay.clients.gone, "the others have more, together, than may wait"
    transport.until(lambda: len(good.messages()) == 28)


def test_a_worker_that_does_not_read_gets_no_more_calls_until_it_does(transport: Transport) -> None:
    heard = Heard(is_trusted=True)
    listener = transport.hear(heard, peer_buffer_bytes=SMALL_BYTES)
    deaf = known(transport, listener, heard)
    for number in range(40):
        listener.send(b"1", [b"call %d" % number, CHUNK], number)
    connection = listener._connections[b"1"]
    transport.until(lambda: connection.is_stalled)
    listener.send(b"1", [b"one more", CHUNK], 40)
    listener.send(b"1", [b"small"], 41)
    listener.send(b"1", [b"cancel"])
    transport.until(lambda: len(heard.unsent) == 2)
    assert [(frames[0], why) for _, frames, why in heard.unsent] == [
        (b"one more", Unsent.FULL),
        (b"small", Unsent.FULL),
    ]
    transport.until(lambda: deaf.hear() and not connection.is_stalled)
    listener.send(b"1", [b"again"], 42)
    transport.until(lambda: b"again" in deaf.messages())
    assert [body for body in deaf.messages() if body != CHUNK] == [b"cancel", b"again"]
    assert deaf.messages().count(CHUNK) == 40
    assert (connection.queued_bytes, heard.gone) == (0, [])


def test_a_worker_that_stalled_for_one_long_call_misses_no_credit(transport: Transport) -> None:
    """A stream would wait for it for ever, and a call that is left would be had for ever."""
    heard = Heard(is_trusted=True)
    listener = transport.hear(heard, peer_buffer_bytes=SMALL_BYTES)
    deaf = known(transport, listener, heard)
    listener.send(b"1", [b"call", bytes(8 * SMALL_BYTES)], 1)
    connection = listener._connections[b"1"]
    transport.until(lambda: connection.is_stalled)
    said = [b"credit %d" % number for number in range(100)]
    for each in said:
        listener.send(b"1", [each])
    transport.until(lambda: deaf.hear() and not connection.wants_to_send)
    transport.until(lambda: said[-1] in deaf.messages())
    assert deaf.messages()[1:] == said
    assert heard.unsent == []


def test_what_is_sent_to_a_worker_that_never_reads_has_an_end(transport: Transport) -> None:
    heard = Heard(is_trusted=True)
    listener = transport.hear(heard, peer_buffer_bytes=SMALL_BYTES)
    known(transport, listener, heard)
    for number in range(100):
        listener.send(b"1", [CHUNK], number)
    connection = listener._connections[b"1"]
    transport.until(lambda: connection.is_stalled)
    for _ in range(20_000):
        listener.send(b"1", [b"credit"])
    assert connection.queued_bytes < 100 * len(CHUNK) + 2 * SMALL_BYTES
    transport.until(lambda: heard.unsent)


def test_calls_that_have_not_left_can_be_taken_back(transport: Transport) -> None:
    heard = Heard(is_trusted=True)
    listener = transport.hear(heard, peer_buffer_bytes=8 << 20)
    peer = known(transport, listener, heard)
    for number in range(200):
        listener.send(b"1", [b"%d" % number, CHUNK], number)
    connection = listener._connections[b"1"]
    taken = [number for number in range(200) if listener.withdraw(b"1", number)]
    assert 100 < len(taken) < 200, "what has begun to leave, leaves"
    assert taken[-1] == 199
    assert not listener.withdraw(b"1", 199)
    assert connection.queued_bytes <= 2 * len(CHUNK)
    transport.until(lambda: peer.hear() and not connection.wants_to_send)
    left = [int(body) for flags, body in peer.frames() if flags == 1]
    assert sorted(left + taken) == list(range(200))
    assert connection.queued_bytes == 0


def test_calls_that_are_taken_back_leave_nothing_and_free_those_who_wait(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PATIENCE_S", 3600)
    clients, workers = Heard(), Heard(is_trusted=True)
    front = transport.hear(clients, peer_buffer_bytes=SMALL_BYTES)
    back = transport.hear(workers, "b", peer_buffer_bytes=SMALL_BYTES)
    known(transport, back, workers)  # which never reads
    client = known(transport, front, clients)
    clients.on_message = lambda _, frames: back.send(b"1", [bytes(each) for each in frames], len(clients.messages))
    push = pump(client, message(b"call", CHUNK), 60)
    for _ in range(3):
        transport.until(lambda: push() or front._connections[b"1"].blockers)
        for number in range(1, 61):
            back.withdraw(b"1", number)
    transport.until(push)
    transport.until(lambda: len(clients.messages) == 60)


def test_a_worker_that_has_stalled_is_free_when_what_waited_was_taken_back(transport: Transport) -> None:
    heard = Heard(is_trusted=True)
    listener = transport.hear(heard, peer_buffer_bytes=SMALL_BYTES)
    known(transport, listener, heard)
    for number in range(100):
        listener.send(b"1", [CHUNK], number)
    connection = listener._connections[b"1"]
    transport.until(lambda: connection.is_stalled)
    for number in range(100):
        listener.withdraw(b"1", number)
    assert not connection.is_stalled
    listener.send(b"1", [CHUNK], 100)
    transport.until(lambda: not transport.poller._congested)
    assert heard.unsent == []


def test_whoever_is_held_up_by_himself_is_dropped(transport: Transport) -> None:
    heard = Heard()
    listener = transport.hear(heard, peer_buffer_bytes=SMALL_BYTES)
    peer = known(transport, listener, heard)
    heard.on_message = lambda identity, frames: listener.send(identity, [CHUNK])
    peer.say(message(b"x") * 1000)
    transport.until(lambda: heard.gone)
    assert len(heard.messages) * len(CHUNK) < 4 * SMALL_BYTES


def test_whoever_is_held_up_and_goes_is_not_looked_at_again_and_again(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is told whether or not it is asked for: a loop that does nothing about it burns a core."""
    monkeypatch.setattr(process, "PATIENCE_S", 2.0)
    relay = Relay(transport)
    relay.client()
    worker = relay.worker()
    push = pump(worker, message(b"1" + CHUNK), 100)
    transport.until(lambda: push() or (relay.workers.messages and relay.back._connections[b"1"].blockers))
    for _ in range(50):  # it does not read either
        relay.back.send(b"1", [CHUNK])
    worker.socket.shutdown(socket.SHUT_RDWR)
    passes: list[int] = []
    transport.poller.on_quiet = lambda: passes.append(1)
    transport.until(lambda: relay.workers.gone)
    assert relay.clients.gone == [b"1"]
    assert len(passes) < 30


def test_whoever_is_held_up_may_be_dropped(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATIENCE_S", 3600)
    relay = Relay(transport)
    slow, worker, other = relay.client(), relay.worker(), relay.worker()
    pushes = [pump(each, message(b"1" + CHUNK), 100) for each in (worker, other)]
    names = (b"1", b"2")
    transport.until(
        lambda: [push() for push in pushes] and all(relay.back._connections[name].blockers for name in names)
    )
    relay.back.dismiss(b"1", "its process has ended")
    transport.until(lambda: relay.workers.gone)
    transport.until(lambda: slow.hear() and pushes[1]() and len(slow.messages()) > 100)
    relay.front.dismiss(b"1", "it is over")
    transport.until(lambda: relay.clients.gone)


def test_a_poller_that_is_closed_while_somebody_is_held_up_does_nothing_more(transport: Transport) -> None:
    relay = Relay(transport)
    relay.client()
    worker = relay.worker()
    push = pump(worker, message(b"1" + CHUNK), 100)
    transport.until(lambda: push() or (relay.back._connections and relay.back._connections[b"1"].blockers))
    transport.poller.soon()
    relay.front.close()
    relay.back.close()
    heard = len(relay.workers.messages)
    over: list[int] = []
    transport.loop.call_later(0.3, over.append, 1)
    transport.until(lambda: over)
    assert len(relay.workers.messages) == heard
    assert relay.clients.gone == []


def test_the_places_of_calls_that_were_taken_back_take_no_memory(transport: Transport) -> None:
    """A stopped worker, and calls that each end at their deadline, for days."""
    heard = Heard(is_trusted=True)
    listener = transport.hear(heard, peer_buffer_bytes=8 << 20)
    known(transport, listener, heard)
    for number in range(100):
        listener.send(b"1", [CHUNK], number)
    assert listener.withdraw(b"1", 99)
    tracemalloc.start()
    try:
        for number in range(100, 5000):
            listener.send(b"1", [CHUNK], number)
            assert listener.withdraw(b"1", number)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_a_handler_of_ends_that_fails_keeps_nobody_waiting(transport: Transport) -> None:
    relay = Relay(transport)
    for _ in range(2):
        relay.client()
    good = relay.client()
    ends: list[bytes] = []

    def fail(identity: bytes) -> None:
        ends.append(identity)
        raise ZeroDivisionError

    relay.clients.on_gone = fail
    workers = [relay.worker(), relay.worker()]
    pushes = [pump(worker, message(b"%d" % number + CHUNK), 300) for number, worker in enumerate(workers, 1)]
    transport.until(lambda: [push() for push in pushes] == [True, True])
    for worker in workers:
        worker.say(message(b"3"))
    transport.until(lambda: len(good.messages()) == 2)
    assert sorted(ends) == [b"1", b"2"]
    assert [type(failure) for failure in transport.failures] == [ZeroDivisionError] * 2
    transport.failures.clear()


def test_a_handler_of_what_was_not_sent_that_fails_keeps_no_answer_back(transport: Transport) -> None:
    heard = Heard(is_batching=True)
    listener = transport.hear(heard)
    peers = [known(transport, listener, heard) for _ in range(3)]

    def fail(*what: Any) -> None:
        heard.unsent.append(what)
        raise ZeroDivisionError

    def answer(*_: Any) -> None:
        for identity in (b"1", b"2", b"3"):
            listener.send(identity, [b"answer"])
        listener.dismiss(b"2", "it said goodbye")

    heard.on_unsent, heard.on_message = fail, answer
    peers[0].say(message(b"go"))
    transport.until(lambda: peers[0].messages() and peers[2].messages() and heard.unsent)
    assert [type(failure) for failure in transport.failures] == [ZeroDivisionError]
    transport.failures.clear()
