"""Changed messages: from a client that was greeted, from a worker, and as changed bytes below the messages.

What must hold: a client beside it is answered all the while, the supervisor lives and does not grow, and a worker that
gets or sends nonsense is ended at most.
"""

import contextlib
import os
import random
import socket
import tempfile
import threading
import time
from pathlib import Path

import psutil
import zmq
from mutated import mutated, samples

import hostd
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

GROWTH_BYTES = 64 << 20
TIMEOUT_S = 30.0
ROUND = 500
"""Messages between two looks at whether everything is as it should be."""

MODEL = """
import gc, random, sys
sys.path.insert(0, {tests!r})

class Model:
    def echo(self, x):
        return x

    def babble(self, seed, count):
        "Send changed messages over the worker's own connection."
        from hostd_workers.transport import Transport
        from hostd_workers.wire import messages as msg
        from mutated import mutated
        chance = random.Random(seed)
        (transport,) = [thing for thing in gc.get_objects() if type(thing) is Transport]
        originals = [
            msg.pack_map(msg.LAST_WORDS, 0, {{"status": 2}}),
            msg.pack_map(msg.WORKER_HELLO, 0, {{"token": "", "versions": [1], "pid": 1}}),
            msg.pack_map(msg.LOADED, 0, {{"methods": {{}}, "default_method": None, "loader": "x"}}),
            *[msg.pack_map(kind, number, {{"a": [1, 2, b"x" * 100]}})
              for kind in (msg.RESULT, msg.ITEM, msg.END, msg.ERROR) for number in (1, 10**6)],
        ]
        for _ in range(count):
            frames = mutated([bytes(frame) for frame in chance.choice(originals)], chance)
            if frames:
                transport.send(frames)

def load(path):
    return Model()
"""

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


def run(count, seed):
    """Send so many messages, a third from each side; return what was done, and what was wrong."""
    chance, wrong, waits = random.Random(seed), [], []
    with tempfile.TemporaryDirectory(prefix="mutations-") as scratch, hostd.Host(log_level="error") as host:
        model = Path(scratch) / "model"
        model.mkdir()
        (model / "model.py").write_text(MODEL.format(tests=str(Path(__file__).resolve().parents[1])), "utf-8")
        with hostd.connect(host.endpoint, timeout_s=TIMEOUT_S) as client, _witness(client, str(model), waits, wrong):
            supervisor = psutil.Process(host.pid)
            before_bytes = supervisor.memory_info().rss
            sent = 0
            while sent < count and not wrong:
                way = (_from_client, _from_worker, _below)[(sent // ROUND) % 3]
                way(host, client, str(model), chance)
                sent += ROUND
                grown_bytes = supervisor.memory_info().rss - before_bytes
                if grown_bytes > GROWTH_BYTES:
                    wrong.append(f"the supervisor has grown by {grown_bytes} bytes")
                if client.host_info().pid != supervisor.pid:
                    wrong.append("the supervisor is another one")
            client.unload_model("m")
            if left := {model.id for model in client.list_models()} - {"witness"}:
                wrong.append(f"models are left: {left}")
    return {"messages": sent, "seed": seed, "witness": len(waits), "longest_s": round(max(waits), 3)}, wrong


@contextlib.contextmanager
def _witness(client, path, waits, wrong):
    """Call a model of one's own all the time."""
    model = client.load_model("witness", path)
    over = threading.Event()

    def watch():
        while not over.wait(0.002):
            began_s = time.monotonic()
            try:
                if model.echo(began_s) != began_s:
                    wrong.append("the witness got another's answer")
            except hostd.HostError as error:
                wrong.append(f"the witness: {error}")
                return
            waits.append(time.monotonic() - began_s)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _from_client(host, client, path, chance):
    client.load_model("m", path)  # which the messages are for
    originals = [frames for frames in samples() if b"unload_all_models" not in frames[0]]
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.linger, peer.sndtimeo = 0, int(TIMEOUT_S * 1000)
        peer.connect(host.endpoint)
        hello = msg.pack_map(msg.HELLO, 1, {"versions": [wire.VERSION], "pid": os.getpid()})
        for number in range(ROUND):
            if number % 50 == 0:  # some messages end a connection; the next one has to greet
                peer.send_multipart(hello)
            frames = mutated(chance.choice(originals), chance)
            if frames:
                peer.send_multipart(frames)
            while peer.poll(0):
                peer.recv_multipart()


def _from_worker(_, client, path, chance):
    with contextlib.suppress(hostd.HostError):  # it may end its own model
        client.load_model("babbler", path).options(timeout_s=TIMEOUT_S).babble(chance.randrange(1 << 30), ROUND)
    client.unload_model("babbler")


def _below(host, client, path, chance):
    hello = msg.pack_map(msg.HELLO, 1, {"versions": [wire.VERSION], "pid": os.getpid()})[0]
    call = wire.pack(msg.CALL, 2, msg.pack_target(msg.Target("witness", "echo")), b"\x92\x91\x01\x80")[0]
    messages = b"".join(bytes([0, len(message)]) + message for message in (bytes(hello), bytes(call), bytes(call)))
    ping = b"\x04\x07\x04PING\x00\x00"
    for number in range(ROUND):
        side = host.endpoint if number % 4 else host.endpoint.replace("client.ipc", "workers.ipc")
        stream = b"".join(mutated([GREETING + READY + messages + ping + messages], chance))
        with socket.socket(socket.AF_UNIX) as peer, contextlib.suppress(OSError):
            peer.settimeout(TIMEOUT_S)
            peer.connect(side.removeprefix("ipc://"))
            for start in range(0, len(stream), step := chance.choice([7, 64, 4096])):
                peer.sendall(stream[start : start + step])
