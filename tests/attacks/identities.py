"""Identities that a peer has no right to: those that libzmq gives next, workers' tokens, other clients'.

A ROUTER numbers its peers from a random start, which libzmq takes from a `rand()` without a seed: a fresh process has
the same starts. Where a host does not use libzmq for this, the claims must simply be worth nothing.
"""

import os
import secrets
import struct
import tempfile
from contextlib import ExitStack, suppress

import zmq

from attacks.attack import PREY, Report
from attacks.raw import GREETING, RawPeer, call, message, ready
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

ROUTERS = 4
"""A host has two; whichever of them is made first."""


def first_identities():
    """Return the numbers of the first peers of the first sockets of a process that has not used libzmq yet."""
    found = []
    with tempfile.TemporaryDirectory() as directory, zmq.Context() as context:
        for number in range(ROUTERS):
            endpoint = f"ipc://{directory}/{number}"
            with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
                router.bind(endpoint)
                dealer.connect(endpoint)
                dealer.send(b"")
                found.append(int.from_bytes(router.recv_multipart()[0][1:], "big"))
    return found


def claim_future(target, cue, *, ahead):
    """Claim the identities of the next clients, and of those that are connected."""
    starts = first_identities()
    claimed = [b"\0" + struct.pack(">I", (start + n) % 2**32) for n in range(ahead) for start in starts]
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(target.path, identity=identity)) for identity in claimed]
        # One that is greeted shows that the host has read the claims before it.
        with suppress(OSError):
            stack.enter_context(RawPeer(target.path)).greet()
        cue.under_way()
        while not cue.is_over():
            for peer in peers:
                peer.read_until(lambda: False, within_s=0)
        stolen = sum(peer.messages for peer in peers)
        closed = sum(peer.is_closed for peer in peers)
    wrong = f"{stolen} messages came to those that claimed an identity and said nothing" if stolen else ""
    return Report({"claimed": len(claimed), "closed": closed}, "", wrong)


def share(target, cue, *, rounds):
    """Connect under the identity that another living client has, and ask: neither may get what the other asked for."""
    done, wrong = 0, ""
    with RawPeer(target.path, identity=b"same").greet() as first:
        cue.under_way()
        while not cue.is_over() and done < rounds and not wrong:
            with RawPeer(target.path, identity=b"same") as second:
                second.push(message(call(PREY, "echo", 7, b"\x92\x91\x07\x80")), cue.is_over)
                first.push(message(call(PREY, "echo", 8, b"\x92\x91\x08\x80")), cue.is_over)
                before = first.messages
                if not first.read_until(lambda: first.messages > before, within_s=10):  # noqa: B023 - read at once
                    wrong = f"the first of two clients of one identity got no answer: {first.told()}"
                elif wire.unpack(first.received[-1]).id != 8:
                    wrong = "a client got the answer of another with its identity"
            done += 1
    cue.hold()
    return Report({"rounds": done}, "", wrong)


def change(target, cue):
    """Say READY twice, the second time as another peer."""
    done = closed = 0
    while not cue.is_over():
        with suppress(OSError), RawPeer(target.path, handshake=False) as peer:
            peer.push(GREETING + ready(b"one") + ready(b"two"), cue.is_over)
            peer.read_until(lambda: False, within_s=0.05)
            done, closed = done + 1, closed + peer.is_closed
        cue.under_way()
    return Report({"connections": done, "closed": closed})


def pretend_to_work(target, cue, *, peers):
    """Connect as workers that do not exist, and answer calls that nobody gave them."""
    count = closed = 0
    while not cue.is_over():
        for identity in _tokens(peers):
            with suppress(OSError), RawPeer(target.workers_path, identity=identity) as peer:
                hello = {"token": identity.hex(), "versions": [wire.VERSION], "pid": os.getpid()}
                loaded = {"methods": {}, "default_method": None, "loader": "x"}
                words = [msg.pack_map(msg.WORKER_HELLO, 0, hello), msg.pack_map(msg.LOADED, 0, loaded)]
                words += [wire.pack(msg.RESULT, call_id, body=b"\x07") for call_id in range(1, 50)]
                peer.push(b"".join(map(message, words)), cue.is_over)
                peer.read_until(lambda: False, within_s=0)
                count, closed = count + 1, closed + peer.is_closed
        cue.under_way()
    return Report({"connections": count, "closed": closed})


def _tokens(count):
    for number in range(count):
        yield (b"", b"\1" + secrets.token_bytes(15), b"\0" + secrets.token_bytes(4), b"x" * 255)[number % 4]
