"""Peers that do not speak the protocol, or speak it in bad faith: they harm themselves and nobody else.

Every test here has a witness: another client with another model, whose calls must be answered quickly all the while.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import zmq
from helpers import PATIENCE_S, eventually
from hostile_peer import MIB, Peer, call_of

import hostd
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUICKLY_S = 10.0
LIMIT_BYTES = 2 * MIB


@pytest.fixture(scope="module")
def small_host() -> Iterator[hostd.Host]:
    with hostd.Host(
        workers={"drain_timeout_s": 1.0}, limits={"max_message_bytes": LIMIT_BYTES, "peer_buffer_bytes": 1 << 20}
    ) as host:
        yield host


@pytest.fixture
def witness(small_host: hostd.Host, model_dir: Callable[..., str]) -> Iterator[hostd.Client]:
    """A client that calls its model all the time, and must never wait long."""
    waits: list[float] = []
    over = threading.Event()
    with hostd.connect(small_host.endpoint) as client:
        model = client.load_model("witness", model_dir())

        def watch() -> None:
            while not over.wait(0.002):
                began_s = time.monotonic()
                model.options(timeout_s=PATIENCE_S).predict(1)
                waits.append(time.monotonic() - began_s)

        watcher = threading.Thread(target=watch)
        watcher.start()
        pid = small_host.pid
        rss_bytes = psutil.Process(pid).memory_info().rss
        eventually(lambda: waits, "the witness is at work")
        yield client
        seen = len(waits)
        eventually(lambda: len(waits) > seen, "the witness is still answered")
        over.set()
        watcher.join(PATIENCE_S)
        assert max(waits) < QUICKLY_S
        assert client.host_info().pid == pid
        assert psutil.Process(pid).memory_info().rss - rss_bytes < 200 * MIB, "the host keeps what a peer sent"
        client.unload_all_models()


# Nonsense


@pytest.mark.parametrize("side", ["client.ipc", "workers.ipc"])
def test_connections_that_speak_no_zeromq_do_no_harm(witness: hostd.Client, side: str) -> None:
    path = os.path.join(witness.host_info().runtime_dir, side)
    chance = random.Random(side)
    greeting = b"\xff" + b"\0" * 8 + b"\x7f\x03\x00NULL" + b"\0" * 48
    for number in range(300):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall([b"", greeting, b"GET / HTTP/1.1\r\n\r\n", chance.randbytes(200)][number % 4])


@pytest.mark.parametrize("side", ["client.ipc", "workers.ipc"])
@pytest.mark.parametrize("hello", [False, True], ids=["stranger", "client"])
def test_random_frames_do_no_harm(witness: hostd.Client, side: str, hello: bool) -> None:
    if hello and side == "workers.ipc":
        pytest.skip("a worker's side answers nobody's hello")
    chance = random.Random(7)
    with Peer(f"ipc://{witness.host_info().runtime_dir}/{side}", hello=hello) as peer:
        for _ in range(3000):
            kind = chance.choice([*range(40), 255])
            length = chance.choice([0, 0, 3, 60000])
            header = struct.pack(">BBHIQ", kind, chance.choice([1, 1, 1, 7]), length, 5, chance.randrange(3))
            body = chance.choice([b"", b"\xc1", b"\x81\xa8versions\x91\x01", b"\x91\xa6events", chance.randbytes(40)])
            peer.send([(header + body)[: chance.choice([0, 9, 16, 400])]] + [body] * chance.randrange(3))


def test_a_message_of_very_many_frames_is_refused(witness: hostd.Client) -> None:
    with Peer(witness.endpoint) as peer:
        (first,) = call_of("witness", "predict", 5)
        peer.send([first, *[b"x"] * 100_000])
        peer.verb("host_info", 6)
        answers = {envelope.id: envelope for envelope in (peer.receive(), peer.receive())}
        assert isinstance(msg.unpack_error(answers[5]), hostd.MessageTooLargeError)
        assert answers[6].kind == msg.RESULT


@pytest.mark.parametrize("count", [1_000_000, 2**64 - 1])
@pytest.mark.parametrize("messages", [LIMIT_BYTES // 4 - 16, 1])
def test_a_malformed_batch_is_not_taken_apart(witness: hostd.Client, count: int, messages: int) -> None:
    with Peer(witness.endpoint) as peer:
        batch = struct.pack(">BBHIQ", wire.BATCH, wire.VERSION, 0, 0, count)
        peer.send([batch + b"\0\0\0\0" * messages])
        peer.verb("host_info", 6)
        while (answer := peer.receive()).id != 6:
            assert isinstance(msg.unpack_error(answer), hostd.ProtocolError)


def test_bodies_that_nest_or_repeat_without_end_are_refused(witness: hostd.Client) -> None:
    with Peer(witness.endpoint) as peer:
        for number, body in enumerate(
            [b"\x91" * 7000, b"\x81\xa1a" * 2000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
        ):
            peer.send(wire.pack(msg.VERB, 10 + number, msg.pack_verb("list_models"), body))
            assert peer.error().status is hostd.Status.INVALID_ARGUMENT


def test_a_call_with_a_malformed_body_is_refused_by_the_worker(witness: hostd.Client) -> None:
    with Peer(witness.endpoint) as peer:
        for number, body in enumerate(
            [b"", b"\xc1", b"\x01", b"\x92\x90\x90", b"\x93\x90\x80\x80", b"\x92\x90\x81\x01\x02"]
        ):
            peer.send(call_of("witness", "predict", 10 + number, body))
            assert peer.error().status is hostd.Status.INVALID_ARGUMENT


@pytest.mark.parametrize("header", [b"", b"\xc1", b"\x90", b"\x91\xa1a", b"\x92\x01\x02", b"\x94\xa1a\xa1b\xc0\xff"])
def test_a_call_with_a_malformed_header_is_refused(witness: hostd.Client, header: bytes) -> None:
    with Peer(witness.endpoint) as peer:
        peer.send(wire.pack(msg.STREAM, 10, header, b"\x92\x90\x80"))
        assert peer.error().status is hostd.Status.INVALID_ARGUMENT


def test_unknown_verbs_and_arguments_are_refused_by_name(witness: hostd.Client) -> None:
    with Peer(witness.endpoint) as peer:
        peer.verb("laod_model")
        assert "load_model" in peer.error().message
        for verb in ("list_models", "load_model", "events"):
            peer.verb(verb, colour="red")
            assert "colour" in peer.error().message
        peer.verb("load_model", model_id="x", path=7)
        assert "path" in peer.error().message
        peer.verb("model_logs", model_id="witness", tail_bytes=-1)
        assert peer.receive().kind in (msg.ERROR, msg.RESULT)
        peer.verb("model_logs", model_id="../../../../etc/passwd")
        envelope = peer.receive()
        assert envelope.kind == msg.ERROR or decode(envelope.body) == ""


# Strangers


def test_whoever_says_no_hello_is_told_to(witness: hostd.Client) -> None:
    with Peer(witness.endpoint, hello=False) as peer:
        peer.send(call_of("witness", "predict", 5))
        error = peer.error()
        assert isinstance(error, hostd.UnavailableError)
        assert "HELLO" in error.message


@pytest.mark.parametrize("versions", [[], [99], "1", None])
def test_another_version_is_refused_with_those_that_are_supported(witness: hostd.Client, versions: object) -> None:
    with Peer(witness.endpoint, hello=False) as peer:
        peer.send(msg.pack_map(msg.HELLO, 5, {"versions": versions}))
        error = peer.error()
        assert isinstance(error, hostd.VersionMismatchError)
        assert error.details["supported"] == [wire.VERSION]


def test_a_message_of_another_version_is_refused_with_its_id(witness: hostd.Client) -> None:
    with Peer(witness.endpoint) as peer:
        (first,) = call_of("witness", "predict", 5)
        peer.send([first[:1] + b"\x63" + first[2:]])
        envelope = peer.receive()
        assert envelope.id == 5
        assert isinstance(msg.unpack_error(envelope), hostd.VersionMismatchError)


def test_nobody_can_pretend_to_be_a_worker(witness: hostd.Client) -> None:
    endpoint = f"ipc://{witness.host_info().runtime_dir}/workers.ipc"
    for identity in (b"", b"\1" + bytes(15), b"x" * 255):
        with Peer(endpoint, hello=False, identity=identity) as peer:
            peer.send(msg.pack_map(msg.WORKER_HELLO, 0, {"token": identity.hex(), "versions": [1], "pid": 1}))
            peer.send(msg.pack_map(msg.LOADED, 0, {"methods": {}, "default_method": None, "loader": "x"}))
            for call_id in range(1, 50):
                peer.send(wire.pack(msg.RESULT, call_id, body=b"\x07"))
    assert [model.id for model in witness.list_models()] == ["witness"]


def test_a_second_connection_under_a_workers_token_changes_nothing(
    witness: hostd.Client, model_dir: Callable[..., str]
) -> None:
    source = """
        import os, zmq

        class M:
            def impersonate(self):
                environment = open("/proc/self/environ", "rb").read().split(b"\\0")
                values = dict(item.split(b"=", 1) for item in environment if b"=" in item)
                self.context = zmq.Context()
                self.socket = self.context.socket(zmq.DEALER)
                self.socket.setsockopt(zmq.IDENTITY, bytes.fromhex(values[b"HOSTD_WORKER_TOKEN"].decode()))
                self.socket.connect(values[b"HOSTD_WORKER_ENDPOINT"].decode())
                for _ in range(100):
                    self.socket.send(b"junk")
                return "sent"

            def predict(self, x):
                return x

        def load(path):
            return M()
    """
    model = witness.load_model("impostor", model_dir(source))
    assert model.impersonate() == "sent"
    assert [model.options(timeout_s=5).predict(i) for i in range(100)] == list(range(100))


def test_two_clients_of_one_identity_do_not_get_each_others_answers(witness: hostd.Client) -> None:
    with Peer(witness.endpoint, identity=b"same") as first, Peer(witness.endpoint, identity=b"same") as second:
        for number, peer in ((7, second), (8, first)):
            peer.send(call_of("witness", "predict", number))
            assert peer.receive().id == number


# Sizes


def test_a_request_over_the_limit_is_refused_before_it_is_sent(witness: hostd.Client) -> None:
    model = witness.retrieve_model("witness")
    with pytest.raises(hostd.MessageTooLargeError, match="max_message_bytes"):
        model.predict(b"x" * (LIMIT_BYTES + 1))
    assert len(model.predict(b"x" * (LIMIT_BYTES // 2))) == LIMIT_BYTES // 2


@pytest.mark.parametrize(
    "buffers", [[b"x" * (LIMIT_BYTES + 1)], [b"x" * MIB] * 8], ids=["one frame", "frames together"]
)
def test_a_message_over_the_limit_is_refused(witness: hostd.Client, buffers: list[bytes]) -> None:
    with Peer(witness.endpoint) as peer:
        peer.send([*call_of("witness", "predict", 5), *buffers])
        envelope = peer.receive()
        assert envelope.id == 5
        error = msg.unpack_error(envelope)
        assert isinstance(error, hostd.ResourceExhaustedError)
        assert "max_message_bytes" in error.message
        peer.verb("host_info", 6)
        assert peer.receive().id == 6


@pytest.mark.parametrize("parts", [1, 8], ids=["one", "several together"])
def test_an_answer_over_the_limit_is_an_error_and_the_worker_goes_on(
    witness: hostd.Client, model_dir: Callable[..., str], parts: int
) -> None:
    source = """
        import numpy

        class M:
            def big(self, n, parts):
                return [numpy.zeros(n // parts, "u1") for _ in range(parts)]

            def predict(self, x):
                return x

        def load(path):
            return M()
    """
    pytest.importorskip("numpy")
    model = witness.load_model("big", model_dir(source)).options(timeout_s=PATIENCE_S)
    with pytest.raises(hostd.HostError) as caught:
        model.big(2 * LIMIT_BYTES, parts)
    assert caught.value.status is not hostd.Status.DEADLINE_EXCEEDED, "the answer was lost in silence"
    assert "max_message_bytes" in caught.value.message
    assert model.predict(1) == 1


# Bad faith


def test_a_request_id_that_is_in_use_is_refused(witness: hostd.Client, model_dir: Callable[..., str]) -> None:
    witness.load_model("slow", model_dir("import time\ndef load(path):\n    return lambda: time.sleep(3600)\n"))
    with Peer(witness.endpoint) as peer:
        for _ in range(2):
            peer.send(call_of("slow", "__call__", 5, b"\x92\x90\x80"))
        error = peer.error()
        assert isinstance(error, hostd.InvalidArgumentError)
        assert "in use" in error.message


def test_a_deadline_that_has_passed_is_answered_at_once(witness: hostd.Client) -> None:
    with Peer(witness.endpoint) as peer:
        peer.send(call_of("witness", "predict", 5, deadline_ms=0))
        assert isinstance(peer.error(), hostd.DeadlineExceededError)


def test_cancels_and_credits_out_of_the_blue_are_ignored_and_a_goodbye_is_the_end(witness: hostd.Client) -> None:
    with Peer(witness.endpoint) as peer:
        for number in range(200):
            peer.send(wire.pack(msg.CANCEL, number))
            peer.send(msg.pack_credit(number, 1 << 20))
        peer.verb("host_info", 5)
        assert peer.receive().id == 5
        peer.send(wire.pack(msg.BYE, 0))
        peer.expect_end()


def test_a_client_that_never_reads_is_dropped_and_its_stream_ended(
    witness: hostd.Client, model_dir: Callable[..., str], tmp_path: Any
) -> None:
    source = """
        import pathlib

        class M:
            def generate(self, note):
                try:
                    while True:
                        yield b"x" * 20_000
                finally:
                    pathlib.Path(note).touch()

        def load(path):
            return M()
    """
    witness.load_model("endless", model_dir(source))
    note = tmp_path / "closed"
    with Peer(witness.endpoint) as peer:
        target = msg.pack_target(msg.Target("endless", "generate", window=1 << 20))
        peer.send(
            wire.pack(msg.STREAM, 5, target, b"\x92\x91\xd9" + bytes([len(str(note))]) + str(note).encode() + b"\x80")
        )
        eventually(note.exists, "the stream of a client that never reads is ended")


def test_a_client_that_only_sends_gets_no_more_than_its_share(witness: hostd.Client) -> None:
    over = threading.Event()

    def flood() -> None:
        with Peer(witness.endpoint) as peer:
            number = 10
            while not over.is_set():
                number += 1
                if peer.socket.poll(1, zmq.POLLOUT):
                    peer.verb("list_models", number)

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        for _ in range(3):
            witness.unload_model("nobody", timeout_s=PATIENCE_S)
    finally:
        over.set()
        flooder.join(PATIENCE_S)


def test_a_client_that_leaves_with_many_loads_waiting_does_not_stop_the_host(
    witness: hostd.Client, tmp_path: Any
) -> None:
    with Peer(witness.endpoint) as peer:
        for number in range(5000):
            peer.verb("load_model", 10 + number, model_id=f"m{number}", path=str(tmp_path / "absent"))
    eventually(lambda: len(witness.list_models()) == 1, "the loads have failed")
