"""The retrieved model as an object: what it looks like, and what its methods become."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from typing import Any

import pytest

from hostd.client._async.model import AsyncModel
from hostd.client._sync.model import Model
from hostd.client.handle import Handle, UnknownMethodError
from hostd.records import MethodInfo, ModelInfo, WorkerInfo
from hostd_workers.wire.errors import NotFoundError, UnimplementedError

METHODS = {
    "predict": MethodInfo("predict", signature="(x, *, scale=1)", doc="Return a multiple."),
    "generate": MethodInfo("generate", streams=True),
    "info": MethodInfo("info"),
    "import": MethodInfo("import"),
}
INFO = ModelInfo(
    id="m",
    state="READY",
    path="/srv/m",
    type="kind",
    size=7,
    methods=METHODS,
    default_method="predict",
    generation=3,
    workers=(WorkerInfo(1, 42, "READY"), WorkerInfo(2, 43, "READY")),
)


class FakeClient:
    """What a handle needs of a client; it answers with what it was asked."""

    timeout_s = 60.0

    def __init__(self, info: ModelInfo = INFO) -> None:
        self.record = info
        self.asked = 0

    def call(self, *request: Any) -> Any:
        return ("call", *request)

    def submit(self, *request: Any) -> Any:
        return ("submit", *request)

    def stream(self, *request: Any) -> Any:
        return ("stream", *request)

    def get_model(self, model_id: str) -> ModelInfo:
        self.asked += 1
        return self.record

    def get_model_size(self, model_id: str) -> int:
        return 7

    def _verb(self, verb: str, timeout_s: float | None, **arguments: Any) -> Any:
        assert (verb, arguments) == ("retrieve_model", {"model_id": "m", "generation": 3})
        return self.record.to_dict()


def a_model(info: ModelInfo = INFO, client: FakeClient | None = None) -> Model:
    return Model(client or FakeClient(), info, 60.0)  # type: ignore[arg-type]


def test_a_method_of_the_handle_is_a_call_of_the_models_method_and_the_handle_of_its_default() -> None:
    for method in (a_model().predict, a_model()):
        assert method(1, scale=2) == ("call", "m", "predict", (1,), {"scale": 2}, 60.0)


def test_a_method_whose_name_the_handle_needs_for_itself_is_called_by_name() -> None:
    model = a_model()
    assert isinstance(model.info, ModelInfo)
    assert model.call("info", 1) == ("call", "m", "info", (1,), {}, 60.0)
    assert model.submit.info(1)[:3] == ("submit", "m", "info")
    assert getattr(model, "import")(1)[:3] == ("call", "m", "import")


def test_submit_and_stream_have_the_same_methods() -> None:
    model = a_model()
    assert model.submit.predict(1) == ("submit", "m", "predict", (1,), {}, 60.0)
    assert model.stream.generate(1) == ("stream", "m", "generate", (1,), {}, 60.0)
    assert model.submit(1) == ("submit", "m", "predict", (1,), {}, 60.0)
    assert model.stream(1) == ("stream", "m", "predict", (1,), {}, 60.0)
    assert dir(model.submit) == sorted(METHODS)
    assert repr(model.stream) == f"<methods of {model!r}>"


def test_the_handle_shows_the_models_methods_beside_its_own() -> None:
    shown = dir(a_model())
    assert {"predict", "generate", "options", "wait", "submit", "stream", "id"} <= set(shown)
    assert shown == sorted(shown)


def test_a_method_has_its_name_signature_and_documentation() -> None:
    method = a_model().predict
    assert method.__name__ == "predict"
    assert method.__doc__ == "predict(x, *, scale=1)\n\nReturn a multiple."


def test_the_repr_says_what_it_is_and_where_it_runs() -> None:
    assert repr(a_model()) == "<Model 'm' READY pid=42, 43 methods: generate, import, info, predict>"
    bare = replace(INFO, state="LOADING", workers=(), methods={})
    assert repr(a_model(bare)) == "<Model 'm' LOADING pid=None methods: none yet>"


@pytest.mark.parametrize(
    ("state", "loaded", "loading"), [("READY", True, False), ("DEGRADED", True, False), ("LOADING", False, True)]
)
def test_facts_are_properties_and_the_state_is_asked_for_each_time(state: str, loaded: bool, loading: bool) -> None:
    model = a_model(replace(INFO, state="LOADING", methods={}), FakeClient(replace(INFO, state=state)))
    assert (model.id, model.path, model.type) == ("m", "/srv/m", "kind")
    assert (model.size, model.loaded, model.loading) == (7, loaded, loading)
    assert model.wait() is model
    assert model.methods == METHODS
    model.methods.clear()
    assert model.methods == METHODS


def test_an_unknown_method_is_an_attribute_error_that_lists_the_known() -> None:
    model = a_model()
    assert not hasattr(model, "predikt")
    with pytest.raises(AttributeError, match="model 'm' has no method 'predikt'; it has: generate, import") as caught:
        model.predikt(1)
    assert isinstance(caught.value, UnimplementedError)
    assert caught.value.details == {"methods": sorted(METHODS)}
    with pytest.raises(UnknownMethodError):
        model.submit.predikt(1)
    assert not hasattr(model.stream, "predikt")


def test_an_unknown_method_is_looked_up_once_more_because_the_model_may_have_been_reloaded() -> None:
    client = FakeClient()
    model = a_model(replace(INFO, methods={}), client)
    assert model.predict(1)[2] == "predict"
    assert model.predict(2)[2] == "predict"
    assert client.asked == 1
    assert hasattr(model, "generate")


def test_a_handle_of_a_model_without_default_says_what_there_is() -> None:
    info = replace(INFO, default_method=None)
    with pytest.raises(UnimplementedError, match="no default method; call one of: generate, import"):
        a_model(info, FakeClient(info))(1)
    assert a_model(info, FakeClient(INFO))(1)[2] == "predict"


def test_the_error_of_a_host_that_cannot_be_asked_is_not_hidden() -> None:
    class Gone(FakeClient):
        def get_model(self, model_id: str) -> ModelInfo:
            raise NotFoundError("unloaded")

    with pytest.raises(NotFoundError):
        a_model(client=Gone()).predikt(1)


def test_options_make_another_handle_with_another_timeout() -> None:
    model = a_model()
    quick = model.options(timeout_s=0.5)
    assert quick.predict(1)[-1] == 0.5
    assert quick.submit.predict(1)[-1] == 0.5
    assert quick.call("predict")[-1] == 0.5
    assert model.options(timeout_s=None)(1)[-1] is None
    assert model.predict(1)[-1] == 60.0


@pytest.mark.parametrize("thing", [lambda model: model, lambda model: model.submit], ids=["handle", "methods"])
def test_private_names_are_never_methods_so_copies_work(thing: Any) -> None:
    client = FakeClient()
    original = thing(a_model(client=client))
    for name in ("_repr_html_", "__array_interface__", "__array__", "_ipython_canary_method_should_not_exist_"):
        assert not hasattr(original, name)
    assert client.asked == 0, "nobody asks the host for a private name"
    assert copy.copy(original).predict(1)[1:3] == ("m", "predict")


def test_a_handle_without_a_record_raises_attribute_errors_only() -> None:
    with pytest.raises(AttributeError):
        _ = Handle.__new__(Handle)._info


# Asynchronous


def test_an_async_handle_asks_with_coroutines() -> None:
    class Client(FakeClient):
        async def get_model(self, model_id: str) -> ModelInfo:  # type: ignore[override]
            return self.record

        async def get_model_size(self, model_id: str) -> int:  # type: ignore[override]
            return 7

        async def _verb(self, *asked: Any, **arguments: Any) -> Any:
            return super()._verb(*asked, **arguments)

    async def body() -> None:
        model = AsyncModel(Client(), replace(INFO, methods={}, default_method=None), 60.0)  # type: ignore[arg-type]
        with pytest.raises(UnknownMethodError, match="it has: none"):
            model.predict(1)
        with pytest.raises(UnimplementedError, match="call one of: none"):
            model(1)
        assert await model.wait() is model
        assert model.predict(1)[:3] == ("call", "m", "predict")
        assert model(1)[2] == "predict"
        assert (await model.info()).id == "m"
        assert await model.size() == 7
        assert await model.loaded()
        assert not await model.loading()
        assert model.options(timeout_s=1).predict(1)[-1] == 1
        assert repr(model).startswith("<AsyncModel 'm' READY")

    asyncio.run(body())
