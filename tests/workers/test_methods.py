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
    def inherited(self):
        """Come from the base."""


class Model(Base):
    """A model with everything that may be in one."""

    CONSTANT = 3
    Nested = type("Nested", (), {})

    def __init__(self):
        self.ran = []
        self.attached = lambda x: x
        self.data = [1, 2]

    def predict(self, x: int, *, scale: float = 1.0) -> float:
        """Multiply.

        More about it.
        """
        return x * scale

    def generate(self, n) -> Iterator[int]:
        yield n

    async def later(self, x):
        return x

    async def generate_later(self, n) -> AsyncIterator[int]:
        yield n

    @staticmethod
    def static(x):
        return x

    @classmethod
    def of_class(cls):
        return cls.__name__

    @functools.wraps(predict)
    def wrapped(self, *args, **kwargs):
        return self.predict(*args, **kwargs)

    partial = functools.partialmethod(predict, scale=2.0)

    @property
    def prop(self):
        self.ran.append("prop")
        return lambda: None

    @functools.cached_property
    def cached(self):
        self.ran.append("cached")
        raise RuntimeError("too early")

    def _private(self): ...


class Explosive:
    """A descriptor that fails when it is read."""

    def __get__(self, instance, owner):
        if instance is None:
            return self
        raise RuntimeError("not now")


class Unshowable:
    def __repr__(self):
        raise RuntimeError("not for show")


class Odd:
    broken = Explosive()
    iterate = staticmethod(iter)

    def predict(self, x: Any = Unshowable()):  # noqa: B008 - what is tested
        return x


EXPOSED = "attached generate generate_later inherited later of_class partial predict static wrapped"


def test_public_callables_are_exposed_and_no_code_of_the_model_runs():
    model = Model()
    assert set(methods_of(model, None)) == set(EXPOSED.split())
    assert model.ran == []


def function(n):
    return n


def generate(n):
    yield n


async def later(n):
    return n


async def generate_later(n):
    yield n


class Plain:
    def __call__(self, x):
        return x

    def helper(self): ...


class Streaming:
    async def __call__(self, n):
        yield n


FUNCTIONS = [(function, False, False), (generate, True, False), (later, False, True), (generate_later, True, True)]


@pytest.mark.parametrize(
    ("model", "name", "streams", "is_async"),
    [
        *((Model(), name, False, False) for name in ("predict", "static", "attached")),
        (Model(), "generate", True, False),
        (Model(), "later", False, True),
        (Model(), "generate_later", True, True),
        *((made, "__call__", *how) for one, *how in FUNCTIONS for made in (one, functools.partial(one, 3))),
        (Plain(), "__call__", False, False),
        (Streaming(), "__call__", True, True),
    ],
    ids=lambda value: getattr(value, "__name__", None) or (value if isinstance(value, str) else type(value).__name__),
)
def test_a_method_says_how_it_answers(model, name, streams, is_async):
    method = methods_of(model, None)[name]
    assert (method.streams, method.is_async) == (streams, is_async)
    assert (method.describe()["streams"], method.describe()["is_async"]) == (streams, is_async)


def test_a_description_has_the_signature_and_the_first_line():
    methods = methods_of(Model(), None)
    assert methods["predict"].describe() == {
        "name": "predict",
        "streams": False,
        "is_async": False,
        "signature": "(x: 'int', *, scale: 'float' = 1.0) -> 'float'",
        "doc": "Multiply.",
    }
    assert [methods[name].describe()["doc"] for name in ("inherited", "generate")] == ["Come from the base.", ""]
    odd = methods_of(Odd(), None)
    assert [odd[name].describe()["signature"] for name in ("predict", "iterate")] == ["(...)", "(...)"]


def test_a_description_stays_short_and_can_be_sent():
    def wordy(x: str = "y" * 9999): ...

    wordy.__doc__ = "\udcff" + "z" * 9999
    described = methods_of(wordy, None)["__call__"].describe()
    assert len(described["signature"]) == MAX_SIGNATURE_CHARS
    assert len(described["doc"]) == MAX_DOC_CHARS
    assert described["doc"].startswith("\\udcffzzz")


def test_an_attribute_that_cannot_be_read_is_not_exposed_and_says_so_if_it_is_wanted():
    assert set(methods_of(Odd(), None)) == {"predict", "iterate"}
    with pytest.raises(InvalidArgumentError, match="has no method 'broken' to expose; it has: iterate, predict"):
        methods_of(Odd(), ["broken"])


def test_named_methods_alone_are_exposed_private_ones_too():
    assert list(methods_of(Model(), ["generate", "_private"])) == ["generate", "_private"]
    assert list(methods_of(Model(), ("predict",))) == ["predict"]


@pytest.mark.parametrize("name", ["nope", "data", "CONSTANT", "ran"])
def test_a_name_that_is_no_method_is_refused_with_what_there_is(name):
    with pytest.raises(InvalidArgumentError, match=f"a Model, has no method '{name}' to expose; it has: attached"):
        methods_of(Model(), [name])


def test_a_function_and_a_callable_object_are_their_own_first_method():
    methods = methods_of(function, None)
    assert list(methods) == ["__call__"]
    assert methods["__call__"].function(3) == 3
    assert methods["__call__"].describe()["signature"] == "(n)"
    assert list(methods_of(Plain(), None)) == ["__call__", "helper"]


def test_a_class_as_a_model_offers_its_class_methods_not_its_construction():
    class Registry(abc.ABC):  # noqa: B024 - what is tested
        @classmethod
        def find(cls):
            return None

    methods = methods_of(Registry, None)
    assert "find" in methods
    assert "__call__" not in methods
    assert set(methods_of(3, None)) <= set(dir(3))


@pytest.mark.parametrize("model", [object(), type("Empty", (), {"data": [1]})()], ids=["object", "data"])
def test_a_model_without_methods_is_refused(model):
    with pytest.raises(InvalidArgumentError, match="has no public method to call: load"):
        methods_of(model, None)
    with pytest.raises(InvalidArgumentError, match="no public method"):
        methods_of(Model(), [])


@pytest.mark.parametrize(
    ("names", "wanted", "default"),
    [
        ("__call__ predict x", None, "__call__"),
        ("x predict", None, "predict"),
        ("x", None, "x"),
        ("x y", None, None),
        ("x y", "y", "y"),
        ("__call__ y", "y", "y"),
    ],
)
def test_the_default_is_what_is_wanted_then_call_then_predict_then_the_only_one(names, wanted, default):
    methods = {name: methods_of(print, None)["__call__"] for name in names.split()}
    assert default_of(methods, wanted) == default
    with pytest.raises(InvalidArgumentError, match=f"default method 'c' is not one of: {', '.join(sorted(methods))}"):
        default_of(methods, "c")
