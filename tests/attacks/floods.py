"""Requests that are allowed, in numbers that are not: batches without pause, cancels over many subscriptions."""

from contextlib import ExitStack
from itertools import count, islice

from attacks.attack import PREY, VICTIM, Report
from attacks.raw import RawPeer, batch, call, verb
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

AHEAD = 4
"""Batches that are sent together: more than the host reads in a turn."""

UNKNOWN = 1_000_000
"""Ids from here on were never used."""


def batches_of_calls(target, cue):
    """Call a model of our own in batches, one after the other."""
    return _flood(target, cue, (call(PREY, "echo", n, b"\x92\x91\x07\x80")[0] for n in count(10)))


def batches_of_calls_for_nothing(target, cue):
    """Call a model that is not there."""
    return _flood(target, cue, (call("nobody", "echo", n)[0] for n in count(10)))


def batches_of_verbs(target, cue):
    """Ask for the list of models in batches."""
    return _flood(target, cue, (verb("list_models", n)[0] for n in count(10)))


def batches_of_costly_verbs(target, cue):
    """Ask in batches why the victim's model is as it is."""
    return _flood(target, cue, (verb("explain_model", n, model_id=VICTIM)[0] for n in count(10)))


def _flood(target, cue, messages):
    sent = 0
    with RawPeer(target.path).greet() as peer:
        cue.under_way()
        while not cue.is_over() and not peer.is_closed:
            batches = [batch(list(islice(messages, wire.MAX_BATCH_MESSAGES))) for _ in range(AHEAD)]
            peer.push(b"".join(batches), cue.is_over)
            sent += AHEAD * wire.MAX_BATCH_MESSAGES
        return Report({"sent": sent, "messages back": peer.messages}, peer.told())


def cancels(target, cue, *, peers, each, number):
    """Subscribe as often as one may over many connections, and cancel again and again what is not there."""
    subscribe = batch([verb("events", 10 + n)[0] for n in range(each)])
    done = 0
    with ExitStack() as stack:
        connections = [stack.enter_context(RawPeer(target.path)).greet() for _ in range(peers)]
        for peer in connections:
            peer.push(subscribe, cue.is_over)
        for peer in connections:
            peer.read_until(lambda: peer.messages > 1)  # noqa: B023 - read at once
        cue.under_way()
        for start in range(0, number, wire.MAX_BATCH_MESSAGES):
            some = range(start, min(number, start + wire.MAX_BATCH_MESSAGES))
            peer = connections[start // wire.MAX_BATCH_MESSAGES % peers]
            peer.push(batch([wire.pack(msg.CANCEL, UNKNOWN + n)[0] for n in some]), cue.is_over)
            done += len(some)
        cue.hold()
        for peer in connections:
            peer.read_until(lambda: False, within_s=0)
        told = next(filter(None, (peer.told() for peer in connections)), "")
        return Report({"subscriptions": peers * each, "cancels": done}, told)
