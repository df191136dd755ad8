"""The models of the storm: they say what they have run, keep arguments, and give out memory that they use again.

The file is the model's own, and its callers import `pattern` from it: what an array must hold follows from a number.
"""

import asyncio
import os
import time
from collections import deque

import numpy as np

MOST_ITEMS = 1 << 19
"""4 MiB of them."""

KEPT_ARRAYS = 12
KEPT_BYTES = 16 << 20

_TEMPLATE = np.arange(MOST_ITEMS, dtype="u8") * np.uint64(0x9E3779B97F4A7C15)


def pattern(size, seed):
    """Return the array of so many items that a number stands for."""
    return _TEMPLATE[:size] ^ seed


class Kept:
    """Arrays that are kept for a while, and must not change meanwhile."""

    def __init__(self):
        self._arrays = deque()
        self._size_bytes = 0
        self.changed = []

    def add(self, array, seed):
        """Keep one more, and look at those that are kept no longer."""
        self._arrays.append((array, seed))
        self._size_bytes += array.nbytes
        while len(self._arrays) > KEPT_ARRAYS or self._size_bytes > KEPT_BYTES:
            self._drop()

    def clear(self):
        """Look at all that are kept, and keep none."""
        while self._arrays:
            self._drop()

    def _drop(self):
        array, seed = self._arrays.popleft()
        self._size_bytes -= array.nbytes
        if not np.array_equal(array, pattern(len(array), seed)):
            self.changed.append(seed)


class Model:
    """Each method takes the name of its call, which goes into a file before anything else is done."""

    def __init__(self, ran):
        self._ran = os.open(ran, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._kept = Kept()
        self._memory = _TEMPLATE.copy()

    def _note(self, call):
        os.write(self._ran, f"{call}\n".encode())

    def echo(self, call, x):
        self._note(call)
        return x

    def pair(self, asked):
        return self.echo(*asked)

    def total(self, call, x):
        self._note(call)
        return int(x.sum())

    def keep(self, call, x, seed):
        self._note(call)
        self._kept.add(x, seed)
        return self._kept.changed

    def forget(self):
        """Keep nothing any more, and return what had changed."""
        self._kept.clear()
        return self._kept.changed

    def again(self, call, size, seed):
        """Return memory that the next such call writes into."""
        self._note(call)
        return self._filled(size, seed)

    def items(self, call, count, size, seed):
        self._note(call)
        for number in range(count):
            yield self._filled(size, seed + number)

    def wait(self, call, seconds):
        self._note(call)
        time.sleep(seconds)
        return seconds

    def fail(self, call):
        self._note(call)
        raise ValueError(f"as {call} asked")

    def _filled(self, size, seed):
        np.bitwise_xor(_TEMPLATE[:size], seed, out=self._memory[:size])
        return self._memory[:size]


class Coroutines:
    """The same as coroutines, of which many go on at a time."""

    def __init__(self, model):
        self._model = model

    async def echo(self, call, x):
        return self._model.echo(call, x)

    async def pair(self, asked):
        return self._model.pair(asked)

    async def total(self, call, x):
        await asyncio.sleep(0)
        return self._model.total(call, x)

    async def keep(self, call, x, seed):
        await asyncio.sleep(0)
        return self._model.keep(call, x, seed)

    async def forget(self):
        return self._model.forget()

    async def again(self, call, size, seed):
        await asyncio.sleep(0)
        return self._model.again(call, size, seed)

    async def items(self, call, count, size, seed):
        for item in self._model.items(call, count, size, seed):
            yield item

    async def wait(self, call, seconds):
        self._model.wait(call, 0)
        await asyncio.sleep(seconds)
        return seconds

    async def fail(self, call):
        self._model.fail(call)


def load(path, ran, coroutines=False, hold_bytes=0):
    """Return a model that writes what it runs into the file `ran`, and holds so many bytes more."""
    model = Model(ran)
    model.held = np.ones(hold_bytes, "u1")
    return Coroutines(model) if coroutines else model
