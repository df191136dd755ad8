"""What of a model is exposed, found without running its code where that can be avoided."""

from __future__ import annotations

import abc
import functools
from typing import TYPE_CHECKING, Any

import pytest

from hostd_workers.methods import MAX_DOC_CHARS, MAX_SIGNATURE_CHARS, default_of, methods_of
from hostd_workers.wire.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Base:
    def inherited(self) -> None:
        """Come from the base."""


class Model(Base):
    """A model with everything that may be in one."""

    CONSTANT = 3
    Nested = type("Nested", (), {})

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.attached = lambda x: x
        self.data = [1, 2]

    def predict(self, x: int, *, scale: float = 1.0) -> float:
        """Multiply.

        More about it.
        """
        return x * scale

    def generate(self, n: int) -> Iterator[int]:
        yield n

    async def later(self, x: int) -> int:
        return x

    async def generate_later(self, n: int) -> AsyncIterator[int]:
        yield n

    @staticmethod
    def static(x: int) -> int:
        return x

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @functools.wraps(predict)
    def wrapped(self, *args: Any, **kwargs: Any) -> Any:
        return self.predict(*args, **kwargs)

    partial = functools.partialmethod(predict, scale=2.0)

    @property
    def prop(self) -> Any:
        self.ran.append("prop")
        return lambda: None

    @functools.cached_property
    def cached(self) -> Any:
        self.ran.append("cached")
        raise RuntimeError("too early")

    def _private(self) -> None: ...


class Explosive:
    """A descriptor that fails when it is read."""

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        raise RuntimeError("not now")


EXPOSED = {
    "attached",
    "generate",
    "generate_later",
    "inherited",
    "later",
    "of_class",
    "partial",
    "predict",
    "static",
    "wrapped",
}


def test_public_callables_are_exposed_and_no_code_of_the_model_runs() -> None:
    model = Model()
    assert set(methods_of(model, None)) == EXPOSED
    assert model.ran == []


@pytest.mark.parametrize(
    ("name", "streams", "is_async"),
    [
        ("predict", False, False),
        ("generate", True, False),
        ("later", False, True),
        ("generate_later", True, True),
        ("static", False, False),
        ("attached", False, False),
    ],
)
def test_a_method_says_how_it_answers(name: str, streams: bool, is_async: bool) -> None:
    method = methods_of(Model(), None)[name]
    assert (method.streams, method.is_async) == (streams, is_async)
    assert (method.describe()["streams"], method.describe()["is_async"]) == (streams, is_async)


def test_a_description_has_the_signature_and_the_first_line() -> None:
    assert methods_of(Model(), None)["predict"].describe() == {
        "name": "predict",
        "streams": False,
        "is_async": False,
        "signature": "(x: 'int', *, scale: 'float' = 1.0) -> 'float'",
        "doc": "Multiply.",
    }
    assert methods_of(Model(), None)["inherited"].describe()["doc"] == "Come from the base."
    assert methods_of(Model(), None)["generate"].describe()["doc"] == ""


def test_a_description_stays_short_and_can_be_sent() -> None:
    def wordy(x: str = "y" * 9999) -> None: ...

    wordy.__doc__ = "\udcff" + "z" * 9999
    described = methods_of(wordy, None)["__call__"].describe()
    assert len(described["signature"]) == MAX_SIGNATURE_CHARS
    assert len(described["doc"]) == MAX_DOC_CHARS
    assert described["doc"].startswith("\\udcffzzz")


def test_a_signature_that_cannot_be_shown_is_left_open() -> None:
    class Default:
        def __repr__(self) -> str:
            raise RuntimeError("not for show")

    class Odd:
        iterate = staticmethod(iter)

        def predict(self, x: Any = Default()) -> Any:  # noqa: B008 - what is tested
            return x

    methods = methods_of(Odd(), None)
    assert methods["predict"].describe()["signature"] == "(...)"
    assert methods["iterate"].describe()["signature"] == "(...)"


def test_an_attribute_that_cannot_be_read_is_not_exposed_and_says_so_if_it_is_wanted() -> None:
    class Odd:
        broken = Explosive()

        def predict(self) -> None: ...

    assert set(methods_of(Odd(), None)) == {"predict"}
    with pytest.raises(InvalidArgumentError, match="has no method 'broken' to expose; it has: predict"):
        methods_of(Odd(), ["broken"])


def test_named_methods_alone_are_exposed_private_ones_too() -> None:
    assert list(methods_of(Model(), ["generate", "_private"])) == ["generate", "_private"]
    assert list(methods_of(Model(), ("predict",))) == ["predict"]


@pytest.mark.parametrize("name", ["nope", "data", "CONSTANT", "ran"])
def test_a_name_that_is_no_method_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"a Model, has no method '{name}' to expose; it has: attached"):
        methods_of(Model(), [name])


def test_a_function_is_a_model_with_one_method() -> None:
    def predict(x: int) -> int:
        return x

    methods = methods_of(predict, None)
    assert list(methods) == ["__call__"]
    assert methods["__call__"].function(3) == 3
    assert methods["__call__"].describe()["signature"] == "(x: 'int') -> 'int'"


def test_a_function_that_yields_or_waits_is_known_as_such() -> None:
    def generate(n: int) -> Iterator[int]:
        yield n

    async def later(n: int) -> int:
        return n

    async def generate_later(n: int) -> AsyncIterator[int]:
        yield n

    for function, streams, is_async in ((generate, True, False), (later, False, True), (generate_later, True, True)):
        for model in (function, functools.partial(function, 3)):
            method = methods_of(model, None)["__call__"]
            assert (method.streams, method.is_async) == (streams, is_async), model


def test_a_callable_object_is_its_own_first_method_and_says_how_it_answers() -> None:
    class Plain:
        def __call__(self, x: int) -> int:
            return x

        def helper(self) -> None: ...

    class Streaming:
        async def __call__(self, n: int) -> AsyncIterator[int]:
            yield n

    methods = methods_of(Plain(), None)
    assert list(methods) == ["__call__", "helper"]
    assert (methods["__call__"].streams, methods["__call__"].is_async) == (False, False)
    streaming = methods_of(Streaming(), None)["__call__"]
    assert (streaming.streams, streaming.is_async) == (True, True)


def test_a_class_as_a_model_offers_its_class_methods_not_its_construction() -> None:
    class Registry(abc.ABC):  # noqa: B024 - what is tested
        @classmethod
        def find(cls) -> None:
            return None

    methods = methods_of(Registry, None)
    assert "find" in methods
    assert "__call__" not in methods


@pytest.mark.parametrize("model", [object(), 3, {}.__class__, type("Empty", (), {"data": [1]})()])
def test_a_model_without_methods_is_refused(model: object) -> None:
    if methods_found := [name for name in dir(model) if not name.startswith("_") and callable(getattr(model, name))]:
        assert set(methods_of(model, None)) <= set(methods_found)
    else:
        with pytest.raises(InvalidArgumentError, match="has no public method to call: load"):
            methods_of(model, None)


def test_no_names_are_no_methods() -> None:
    with pytest.raises(InvalidArgumentError, match="no public method"):
        methods_of(Model(), [])


@pytest.mark.parametrize(
    ("names", "wanted", "default"),
    [
        (["__call__", "predict", "x"], None, "__call__"),
        (["x", "predict"], None, "predict"),
        (["x"], None, "x"),
        (["x", "y"], None, None),
        (["x", "y"], "y", "y"),
        (["__call__", "y"], "y", "y"),
    ],
)
def test_the_default_is_what_is_wanted_then_call_then_predict_then_the_only_one(
    names: list[str], wanted: str | None, default: str | None
) -> None:
    methods = {name: methods_of(print, None)["__call__"] for name in names}
    assert default_of(methods, wanted) == default


def test_a_default_that_is_no_method_is_refused_with_what_there_is() -> None:
    methods = {name: methods_of(print, None)["__call__"] for name in "ba"}
    with pytest.raises(InvalidArgumentError, match="default method 'c' is not one of: a, b"):
        default_of(methods, "c")
