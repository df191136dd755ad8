"""Calls of models: one answer for a request, or a stream of requests and of answers.

Rules of a stream
1. Its requests run side by side, at most `MAX_AT_ONCE`; with more of them it is not read on.
2. Answers of methods that return once come in the order of their requests, as clients without ids expect it; items of
   a stream come when they are there.
3. What fails is told in the stream, which goes on. To end it cancels what runs.
4. Each answer says in `triton_final_response` whether it is the last of its request. A stream's last item is not known
   to be that when it is sent: a request with `triton_enable_empty_final_response` gets an empty answer after it.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from hostd.fronts.bodies import hold
from hostd.fronts.grpc.heads import words_of
from hostd.fronts.grpc.serving import left_s
from hostd.fronts.oip import describing
from hostd.fronts.oip.grpc.conversion import request_of, response_of
from hostd.fronts.oip.grpc.messages import InferResponseMessage, StreamResponseMessage
from hostd.fronts.oip.inference import planned, wanted
from hostd.fronts.oip.requests import of_type
from hostd_workers.wire.errors import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hostd.fronts.bodies import Bodies
    from hostd.fronts.grpc.serving import Context
    from hostd.fronts.oip.inference import Inference
    from hostd.fronts.oip.requests import InferRequest
    from hostd.fronts.oip.shm import Regions

MAX_AT_ONCE: Final = 64
"""Requests of one stream that run, as many as clients that measure throughput keep in flight."""

_Turn: TypeAlias = "asyncio.Future[None]"
"""Done when all answers that have an order, up to one request's, have been sent."""

_FINAL: Final = "triton_final_response"
_WANTS_EMPTY_FINAL: Final = "triton_enable_empty_final_response"


class Calls:
    """Calls of the models of one host."""

    def __init__(self, inference: Inference, regions: Regions, bodies: Bodies) -> None:
        self._inference = inference
        self._regions = regions
        self._bodies = bodies

    async def infer(self, message: Any, context: Context) -> Any:
        """Answer a request."""
        describing.check_version(message.model_name, message.model_version)
        request = request_of(message, self._regions.reading())
        tensors = await self._inference.infer(message.model_name, request, left_s(context, request.timeout_s))
        return response_of(message.model_name, request, tensors, self._regions.write)

    async def stream(self, messages: AsyncIterator[Any], context: Context) -> None:
        """Answer the requests of a stream until its client sends no more."""
        await _Stream(self._inference, self._regions, self._bodies, context).answer_all(messages)


class _Stream:
    """One stream of requests and answers."""

    def __init__(self, inference: Inference, regions: Regions, bodies: Bodies, context: Context) -> None:
        self._inference = inference
        self._regions = regions
        self._bodies = bodies
        self._context = context
        self._is_free = asyncio.Semaphore(MAX_AT_ONCE)
        self._writing = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self._reader = asyncio.current_task()
        self._defect: BaseException | None = None

    async def answer_all(self, messages: AsyncIterator[Any]) -> None:
        before = _decided()
        try:
            async for message in messages:
                await self._is_free.acquire()
                after = asyncio.get_running_loop().create_future()
                task = asyncio.ensure_future(self._answer(message, before, after))
                self._running.add(task)
                task.add_done_callback(self._on_done)
                before = after
            await asyncio.gather(*self._running)
        except asyncio.CancelledError:
            if self._defect is None:
                raise  # the client has gone, or the server ends
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        if self._defect is not None:
            raise self._defect

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._is_free.release()
        defect = None if task.cancelled() else task.exception()
        if defect is not None and self._defect is None and self._reader is not None:
            self._defect = defect
            self._reader.cancel()

    async def _answer(self, message: Any, before: _Turn, after: _Turn) -> None:
        """Answer a request; after `before` if it has one answer, and then comes `after`."""
        try:
            try:
                describing.check_version(message.model_name, message.model_version)
                with self._bodies.holding():
                    hold(message.ByteSize())
                    request = request_of(message, self._regions.reading())
                    await self._call(message.model_name, request, before, after)
            except HostError as error:
                await asyncio.wait((before,))
                await self._write(_failed(message, error))
        finally:
            _pass_on(before, after)

    async def _call(self, model_id: str, request: InferRequest, before: _Turn, after: _Turn) -> None:
        timeout_s = left_s(self._context, request.timeout_s)
        has_begun = False
        async with aclosing(
            self._inference.results(model_id, timeout_s, lambda info: planned(info, request))
        ) as results:
            async for result in results:
                tensors = wanted(result.method, request, result.value)
                answer = response_of(model_id, request, tensors, self._regions.write)
                answer.parameters[_FINAL].bool_param = not result.is_item
                if not result.is_item:
                    await asyncio.wait((before,))
                    await self._write(StreamResponseMessage(infer_response=answer))
                    return
                if not has_begun:
                    has_begun = True
                    _pass_on(before, after)
                await self._write(StreamResponseMessage(infer_response=answer))
        if of_type(request.parameters.get(_WANTS_EMPTY_FINAL), (bool,), f"the parameter {_WANTS_EMPTY_FINAL!r}"):
            last = InferResponseMessage(model_name=model_id, model_version=describing.VERSION, id=request.id)
            last.parameters[_FINAL].bool_param = True
            await self._write(StreamResponseMessage(infer_response=last))

    async def _write(self, message: Any) -> None:
        async with self._writing:  # gRPC writes one message of a call at a time
            await self._context.write(message)


def _decided() -> _Turn:
    turn = asyncio.get_running_loop().create_future()
    turn.set_result(None)
    return turn


def _pass_on(before: _Turn, after: _Turn) -> None:
    """Let `after` come as soon as `before` has."""
    before.add_done_callback(lambda _: None if after.done() else after.set_result(None))


def _failed(message: Any, error: HostError) -> Any:
    """Return the answer that tells an error, with what a client knows its request by."""
    told = InferResponseMessage(model_name=message.model_name, model_version=message.model_version, id=message.id)
    told.parameters[_FINAL].bool_param = True
    return StreamResponseMessage(error_message=words_of(error), infer_response=told)
