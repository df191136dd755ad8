"""Turns and congestion: nobody keeps others waiting, whatever he sends, and however little he reads."""

import itertools
import socket
import time

import pytest
from transport_rig import GREETING, LIMIT_BYTES, Heard, frame, known, message, work

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


def test_half_a_header_survives_a_turn_in_which_nothing_comes(tmp_path):
    """What a system tells may be old; the buffer is used by others in between."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    buffer = bytearray(BUFFER_BYTES)
    decoder = Decoder(memoryview(buffer), LIMIT_BYTES)
    with ours, theirs:
        heard = []
        connection = Connection(_Told(heard), ours, 1, decoder, PeerProcess(1000))  # type: ignore[arg-type]
        theirs.send(b"\xff" + bytes(8))
        for _ in range(2):
            connection.turn(time.monotonic() + 1)
            buffer[:] = b"\xaa" * len(buffer)
        theirs.send(GREETING[9:])
        connection.turn(time.monotonic() + 1)
        assert heard == []


class _Told:
    peer_buffer_bytes = 1000

    def __init__(self, dropped):
        self._dropped = dropped

    def drop(self, connection, why):
        self._dropped.append(why)

    def waits(self, connection):
        pass
