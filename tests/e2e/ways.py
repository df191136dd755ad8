"""Both ways that a call can go: each story that uses `way` is told by the host, and again directly from the first call on.

Without this a client calls a model by the host until it has called it twice and the host has answered.
"""

import time

from helpers import PATIENCE_S

from hostd.client._async.channel import AsyncChannel
from hostd.client._sync.channel import Channel
from hostd.client.lanes import Lanes
from hostd.client.tracker import Tracker


def only_by_the_host(monkeypatch):
    """Have no client use a lane."""
    monkeypatch.setattr(Lanes, "of", lambda _self, _model_id: None)


def directly(monkeypatch):
    """Have each client wait for the lane of a model, if it can have one, before it calls it."""
    begin, begin_all, begin_async, begin_all_async = (
        Channel.begin,
        Channel.begin_all,
        AsyncChannel.begin,
        AsyncChannel.begin_all,
    )

    def open_first(channel, make):
        asked = _asked(channel, make)
        if asked is not None and not channel.inside.is_here():
            pending = begin(channel, asked)
            channel.wait_until(pending, lambda: pending.is_done or pending._taken, time.monotonic() + PATIENCE_S)

    async def open_first_async(channel, make):
        asked = _asked(channel, make)
        if asked is not None:
            pending = await begin_async(channel, asked)
            await channel.wait_until(pending, lambda: pending.is_done or pending._taken, time.monotonic() + PATIENCE_S)

    def patched(channel, make):
        open_first(channel, make)
        return begin(channel, make)

    def patched_all(channel, makers):
        makers = list(makers)
        open_first(channel, makers[0]) if makers else None
        return begin_all(channel, makers)

    async def patched_async(channel, make):
        await open_first_async(channel, make)
        return await begin_async(channel, make)

    async def patched_all_async(channel, makers):
        makers = list(makers)
        await open_first_async(channel, makers[0]) if makers else None
        return await begin_all_async(channel, makers)

    monkeypatch.setattr(Channel, "begin", patched)
    monkeypatch.setattr(Channel, "begin_all", patched_all)
    monkeypatch.setattr(AsyncChannel, "begin", patched_async)
    monkeypatch.setattr(AsyncChannel, "begin_all", patched_all_async)


def _asked(channel, make):
    """Return what asks for the lane that a call needs; None if it has it, or is no call."""
    scratch = Tracker(may_await=True)
    scratch.welcome = channel._tracker.welcome
    model_id = make(scratch)[0].model_id
    lanes = channel._lanes
    if model_id is None or model_id in lanes._by_model or not lanes._is_on:
        return None
    return lambda _tracker: lanes.ask(model_id)
