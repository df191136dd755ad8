"""Clients that ask and do not read, or read too late."""

from contextlib import ExitStack

import hostd
from attacks.attack import PREY, Report
from attacks.raw import RawPeer, call, message, stream
from hostd_workers.wire import messages as msg


def unread_stream(target, cue, *, streams):
    """Open streams of 64 KiB items with the largest credit, and read none."""
    with RawPeer(target.path).greet() as peer:
        peer.reads = False
        for number in range(streams):
            peer.push(message(stream(PREY, "items", 5 + number, msg.MAX_CREDIT)), cue.is_over)
        return _never_read(peer, cue, streams)


def unread_results(target, cue, *, calls):
    """Ask for results of 10 MB, and read none."""
    with RawPeer(target.path).greet() as peer:
        peer.reads = False
        for number in range(calls):
            peer.push(message(call(PREY, "result", 5 + number)), cue.is_over)
        return _never_read(peer, cue, calls)


def unread_over_many(target, cue, *, peers, calls):
    """Ask for results of 10 MB over each of many connections, and read none."""
    with ExitStack() as stack:
        connections = [stack.enter_context(RawPeer(target.path)).greet() for _ in range(peers)]
        asked = b"".join(message(call(PREY, "result", 5 + number)) for number in range(calls))
        for peer in connections:
            peer.reads = False
            peer.push(asked, cue.is_over)
        cue.under_way()
        cue.hold()
        for peer in connections:
            peer.read_until(lambda: peer.is_closed, within_s=0.1)  # noqa: B023 - read at once
        closed = sum(peer.is_closed for peer in connections)
        return Report({"asked": peers * calls, "closed": closed}, connections[-1].told())


def _never_read(peer, cue, asked):
    cue.under_way()
    while not cue.hold(0.2) and not peer.is_closed:
        peer.push(b"", cue.is_over)
    # What it is told when it looks at last.
    peer.read_until(lambda: False, within_s=1)
    return Report({"asked": asked, "messages read at last": peer.messages}, peer.told())


def slow_reader(target, cue, *, calls, size):
    """Ask with the official client for more than is kept for one that does not read; read, and go on."""
    told, wrong, answered = "", "", 0
    with hostd.connect(target.endpoint) as client:
        model = client.retrieve_model(PREY).options(timeout_s=20)
        cue.under_way()
        pending = [model.submit.sized(size) for _ in range(calls)]
        cue.hold()  # not reading, until it is over
        for each in pending:
            try:
                each.result()
                answered += 1
            except hostd.DeadlineExceededError:
                wrong = f"{calls - answered} answers are missing, and nobody said so"
                break
            except hostd.HostError as error:
                told = told or f"{type(error).__name__}: {error.message}"
        for _ in range(3):  # the first may be told yet what has happened to the connection
            try:
                model.echo(7)
                break
            except hostd.HostError as error:
                told = told or f"{type(error).__name__}: {error.message}"
        else:
            wrong = f"the client does not work any more: {told}"
    return Report({"asked": calls, "answered": answered}, told or "everything was answered", wrong)
