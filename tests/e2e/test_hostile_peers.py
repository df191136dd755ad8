"""Peers that do not speak the protocol, or speak it in bad faith: they harm themselves and nobody else.

Every test here has a witness: another client with another model: its calls must be answered quickly all the while.
"""

import struct
import threading
import time

import psutil
import pytest
from helpers import PATIENCE_S, eventually
from hostile_peer import MIB, Peer, call_of

import hostd
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode

QUICKLY_S = 10.0
LIMIT_BYTES = 2 * MIB


@pytest.fixture(scope="module")
def small_host():
    with hostd.Host(
        workers={"drain_timeout_s": 1.0}, limits={"max_message_bytes": LIMIT_BYTES, "peer_buffer_bytes": 1 << 20}
    ) as host:
        yield host


@pytest.fixture
def witness(small_host, model_dir):
    """A client that calls its model all the time, and must never wait long."""
    waits = []
    over = threading.Event()
    with hostd.connect(small_host.endpoint) as client:
        model = client.load_model("witness", model_dir())

        def watch():
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

BAD_VERB_BODIES = (b"\x91" * 7000, b"\x81\xa1a" * 2000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff")
BAD_CALL_BODIES = (b"", b"\xc1", b"\x01", b"\x92\x90\x90", b"\x93\x90\x80\x80", b"\x92\x90\x81\x01\x02")
BAD_HEADERS = (b"", b"\xc1", b"\x90", b"\x91\xa1a", b"\x92\x01\x02", b"\x94\xa1a\xa1b\xc0\xff")


def test_malformed_requests_are_refused_each_under_its_id(witness):
    bad = [wire.pack(msg.VERB, 0, msg.pack_verb("list_models"), body) for body in BAD_VERB_BODIES]
    bad += [call_of("witness", "predict", 0, body) for body in BAD_CALL_BODIES]  # the worker's to refuse
    bad += [wire.pack(msg.STREAM, 0, header, b"\x92\x90\x80") for header in BAD_HEADERS]
    with Peer(witness.endpoint) as peer:
        for number, frames in enumerate(bad, 10):
            peer.send([frames[0][:8] + struct.pack(">Q", number) + bytes(frames[0][16:]), *frames[1:]])
            envelope = peer.receive()
            assert envelope.id == number, frames
            assert msg.unpack_error(envelope).status is hostd.Status.INVALID_ARGUMENT, frames
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
        peer.send(call_of("witness", "predict", 5, deadline_ms=0))
        assert isinstance(peer.error(), hostd.DeadlineExceededError)


def test_what_says_no_hello_or_speaks_another_version_is_told_so(witness):
    with Peer(witness.endpoint, hello=False) as peer:
        peer.send(call_of("witness", "predict", 5))
        error = peer.error()
        assert isinstance(error, hostd.UnavailableError)
        assert "HELLO" in error.message
    for versions in ([], [99], "1", None):
        with Peer(witness.endpoint, hello=False) as peer:
            peer.send(msg.pack_map(msg.HELLO, 5, {"versions": versions}))
            error = peer.error()
            assert isinstance(error, hostd.VersionMismatchError)
            assert error.details["supported"] == [wire.VERSION]
    with Peer(witness.endpoint) as peer:
        (first,) = call_of("witness", "predict", 5)
        peer.send([first[:1] + b"\x63" + first[2:]])
        envelope = peer.receive()
        assert envelope.id == 5
        assert isinstance(msg.unpack_error(envelope), hostd.VersionMismatchError)


def test_cancels_and_credits_out_of_the_blue_are_ignored_and_a_goodbye_is_the_end(witness):
    with Peer(witness.endpoint) as peer:
        for number in range(200):
            peer.send(wire.pack(msg.CANCEL, number))
            peer.send(msg.pack_credit(number, 1 << 20))
        peer.verb("host_info", 5)
        assert peer.receive().id == 5
        peer.send(wire.pack(msg.BYE, 0))
        peer.expect_end()


def test_a_request_id_that_is_in_use_is_refused(witness, model_dir):
    witness.load_model("slow", model_dir("import time\ndef load(path):\n    return lambda: time.sleep(3600)\n"))
    with Peer(witness.endpoint) as peer:
        for _ in range(2):
            peer.send(call_of("slow", "__call__", 5, b"\x92\x90\x80"))
        error = peer.error()
        assert isinstance(error, hostd.InvalidArgumentError)
        assert "in use" in error.message


# Strangers


def test_a_second_connection_under_a_workers_token_changes_nothing(witness, model_dir):
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
    path = model_dir(source, settings="isolation: fresh\n")  # nobody sees the token of a forked one
    model = witness.load_model("impostor", path)
    assert model.impersonate() == "sent"
    assert [model.options(timeout_s=5).predict(i) for i in range(100)] == list(range(100))


# Sizes

BIG = """
    import numpy

    class M:
        def big(self, n, parts):
            return [numpy.zeros(n // parts, "u1") for _ in range(parts)]

        def predict(self, x):
            return x

    def load(path):
        return M()
"""


def test_messages_over_the_limit_are_refused_both_ways_and_the_worker_goes_on(witness, model_dir):
    pytest.importorskip("numpy")
    model = witness.load_model("big", model_dir(BIG)).options(timeout_s=PATIENCE_S)
    with pytest.raises(hostd.MessageTooLargeError, match="max_message_bytes"):
        model.predict(b"x" * (LIMIT_BYTES + 1))
    for parts in (1, 8):
        with pytest.raises(hostd.HostError, match="max_message_bytes") as caught:
            model.big(2 * LIMIT_BYTES, parts)
        assert caught.value.status is not hostd.Status.DEADLINE_EXCEEDED, "the answer was lost in silence"
    assert len(model.predict(b"x" * (LIMIT_BYTES // 2))) == LIMIT_BYTES // 2
    with Peer(witness.endpoint) as peer:
        for number, buffers in enumerate(([b"x" * (LIMIT_BYTES + 1)], [b"x" * MIB] * 8), 5):
            peer.send([*call_of("witness", "predict", number), *buffers])
            envelope = peer.receive()
            assert envelope.id == number
            error = msg.unpack_error(envelope)
            assert isinstance(error, hostd.ResourceExhaustedError)
            assert "max_message_bytes" in error.message
        peer.verb("host_info", 9)
        assert peer.receive().id == 9


# Bad faith


def test_a_client_that_leaves_with_many_loads_waiting_does_not_stop_the_host(witness, tmp_path):
    with Peer(witness.endpoint) as peer:
        for number in range(5000):
            peer.verb("load_model", 10 + number, model_id=f"m{number}", path=str(tmp_path / "absent"))
    eventually(lambda: len(witness.list_models()) == 1, "the loads have failed")
