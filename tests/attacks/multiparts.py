"""Messages of very many parts, and messages that never end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks.attack import MIB, PREY, Report
from attacks.raw import MORE, RawPeer, call, frame, verb

if TYPE_CHECKING:
    from attacks.attack import Cue, Target


def a_million_parts(target: Target, cue: Cue, *, parts: int) -> Report:
    """Call with very many empty parts, again and again."""
    first = frame(call(PREY, "echo", 5)[0], MORE)
    some = frame(b"", MORE) * (parts // 100)
    return _again_and_again(target, cue, first, some, 100, frame(b""))


def long_for_the_host(target: Target, cue: Cue, *, parts: int) -> Report:
    """Send a verb with as many parts as that."""
    first = frame(verb("list_models", 5)[0], MORE)
    return _again_and_again(target, cue, first, frame(b"x", MORE) * (parts // 100), 100, frame(b"x"))


def _again_and_again(target: Target, cue: Cue, first: bytes, some: bytes, times: int, last: bytes) -> Report:
    sent, told, closed = 0, "", 0
    while not cue.is_over():
        with RawPeer(target.path).greet() as peer:
            cue.under_way()
            while not cue.is_over() and not peer.is_closed:
                for piece in (first, *[some] * times, last):
                    peer.push(piece, cue.is_over)
                sent += 1
            told, closed = peer.told() or told, closed + peer.is_closed
            if not told and peer.read_until(peer.told, within_s=10):
                told = peer.told()
    return Report({"messages": sent, "closed": closed}, told)


def endless(target: Target, cue: Cue, *, hello: bool, most_bytes: int) -> Report:
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
