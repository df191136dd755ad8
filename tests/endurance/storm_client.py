"""A client of the storm: `storm_client.py ARGUMENTS` calls models in every way, and writes down what came of each call.

The arguments are those of `Storm`, as JSON. It says "begun" after its first calls, and at the end, as JSON, what it had
left. Every call becomes a line of the file `book`: see `Call`.
"""

import asyncio
import contextlib
import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from storm_model import MOST_ITEMS, Kept, pattern

import hostd

TIMEOUT_S = 120.0
"""Of a call that should not come to that: a load waits for memory and for a busy machine."""

PAUSE_S = 0.05
"""After an error that the next call would get, too."""

THREADS = 2
TASKS = 4
FIRST_CALLS = 20
_TO_BE_TRIED_LATER = ("NOT_FOUND", "FAILED_PRECONDITION", "UNAVAILABLE", "RESOURCE_EXHAUSTED")
_NOT_NOW = (hostd.NotFoundError, hostd.FailedPreconditionError, hostd.UnavailableError, hostd.AbortedError)
_DETAILS = ("pid", "state", "reason")


class Call(NamedTuple):
    """A call, and what came of it: `end` is "ok", "wrong", "left" (by its caller), or the status of an error."""

    id: str
    client: str
    model_id: str
    method: str
    began_s: float
    ended_s: float
    timeout_s: float
    is_direct: bool
    is_given_up: bool
    end: str
    message: str
    details: dict[str, Any]


class _Asked:
    """A call that was begun."""

    def __init__(self, storm, chance, model_id, methods):
        self.id = f"{storm.name}:{next(storm.numbers)}"
        self.model_id = model_id
        self.method = chance.choice(methods)
        self.timeout_s = TIMEOUT_S
        self.is_given_up = False
        self.is_direct = model_id in storm.client._channel._lanes._by_model
        self.began_s = time.monotonic()
        self.seed = chance.randrange(1 << 40)
        self.size = 8 << chance.choice([*range(14), *range(17)])
        if self.method == "wait":
            self.timeout_s = chance.choice([0.002, 0.05, TIMEOUT_S])
        self.args, self.expected = self._arguments(chance)

    def _arguments(self, chance):
        x, array = self.seed, pattern(min(self.size, MOST_ITEMS), self.seed)
        seconds = chance.choice([0, 0.001, 0.02])
        return {
            "echo": ((self.id, x), x),
            "pair": (((self.id, array),), array),
            "total": ((self.id, array), int(array.sum()) if self.method == "total" else None),
            "keep": ((self.id, array, self.seed), []),
            "again": ((self.id, len(array), self.seed), array),
            "items": ((self.id, chance.randint(0, 150), min(len(array), 1 << 13), self.seed), None),
            "wait": ((self.id, seconds), seconds),
            "fail": ((self.id,), None),
        }[self.method]


_ANY = ["echo"] * 6 + ["pair"] * 3 + ["total"] * 3 + ["keep"] * 3 + ["again"] * 3 + ["wait", "fail"]


class Storm:
    """One process with one client. It calls until `count` calls went directly, or without end (0)."""

    def __init__(self, endpoint, name, kind, models, seed, count, book):
        self.endpoint = endpoint
        self.name = name
        self.kind = kind
        self.models = models
        self.seed = seed
        self.count = count
        self.numbers = iter(range(1, 1 << 62))
        self._book = open(book, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 - as long as the process
        self._noted = 0
        self._has_begun = False
        self._noting = threading.Lock()
        self.client = None
        self.changed = []

    @property
    def is_over(self):
        return 0 < self.count <= self._noted

    def run(self):
        """Call until enough calls are noted; return what is left of it."""
        before = _descriptors()
        if self.kind == "asyncio":
            asyncio.run(self._run_tasks())
        else:
            self._run_threads()
        return {
            "name": self.name,
            f"{self.name}, arrays that have changed": self.changed,
            f"{self.name}, descriptors": _left_of(before),
            f"{self.name}, shared memory": Path("/proc/self/maps").read_text().count("memfd:hostd-lane "),
        }

    def _chances(self, count):
        return [random.Random(f"{self.seed} {self.name} {number}") for number in range(count)]

    # How calls end

    def note(self, asked, end, message="", details=None):
        """Write down what came of a call."""
        details = {name: value for name, value in (details or {}).items() if name in _DETAILS}
        was = (asked.id, self.name, asked.model_id, asked.method, asked.began_s, time.monotonic(), asked.timeout_s)
        call = Call(*was, asked.is_direct, asked.is_given_up, end, message, details)
        with self._noting:
            self._noted += asked.is_direct
            self._book.write(f"{json.dumps(call)}\n")
            if self._noted >= FIRST_CALLS and not self._has_begun:
                self._has_begun = True
                _say("begun")

    def failed(self, asked, error):
        """Write down an error; say whether to wait before the next call."""
        self.note(asked, error.status.name, error.message, error.details)
        return error.status.name in _TO_BE_TRIED_LATER

    def answered(self, asked, answer, kept):
        """Look at an answer, and keep it for a while."""
        expected = asked.expected
        if isinstance(expected, np.ndarray):
            is_right = isinstance(answer, np.ndarray) and np.array_equal(answer, expected)
            if is_right:
                kept.add(answer, asked.seed)
        else:
            is_right = answer == expected and asked.method != "fail"
        self.note(asked, "ok" if is_right else "wrong", "" if is_right else f"answered with {str(answer)[:200]}")

    def take_items(self, asked, item, number):
        """Look at an item of a stream; say whether it is the one that was expected."""
        return np.array_equal(item, pattern(asked.args[2], asked.seed + number))

    # Threads

    def _run_threads(self):
        with hostd.connect(self.endpoint, timeout_s=TIMEOUT_S) as self.client:
            handles = {model_id: self._handle(model_id) for model_id in self.models}
            threads = [
                threading.Thread(target=self._thread, args=(handles, chance)) for chance in self._chances(THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _handle(self, model_id):
        while True:
            with contextlib.suppress(*_NOT_NOW):
                return self.client.retrieve_model(model_id, timeout_s=TIMEOUT_S)
            time.sleep(PAUSE_S)

    def _thread(self, handles, chance):
        kept = Kept()
        while not self.is_over:
            model_id = chance.choice(self.models)
            how = chance.choice([self._one_by_one, self._one_by_one, self._together, self._together, self._map])
            how = self._stream if chance.random() < 0.1 else how
            if how(handles[model_id], chance, model_id, kept):
                time.sleep(PAUSE_S)
        kept.clear()
        self.changed += kept.changed

    def _one_by_one(self, handle, chance, model_id, kept):
        for _ in range(chance.randint(1, 40)):
            asked = _Asked(self, chance, model_id, _ANY)
            try:
                answer = handle.options(timeout_s=asked.timeout_s).call(asked.method, *asked.args)
            except hostd.HostError as error:
                if self.failed(asked, error):
                    return True
            else:
                self.answered(asked, answer, kept)
        return False

    def _together(self, handle, chance, model_id, kept):
        begun = []
        for _ in range(chance.randint(1, 60)):
            asked = _Asked(self, chance, model_id, _ANY)
            begun.append((asked, getattr(handle.options(timeout_s=asked.timeout_s).submit, asked.method)(*asked.args)))
            if chance.random() < 0.1:
                asked.is_given_up = begun[-1][1].cancel()
        is_late = False
        for asked, future in begun:
            if chance.random() < 0.05:
                asked.is_given_up = future.cancel()
            try:
                answer = future.result()
            except hostd.HostError as error:
                is_late |= self.failed(asked, error)
            else:
                self.answered(asked, answer, kept)
        return is_late

    def _map(self, handle, chance, model_id, kept):
        begun = []

        def inputs():
            for _ in range(chance.randint(1, 100)):
                begun.append(_Asked(self, chance, model_id, ["pair"]))
                yield begun[-1].args[0]

        until, is_late, done = chance.choice([10, 1000]), False, 0
        with contextlib.closing(handle.map.pair(inputs())) as answers:
            try:
                for answer in answers:
                    self.answered(begun[done], answer, kept)
                    done += 1
                    if done == until:
                        break
            except hostd.HostError as error:
                is_late = self.failed(begun[done], error)
                done += 1
        for asked in begun[done:]:
            self.note(asked, "left")
        return is_late

    def _stream(self, handle, chance, model_id, _kept):
        asked = _Asked(self, chance, model_id, ["items"])
        until, number = chance.choice([5, 1000, 1000]), 0
        with contextlib.closing(handle.options(timeout_s=TIMEOUT_S).stream.items(*asked.args)) as items:
            try:
                for item in items:
                    if not self.take_items(asked, item, number):
                        self.note(asked, "wrong", f"item {number} was not the one")
                        return False
                    number += 1
                    if number == until:
                        break
            except hostd.HostError as error:
                return self.failed(asked, error)
        self._ended(asked, number, until)
        return False

    def _ended(self, asked, number, until):
        if number == asked.args[1]:
            self.note(asked, "ok")
        elif number == until:
            self.note(asked, "left")
        else:
            self.note(asked, "wrong", f"{number} of {asked.args[1]} items came")

    # Tasks

    async def _run_tasks(self):
        async with hostd.AsyncClient(self.endpoint, timeout_s=TIMEOUT_S) as self.client:
            handles = {model_id: await self._handle_of(model_id) for model_id in self.models}
            await asyncio.gather(*[self._task(handles, chance) for chance in self._chances(TASKS)])

    async def _handle_of(self, model_id):
        while True:
            with contextlib.suppress(*_NOT_NOW):
                return await self.client.retrieve_model(model_id, timeout_s=TIMEOUT_S)
            await asyncio.sleep(PAUSE_S)

    async def _task(self, handles, chance):
        kept = Kept()
        while not self.is_over:
            model_id = chance.choice(self.models)
            how = chance.choice([self._await_together, self._await_together, self._await_one, self._await_items])
            if await how(handles[model_id], chance, model_id, kept):
                await asyncio.sleep(PAUSE_S)
        kept.clear()
        self.changed += kept.changed

    async def _ask(self, handle, asked, kept):
        try:
            answer = await handle.options(timeout_s=asked.timeout_s).call(asked.method, *asked.args)
        except hostd.HostError as error:
            return self.failed(asked, error)
        except asyncio.CancelledError:
            self.note(asked, "left")
            return False
        self.answered(asked, answer, kept)
        return False

    async def _await_one(self, handle, chance, model_id, kept):
        for _ in range(chance.randint(1, 20)):
            if await self._ask(handle, _Asked(self, chance, model_id, _ANY), kept):
                return True
        return False

    async def _await_together(self, handle, chance, model_id, kept):
        tasks = []
        for _ in range(chance.randint(1, 60)):
            asked = _Asked(self, chance, model_id, _ANY)
            tasks.append((asked, asyncio.ensure_future(self._ask(handle, asked, kept))))
            if chance.random() < 0.05:
                await asyncio.sleep(0)
        for asked, task in tasks:
            if chance.random() < 0.1:
                await asyncio.sleep(0)  # or it would not have begun
                asked.is_given_up = task.cancel()
        ends = await asyncio.gather(*[task for _, task in tasks], return_exceptions=True)
        return True in ends  # a task that was cancelled before it began has no other end

    async def _await_items(self, handle, chance, model_id, _kept):
        asked = _Asked(self, chance, model_id, ["items"])
        until, number = chance.choice([5, 1000, 1000]), 0
        async with contextlib.aclosing(handle.options(timeout_s=TIMEOUT_S).stream.items(*asked.args)) as items:
            try:
                async for item in items:
                    if not self.take_items(asked, item, number):
                        self.note(asked, "wrong", f"item {number} was not the one")
                        return False
                    number += 1
                    if number == until:
                        break
            except hostd.HostError as error:
                return self.failed(asked, error)
        self._ended(asked, number, until)
        return False


def _say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _descriptors():
    """Return the descriptors of the kinds that a client takes; pyzmq has others that it keeps."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return [each for each in found if "socket:" in each or "memfd:" in each]


def _left_of(before):
    """Return the descriptors that are still there; ZeroMQ's own thread closes a socket some time after `close`."""
    until_s = time.monotonic() + TIMEOUT_S
    while (left := sorted(set(_descriptors()) - set(before))) and time.monotonic() < until_s:
        time.sleep(PAUSE_S)
    return left


if __name__ == "__main__":
    _say(json.dumps(Storm(**json.loads(sys.argv[1])).run()))
