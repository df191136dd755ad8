"""Calls of models for fronts of the protocol: deadlines, records of models, and the words for a model that is unknown.

Does not cover messages: what comes in is read already, and what goes out is written elsewhere.
"""

from __future__ import annotations

import contextlib
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hostd.fronts.calling import arguments_of, method_of, selected, tensors_of
from hostd.fronts.models import UNKNOWN, unknown
from hostd.fronts.places import place_of
from hostd_workers.wire.errors import DeadlineExceededError, HostError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from hostd import AsyncClient, MethodInfo, ModelInfo
    from hostd.fronts.calling import ArgumentsOfCall
    from hostd.fronts.models import Models
    from hostd.fronts.oip.requests import InferRequest
    from hostd.fronts.tensors import Tensor


@dataclass(frozen=True, eq=False)
class Result:
    """What a method has returned, or an item of its stream if `is_item`."""

    info: ModelInfo
    method: MethodInfo
    value: Any
    is_item: bool


class Inference:
    """Calls of the models of one host; for one event loop."""

    def __init__(self, client: AsyncClient, models: Models) -> None:
        self._client = client
        self._models = models

    def __repr__(self) -> str:
        return f"<Inference {self._client!r} {self._models!r}>"

    async def infer(self, model_id: str, request: InferRequest, timeout_s: float | None) -> list[Tensor]:
        """Call a method that returns once; return the wanted outputs. Without `timeout_s` the client's holds."""
        deadline = _Deadline(self._client, timeout_s)
        method, (args, kwargs) = await self._models.planned(
            model_id, lambda info: planned(info, request), deadline.left_s
        )
        with self._noting(model_id):
            result = await self._client.call(model_id, method.name, args, kwargs, deadline.left_s)
        return wanted(method, request, result)

    async def results(
        self,
        model_id: str,
        timeout_s: float | None,
        plan: Callable[[ModelInfo], tuple[MethodInfo, ArgumentsOfCall]],
    ) -> AsyncGenerator[Result, None]:
        """Yield the items of a stream, or the only result of a method that returns once.

        `plan` chooses the method and its arguments.
        """
        deadline = _Deadline(self._client, timeout_s)
        info, (method, arguments) = await self._models.planned(
            model_id, lambda info: (info, plan(info)), deadline.left_s
        )
        with self._noting(model_id):
            call = (model_id, method.name, *arguments, deadline.left_s)
            if not method.streams:
                yield Result(info, method, await self._client.call(*call), is_item=False)
                return
            # The client types it as an iterator; it is a generator, and to close it ends the stream in the model.
            items = cast("AsyncGenerator[Any, None]", self._client.stream(*call))
            async with aclosing(items):
                async for item in items:
                    yield Result(info, method, item, is_item=True)

    @contextlib.contextmanager
    def _noting(self, model_id: str) -> Iterator[None]:
        try:
            with place_of(model_id):
                yield
        except HostError as error:
            self._models.note(model_id, error)
            if isinstance(error, NotFoundError) and not error.message.startswith(UNKNOWN):
                raise unknown(model_id, error) from error  # it was there when its record was taken
            raise


def planned(info: ModelInfo, request: InferRequest) -> tuple[MethodInfo, ArgumentsOfCall]:
    """Return the method that a request names, and its arguments. Raises `HostError`."""
    method = method_of(info, request.method)
    return method, arguments_of(method, request.inputs)


def wanted(method: MethodInfo, request: InferRequest, result: object) -> list[Tensor]:
    """Return the outputs that a request names, in its order, or all. Raises `HostError`."""
    tensors = tensors_of(method, result)
    return selected(tensors, (output.name for output in request.outputs)) if request.outputs else tensors


class _Deadline:
    """When an answer is due: by the request, else by the client's own timeout."""

    def __init__(self, client: AsyncClient, timeout_s: float | None) -> None:
        limit_s = client.timeout_s if timeout_s is None else timeout_s
        self._at_s = None if limit_s is None else time.monotonic() + limit_s

    @property
    def left_s(self) -> float | None:
        """What is left, in seconds. Raises `DeadlineExceededError` if nothing is."""
        if self._at_s is None:
            return None
        left_s = self._at_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceededError("the deadline passed before the call could begin")
        return left_s
