"""Listeners and their connections: whole messages, in order; who is let in, and who makes place."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from helpers import PATIENCE_S
from transport_rig import GREETING, LIMIT_BYTES, MORE, Heard, RawPeer, Transport, announced, frame, message, ready

from hostd.shell.transport import listener as listening
from hostd.shell.transport.listener import NEWCOMER_BYTES, Unsent
from hostd_workers.wire import frames as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE = bytes(wire.pack(2, 7, b"header", b"body")[0])


@pytest.fixture
def transport(tmp_path: Path) -> Iterator[Transport]:
    with Transport(tmp_path) as made:
        yield made


def heard_of(transport: Transport, peer: zmq.Socket[bytes] | RawPeer, heard: Heard) -> bytes:
    """Have a peer say something, and return its identity."""
    before = len(heard.messages)
    peer.send(b"here") if isinstance(peer, zmq.Socket) else peer.say(message(b"here"))
    transport.until(lambda: len(heard.messages) > before)
    return heard.messages.pop()[0]


# Receiving


def test_messages_come_whole_with_their_sender(transport: Transport) -> None:
    heard = Heard()
    peer = transport.dealer(transport.hear(heard))
    heard_of(transport, peer, heard)
    peer.send_multipart([MESSAGE, b"x" * 100_000, b""])
    transport.until(lambda: heard.messages)
    assert heard.messages == [(b"1", [MESSAGE, b"x" * 100_000, b""])]


def test_every_message_of_a_burst_is_heard_in_order(transport: Transport) -> None:
    heard = Heard()
    peer = transport.dealer(transport.hear(heard), SNDHWM=0)
    for number in range(20_000):
        peer.send_multipart([number.to_bytes(4, "big"), bytes(number % 500)])
    transport.until(lambda: len(heard.messages) == 20_000)
    assert [int.from_bytes(each, "big") for each in heard.of(b"1")] == list(range(20_000))


def test_a_handler_that_fails_costs_its_message_and_no_other(transport: Transport) -> None:
    heard = Heard(is_batching=True)
    listener = transport.hear(heard)
    peer, other = transport.raw(listener), transport.raw(listener)
    name = heard_of(transport, peer, heard)
    heard_of(transport, other, heard)

    def fail_once(identity: bytes, frames: list[Any]) -> None:
        listener.send(identity, [bytes(frames[0])])
        if bytes(frames[0]) == b"bad":
            raise ZeroDivisionError

    heard.on_message = fail_once
    peer.say(message(b"good") + message(b"bad") + frame(wire.pack_batch([b"bad", b"batched"])) + message(b"also good"))
    other.say(message(b"other"))
    transport.until(lambda: len(heard.messages) == 6)
    transport.until(lambda: len(peer.messages()) >= 3 and other.messages())
    answered = [
        each for body in peer.messages() for each in (wire.unpack_batch(body) if body[0] == wire.BATCH else [body])
    ]
    assert answered == heard.of(name) == [b"good", b"bad", b"bad", b"batched", b"also good"]
    assert [type(failure) for failure in transport.failures] == [ZeroDivisionError] * 2
    transport.failures.clear()


def test_a_batch_is_taken_apart_and_a_malformed_one_is_a_message(transport: Transport) -> None:
    heard = Heard()
    listener = transport.hear(heard)
    peer = transport.raw(listener)
    heard_of(transport, peer, heard)
    batch = wire.pack_batch([MESSAGE, MESSAGE + b"2"])
    peer.say(message(batch) + message(wire.pack_batch([batch])) + message(wire.pack_batch([])) + message(b"last"))
    transport.until(lambda: len(heard.messages) == 4)
    assert [frames for _, frames in heard.messages] == [[MESSAGE], [MESSAGE + b"2"], [batch], [b"last"]]
    peer.say(message(batch[:-1]) + message(b"later"))
    transport.until(lambda: len(heard.messages) == 6)
    assert [frames for _, frames in heard.messages][4:] == [[batch[:-1]], [b"later"]]


def test_a_message_of_a_batch_holds_the_memory_of_no_other(transport: Transport) -> None:
    """One small call that waits in a queue would keep megabytes that nobody counts."""
    heard = Heard()
    kept: list[object] = []
    peer = transport.dealer(transport.hear(heard))
    heard_of(transport, peer, heard)
    heard.on_message = lambda _, frames: kept.extend(frames)
    peer.send(wire.pack_batch([MESSAGE, bytes(60_000), bytes(60_000)]))
    transport.until(lambda: len(kept) == 3)
    assert [type(each) for each in kept] == [bytes] * 3


def test_a_batch_that_small_messages_cannot_fill_is_not_taken_apart(transport: Transport) -> None:
    heard = Heard()
    listener = transport.listen(heard.side())
    heard.listener = listener
    listener._max_message_bytes = 1 << 30
    peer = transport.dealer(listener)
    heard_of(transport, peer, heard)
    batch = wire.pack_batch([MESSAGE, bytes(6 << 20)])
    peer.send(batch)
    transport.until(lambda: heard.messages)
    assert [frames for _, frames in heard.messages] == [[batch]]


def test_a_message_of_too_many_frames_is_told_and_the_next_one_heard(transport: Transport) -> None:
    heard = Heard()
    peer = transport.dealer(transport.hear(heard))
    heard_of(transport, peer, heard)
    peer.send_multipart([MESSAGE, *[b"x"] * wire.MAX_FRAMES])
    peer.send(b"last")
    transport.until(lambda: heard.messages)
    assert (heard.messages, heard.too_long) == ([(b"1", [b"last"])], [(b"1", MESSAGE)])


def test_what_one_listener_hears_and_sends_on_the_other_arrives(transport: Transport) -> None:
    """Four hundred times there and back: one swallowed event of a descriptor, and this waits for ever."""
    front, back = Heard(), Heard(is_trusted=True)
    clients, workers = transport.hear(front), transport.hear(back, "b")
    client, worker = transport.dealer(clients), transport.dealer(workers)
    heard_of(transport, client, front)
    heard_of(transport, worker, back)
    front.on_message = lambda _, frames: workers.send(b"1", frames)
    back.on_message = lambda _, frames: clients.send(b"1", frames)
    done: list[bytes] = []

    def play() -> bool:
        while worker.poll(0):
            worker.send(worker.recv())
        while client.poll(0):
            done.append(client.recv())
            client.send(b"%d" % len(done))
        return len(done) >= 400

    client.send(b"0")
    transport.until(play)
    assert done[:400] == [b"%d" % number for number in range(400)]


# Sending


def test_an_unknown_peer_is_gone(transport: Transport) -> None:
    heard = Heard()
    listener = transport.hear(heard)
    listener.send(b"nobody", [MESSAGE])
    assert not listener.withdraw(b"nobody", 1)
    assert listener.pid_of(b"nobody") is None
    listener.dismiss(b"nobody", "it is not here")
    transport.until(lambda: heard.unsent)
    assert heard.unsent == [(b"nobody", [MESSAGE], Unsent.GONE)]


def test_a_peer_that_goes_while_messages_for_it_are_held_back_is_gone(transport: Transport) -> None:
    heard = Heard(is_batching=True)
    listener = transport.hear(heard)
    peer = transport.raw(listener)
    heard_of(transport, peer, heard)
    assert listener.pid_of(b"1") == os.getpid()

    def go(identity: bytes, _: list[Any]) -> None:
        listener.send(identity, [b"1"])
        listener.send(identity, [b"2"])
        listener.dismiss(identity, "it said goodbye")

    heard.on_message = go
    peer.say(message(b"bye") + message(b"never"))
    transport.until(lambda: len(heard.unsent) == 2)
    assert [(bytes(frames[0]), why) for _, frames, why in heard.unsent] == [(b"1", Unsent.GONE), (b"2", Unsent.GONE)]
    assert (heard.of(b"1"), heard.gone) == ([b"bye"], [b"1"])


def test_small_messages_to_one_peer_leave_together_in_order(transport: Transport) -> None:
    heard = Heard(is_batching=True)
    listener = transport.hear(heard)
    peer = transport.dealer(listener)
    heard_of(transport, peer, heard)
    many = [b"%d" % number for number in range(wire.MAX_BATCH_MESSAGES * 2 + 1)]

    def answer(identity: bytes, _: list[Any]) -> None:
        for number in range(3):
            listener.send(identity, [b"%d" % number])
        listener.send(identity, [b"big", b"x" * 100_000])
        for each in many:
            listener.send(identity, [each])

    heard.on_message = answer
    peer.send(b"go")
    received: list[list[bytes]] = []
    transport.until(lambda: (peer.poll(0) and received.append(peer.recv_multipart())) or len(received) == 5)
    listener.send(b"1", [b"at once"])
    assert wire.unpack_batch(received[0][0]) == [b"0", b"1", b"2"]
    assert received[1][0] == b"big"
    assert len(received[4]) == 1
    batches = [wire.unpack_batch(each[0]) if each[0][0] == wire.BATCH else each for each in received[2:]]
    assert list(itertools.chain.from_iterable(batches)) == many
    assert peer.poll(PATIENCE_S * 1000)
    assert peer.recv() == b"at once"


def test_a_peer_that_does_not_know_batches_gets_none(transport: Transport) -> None:
    heard = Heard()
    listener = transport.hear(heard)
    peer = transport.dealer(listener)
    heard_of(transport, peer, heard)
    heard.on_message = lambda identity, _: [listener.send(identity, [b"%d" % number]) for number in range(2)]
    peer.send(b"go")
    transport.until(lambda: heard.messages)
    assert [peer.recv(), peer.recv()] == [b"0", b"1"]


# Who is let in


def test_what_a_client_claims_to_be_means_nothing(transport: Transport) -> None:
    heard = Heard()
    listener = transport.hear(heard)
    peers = [
        transport.raw(listener, GREETING + ready(identity=claim)) for claim in (b"same", b"same", b"2", b"x" * 255)
    ]
    for peer in peers:
        peer.say(message(b"here"))
    transport.until(lambda: len(heard.messages) == 4)
    assert sorted(identity for identity, _ in heard.messages) == [b"1", b"2", b"3", b"4"]
    assert heard.gone == []


def test_of_workers_only_those_that_are_known_and_only_once(transport: Transport) -> None:
    heard = Heard(is_trusted=True)
    heard.admit = lambda token: token if token == b"token" else None
    listener = transport.hear(heard)
    good = transport.raw(listener, GREETING + ready(identity=b"token") + message(b"here"))
    transport.until(lambda: heard.messages)
    for claim in (b"token", b"", b"toke", b"token\0"):
        other = transport.raw(listener, GREETING + ready(identity=claim) + message(b"no"))
        transport.until(other.has_ended)
    good.say(message(b"still here"))
    transport.until(lambda: len(heard.messages) == 2)
    assert heard.gone == []
    good.socket.close()
    transport.until(lambda: heard.gone)
    again = transport.raw(listener, GREETING + ready(identity=b"token") + message(b"again"))
    transport.until(lambda: len(heard.messages) == 3)
    assert not again.has_ended()


def test_other_users_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_newcomer_may_send_no_more_than_a_hello(transport: Transport) -> None:
    heard = Heard(vouches=False)
    listener = transport.hear(heard)
    peer = transport.raw(listener)
    peer.say(announced(NEWCOMER_BYTES + 1) + bytes(1000))
    transport.until(peer.has_ended)
    assert heard.messages == heard.too_long == []


def test_once_it_is_vouched_for_it_may_send_more_at_once(transport: Transport) -> None:
    heard = Heard()
    peer = transport.dealer(transport.hear(heard))
    peer.send(b"hello")
    peer.send_multipart([b"call", bytes(NEWCOMER_BYTES * 4)])
    peer.send_multipart([b"too long", bytes(LIMIT_BYTES)])
    transport.until(lambda: heard.too_long)
    assert [len(frames) for _, frames in heard.messages] == [1, 2]
    assert heard.too_long == [(b"1", b"too long")]


def test_whoever_sends_half_a_message_and_goes_leaves_nothing(transport: Transport) -> None:
    heard = Heard()
    listener = transport.hear(heard)
    peer = transport.raw(listener)
    heard_of(transport, peer, heard)
    peer.say(frame(b"first", MORE) + announced(100_000) + bytes(50_000))
    peer.socket.close()
    transport.until(lambda: heard.gone)
    assert heard.messages == []
    assert "0 connections, 0 newcomers" in repr(listener)


def test_of_those_who_only_connect_there_are_so_many_and_others_get_in(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_MAX_NEWCOMERS", 20)
    heard = Heard()
    listener = transport.hear(heard)
    vouched = transport.raw(listener)
    heard_of(transport, vouched, heard)
    silent = [transport.raw(listener, (b"", GREETING, GREETING + ready())[number % 3]) for number in range(100)]
    transport.until(lambda: sum(peer.has_ended() for peer in silent) == 80)
    assert [peer.has_ended() for peer in silent] == [True] * 80 + [False] * 20
    good = transport.dealer(listener)
    heard_of(transport, good, heard)
    assert not vouched.has_ended()


# The end


def test_what_was_sent_just_before_the_end_arrives(transport: Transport) -> None:
    heard = Heard()
    listener = transport.hear(heard)
    peer = transport.dealer(listener)
    heard_of(transport, peer, heard)
    listener.send(b"1", [b"goodbye", bytes(20 * LIMIT_BYTES)])
    listener.close(linger_s=PATIENCE_S)
    listener.close()
    assert peer.poll(PATIENCE_S * 1000)
    assert peer.recv_multipart() == [b"goodbye", bytes(20 * LIMIT_BYTES)]


def test_a_peer_that_does_not_read_or_has_gone_stops_no_end(transport: Transport) -> None:
    heard = Heard()
    listener = transport.hear(heard)
    slow, gone = transport.raw(listener), transport.raw(listener)
    heard_of(transport, slow, heard)
    heard_of(transport, gone, heard)
    for identity in (b"1", b"2"):
        listener.send(identity, [bytes(LIMIT_BYTES // 2)])
    gone.socket.close()
    listener.close(linger_s=0.1)
    assert slow.has_ended()


def test_the_file_of_a_host_that_was_killed_is_replaced(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "a.ipc").write_text("left behind")
    heard = Heard()
    listener = transport.hear(heard)
    assert (tmp_path / "a.ipc").stat().st_mode & 0o777 == 0o600
    heard_of(transport, transport.dealer(listener), heard)
    with listener:
        pass
    assert not (tmp_path / "a.ipc").exists()


def test_where_no_socket_can_be_bound_nothing_is_left(transport: Transport) -> None:
    with pytest.raises(OSError, match="too long"):
        transport.listen(Heard().side(), "a" * 200)
