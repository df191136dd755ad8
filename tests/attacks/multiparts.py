"""Messages of very many parts, and messages that never end."""

import select
from contextlib import ExitStack

from attacks.attack import MIB, PREY, Report
from attacks.raw import MORE, RawPeer, announced, call, frame, verb


def a_million_parts(target, cue, *, parts):
    """Call with very many empty parts, again and again."""
    return _again_and_again(target, cue, call(PREY, "echo", 5)[0], b"", parts)


def long_for_the_host(target, cue, *, parts):
    """Send a verb with as many parts as that, again and again."""
    return _again_and_again(target, cue, verb("list_models", 5)[0], b"x", parts)


def _again_and_again(target, cue, first, part, parts):
    some = frame(part, MORE) * (parts // 100)
    sent, told, closed = 0, "", 0
    while not cue.is_over():
        with RawPeer(target.path).greet() as peer:
            cue.under_way()
            while not cue.is_over() and not peer.is_closed:
                for piece in (frame(first, MORE), *[some] * 100, frame(part)):
                    peer.push(piece, cue.is_over)
                sent += 1
            told, closed = peer.told() or told, closed + peer.is_closed
            if not told and peer.read_until(peer.told, within_s=10):
                told = peer.told()
    return Report({"messages": sent, "closed": closed}, told)


def endless(target, cue, *, most_bytes, hello=True):
    """Send parts of a message of which none is the last."""
    part, sent, closed, told = frame(bytes(64 << 10), MORE), 0, 0, ""
    while not cue.is_over():
        with RawPeer(target.path) as peer:
            if hello:
                peer.greet()
                sent += peer.push(frame(call(PREY, "echo", 5)[0], MORE), cue.is_over)
            cue.under_way()
            while not cue.is_over() and not peer.is_closed and sent < most_bytes:
                sent += peer.push(part, cue.is_over)
            if sent >= most_bytes:
                cue.hold()
            told, closed = peer.told() or told, closed + peer.is_closed
    return Report({"MB": sent / MIB, "closed": closed}, told)


def unfinished(target, cue, *, peers, each_bytes):
    """Begin a call of 1 GB over each of many connections, and send so much of it."""
    begin = frame(call(PREY, "size_of", 5)[0], MORE) + announced(10**9)
    rest, sent, closed = memoryview(bytes(each_bytes)), 0, 0
    with ExitStack() as stack:
        connections = [stack.enter_context(RawPeer(target.path)).greet() for _ in range(peers)]
        left = {peer: each_bytes for peer in connections if peer.push(begin, cue.is_over)}
        cue.under_way()
        while left and not cue.is_over():
            for peer in select.select([], left, [], 0.1)[1]:
                taken = peer.push(rest[: left[peer]], cue.is_over, within_s=0.05)
                sent += taken
                left[peer] -= taken
                if peer.is_closed or not left[peer]:
                    del left[peer]
        cue.hold()
        for peer in connections:
            peer.read_until(lambda: False, within_s=0)
            closed += peer.is_closed
        told = next(filter(None, (peer.told() for peer in connections)), "")
        return Report({"MB": sent / MIB, "closed": closed}, told)
