"""What a caller feeds a call with: what users make, and what a request keeps of it. Does no I/O."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from hostd.not_pickled import NotPickled
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import AbortedError, InvalidArgumentError, sayable
from hostd_workers.wire.feeds import FEED_WINDOW, FeedSender

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable, Callable, Iterable, Sequence

    from hostd_workers.wire.frames import Buffer

_SAID_CHARS = 2000


class Feed(NotPickled):
    """An argument whose items go to the model while its method runs: `model.transcribe(hostd.Feed(chunks()))`.

    The method gets an iterator, an `async def` method an asynchronous one. Nothing is taken from `items` before the
    method asks for its first item, and at most `window` items (1 to 64) are ahead of it; with 1, each is taken when the
    method asks for it. What `items` raises ends the call, which raises it. A method that returns early leaves the rest,
    and a generator is closed then. `AsyncClient` also takes asynchronous iterables.

    Raises `InvalidArgumentError` if `items` is not iterable.
    """

    _instead = "it is of one call in this process; begin the call where its items are"

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any], *, window: int = FEED_WINDOW) -> None:
        if not hasattr(items, "__iter__") and not hasattr(items, "__aiter__"):
            raise InvalidArgumentError(f"a feed takes an iterable of items, got a {type(items).__name__}")
        if not 1 <= window <= FEED_WINDOW:
            raise InvalidArgumentError(f"the window of a feed is 1 to {FEED_WINDOW} items, got {window}")
        self.items: Any = items
        self.window = window

    def __repr__(self) -> str:
        return f"<Feed of a {type(self.items).__name__}, window {self.window}>"


class Feeding:
    """The feed of one call, and how far it is; `failure` is what its items raised, for whoever waits elsewhere."""

    __slots__ = ("asked", "busy", "failure", "items", "iterator", "place", "sender", "task", "window")

    def __init__(self, place: int | str, feed: Feed) -> None:
        self.place = place
        self.items = feed.items
        self.window = feed.window
        self.sender = FeedSender(feed.window)
        self.failure: BaseException | None = None
        self.iterator: Any = None
        """Of the items, once the model has asked."""
        self.busy = threading.Lock()
        """Held by the thread that iterates, of a synchronous client."""
        self.task: asyncio.Task[None] | None = None
        """What iterates, of an asyncio client."""
        self.asked: Callable[[], None] | None = None
        """Called when the model asks, in place of the request's listeners."""


def feeding_of(args: Sequence[Any], kwargs: dict[str, Any], *, may_await: bool, whole_for: str = "") -> Feeding | None:
    """Return the feed among arguments, if there is one.

    Raises `InvalidArgumentError` for a second one, for one that this client cannot iterate over, and for a way of
    calling that takes none (`whole_for`).
    """
    places: list[tuple[int | str, Feed]] = [(i, value) for i, value in enumerate(args) if type(value) is Feed]
    if kwargs:
        places += [(name, value) for name, value in kwargs.items() if type(value) is Feed]
    if not places:
        return None
    if whole_for:
        raise InvalidArgumentError(
            f"{whole_for} takes no feed: nobody would iterate over it; call the method, or stream it"
        )
    if len(places) > 1:
        raise InvalidArgumentError(
            f"a call takes one feed, got {len(places)}: join what they yield, as pairs or by name"
        )
    place, feed = places[0]
    if not may_await and not hasattr(feed.items, "__iter__"):
        raise InvalidArgumentError(
            "a synchronous client feeds from plain iterables: take a hostd.AsyncClient for this one"
        )
    return Feeding(place, feed)


def no_more(request_id: int) -> list[Buffer]:
    """Return the end of a call's feed."""
    return wire.pack(msg.END, request_id, body=encode(None)[0])


def gave_out(request_id: int, error: BaseException) -> list[Buffer]:
    """Return what the model is to know of an error that a call's feed has raised."""
    said = f"the caller's input failed: {type(error).__name__}: {sayable(error)}"
    return msg.pack_error(request_id, AbortedError(said[:_SAID_CHARS]))
