"""Whatever the model's code raises, in whatever kind of method: each call gets one answer, and the next one works."""

from __future__ import annotations

import asyncio
import builtins
from typing import TYPE_CHECKING, Any

import pytest
from runtime_loop import run, settle
from runtime_rig import Rig

from hostd_workers.wire.errors import HostError, ModelError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


class OwnError(BaseException):
    """Of no kind that anybody knows."""


class NamelessMeta(type):
    """Of classes that do not tell their names."""

    @property
    def __name__(cls) -> str:
        raise OwnError


class NamelessError(OwnError, metaclass=NamelessMeta):
    """Cannot be named."""


class UnspeakableError(OwnError):
    """Cannot be told."""

    def __str__(self) -> str:
        raise SystemExit("told")


class TreacherousError(ModuleNotFoundError):
    """Raises when it is looked at."""

    @property
    def name(self) -> str:  # type: ignore[override]
        raise OwnError


class HollowError(HostError):
    """Has left out what the base class sets."""

    def __init__(self) -> None:
        pass


class StuffedError(HostError):
    """Carries what raises when it is read."""

    def __init__(self) -> None:
        super().__init__("stuffed", details={"x": Raising(OwnError())})


class Raising(dict):  # type: ignore[type-arg]
    """A value that raises when it is read."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(a=1)
        self._error = error

    def keys(self) -> Any:
        raise self._error

    __iter__ = items = keys  # type: ignore[assignment]


ERRORS: dict[str, Callable[[], BaseException]] = {
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
    ERRORS["a group"] = lambda: builtins.BaseExceptionGroup("several", [OwnError(), SystemExit(1)])  # type: ignore[attr-defined]
TYPES = {"stuffed": HostError}


def made(error: str) -> BaseException:
    return ERRORS[error]()


class Model:
    """Raises what it is told to, wherever that can be."""

    def echo(self, x: Any) -> Any:
        return x

    def plain(self, error: str) -> None:
        raise made(error)

    def gives(self, error: str) -> Any:
        return Raising(made(error))

    def items(self, error: str) -> Iterator[int]:
        yield 1
        raise made(error)

    def closed(self, error: str) -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise made(error)


class AsyncModel(Model):
    """The same in coroutines."""

    async def later(self, error: str) -> None:
        await asyncio.sleep(0)
        raise made(error)

    async def at_once(self, error: str) -> None:
        raise made(error)

    async def in_a_task(self, error: str) -> None:
        async def work() -> None:
            raise made(error)

        await asyncio.gather(work())

    async def gives_later(self, error: str) -> Any:
        return Raising(made(error))

    async def items_later(self, error: str) -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        raise made(error)

    async def closed_later(self, error: str) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise made(error)

    async def cancels_itself(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def cancels_itself_at_the_end(self) -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return 5

    async def cancels_all(self) -> None:
        for task in asyncio.all_tasks():
            if task.get_coro().__qualname__ == "Tasks._run":  # type: ignore[union-attr] # and not the test itself
                task.cancel()
        await asyncio.sleep(0)

    async def waits(self) -> None:
        await asyncio.Event().wait()

    async def sets_factory(self) -> None:
        asyncio.get_running_loop().set_task_factory(lambda *_, **__: 1 / 0)  # type: ignore[arg-type, return-value]

    async def survives_its_closing(self) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            yield 2


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", ["plain", "gives"])
def test_a_plain_method_may_raise_anything(method: str, error: str) -> None:
    rig = Rig(Model())
    rig.call(1, method, error)
    assert isinstance(rig.run().error(), TYPES.get(error, ModelError))
    rig.call(2, "echo", 2)
    assert rig.run().take() == [(2, "RESULT", 2)]


@pytest.mark.parametrize("error", ERRORS)
def test_a_generator_may_raise_anything(error: str) -> None:
    rig = Rig(Model())
    rig.stream(1, "items", error, window=9)
    assert [kind for _, kind, _ in rig.run().take()] == ["ITEM", "ERROR"]


@pytest.mark.parametrize("error", ERRORS)
def test_a_generator_may_raise_anything_when_it_is_closed(error: str) -> None:
    rig = Rig(Model())
    rig.stream(1, "closed", error, window=1)
    rig.run().cancel(1)
    assert rig.run().brief() == [(1, "ITEM", 1), (1, "ERROR", "CANCELLED")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", ["later", "at_once", "in_a_task", "gives_later"])
@pytest.mark.parametrize("deadline_ms", [60_000, 0xFFFFFFFF])
def test_a_coroutine_may_raise_anything(method: str, error: str, deadline_ms: int) -> None:
    async def body() -> None:
        rig = Rig(AsyncModel())
        rig.call(1, method, error, deadline_ms=deadline_ms)
        assert isinstance((await settle(rig)).error(), TYPES.get(error, ModelError))
        rig.call(2, "echo", 2)
        assert (await settle(rig)).take() == [(2, "RESULT", 2)]
        assert not rig.runtime._tasks

    run(body)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", ["items_later", "closed_later"])
def test_an_async_generator_may_raise_anything(method: str, error: str) -> None:
    async def body() -> None:
        rig = Rig(AsyncModel())
        rig.stream(1, method, error, window=9)
        *items, (_, kind, _) = (await settle(rig)).take()
        assert [kind for _, kind, _ in items] == ["ITEM"] * (1 if method == "items_later" else 2)
        assert kind == "ERROR"

    run(body)


@pytest.mark.parametrize("error", ERRORS)
def test_an_async_generator_may_raise_anything_when_it_is_closed(error: str) -> None:
    async def body() -> None:
        rig = Rig(AsyncModel())
        rig.stream(1, "closed_later", error, window=1)
        await settle(rig)
        rig.cancel(1)
        assert (await settle(rig)).brief() == [(1, "ITEM", 1), (1, "ERROR", "CANCELLED")]

    run(body)


def test_an_async_generator_that_survives_its_closing_ends_all_the_same() -> None:
    async def body() -> None:
        rig = Rig(AsyncModel())
        rig.stream(1, "survives_its_closing", window=1)
        await settle(rig)
        rig.cancel(1)
        assert (await settle(rig)).brief() == [(1, "ITEM", 1), (1, "ERROR", "CANCELLED")]

    run(body)


def test_a_coroutine_that_cancels_itself_is_answered_once() -> None:
    async def body() -> None:
        rig = Rig(AsyncModel())
        rig.call(1, "cancels_itself")
        assert "CancelledError" in (await settle(rig)).error().message
        rig.call(2, "cancels_itself_at_the_end")
        assert (await settle(rig)).take() == [(2, "RESULT", 5)]

    run(body)


def test_all_calls_that_the_model_cancels_are_answered_those_that_have_not_begun_too() -> None:
    async def body() -> None:
        rig = Rig(AsyncModel())
        for id, method in enumerate(("waits", "cancels_all", "waits"), 1):
            rig.call(id, method)
        rig.stream(4, "items_later", "its own", window=0)
        answers = (await settle(rig)).take()
        assert sorted((id, kind, type(error)) for id, kind, error in answers) == [
            (id, "ERROR", ModelError) for id in (1, 2, 3, 4)
        ]

    run(body)


def test_a_factory_of_tasks_that_the_model_sets_is_for_the_models_own() -> None:
    async def body() -> None:
        rig = Rig(AsyncModel())
        for id in (1, 2):
            rig.call(id, "sets_factory")
        asyncio.get_running_loop().set_task_factory(None)
        assert (await settle(rig)).take() == [(1, "RESULT", None), (2, "RESULT", None)]
        asyncio.get_running_loop().set_task_factory(None)

    run(body)


def test_an_answer_that_cannot_be_sent_is_the_end_of_the_loop_and_its_reason() -> None:
    class BrokenError(Exception):
        pass

    def send(_frames: object) -> None:
        raise BrokenError

    rig = Rig(AsyncModel())
    rig.runtime._answers._send = send

    async def body() -> None:
        rig.call(1, "at_once", "its own")
        await settle(rig)

    with pytest.raises(RuntimeError, match="stopped"):
        run(body)
    assert isinstance(rig.runtime.failure, BrokenError)


def test_a_typed_error_that_is_whole_passes_through() -> None:
    class KeptError(NotFoundError):
        pass

    class Kept:
        def find(self) -> None:
            raise KeptError("gone", details={"label": 7})

    rig = Rig(Kept())
    rig.call(1, "find")
    error = rig.run().error()
    assert (type(error), error.message, error.details) == (KeptError, "gone", {"label": 7})
