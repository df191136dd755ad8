"""One client that takes all of what there is for everybody: places to wait, uploads, the worker's queue, the hasher."""

import contextlib
import os
import signal
import time
from itertools import islice
from pathlib import Path

import hostd
from attacks.attack import MIB, PREY, Report
from attacks.models import write_waiting
from attacks.raw import RawPeer, batch, frame, message, verb
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

BIG_CALL_BYTES = 8 * 1000 * 1000
EXPIRES_MS = 200


def waiting_retrieves(target, cue, *, count):
    """Wait very often for a model that is loading."""
    scratch = Path(target.scratch)
    with hostd.connect(target.endpoint) as client, RawPeer(target.path).greet() as peer:
        client.load_model("waiting", write_waiting(scratch / "waiting", scratch / "go"), wait=False)
        messages = iter([verb("retrieve_model", 10 + n, model_id="waiting", generation=None)[0] for n in range(count)])
        while some := list(islice(messages, wire.MAX_BATCH_MESSAGES)):
            peer.push(batch(some), cue.is_over)
        # What it answers now shows that it has read all that came before.
        peer.push(message(verb("host_info", 5)), cue.is_over)
        peer.await_answer(5)
        cue.under_way()
        cue.hold()
        told = peer.told()
        (scratch / "go").touch()
        with contextlib.suppress(hostd.ResourceExhaustedError):  # by our own doing
            client.unload_model("waiting", now=True)
    return Report({"asked": count}, told)


def idle_uploads(target, cue, *, peers, each):
    """Begin uploads over several connections, and send nothing."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(RawPeer(target.path)).greet() for _ in range(peers)]
        for which, peer in enumerate(connections):
            for number in range(each):
                model_id, files = f"idle-{which}-{number}", [["model.py", 10]]
                peer.push(message(verb("deploy_begin", 10 + number, model_id=model_id, files=files)), cue.is_over)
                answers = number + 2  # with the one to the HELLO
                peer.read_until(lambda: peer.messages >= answers)  # noqa: B023 - read at once
        cue.under_way()
        cue.hold()
        refused = sum(len(peer.errors()) for peer in connections)
        told = next(filter(None, (peer.told() for peer in connections)), "")
        return Report({"begun": peers * each - refused}, told)


def stopped_worker(target, cue, *, most_bytes):
    """Stop the worker of our model, and send it big calls that expire at once."""
    with hostd.connect(target.endpoint) as client, RawPeer(target.path).greet() as peer:
        (worker,) = client.get_model(PREY).workers
        os.kill(worker.pid or 0, signal.SIGSTOP)
        try:
            cue.under_way()
            payload, number, sent = (
                frame(b"\x92\x91\xc6" + BIG_CALL_BYTES.to_bytes(4, "big") + bytes(BIG_CALL_BYTES) + b"\x80"),
                0,
                0,
            )
            while not cue.is_over() and not peer.is_closed and sent < most_bytes:
                header = wire.pack(
                    msg.CALL, 10 + number, msg.pack_target(msg.Target(PREY, "size_of")), deadline_ms=EXPIRES_MS
                )
                sent += peer.push(frame(header[0], 1) + payload, cue.is_over)
                number += 1
            while not cue.is_over() and not peer.is_closed:
                peer.read_until(cue.is_over, within_s=0.2)
            answered, told = peer.messages, peer.told()
        finally:
            os.kill(worker.pid or 0, signal.SIGCONT)
    return Report({"calls": number, "MB": sent / MIB, "answered": answered}, told)


def big_directory(target, cue, *, files, file_bytes):
    """Have a big directory hashed again and again."""
    path = Path(target.scratch) / "big"
    path.mkdir()
    (path / "model.py").write_text("def load(path):\n    return lambda x: x\n")
    content, changing = path / "0.bin", path / "changing"
    content.write_bytes(os.urandom(file_bytes))
    for number in range(1, files):
        os.link(content, path / f"{number}.bin")  # to a reader they are many
    asked, told = 0, ""
    with hostd.connect(target.endpoint) as client:
        while not cue.is_over():
            changing.write_bytes(os.urandom(16))  # so that it is not known from the last time
            began_s = time.monotonic()
            try:
                if not asked:
                    cue.under_way()
                client.estimate_model_size("big", path)
            except hostd.HostError as error:
                told = f"{type(error).__name__}: {error.message}"
            asked += 1
            if time.monotonic() - began_s < 0.01:
                cue.hold(0.01)
    return Report({"asked": asked, "MB": files * file_bytes / MIB}, told)


def busy(target, cue):
    """Leave the host alone and compute: what a neighbour costs on this machine, whatever the host does."""
    del target
    cue.under_way()
    rounds = 0
    while not cue.is_over():
        rounds += sum(range(1000)) and 1
    return Report({"rounds": rounds})
