"""Short ways to use a channel, and threads that can be asked for their outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fake_host import FakeHost, Frames, echo
from helpers import eventually

from hostd.client._sync.channel import Channel
from hostd.client._sync.streams import ItemStream
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from hostd.client.tracker import Pending

Fake = Callable[..., FakeHost]
Connect = Callable[[], Channel]


def begin(channel: Channel, value: Any = "x", timeout_s: float | None = None) -> Pending:
    return channel.begin(lambda tracker: tracker.call("m", "echo", [value], {}, timeout_s))


def call(channel: Channel, value: Any = "x", timeout_s: float | None = None) -> Any:
    return channel.wait(begin(channel, value, timeout_s), timeout_s)


def stream(channel: Channel, count: int) -> ItemStream:
    return ItemStream(channel, channel.begin(lambda t: t.stream("m", "count", [count], {}, None)), None)


def item(request: wire.Envelope, value: object) -> Frames:
    return wire.pack(msg.ITEM, request.id, body=encode(value)[0])


class Waiting:
    """A thread that waits for something on a channel, and what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self.outcome = work()
        except HostError as error:
            self.outcome = error

    def join(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the thread waits for ever"
        return self.outcome


def follows(channel: Channel, count: int = 1) -> None:
    """Wait until `count` threads follow."""
    eventually(lambda: len(channel._followers) >= count, f"{count} followers")


def answer(host: FakeHost, number: int, value: Any = None) -> None:
    """Answer the call of this number."""
    request = host.await_kind(msg.CALL, number + 1)[number]
    for frames in echo(host, request):
        host.say(frames)


def outcome_of(work: Callable[[], Any]) -> Any:
    """Return the result, or the class of the typed error."""
    try:
        return work()
    except HostError as error:
        return type(error)
