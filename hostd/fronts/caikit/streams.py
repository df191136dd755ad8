"""Streams between the serving process and a worker, as the serving process sees them.

Covers `Call`, what a call with streams has beyond its answer, with the threads that read what goes in; and `Items`, the
iterator over what comes out. What is kept in the worker for a call is dropped when nobody here refers to it any more.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from caikit.core.data_model import DataStream

import hostd
from hostd.fronts.caikit import codec, raised

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostd.fronts.caikit.remote import Remote

AHEAD = 64
"""As many items are read of a stream that goes in before the worker has taken them."""

_numbers = itertools.count()


class Call:
    """The streams of one call; lives as long as somebody may ask for items of it."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self._inputs: dict[str, Any] = {}
        self._keys: list[str] = []
        self._is_over = threading.Event()

    def keep(self, stream: Any) -> str:
        """Take a stream that is to go in; for `codec.encode`."""
        key = f"in-{next(_numbers)}"
        self._inputs[key] = stream
        return key

    def find(self, key: str, is_data_stream: bool) -> Any:  # noqa: FBT001 - the shape of codec.Find
        """Return a stream that comes out; for `codec.decode`."""
        self._drop_later(key)
        return DataStream(partial(Items, self, key)) if is_data_stream else Items(self, key)

    def begin(self) -> None:
        """Have the streams that go in read, if there are any; before the call."""
        if not self._inputs:
            return
        self._drop_later(*self._inputs)
        self.remote.ask("open", list(self._inputs))
        for key, source in self._inputs.items():
            _Feeder(weakref.ref(self.remote), key, self._is_over).start(source)
        self._inputs = {}

    def _drop_later(self, *keys: str) -> None:
        if not self._keys:
            weakref.finalize(self, _drop, self.remote, self._keys, self._is_over).atexit = False
        self._keys.extend(keys)


def _drop(remote: Remote, keys: list[str], is_over: threading.Event) -> None:
    is_over.set()
    remote.tell("drop", list(keys))


class Items:
    """An iterator over the items of a stream that a model has returned."""

    def __init__(self, call: Call, key: str) -> None:
        self._call = call
        self._key = key
        self._items: Any = None
        self._is_done = False

    def __iter__(self) -> Items:
        return self

    def __next__(self) -> Any:
        if self._is_done:
            raise StopIteration
        if self._items is None:
            self._items = self._call.remote.stream("items", self._key)
        answer = None
        try:
            answer = self._call.remote.wait(_following(self._items))
        finally:
            self._is_done = answer is None or answer[0] == "raised"
        if answer is None:
            raise StopIteration
        return value_of(answer, self._call)

    def close(self) -> None:
        """Cancel what is still to come, in the worker too."""
        if not self._is_done and self._items is not None:
            self._is_done = True
            self._call.remote.begin(self._items.aclose())

    def __del__(self) -> None:
        self.close()


def value_of(answer: Any, call: Call) -> Any:
    """Return what a worker's answer says that was returned, or raise what was raised."""
    kind, value = answer
    if kind == "raised":
        raise raised.again(value)
    return codec.decode(value, call.find)


async def _following(items: Any) -> Any:
    return await anext(items, None)


class _Feeder:
    """Reads a stream in a thread of its own and sends what is there, in as large pieces as it comes.

    The thread may hang in the stream, which is a client's: it ends with the next item, or the end, after the call. So
    it does not keep the model.
    """

    def __init__(self, remote: weakref.ref[Remote], key: str, is_over: threading.Event) -> None:
        self._remote = remote
        self._key = key
        self._is_over = is_over
        self._items: collections.deque[Any] = collections.deque()
        self._has_room = threading.Semaphore(AHEAD)
        self._end: list[Any] | None = None
        self._is_sending = threading.Lock()

    def start(self, source: Iterable[Any]) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, args=(source,), name=f"hostd-{self._key}", daemon=True).start()

    def _read(self, source: Iterable[Any]) -> None:
        try:
            for item in source:
                if self._is_over.is_set():
                    return
                self._has_room.acquire()
                self._items.append(codec.encode(item, _no_stream))
                self._hurry()
            end: list[Any] = ["ended"]
        except Exception as error:  # noqa: BLE001 - whatever the source raises is the model's to see
            end = ["raised", raised.described(error)]
        self._end = end
        self._hurry()

    def _hurry(self) -> None:
        remote = self._remote()
        if remote is not None:
            remote.begin(self._send(remote))

    async def _send(self, remote: Remote) -> None:
        """Send all that is there, one piece at a time, in the loop."""
        if not self._is_sending.acquire(blocking=False):
            return
        try:
            while self._items or self._end is not None:
                items = [self._items.popleft() for _ in range(len(self._items))]
                end = None if self._items else self._end
                if end is not None:
                    self._end = None
                await remote.call("feed", self._key, items, end)
                self._has_room.release(len(items) or 1)
        except (hostd.HostError, asyncio.CancelledError):
            self._is_over.set()
            self._has_room.release(AHEAD)
            raise
        finally:
            self._is_sending.release()


def _no_stream(stream: Any) -> str:
    raise TypeError(f"an item of a stream cannot be a stream: {type(stream).__name__}")
