"""What runs in a worker: caikit itself, which loads one model with its own loader, and the model's methods.

Methods run in threads, as many at a time as caikit's runtime serves, because in caikit they do. A call that is
cancelled is ended as caikit does it: an `AbortedException` is raised in its thread. What a method raises is an answer
(`raised`); so is a stream that it returns, whose items are then asked for.

A stream that goes in comes in pieces while the method runs. All that has come is kept until the call is over, its own
output streams included, because caikit's streams may be iterated more than once.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import itertools
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import caikit
from caikit.core import MODEL_MANAGER
from caikit.core.data_model import DataStream
from caikit.core.modules import ModuleConfig
from caikit.core.toolkit import logging as caikit_logging
from caikit.runtime.types.aborted_exception import AbortedException

import hostd
from hostd.fronts.caikit import codec, raised, tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

AHEAD = 64
"""As many items of a stream that goes in may wait for the method; the host's own streams have the same."""

INTERRUPTED_WITHIN_S = 0.05
"""An exception is raised in a thread that waits when the wait returns to Python: after this at the latest."""

_END = object()


def load(
    path: str | None,  # noqa: ARG001 - the host needs it; caikit has its own idea of paths
    /,
    *,
    source: str,
    config: dict[str, Any],
    libraries: Sequence[str],
    search: Sequence[str],
    module_config: dict[str, Any] | None = None,
    threads: int = 100,
    **named: str,
) -> Worker:
    """Load the model at `source` with caikit's own loader.

    `config` is the whole configuration of the serving process, `libraries` what it has imported for its models and
    `search` its `sys.path`. `module_config` is what a finder of it has found. `named` are the finder and the
    initializer to use. Raises `hostd.ModelError` with the exception of caikit's in its details.
    """
    sys.path.extend(entry for entry in search if entry not in sys.path)
    # It has been merged in the serving process; caikit would merge it again, over what the process has set since.
    os.environ.pop("CONFIG_FILES", None)
    caikit.configure(config_dict={**config, "config_files": "", "merge_strategy": "override"})
    caikit_logging.configure()
    tracing.configure()
    try:
        for library in libraries:
            importlib.import_module(library)
        if module_config is None:
            model = MODEL_MANAGER.load(source, **named)
        else:
            initializer = MODEL_MANAGER.get_initializer(named.get("initializer", "default"))
            model = initializer.init(ModuleConfig(module_config))
    except Exception as error:
        answer = raised.described(error)
        details = {"caikit": answer, "traceback": answer["traceback"], "type": type(error).__name__}
        raise hostd.ModelError(f"{type(error).__name__}: {error}", details=details) from error
    return Worker(model, threads)


class Worker:
    """A model of caikit's, as its serving process calls it."""

    def __init__(self, model: Any, threads: int) -> None:
        self._model = model
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="caikit")
        self._outputs: dict[str, Any] = {}
        self._inputs: dict[str, _Input] = {}
        self._numbers = itertools.count()

    async def describe(self) -> dict[str, Any]:
        """Return which module this is, and its metadata."""
        kind, backend = type(self._model), self._model.load_backend
        return {
            "module_id": kind.MODULE_ID,
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "implementation": kind.BACKEND_TYPE,
            "backend": None if backend is None else backend.backend_type,
            "metadata": codec.plain(dict(self._model.metadata)),
        }

    async def call(
        self, method: str, args: list[Any], kwargs: dict[str, Any], span: dict[str, str]
    ) -> list[Any] | None:
        """Call a method under a span (`tracing`); returns ["returned", value] or ["raised", description]."""
        return await self._answer(lambda: tracing.under(span, lambda: self._call(method, args, kwargs)))

    async def read(self, name: str) -> list[Any] | None:
        """Return an attribute, as `call` returns a value."""
        return await self._answer(lambda: getattr(self._model, name))

    async def open(self, keys: list[str]) -> None:
        """Expect streams that go in, before the call that has them as arguments."""
        for key in keys:
            self._inputs[key] = _Input(asyncio.get_running_loop())

    async def items(self, key: str) -> AsyncIterator[list[Any]]:
        """Iterate over a stream that a method has returned, with items as `call` returns values."""
        output = _Output(self._outputs[key])
        try:
            while (answer := await self._answer(output.following)) is not None:
                yield answer
                if answer[0] == "raised":
                    return
        finally:
            self._threads.submit(output.close)

    async def feed(self, key: str, items: list[Any], end: list[Any] | None) -> None:
        """Take in items of a stream that goes in, and its end; returns when the method is ready for more."""
        stream = self._inputs.get(key)
        if stream is not None:
            await stream.put(items, end)

    async def drop(self, keys: list[str]) -> None:
        """Forget streams: the call that they belong to is over."""
        for key in keys:
            self._outputs.pop(key, None)
            stream = self._inputs.pop(key, None)
            if stream is not None:
                stream.close()

    # In the loop

    async def _answer(self, work: Callable[[], Any]) -> list[Any] | None:
        task = _Work(lambda: self._answer_of(work))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, task.run)
        except asyncio.CancelledError:
            task.abort()
            raise

    # In a thread

    def _answer_of(self, work: Callable[[], Any]) -> list[Any] | None:
        try:
            value = work()
            return None if value is _END else ["returned", codec.encode(value, self._keep)]
        except Exception as error:  # noqa: BLE001 - whatever the model raises is its answer
            return ["raised", raised.described(error)]

    def _call(self, method: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        function = getattr(self._model, method)
        return function(
            *(codec.decode(value, self._find) for value in args),
            **{name: codec.decode(value, self._find) for name, value in kwargs.items()},
        )

    def _keep(self, stream: Any) -> str:
        key = f"out-{next(self._numbers)}"
        self._outputs[key] = stream
        return key

    def _find(self, key: str, is_data_stream: bool) -> Any:  # noqa: FBT001 - the shape of codec.Find
        stream = self._inputs[key]
        return DataStream(stream.items) if is_data_stream else stream.items()


class _Output:
    """One iteration over a stream that a method has returned; only threads touch it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._items: Iterator[Any] | None = None

    def following(self) -> Any:
        """Return the next item, or `_END`."""
        if self._items is None:
            self._items = iter(self._stream)
        return next(self._items, _END)

    def close(self) -> None:
        """End a generator that has not come to its end."""
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


class _Input:
    """A stream that goes in: what has come of it. The loop puts, threads take."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: list[Any] = []
        self._taken = 0
        self._end: list[Any] | None = None
        self._changed = threading.Condition()
        self._has_room = asyncio.Event()

    async def put(self, items: list[Any], end: list[Any] | None) -> None:
        """Add items and the end, and wait until there is room for more."""
        with self._changed:
            self._items.extend(items)
            self._end = self._end or end
            self._changed.notify_all()
        while self._end is None and len(self._items) - self._taken > AHEAD:
            self._has_room.clear()
            await self._has_room.wait()

    def close(self) -> None:
        """End it, where it is: nobody will add to it."""
        with self._changed:
            self._end = self._end or ["ended"]
            self._changed.notify_all()
        self._has_room.set()

    def items(self) -> Iterator[Any]:
        """Iterate over all items, those that have not come yet too."""
        for at in itertools.count():
            with self._changed:
                while at >= len(self._items) and self._end is None:
                    self._changed.wait(INTERRUPTED_WITHIN_S)
                is_over = at >= len(self._items)
                if at >= self._taken and not is_over:
                    self._taken = at + 1
                    self._loop.call_soon_threadsafe(self._has_room.set)
            if not is_over:
                yield codec.decode(self._items[at], _no_stream)
            elif self._end is not None and self._end[0] == "raised":
                raise raised.again(self._end[1])
            else:
                return


class _Work:
    """A function that runs in a thread, and can be aborted there."""

    def __init__(self, function: Callable[[], list[Any] | None]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._is_aborted = False

    def run(self) -> list[Any] | None:
        """Run it, unless it has been aborted already."""
        with self._lock:
            if self._is_aborted:
                raise AbortedException
            self._thread = threading.get_ident()
        try:
            return self._function()
        finally:
            with self._lock:
                self._thread = None

    def abort(self) -> None:
        """Raise AbortedException in the thread, if it is still at it."""
        with self._lock:
            self._is_aborted = True
            if self._thread is not None:
                thread = ctypes.c_ulong(self._thread)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(AbortedException))


def _no_stream(key: str, is_data_stream: bool) -> Any:  # noqa: ARG001, FBT001 - the shape of codec.Find
    raise ValueError("an item of a stream cannot be a stream")
