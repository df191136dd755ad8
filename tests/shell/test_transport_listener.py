"""Listeners and their connections: whole messages, in order; what is let in, and what makes place."""

import itertools
import os
import tempfile
from pathlib import Path

import pytest
import zmq
from helpers import PATIENCE_S
from transport_rig import GREETING, LIMIT_BYTES, MORE, Heard, Transport, announced, frame, message, ready

from hostd.shell.transport import listener as listening
from hostd.shell.transport.listener import NEWCOMER_BYTES, Unsent
from hostd_workers.wire import frames as wire

MESSAGE = bytes(wire.pack(2, 7, b"header", b"body")[0])


class Side:
    """What a listener hears, and peers that have said something."""

    def __init__(self, transport, **how):
        self.transport, self.heard = transport, Heard(**how)
        self.listener = transport.hear(self.heard)

    def known(self, peer):
        """Have a peer say something, and return it."""
        before = len(self.heard.messages)
        peer.send(b"here") if isinstance(peer, zmq.Socket) else peer.say(message(b"here"))
        self.until(lambda: len(self.heard.messages) > before)
        self.heard.messages.pop()
        return peer

    def raw(self, *first):
        return self.known(self.transport.raw(self.listener, *first))

    def dealer(self, **options):
        return self.known(self.transport.dealer(self.listener, **options))

    def until(self, is_true):
        self.transport.until(is_true)

    def frames(self, count):
        """Return the frames of so many messages, when they are heard."""
        self.until(lambda: len(self.heard.messages) >= count)
        return [frames for _, frames in self.heard.messages]


@pytest.fixture
def side(transport):
    return Side(transport)


@pytest.fixture
def batching(transport):
    return Side(transport, is_batching=True)


def test_messages_come_whole_and_in_order_with_their_sender(side):
    peer = side.dealer(SNDHWM=0)
    peer.send_multipart([MESSAGE, b"x" * 100_000, b""])
    assert side.frames(1) == [[MESSAGE, b"x" * 100_000, b""]]
    side.heard.messages.clear()
    for number in range(20_000):
        peer.send_multipart([number.to_bytes(4, "big"), bytes(number % 500)])
    side.frames(20_000)
    assert [int.from_bytes(each, "big") for each in side.heard.of(b"1")] == list(range(20_000))


def test_a_handler_that_fails_costs_its_message_and_no_other(batching):
    side, peer, other = batching, batching.raw(), batching.raw()

    def fail_once(identity, frames):
        side.listener.send(identity, [bytes(frames[0])])
        if bytes(frames[0]) == b"bad":
            raise ZeroDivisionError

    side.heard.on_message = fail_once
    peer.say(message(b"good") + message(b"bad") + frame(wire.pack_batch([b"bad", b"batched"])) + message(b"also good"))
    other.say(message(b"other"))
    side.frames(6)
    side.until(lambda: len(peer.messages()) >= 3 and other.messages())
    batches = [wire.unpack_batch(body) if body[0] == wire.BATCH else [body] for body in peer.messages()]
    answered = [each for batch in batches for each in batch]
    assert answered == side.heard.of(b"1") == [b"good", b"bad", b"bad", b"batched", b"also good"]
    side.transport.has_failed(ZeroDivisionError, times=2)


def test_a_batch_is_taken_apart_and_a_malformed_one_is_a_message(side):
    peer, batch = side.raw(), wire.pack_batch([MESSAGE, MESSAGE + b"2"])
    peer.say(message(batch) + message(wire.pack_batch([batch])) + message(wire.pack_batch([])) + message(b"last"))
    assert side.frames(4) == [[MESSAGE], [MESSAGE + b"2"], [batch], [b"last"]]
    peer.say(message(batch[:-1]) + message(b"later"))
    assert side.frames(6)[4:] == [[batch[:-1]], [b"later"]]


def test_a_message_of_a_batch_holds_the_memory_of_no_other(side):
    """One small call that waits in a queue would keep megabytes that nothing counts."""
    peer, kept = side.dealer(), []
    side.heard.on_message = lambda _, frames: kept.extend(frames)
    peer.send(wire.pack_batch([MESSAGE, bytes(60_000), bytes(60_000)]))
    side.until(lambda: len(kept) == 3)
    assert [type(each) for each in kept] == [bytes] * 3


def test_a_batch_that_small_messages_cannot_fill_is_not_taken_apart(side):
    side.listener._max_message_bytes = 1 << 30
    batch = wire.pack_batch([MESSAGE, bytes(6 << 20)])
    side.dealer().send(batch)
    assert side.frames(1) == [[batch]]


def test_a_message_of_too_many_frames_is_told_and_the_next_one_heard(side):
    peer = side.dealer()
    peer.send_multipart([MESSAGE, *[b"x"] * wire.MAX_FRAMES])
    peer.send(b"last")
    assert side.frames(1) == [[b"last"]]
    assert side.heard.too_long == [(b"1", MESSAGE)]


def test_what_one_listener_hears_and_sends_on_the_other_arrives(transport):
    """Four hundred times there and back: one swallowed event of a descriptor, and this waits for ever."""
    front, back = Heard(), Heard(is_trusted=True)
    clients, workers = transport.hear(front), transport.hear(back, "b")
    client, worker = transport.dealer(clients), transport.dealer(workers)
    for peer, heard in ((client, front), (worker, back)):
        peer.send(b"here")
        transport.until(lambda heard=heard: heard.messages)
    front.on_message = lambda _, frames: workers.send(b"1", frames)
    back.on_message = lambda _, frames: clients.send(b"1", frames)
    done = []

    def play():
        while worker.poll(0):
            worker.send(worker.recv())
        while client.poll(0):
            done.append(client.recv())
            client.send(b"%d" % len(done))
        return len(done) >= 400

    client.send(b"0")
    transport.until(play)
    assert done[:400] == [b"%d" % number for number in range(400)]


def test_a_peer_that_is_not_known_or_goes_while_messages_for_it_are_held_back_is_gone(batching):
    side, peer = batching, batching.raw()
    side.listener.send(b"nobody", [MESSAGE])
    assert not side.listener.withdraw(b"nobody", 1)
    assert (side.listener.pid_of(b"1"), side.listener.pid_of(b"nobody")) == (os.getpid(), None)
    side.listener.dismiss(b"nobody", "it is not here")

    def go(identity, _):
        side.listener.send(identity, [b"1"])
        side.listener.send(identity, [b"2"])
        side.listener.dismiss(identity, "it said goodbye")

    side.heard.on_message = go
    peer.say(message(b"bye") + message(b"never"))
    side.until(lambda: len(side.heard.unsent) == 3)
    unsent = [(name, bytes(frames[0]), why) for name, frames, why in side.heard.unsent]
    gone = [(b"nobody", MESSAGE), (b"1", b"1"), (b"1", b"2")]
    assert sorted(unsent) == sorted((*each, Unsent.GONE) for each in gone)
    assert (side.heard.of(b"1"), side.heard.gone) == ([b"bye"], [b"1"])


def test_small_messages_to_one_peer_leave_together_in_order(batching):
    side, peer = batching, batching.dealer()
    many = [b"%d" % number for number in range(wire.MAX_BATCH_MESSAGES * 2 + 1)]

    def answer(identity, _):
        for frames in ([b"0"], [b"1"], [b"2"], [b"big", b"x" * 100_000], *([each] for each in many)):
            side.listener.send(identity, frames)

    side.heard.on_message = answer
    peer.send(b"go")
    received = []
    side.until(lambda: (peer.poll(0) and received.append(peer.recv_multipart())) or len(received) == 5)
    side.listener.send(b"1", [b"at once"])
    assert wire.unpack_batch(received[0][0]) == [b"0", b"1", b"2"]
    assert received[1][0] == b"big"
    assert len(received[4]) == 1
    batches = [wire.unpack_batch(each[0]) if each[0][0] == wire.BATCH else each for each in received[2:]]
    assert list(itertools.chain.from_iterable(batches)) == many
    assert peer.poll(PATIENCE_S * 1000)
    assert peer.recv() == b"at once"


def test_a_peer_that_does_not_know_batches_gets_none(side):
    peer = side.dealer()
    side.heard.on_message = lambda identity, _: [side.listener.send(identity, [b"%d" % number]) for number in range(2)]
    peer.send(b"go")
    side.frames(1)
    assert [peer.recv(), peer.recv()] == [b"0", b"1"]


def test_what_a_client_claims_to_be_means_nothing(side):
    peers = [
        side.transport.raw(side.listener, GREETING + ready(identity=claim))
        for claim in (b"same", b"same", b"2", b"x" * 255)
    ]
    for peer in peers:
        peer.say(message(b"here"))
    side.frames(4)
    assert sorted(identity for identity, _ in side.heard.messages) == [b"1", b"2", b"3", b"4"]
    assert side.heard.gone == []


def test_of_workers_only_those_that_are_known_and_only_once(transport):
    side = Side(transport, is_trusted=True)
    side.heard.admit = lambda token: token if token == b"token" else None

    def claims(token, said):
        return transport.raw(side.listener, GREETING + ready(identity=token) + message(said))

    good = claims(b"token", b"here")
    side.frames(1)
    for claim in (b"token", b"", b"toke", b"token\0"):
        side.until(claims(claim, b"no").has_ended)
    good.say(message(b"still here"))
    side.frames(2)
    assert side.heard.gone == []
    good.socket.close()
    side.until(lambda: side.heard.gone)
    again = claims(b"token", b"again")
    side.frames(3)
    assert not again.has_ended()


def test_other_users_are_turned_away(monkeypatch):
    with tempfile.TemporaryDirectory() as directory, Transport(Path(directory)) as transport:
        listener = transport.hear(Heard())
        if os.geteuid() == 0:
            for path, mode in ((directory, 0o755), (f"{directory}/a.ipc", 0o666)):  # as if it had been left open
                os.chmod(path, mode)
            os.seteuid(12345)
            try:
                peer = transport.raw(listener)
            finally:
                os.seteuid(0)
        else:
            peer = transport.raw(listener)
            monkeypatch.setattr(os, "geteuid", lambda: 12345)
        transport.until(peer.has_ended)
        assert peer.received == b""


def test_a_newcomer_may_send_no_more_than_a_hello_until_it_is_vouched_for(transport):
    heard = Heard(vouches=False)
    peer = transport.raw(transport.hear(heard))
    peer.say(announced(NEWCOMER_BYTES + 1) + bytes(1000))
    transport.until(peer.has_ended)
    assert heard.messages == heard.too_long == []
    heard = Heard()
    peer = transport.dealer(transport.hear(heard, "b"))
    peer.send(b"hello")
    peer.send_multipart([b"call", bytes(NEWCOMER_BYTES * 4)])
    peer.send_multipart([b"too long", bytes(LIMIT_BYTES)])
    transport.until(lambda: heard.too_long)
    assert [len(frames) for _, frames in heard.messages] == [1, 2]
    assert heard.too_long == [(b"1", b"too long")]


def test_a_peer_that_sends_half_a_message_and_goes_leaves_nothing(side):
    peer = side.raw()
    peer.say(frame(b"first", MORE) + announced(100_000) + bytes(50_000))
    peer.socket.close()
    side.until(lambda: side.heard.gone)
    assert side.heard.messages == []
    assert "0 connections, 0 newcomers" in repr(side.listener)


def test_of_those_that_only_connect_there_are_so_many_and_others_get_in(transport, monkeypatch):
    monkeypatch.setattr(listening, "_MAX_NEWCOMERS", 20)
    side = Side(transport)
    vouched, firsts = side.raw(), (b"", GREETING, GREETING + ready())
    silent = [side.transport.raw(side.listener, firsts[number % 3]) for number in range(100)]
    side.until(lambda: sum(peer.has_ended() for peer in silent) == 80)
    assert [peer.has_ended() for peer in silent] == [True] * 80 + [False] * 20
    side.dealer()
    assert not vouched.has_ended()


def test_what_was_sent_just_before_the_end_arrives(side):
    peer = side.dealer()
    side.listener.send(b"1", [b"goodbye", bytes(20 * LIMIT_BYTES)])
    for _ in range(2):
        side.listener.close(linger_s=PATIENCE_S)
    assert peer.poll(PATIENCE_S * 1000)
    assert peer.recv_multipart() == [b"goodbye", bytes(20 * LIMIT_BYTES)]


def test_a_peer_that_does_not_read_or_has_gone_stops_no_end(side):
    slow, gone = side.raw(), side.raw()
    for identity in (b"1", b"2"):
        side.listener.send(identity, [bytes(LIMIT_BYTES // 2)])
    gone.socket.close()
    side.listener.close(linger_s=0.1)
    assert slow.has_ended()


def test_the_file_of_a_host_that_was_killed_is_replaced(transport, tmp_path):
    (tmp_path / "a.ipc").write_text("left behind")
    side = Side(transport)
    assert (tmp_path / "a.ipc").stat().st_mode & 0o777 == 0o600
    side.dealer()
    with side.listener:
        pass
    assert not (tmp_path / "a.ipc").exists()
    with pytest.raises(OSError, match="too long"):
        transport.listen(Heard().side(), "a" * 200)
