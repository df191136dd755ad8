"""One call: its messages in, its answers out, and the task that answers.

Rules
1. Who asks is checked when the head comes, before anything of a message is kept.
2. What has come of messages counts in the front's `Bodies`, until the call is answered, or its stream has taken them;
   and so do answers that do not go at once, until they have gone. So a call lasts until its client has its answer.
3. A client that sends messages faster than its stream takes them is held up by the window of HTTP/2.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from hostd.fronts.access import Role, caller_of, check_role
from hostd.fronts.encodings import inflated
from hostd.fronts.errors import IS_TRUSTED, FrontEndsError
from hostd.fronts.grpc.framing import PREFIX_BYTES, Assembling, framed
from hostd.fronts.grpc.heads import BEGIN, ENCODINGS, SUCCESS, failure
from hostd_workers.wire.errors import (
    HostError,
    InternalError,
    InvalidArgumentError,
    UnimplementedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hostd.fronts.grpc.exchange import Exchange
    from hostd.fronts.grpc.framing import Message
    from hostd.fronts.grpc.heads import Head
    from hostd.fronts.http2.stream import Stream

_log = logging.getLogger(__name__)

_IDENTITY: Final = ENCODINGS[0]


class Call:
    """One call of a method; made when its head has come. Raises `HostError` if it may not be."""

    def __init__(self, exchange: Exchange, stream: Stream, head: Head) -> None:
        served = exchange.served
        method = served.methods.get(head.path)
        if method is None:
            raise UnimplementedError(f"there is no method {head.path.decode('utf-8', 'replace')!r:.200} here")
        if head.encoding not in ENCODINGS:
            known = ", ".join(name.decode() for name in ENCODINGS)
            raise UnimplementedError(f"messages are taken as {known}, not as {head.encoding.decode('latin-1')!r:.50}")
        self._has = served.access.role_of(head.authorization)
        check_role(self._has, method.role, has_token=head.authorization is not None)
        self.stream = stream
        self.is_ready = method.rpc.is_of_many_requests
        """Whether it can be answered: the messages of a stream are taken while it is."""
        self.task: asyncio.Task[None] | None = None
        """Runs `run`, from when it is ready."""
        self.received_bytes = 0
        """Since somebody has looked."""
        self._exchange = exchange
        self._head = head
        self._method = method
        self._end_s = None if head.timeout_s is None else time.monotonic() + head.timeout_s
        self._held = served.bodies.holding()
        self._assembling = Assembling(served.max_message_bytes)
        self._messages: deque[Message] = deque()
        self._ungranted_bytes = 0
        self._came = asyncio.Event()
        self._has_begun = False
        self._drained: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Call {self._head.path!r} stream={self.stream.id}>"

    @property
    def is_amid_message(self) -> bool:
        """Whether the client has to send more before its call can go on."""
        return not self.stream.is_whole and (not self.is_ready or self._assembling.bytes > 0)

    def left_s(self) -> float | None:
        """Return how long the client still waits, in seconds."""
        return None if self._end_s is None else self._end_s - time.monotonic()

    async def write(self, message: Any) -> None:
        """Send a message of many, and return when the client has room for the next."""
        waiting_bytes = self._send(message)
        self._exchange.flush_soon(is_alone=len(self._exchange.connection.streams) <= 1)
        if waiting_bytes:
            await self._wait()
            self._held.take(-waiting_bytes)

    def on_data(self, data: bytes, *, is_last: bool) -> None:
        """Take what has come of the messages. Raises `HostError`, and then the call is over."""
        self.received_bytes += len(data)
        self._held.take(len(data))
        self._messages.extend(self._assembling.take(data))
        self._ungranted_bytes += len(data)
        if not self._method.rpc.is_of_many_requests:
            if len(self._messages) > 1 or (is_last and (not self._messages or self._assembling.bytes)):
                raise InvalidArgumentError("this method takes one message, and got none, a part of one, or more")
            self.is_ready = is_last
        elif is_last and self._assembling.bytes:
            raise InvalidArgumentError("the last message is cut off")
        if not self._messages:
            self._grant(self._ungranted_bytes)
        self._came.set()

    def on_drained(self) -> None:
        """Go on: what waited has gone."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def refuse(self, error: HostError) -> None:
        """Answer with an error."""
        self._held.end()
        self._exchange.end(self.stream, failure(error) if self._has_begun else BEGIN + failure(error))

    async def run(self) -> None:
        """Answer; a task that is cancelled says that this front ends."""
        try:
            with self._held:
                await self._answer()
        except HostError as error:
            self.refuse(error)
        except asyncio.CancelledError:
            self.refuse(FrontEndsError())
            raise
        except Exception:  # noqa: BLE001 - a handler's defect is an answer like another
            _log.exception("a defect; please report it")
            self.refuse(InternalError("a defect of the front; its log says more"))

    def drop(self) -> None:
        """Answer nothing: nobody waits."""
        self._held.end()
        if self.task is not None:
            self.task.cancel()

    async def _answer(self) -> None:
        served = self._exchange.served
        IS_TRUSTED.set(self._has >= Role.LOAD)
        if served.access.places is not None:
            served.access.places.set_caller(caller_of(self._head.authorization, self._exchange.address))
        is_of_many = self._method.rpc.is_of_many_requests
        asked = self._many() if is_of_many else await self._decoded(*self._messages.popleft())
        answer = await self._method.handler(asked, self)
        if answer is not None:
            self._send(answer)
        self._exchange.end(self.stream, SUCCESS if self._has_begun else BEGIN + SUCCESS)
        await self._wait()

    def _send(self, message: Any) -> int:
        """Send a message; return its bytes if it does not go at once. Raises `FrontFullError`."""
        connection, data = self._exchange.connection, framed(message.SerializeToString())
        waiting_bytes = 0 if connection.has_room(self.stream, len(data)) else len(data)
        if waiting_bytes:
            self._held.take(waiting_bytes)
        if not self._has_begun:
            self._has_begun = True
            connection.send_head(self.stream, BEGIN)
        connection.send_data(self.stream, data)
        return waiting_bytes

    async def _wait(self) -> None:
        """Wait until nothing waits any more."""
        if self.stream.waiting:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    async def _many(self) -> AsyncIterator[Any]:
        """Yield the messages of a stream. Whoever takes one counts its bytes."""
        while True:
            while self._messages:
                message, is_compressed = self._messages.popleft()
                taken_bytes = PREFIX_BYTES + len(message)
                self._held.take(-taken_bytes)
                self._grant(min(taken_bytes, self._ungranted_bytes) if self._messages else self._ungranted_bytes)
                self._exchange.flush()
                with self._exchange.served.bodies.holding():
                    decoded = await self._decoded(message, is_compressed)
                yield decoded
            if self.stream.is_whole:
                return
            self._came.clear()
            await self._came.wait()

    async def _decoded(self, message: bytes, is_compressed: bool) -> Any:  # noqa: FBT001 - as it was assembled
        if is_compressed:
            if self._head.encoding == _IDENTITY:
                raise InternalError("a message is compressed, and no grpc-encoding says how")
            message = await inflated(message, self._head.encoding, self._exchange.served.max_message_bytes)
        try:
            return self._method.rpc.request.FromString(message)
        except DecodeError as error:
            raise InternalError(f"a message cannot be read: {error}") from None

    def _grant(self, size_bytes: int) -> None:
        """Let the client send as much more."""
        self._ungranted_bytes -= size_bytes
        self._exchange.connection.grant(self.stream, size_bytes)
