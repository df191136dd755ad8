"""Whatever the model's code raises, in whatever kind of method: each call gets one answer, and the next one works."""

import asyncio
import builtins

import pytest
from runtime_rig import Rig, cancelled, items, on_a_loop

from hostd_workers.wire.errors import HostError, ModelError


class OwnError(BaseException):
    """Of no kind that anybody knows."""


class NamelessMeta(type):
    """Of classes that do not tell their names."""

    @property
    def __name__(cls):
        raise OwnError


class NamelessError(OwnError, metaclass=NamelessMeta):
    """Cannot be named."""


class UnspeakableError(OwnError):
    """Cannot be told."""

    def __str__(self):
        raise SystemExit("told")


class TreacherousError(ModuleNotFoundError):
    """Raises when it is looked at."""

    @property
    def name(self):
        raise OwnError


class HollowError(HostError):
    """Has left out what the base class sets."""

    def __init__(self):
        pass


class StuffedError(HostError):
    """Carries what raises when it is read."""

    def __init__(self):
        super().__init__("stuffed", details={"x": Raising(OwnError())})


class Raising(dict):
    """A value that raises when it is read."""

    def __init__(self, error):
        super().__init__(a=1)
        self._error = error

    def keys(self):
        raise self._error

    __iter__ = items = keys


ERRORS = {
    "GeneratorExit": lambda: GeneratorExit("gone"),
    "its own": lambda: OwnError("own"),
    "CancelledError": lambda: asyncio.CancelledError("nobody did"),
    "nameless": NamelessError,
    "unspeakable": UnspeakableError,
    "treacherous": TreacherousError,
    "hollow": HollowError,
    "stuffed": StuffedError,
}
if hasattr(builtins, "BaseExceptionGroup"):  # new in Python 3.11
    ERRORS["a group"] = lambda: builtins.BaseExceptionGroup("several", [OwnError(), SystemExit(1)])


def made(error):
    return ERRORS[error]()


class Model:
    """Raises what it is told to, wherever that can be."""

    def echo(self, x):
        return x

    def plain(self, error):
        raise made(error)

    def gives(self, error):
        return Raising(made(error))

    def items(self, error):
        yield 1
        raise made(error)

    def closed(self, error):
        try:
            yield 1
            yield 2
        finally:
            raise made(error)


class AsyncModel(Model):
    """The same in coroutines."""

    async def later(self, error):
        await asyncio.sleep(0)
        raise made(error)

    async def at_once(self, error):
        raise made(error)

    async def in_a_task(self, error):
        await asyncio.gather(self.at_once(error))

    async def gives_later(self, error):
        return Raising(made(error))

    async def items_later(self, error):
        yield 1
        await asyncio.sleep(0)
        raise made(error)

    async def closed_later(self, error):
        try:
            yield 1
            yield 2
        finally:
            raise made(error)

    async def cancels_itself(self):
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def cancels_itself_at_the_end(self):
        asyncio.current_task().cancel()
        return 5

    async def cancels_all(self):
        for task in asyncio.all_tasks():
            if task.get_coro().__qualname__ == "Tasks._run":  # and not the test itself
                task.cancel()
        await asyncio.sleep(0)

    async def waits(self):
        await asyncio.Event().wait()

    async def sets_factory(self):
        asyncio.get_running_loop().set_task_factory(lambda *_, **__: 1 / 0)

    async def survives_its_closing(self, _error):
        try:
            yield 1
        finally:
            yield 2


@pytest.fixture
def rig():
    return Rig(AsyncModel())


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", ["plain", "gives", "later", "at_once", "in_a_task", "gives_later"])
@on_a_loop
async def test_a_call_may_raise_anything(rig, method, error):
    for deadline_ms in (60_000, None):
        rig.call(1, method, error, deadline_ms=deadline_ms)
        assert isinstance((await rig.settle()).error(), HostError if error == "stuffed" else ModelError)
        rig.call(2, "echo", 2)
        assert (await rig.settle()).take() == [(2, "RESULT", 2)]
        assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", ["items", "closed", "items_later", "closed_later"])
@on_a_loop
async def test_a_stream_may_raise_anything(rig, method, error):
    rig.stream(1, method, error, window=9)
    kinds = [kind for _, kind, _ in (await rig.settle()).take()]
    assert kinds == ["ITEM"] * (2 if "closed" in method else 1) + ["ERROR"]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", ["closed", "closed_later", "survives_its_closing"])
@on_a_loop
async def test_a_stream_may_raise_anything_or_go_on_when_it_is_closed(rig, method, error):
    rig.stream(1, method, error, window=1)
    (await rig.settle()).cancel(1)
    assert (await rig.settle()).brief() == [*items(1), cancelled(1)]


@on_a_loop
async def test_a_coroutine_that_cancels_itself_is_answered_once(rig):
    rig.call(1, "cancels_itself")
    assert "CancelledError" in (await rig.settle()).error().message
    rig.call(2, "cancels_itself_at_the_end")
    assert (await rig.settle()).take() == [(2, "RESULT", 5)]


@on_a_loop
async def test_all_calls_that_the_model_cancels_are_answered_those_that_have_not_begun_too(rig):
    for id, method in enumerate(("waits", "cancels_all", "waits"), 1):
        rig.call(id, method)
    rig.stream(4, "items_later", "its own", window=0)
    answers = sorted((id, kind, type(error)) for id, kind, error in (await rig.settle()).take())
    assert answers == [(id, "ERROR", ModelError) for id in (1, 2, 3, 4)]


@on_a_loop
async def test_a_factory_of_tasks_that_the_model_sets_is_for_the_models_own(rig):
    for id in (1, 2):
        rig.call(id, "sets_factory")
    asyncio.get_running_loop().set_task_factory(None)
    assert (await rig.settle()).take() == [(1, "RESULT", None), (2, "RESULT", None)]
    asyncio.get_running_loop().set_task_factory(None)


def test_an_answer_that_cannot_be_sent_is_the_end_of_the_loop_and_its_reason():
    class BrokenError(Exception):
        pass

    def send(_frames):
        raise BrokenError

    @on_a_loop
    async def body():
        rig.call(1, "at_once", "its own")
        await rig.settle()

    rig = Rig(AsyncModel(), send)
    with pytest.raises(RuntimeError, match="stopped"):
        body()
    assert isinstance(rig.runtime.failure, BrokenError)
