"""A model that is fed, in a worker of each kind, and what feeds it."""

import asyncio
import threading

import hostd

SOURCE = """
    import asyncio, os, pathlib, time

    class Model:
        def echo(self, x):
            return x
        def total(self, items, start=0):
            return start + sum(items)
        def double(self, items):
            for item in items:
                yield 2 * item
        def first(self, items):
            return next(items)
        def ask(self, questions):
            for question in questions:
                yield f"{question}?"
        def weigh(self, arrays):
            return [float(array.sum()) for array in arrays]
        def slow(self, items, gate):
            first = next(items)
            while not pathlib.Path(gate).exists():
                time.sleep(0.002)
            return first.nbytes + sum(item.nbytes for item in items)
        def die(self, items):
            next(items)
            os.kill(os.getpid(), 9)
        def note(self, items, path):
            try:
                return sum(items)
            except Exception as error:
                pathlib.Path(path).write_text(f"{type(error).__name__}: {error}")
                raise
            finally:
                with open(path, "a") as file:
                    file.write(" left")

        async def async_total(self, items, start=0):
            async for item in items:
                start += item
            return start
        async def async_double(self, items):
            async for item in items:
                yield 2 * item
        async def async_first(self, items):
            return await items.__anext__()
        async def async_note(self, items, path):
            try:
                async for item in items:
                    pass
            except Exception as error:
                pathlib.Path(path).write_text(f"{type(error).__name__}: {error}")
                raise
            finally:
                with open(path, "a") as file:
                    file.write(" left")
        async def linger(self, items, path):
            await items.__anext__()
            pathlib.Path(path).touch()
            try:
                await asyncio.Event().wait()
            finally:
                pathlib.Path(path).write_text(" left")
        async def async_die(self, items):
            await items.__anext__()
            os.kill(os.getpid(), 9)

    def load(path):
        return Model()
"""

PLAIN_SOURCE = SOURCE.split("\n        async def", 1)[0] + "\n\n    def load(path):\n        return Model()\n"
"""Without coroutine methods a worker has no asyncio loop."""

KINDS = ["plain", "coroutines"]


def started(client, model_dir, kind):
    """Return the model `fed` in a worker of a kind."""
    source, prefix = (PLAIN_SOURCE, "") if kind == "plain" else (SOURCE, "async_")
    return Fed(known(client.load_model("fed", model_dir(source))), prefix)


def known(model):
    """Return a model whose next call of whatever kind goes the way of the test."""
    assert model.submit.echo(1).result() == 1
    return model


class Fed:
    def __init__(self, model, prefix):
        self.model = model
        self.prefix = prefix

    def __getattr__(self, name):
        return getattr(self.model, self.prefix + name)

    def stream(self, name):
        return getattr(self.model.stream, self.prefix + name)


class Noted:
    """A generator that notes how far it went, and that it was closed."""

    def __init__(self, items):
        self.taken, self.closed = [], threading.Event()
        self.items = self._iterate(items)

    def _iterate(self, items):
        try:
            for item in items:
                self.taken.append(item)
                yield item
        finally:
            self.closed.set()


def asynchronously(host, do, model_id="fed"):
    """Run `do(model)` with a model of an asyncio client."""

    async def run():
        async with hostd.AsyncClient(host.endpoint) as client:
            return await do(await client.retrieve_model(model_id))

    return asyncio.run(run())


async def later(items):
    for item in items:
        await asyncio.sleep(0)
        yield item
