"""Channels and the ends of processes: a forked child is refused, and a program may end as it likes."""

from __future__ import annotations

from collections.abc import Callable

from fake_host import FakeHost
from programs import run

Fake = Callable[..., FakeHost]


PRELUDE = """
        import os, sys, threading, warnings
        from hostd.client._sync.channel import Channel
        from hostd.client._sync.streams import ItemStream
        from hostd_workers.wire.errors import FailedPreconditionError
        channel = Channel(sys.argv[1], 20)
        def begin(value, channel=channel):
            return channel.begin(lambda tracker: tracker.call("m", "echo", [value], {}, None))
"""


def test_a_forked_child_is_refused_and_does_not_disturb_its_parent(endpoint: str, fake: Fake) -> None:
    host = fake()
    code = (
        PRELUDE
        + """
        stream = ItemStream(channel, channel.begin(lambda t: t.stream("m", "s", [500], {}, None)), None)
        next(stream)
        pending = begin("before")
        # What another thread holds at the moment of the fork stays held in the child.
        held = [channel._lead, channel._tracking, channel._connecting, channel._pump.waker._using]
        for lock in held:
            lock.acquire()
        child = os.fork()
        if child == 0:
            for attempt in (
                lambda: begin("child"),
                lambda: channel.wait(pending, None),
                lambda: next(stream),
            ):
                try:
                    attempt()
                except FailedPreconditionError as error:
                    assert "made before a fork" in error.message
                    os.write(1, b"refused ")
            channel.cancel(pending)
            stream.close()
            del stream
            channel.close()
            os.write(1, b"closed ")
            own = Channel(sys.argv[1], 20)
            assert own.wait(begin("x", own), 20) == "x"
            own.close()
            os.write(1, b"connected")
            os._exit(0)
        for lock in held:
            lock.release()
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        assert channel.wait(pending, 20) == "before"
        assert channel.wait(begin("after"), 20) == "after"
        assert len(list(stream)) == 499
        channel.close()
    """
    )
    assert run(code, endpoint) == "refused refused refused closed connected"
    assert len(host.clients) == 2


def test_a_program_may_end_without_closing_anything(endpoint: str, fake: Fake) -> None:
    fake()
    code = (
        PRELUDE
        + """
        warnings.simplefilter("ignore")  # ZeroMQ's own warning that a socket was not closed
        stream = ItemStream(channel, channel.begin(lambda t: t.stream("m", "s", [500], {}, None)), None)
        next(stream)
        pending = begin("never waited for")
        threading.Thread(target=lambda: channel.wait(begin("x"), 20)).start()
    """
    )
    run(code, endpoint)
