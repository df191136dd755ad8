"""Congestion: what sends more to a peer than that takes waits for it, but not for long, and nothing else does."""

import logging
import socket
import time
import tracemalloc

import pytest
from transport_rig import CHUNK, SMALL_BYTES, Heard, Line, Relay, connection_of, known, message, pump

from hostd.shell.transport import process
from hostd.shell.transport.listener import Unsent


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(process, "PATIENCE_S", 3600)


def test_a_client_that_does_not_read_holds_its_worker_up_and_is_dropped(transport, caplog):
    relay = Relay(transport)
    deaf, good, worker = relay.client(), relay.client(), relay.worker()
    push, most = pump(worker, message(b"1" + CHUNK), 300), [0]

    def is_over():
        push()
        if not relay.clients.gone:
            most.append(len(relay.workers.messages))
        return relay.clients.gone

    with caplog.at_level(logging.WARNING):
        transport.until(is_over)
    assert "does not read its answers" in caplog.text
    assert max(most) * len(CHUNK) < 4 * SMALL_BYTES, "more was taken than may wait"
    transport.until(push)
    worker.say(message(b"2 for the other"))
    transport.until(good.messages)
    assert len(relay.workers.messages) == 301, "those that nothing waits for are heard all the same"
    assert (relay.clients.gone, deaf.has_ended()) == ([b"1"], True)


@pytest.mark.usefixtures("patient")
def test_others_are_heard_while_one_is_held_up(transport):
    relay = Relay(transport)
    relay.client()
    good, worker, other = relay.client(), relay.worker(), relay.worker()
    push = pump(worker, message(b"1" + CHUNK), 300)
    transport.until(lambda: push() or len(relay.workers.messages) * len(CHUNK) > SMALL_BYTES)
    other.say(message(b"2 hello"))
    transport.until(lambda: good.messages() == [b"2 hello"])
    assert not push()


@pytest.mark.usefixtures("patient")
def test_what_a_peer_takes_frees_those_that_wait_for_it(transport):
    relay = Relay(transport)
    slow, worker = relay.client(), relay.worker()
    push, held = pump(worker, message(b"1" + CHUNK), 300), []

    def read():
        push()
        held.append(relay.holds_up())
        slow.hear(50_000)
        return len(slow.received) >= 300 * len(CHUNK)

    transport.until(read)
    transport.until(lambda: len(slow.messages()) == 300)
    assert sum(held) > 10
    assert relay.clients.gone == []
    assert repr(connection_of(relay.front)).endswith(", 0 bytes wait>")


@pytest.mark.usefixtures("patient")
def test_a_worker_that_is_held_up_may_be_dropped(transport):
    relay = Relay(transport)
    slow = relay.client()
    pushes = [pump(relay.worker(), message(b"1" + CHUNK), 100) for _ in range(2)]
    transport.until(lambda: [push() for push in pushes] and relay.holds_up(b"1") and relay.holds_up(b"2"))
    relay.back.dismiss(b"1", "its process has ended")
    transport.until(lambda: relay.workers.gone)
    transport.until(lambda: slow.hear() and pushes[1]() and len(slow.messages()) > 100)
    relay.front.dismiss(b"1", "it is over")
    transport.until(lambda: relay.clients.gone)


@pytest.mark.parametrize(("bytes_per_s", "is_kept"), [(4 << 20, True), (250_000, False)], ids=["enough", "too little"])
def test_a_slow_reader_is_kept_if_it_takes_enough(transport, monkeypatch, bytes_per_s, is_kept):
    """Else it would hold up the worker, and with it all others, for as long as it likes."""
    monkeypatch.setattr(process, "BUFFERS_PER_S", 1 / 16)  # a MiB a second is enough
    relay = Relay(transport, peer_buffer_bytes=16 << 20)
    slow, worker = relay.client(), relay.worker()
    push, last_s = pump(worker, message(b"1" + CHUNK), 3000), 0.0

    def read():
        nonlocal last_s
        push()
        now_s = time.monotonic()
        if now_s - last_s > 0.1:
            slow.hear(min(1 << 20, int((now_s - last_s) * bytes_per_s)))
            last_s = now_s
        return relay.clients.gone or len(slow.received) > 10 << 20

    transport.until(read)
    assert (relay.clients.gone == []) is is_kept


def test_a_process_holds_others_up_for_so_long_in_all_however_many_connections_it_has(transport):
    relay = Relay(transport)
    clients = [relay.client() for _ in range(8)]
    push = pump(relay.worker(), b"".join(message(b"%d" % number + CHUNK) for number in range(1, 9)), 40)
    began_s = time.monotonic()
    transport.until(lambda: push() and len(relay.workers.messages) == 320)
    assert time.monotonic() - began_s < 4, "each of them has held the worker up for a second"
    assert len(relay.clients.gone) >= len(clients) - 1


def test_many_connections_that_do_not_read_are_one_that_does_not(transport, monkeypatch):
    monkeypatch.setattr(process, "PATIENCE_S", 0.1)
    relay = Relay(transport)
    good, *_ = [relay.client() for _ in range(9)]
    pushes = [pump(relay.worker(), message(b"%d" % number + CHUNK), 28) for number in range(1, 10)]
    most = [0]

    def is_over():
        good.hear()
        most.append(sum(each.queued_bytes for each in relay.front._connections.values()))
        return sum(push() for push in pushes) == len(pushes) and len(relay.workers.messages) == 9 * 28

    transport.until(is_over)
    assert max(most) < 2 * SMALL_BYTES, "so much may wait for one process, and what was under way to it"
    assert b"1" not in relay.clients.gone, "the one that reads"
    assert relay.clients.gone, "the others have more, together, than may wait"
    transport.until(lambda: len(good.messages()) == 28)


def test_a_worker_that_does_not_read_gets_no_more_calls_until_it_does_and_misses_no_credit(transport):
    """A stream would wait for it for ever, and a call that is left would be had for ever."""
    line, said = Line(transport), [b"credit %d" % number for number in range(100)]
    for number in range(40):
        line.send(b"call %d" % number, CHUNK, call=number)
    transport.until(lambda: line.connection.is_stalled)
    line.send(b"one more", CHUNK, call=40)
    line.send(b"small", call=41)
    for each in said:
        line.send(each)
    transport.until(lambda: len(line.heard.unsent) == 2)
    refused = [(frames[0], why) for _, frames, why in line.heard.unsent]
    assert refused == [(b"one more", Unsent.FULL), (b"small", Unsent.FULL)]
    transport.until(lambda: line.peer.hear() and not line.connection.is_stalled)
    line.send(b"again", call=42)
    transport.until(lambda: b"again" in line.peer.messages())
    assert [body for body in line.peer.messages() if body != CHUNK] == [*said, b"again"]
    assert line.peer.messages().count(CHUNK) == 40
    assert (line.connection.queued_bytes, line.heard.gone) == (0, [])


def test_a_worker_that_never_reads_gets_so_much_and_is_free_when_what_waited_was_taken_back(transport):
    line = Line(transport)
    line.fill(100)
    transport.until(lambda: line.connection.is_stalled)
    for number in range(100):
        line.withdraw(number)
    assert not line.connection.is_stalled
    line.send(CHUNK, call=100)
    transport.until(lambda: not transport.poller._congested)
    assert line.heard.unsent == []
    line.fill(100)
    transport.until(lambda: line.connection.is_stalled)
    for _ in range(20_000):
        line.send(b"credit")
    assert line.connection.queued_bytes < 100 * len(CHUNK) + 2 * SMALL_BYTES
    transport.until(lambda: line.heard.unsent)


def test_calls_that_have_not_left_can_be_taken_back(transport):
    line = Line(transport, 8 << 20)
    for number in range(200):
        line.send(b"%d" % number, CHUNK, call=number)
    taken = [number for number in range(200) if line.withdraw(number)]
    assert 100 < len(taken) < 200, "what has begun to leave, leaves"
    assert taken[-1] == 199
    assert not line.withdraw(199)
    assert line.connection.queued_bytes <= 2 * len(CHUNK)
    transport.until(lambda: line.peer.hear() and not line.connection.wants_to_send)
    left = [int(body) for flags, body in line.peer.frames() if flags == 1]
    assert sorted(left + taken) == list(range(200))
    assert line.connection.queued_bytes == 0


@pytest.mark.usefixtures("patient")
def test_calls_that_are_taken_back_leave_nothing_and_free_those_that_wait(transport):
    clients, line = Heard(), Line(transport)  # which never reads
    front = transport.hear(clients, "b", peer_buffer_bytes=SMALL_BYTES)
    client = known(transport, front, clients)
    clients.on_message = lambda _, frames: line.send(*map(bytes, frames), call=len(clients.messages))
    push = pump(client, message(b"call", CHUNK), 60)
    for _ in range(3):
        transport.until(lambda: push() or connection_of(front).blockers)
        for number in range(1, 61):
            line.withdraw(number)
    transport.until(push)
    transport.until(lambda: len(clients.messages) == 60)


def test_the_places_of_calls_that_were_taken_back_take_no_memory(transport):
    """A stopped worker, and calls that each end at their deadline, for days."""
    line = Line(transport, 8 << 20)
    line.fill(100)
    assert line.withdraw(99)
    tracemalloc.start()
    try:
        for number in range(100, 5000):
            line.send(CHUNK, call=number)
            assert line.withdraw(number)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_a_client_that_holds_itself_up_is_dropped(transport):
    heard = Heard()
    listener = transport.hear(heard, peer_buffer_bytes=SMALL_BYTES)
    peer = known(transport, listener, heard)
    heard.on_message = lambda identity, _: listener.send(identity, [CHUNK])
    peer.say(message(b"x") * 1000)
    transport.until(lambda: heard.gone)
    assert len(heard.messages) * len(CHUNK) < 4 * SMALL_BYTES


def test_a_worker_that_is_held_up_and_goes_is_not_looked_at_again_and_again(transport, monkeypatch):
    """Its end is told whether or not it is asked for: a loop that does nothing about it burns a core."""
    monkeypatch.setattr(process, "PATIENCE_S", 2.0)
    relay = Relay(transport)
    relay.client()
    worker = relay.worker()
    push = pump(worker, message(b"1" + CHUNK), 100)
    transport.until(lambda: push() or relay.holds_up())
    for _ in range(50):  # it does not read either
        relay.back.send(b"1", [CHUNK])
    worker.socket.shutdown(socket.SHUT_RDWR)
    passes = []
    transport.poller.on_quiet = lambda: passes.append(1)
    transport.until(lambda: relay.workers.gone)
    assert relay.clients.gone == [b"1"]
    assert len(passes) < 30


def test_a_poller_that_is_closed_while_a_worker_is_held_up_does_nothing_more(transport):
    relay = Relay(transport)
    relay.client()
    push = pump(relay.worker(), message(b"1" + CHUNK), 100)
    transport.until(lambda: push() or relay.holds_up())
    transport.poller.soon()
    relay.front.close()
    relay.back.close()
    heard, over = len(relay.workers.messages), []
    transport.loop.call_later(0.3, over.append, 1)
    transport.until(lambda: over)
    assert len(relay.workers.messages) == heard
    assert relay.clients.gone == []


def test_a_handler_of_ends_that_fails_keeps_no_other_waiting(transport):
    relay, ends = Relay(transport), []
    _, _, good = [relay.client() for _ in range(3)]

    def fail(identity):
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
    transport.has_failed(ZeroDivisionError, times=2)


def test_a_handler_of_what_was_not_sent_that_fails_keeps_no_answer_back(transport):
    heard = Heard(is_batching=True)
    listener = transport.hear(heard)
    peers = [known(transport, listener, heard) for _ in range(3)]

    def fail(*what):
        heard.unsent.append(what)
        raise ZeroDivisionError

    def answer(*_):
        for identity in (b"1", b"2", b"3"):
            listener.send(identity, [b"answer"])
        listener.dismiss(b"2", "it said goodbye")

    heard.on_unsent, heard.on_message = fail, answer
    peers[0].say(message(b"go"))
    transport.until(lambda: peers[0].messages() and peers[2].messages() and heard.unsent)
    transport.has_failed(ZeroDivisionError)
