"""Finders and sizers that raise or return anything at all, in a real host: what asked gets an answer, and the host lives."""

import textwrap

import pytest
from helpers import PATIENCE_S

import hostd

PLUGINS = """
    import asyncio, builtins, concurrent.futures
    from hostd import HostError
    from hostd.finders import ModelSpec

    class Own(BaseException): pass
    class Falsy(Exception):
        def __bool__(self): raise Own
        def __len__(self): return 0
    class Silent(Exception):
        def __str__(self): raise Own
        __repr__ = __str__
    class Exiting(Exception):
        def __str__(self): raise SystemExit(1)
        __repr__ = __str__
    class Local(Exception):
        def __reduce__(self): raise Own
    class Hollow(HostError):
        def __init__(self): pass
    class Wordless(HostError):
        def __init__(self):
            super().__init__(7, details={"x": 1})
    class Stuffed(HostError):
        def __init__(self):
            super().__init__("stuffed", details={"x": object()})
    class Flat(HostError):
        def __init__(self):
            super().__init__("flat")
            self.details = "none"
    class Endless(HostError):
        def __init__(self):
            super().__init__("x" * (64 << 20), details={"x": "y" * (64 << 20)})
    class Meta(type):
        @property
        def __name__(cls): raise Own
    class Nameless(Own, metaclass=Meta): pass

    RAISED = {
        **{kind.__name__: kind for kind in (StopIteration, StopAsyncIteration, SystemExit, KeyboardInterrupt)},
        **{kind.__name__: kind for kind in (GeneratorExit, MemoryError, RecursionError, asyncio.CancelledError)},
        **{kind.__name__: kind for kind in (Own, Falsy, Silent, Exiting, Local, Hollow, Wordless, Stuffed, Flat)},
        "future": concurrent.futures.CancelledError,
        "state": concurrent.futures.InvalidStateError,
        "Endless": Endless,
        "Nameless": Nameless,
        "surrogate": lambda: ValueError("no \\udcff"),
        "huge": lambda: ValueError("x" * (64 << 20)),
        "group": lambda: getattr(builtins, "BaseExceptionGroup", lambda *_: Own())("g", [Own(), SystemExit(1)]),
    }

    class Weird:
        def __getattribute__(self, name): raise Own
        __repr__ = __str__ = __bool__ = __len__ = __iter__ = __eq__ = __getattribute__

    WRONG = {
        "loader": [7],
        "options": [["a"], {1: 2}, {"a": object()}, {"a": Weird()}],
        "env": [{"A": 1}, {"A": "a\\0b"}, {"A=B": "c"}],
        "methods": [5, (5,)],
        **dict.fromkeys(("python", "default_method", "initializer"), [7]),
        **dict.fromkeys(("memory_limit_bytes", "evictable", "idle_ttl_s", "cpu_threads"), ["much"]),
        "origins": [{"python": 5}],
    }

    def spec(**fields):
        return lambda: ModelSpec(**{"loader": "python", **fields})

    GIVEN = {
        "number": lambda: 7,
        "error": lambda: ValueError("given"),
        "error-class": lambda: ValueError,
        "class": lambda: ModelSpec,
        "weird": Weird,
        "config": spec(initializer="default", initializer_config={1: 2}),
        **{f"{name}-{at}": spec(**{name: given}) for name, each in WRONG.items() for at, given in enumerate(each)},
    }

    class Finder:
        looks_for = "what it is told to"

        def find(self, model_id, path):
            if model_id in RAISED:
                raise RAISED[model_id]()
            return GIVEN[model_id]() if model_id in GIVEN else ModelSpec("python")

    class Sizer:
        def estimate(self, model_id, path, model_type):
            if model_id in RAISED:
                raise RAISED[model_id]()
            return {"float": 1.5, "weird": Weird(), "error": ValueError("given")}.get(model_id, 5)
"""
SOURCE = {}
exec(textwrap.dedent(PLUGINS), SOURCE)
RAISED, GIVEN = SOURCE["RAISED"], SOURCE["GIVEN"]


def refusal(ask, *arguments, **options):
    """Return the error that this is answered with, in time and with few words."""
    with pytest.raises(hostd.HostError) as caught:
        ask(*arguments, **options)
    assert not isinstance(caught.value, hostd.DeadlineExceededError)
    assert len(caught.value.message) < 100_000
    return caught.value


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    (site / "plugins_that_raise.py").write_text(textwrap.dedent(PLUGINS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        plugins = {"odd": {"type": "plugins_that_raise:Finder"}}
        sizers = {"default": {"type": "plugins_that_raise:Sizer"}}
        with hostd.Host(finders=plugins, sizers=sizers, memory={"budget": "8GiB", "estimate_timeout_s": 3600}) as host:
            yield host


@pytest.fixture
def shared(shared_host):
    """A client that does not wait for ever."""
    with hostd.connect(shared_host.endpoint, timeout_s=PATIENCE_S) as client:
        yield client
        client.unload_all_models()


@pytest.mark.parametrize("model_id", [*RAISED, *GIVEN])
def test_a_finder_may_raise_and_return_anything(shared, model_dir, model_id):
    path = model_dir()
    refusal(shared.load_model, model_id, path, finder="odd", timeout_s=PATIENCE_S)
    if model_id in RAISED:
        refusal(shared.retrieve_model, model_id)
        refusal(shared.plan_load, model_id, path, finder="odd")
        assert len(shared.explain_model(model_id)["reason"]) < 100_000
    assert shared.load_model("good", path, finder="odd", timeout_s=PATIENCE_S).predict(1) == 1


@pytest.mark.parametrize("model_id", [*RAISED, "float", "weird", "error"])
def test_a_sizer_may_raise_or_return_anything(shared, model_dir, model_id):
    path = model_dir()
    refusal(shared.estimate_model_size, model_id, path)
    assert shared.load_model(model_id, path, timeout_s=PATIENCE_S).predict(1) == 1, "its size is assumed"
