"""Calls of methods: one answer, or the items of a generator."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import hostd
from hostd.fronts.places import place_of
from hostd.fronts.verbs.route import Asked, Following
from hostd.fronts.verbs.shapes import Result
from hostd.fronts.verbs.streams import block, closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def call_method(asked: Asked) -> Result | Following:
    """Call a method of a model by name."""
    return await _call(asked, asked["method"], _patience_s(asked))


async def call_model(asked: Asked) -> Result | Following:
    """Call the default method of a model."""
    patience_s = _patience_s(asked)
    began_s = time.monotonic()
    # It waits for a load that is under way, as a call does; what that takes is of the same time.
    info = await (await asked.client.retrieve_model(asked["id"], timeout_s=patience_s)).info()
    if info.default_method is None:
        known = sorted(info.methods)
        raise hostd.UnimplementedError(
            f"model {info.id!r} has no default method; call one of: {', '.join(known) or 'none'}",
            details={"methods": known},
        )
    left_s = None if patience_s is None else max(0.0, patience_s - (time.monotonic() - began_s))
    return await _call(asked, info.default_method, left_s)


def _patience_s(asked: Asked) -> float | None:
    given: float | None = asked["timeout_s"]
    return asked.client.timeout_s if given is None else given


async def _call(asked: Asked, method: str, timeout_s: float | None) -> Result | Following:
    if asked["stream"]:
        return Following(_items(asked, method, timeout_s))
    args, kwargs = tuple(asked["args"] or ()), asked["kwargs"] or {}
    with place_of(asked["id"]):
        return Result(await asked.client.call(asked["id"], method, args, kwargs, timeout_s))


async def _items(asked: Asked, method: str, timeout_s: float | None) -> AsyncIterator[bytes]:
    args, kwargs = tuple(asked["args"] or ()), asked["kwargs"] or {}
    number = 0
    with place_of(asked["id"]):
        async with closing(asked.client.stream(asked["id"], method, args, kwargs, timeout_s)) as items:
            async for item in items:
                number += 1
                yield block("item", item, number)
    yield block("end", {"items": number})
