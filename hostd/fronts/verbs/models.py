"""What can be asked of models; each does one thing with the client and returns what that says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.responses import PlainTextResponse, Response

from hostd.example_calls import example_of
from hostd.fronts.verbs.answers import HEADERS
from hostd.fronts.verbs.arguments import absolute
from hostd.fronts.verbs.route import Asked, Following
from hostd.fronts.verbs.shapes import Example, ListedModel, ModelList, Size
from hostd.fronts.verbs.streams import block, closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import hostd


async def list_models(asked: Asked) -> ModelList:
    """Return the records of the models."""
    return ModelList([ListedModel.of(info) for info in await asked.client.list_models(**asked.some("all", "labels"))])


async def get_model(asked: Asked) -> ListedModel:
    """Return the record of a model."""
    return ListedModel.of(await asked.client.get_model(asked["id"], all=asked["all"]))


async def load_model(asked: Asked) -> hostd.ModelInfo:
    """Load a model and return its record."""
    given = asked.some("wait", "retries", "finder", "initializer", "options", "labels", "reload", "timeout_s")
    given |= asked.some("loader", "cancel_on_timeout")
    handle = await asked.client.load_model(asked["id"], _path_of(asked), asked["type"], **given)
    return await record_of(asked, handle)


async def record_of(asked: Asked, handle: hostd.AsyncModel) -> hostd.ModelInfo:
    """Return the record of a model that was just loaded."""
    record = await asked.client.get_model(handle.id)
    return replace(record, already_loaded=handle.already_loaded)


async def unload_model(asked: Asked) -> hostd.UnloadReport:
    """Unload a model."""
    return await asked.client.unload_model(asked["id"], **asked.some("now", "timeout_s"))


async def unload_all_models(asked: Asked) -> list[hostd.UnloadReport]:
    """Unload every model, or those with some labels."""
    return await asked.client.unload_all_models(**asked.some("labels", "now", "timeout_s"))


async def pin_model(asked: Asked) -> hostd.ModelInfo:
    """Keep a model in memory."""
    return await asked.client.pin_model(asked["id"])


async def unpin_model(asked: Asked) -> hostd.ModelInfo:
    """Let a model be evicted again."""
    return await asked.client.unpin_model(asked["id"])


async def explain_model(asked: Asked) -> dict[str, Any]:
    """Return why a model is as it is."""
    return await asked.client.explain_model(asked["id"])


async def plan_load(asked: Asked) -> hostd.LoadPlan:
    """Return what a load would do."""
    given = asked.some("finder", "loader", "initializer", "options")
    return await asked.client.plan_load(asked["id"], _path_of(asked), asked["type"], **given)


async def estimate_model_size(asked: Asked) -> hostd.SizeEstimate:
    """Return what a model would take."""
    return await asked.client.estimate_model_size(asked["id"], _path_of(asked), asked["type"])


async def get_model_size(asked: Asked) -> Size:
    """Return what a model takes."""
    return Size(await asked.client.get_model_size(asked["id"]))


async def model_logs(asked: Asked) -> Response | Following:
    """Return the lines of a model's log, or follow it."""
    if asked["follow"]:
        return Following(_lines(asked))
    lines = [line.text async for line in asked.client.log_lines(asked["id"], tail=asked["tail"])]
    return PlainTextResponse("".join(f"{line}\n" for line in lines), headers=HEADERS)


async def _lines(asked: Asked) -> AsyncIterator[bytes]:
    async with closing(asked.client.log_lines(asked["id"], tail=asked["tail"], follow=True)) as lines:
        async for line in lines:
            yield block("note" if line.is_note else "line", line.to_dict())


async def model_examples(asked: Asked) -> dict[str, Example | None]:
    """Return a call to try each method of a model with."""
    info = await asked.client.get_model(asked["id"], all=True)
    return {name: _example(method) for name, method in info.methods.items()}


def _example(method: hostd.MethodInfo) -> Example | None:
    call = example_of(method)
    return call and Example(list(call.args), dict(call.kwargs), call.is_of_arrays)


async def model_stacks(asked: Asked) -> dict[str, str]:
    """Return the stacks of a model's processes."""
    return {str(pid): text for pid, text in (await asked.client.model_stacks(asked["id"])).items()}


def _path_of(asked: Asked) -> str | None:
    return None if asked["path"] is None else absolute(asked["path"])
