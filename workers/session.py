"""The life of a worker as seen from inside: hello, one load, then calls until the end.

It takes frames in and sends frames out, and does not know how they travel. What ends it is the supervisor's kill.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from hostd_workers.calls.runtime import Runtime
from hostd_workers.closing import close, close_in_loop
from hostd_workers.loading import load, load_error
from hostd_workers.methods import close_of, default_of, methods_of
from hostd_workers.plugins import import_builtin
from hostd_workers.process.ending import ENDS_A_PROCESS
from hostd_workers.process.installed import imported_since, refuse_if_hidden
from hostd_workers.raised import error_of
from hostd_workers.signatures import described as signatures_of
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import DEFAULT_LIMITS
from hostd_workers.wire.lane.page import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from hostd_workers.lane.lanes import Lanes
    from hostd_workers.methods import Method

_BATCH = bytes([wire.BATCH])


class Session:
    """One worker's conversation with its supervisor."""

    def __init__(
        self, token: str, send: Callable[[list[wire.Buffer]], None], stacks: tuple[int, int] | None = None
    ) -> None:
        """Take the way to the supervisor, and what makes this process write its stacks (`stacks.offer`)."""
        self._token = token
        self._send = send
        self._stacks = stacks
        self.runtime: Runtime | None = None
        self.lanes: Lanes | None = None
        self.is_async = False
        self.run: Callable[[Coroutine[Any, Any, None]], None] | None = None
        """What runs a coroutine in the loop of a worker that has one."""
        self._close: Callable[[], object] | None = None

    def greet(self) -> None:
        """Say hello: which worker this is and which versions it speaks."""
        python = ".".join(map(str, sys.version_info[:3]))
        hello = {"token": self._token, "versions": list(wire.SUPPORTED_VERSIONS), "pid": os.getpid(), "python": python}
        if self._stacks is not None:
            hello["stacks"] = list(self._stacks)
        self._send(msg.pack_map(msg.WORKER_HELLO, 0, hello))

    def accept(self, frames: list[wire.Buffer]) -> None:
        """Take in one message, or a batch of them; a LOAD is done at once, calls are queued."""
        if len(frames) == 1 and frames[0][:1] == _BATCH:
            for message in wire.unpack_batch(frames[0]):
                self._accept_one([message])
        else:
            self._accept_one(frames)

    def _accept_one(self, frames: list[wire.Buffer]) -> None:
        envelope = wire.unpack(frames)
        if envelope.kind == msg.LOAD:
            self._load(msg.unpack_map(envelope))
        elif envelope.kind == msg.CLOSE_LANES:
            self._close_lanes()
        elif envelope.kind == msg.OPEN_LANES and self.lanes is not None:
            self.lanes.open()
        elif envelope.kind == msg.CLOSE_MODEL:
            self._close_model()
        elif self.runtime is not None:
            self.runtime.accept(envelope)

    def say_last_words(self, error: BaseException) -> None:
        """Tell the supervisor why this process is about to end."""
        words = error_of(error)
        body = dict(zip(("status", "kind", "message", "details"), msg.sendable(words), strict=True))
        self._send(msg.pack_map(msg.LAST_WORDS, 0, body))

    def _open_lanes(self, told: dict[str, Any] | None, methods: dict[str, Method], page: Writer) -> bool:
        """Let clients come without the host, and say whether they can; if not, they call by the host."""
        if told is None:
            return False
        from hostd_workers.lane.lanes import Lanes  # noqa: PLC0415 - a host may do without

        try:
            self.lanes = Lanes(told, methods, page)
        except OSError as error:
            print(f"no direct lane to this worker: {error}", file=sys.stderr)  # noqa: T201
        return self.lanes is not None

    def _close_lanes(self) -> None:
        closed = partial(self._send, wire.pack(msg.LANES_CLOSED, 0))
        if self.lanes is None:
            closed()
        else:
            self.lanes.close(closed)

    def _close_model(self) -> None:
        """Let the model finish; it is told so once no call is left, but for such as were cancelled."""
        if self._close is None:
            self._say_closed("")
        elif self.run is None:
            self._say_closed(close(self._close))
        else:
            self.run(self._close_in_loop(self._close))

    async def _close_in_loop(self, function: Callable[[], object]) -> None:
        from hostd_workers.calls.tasks import Tasks  # noqa: PLC0415 - it needs asyncio

        await Tasks.all_ended()
        self._say_closed(await close_in_loop(function))

    def _say_closed(self, problem: str) -> None:
        self._send(msg.pack_map(msg.MODEL_CLOSED, 0, {"problem": problem}))

    def _load(self, request: dict[str, Any]) -> None:
        before = len(sys.modules)
        try:
            if request.get("is_forked") and request["path"] is not None:
                refuse_if_hidden(request["path"])
            import_builtin(request["loader"])
            if request.get("lane") is not None:
                import hostd_workers.lane.lanes  # noqa: F401, PLC0415 - used below; here its byte code is kept
            # The model's directory is not ours to write into: it may be shared or watched, and its content is its
            # identity.
            sys.dont_write_bytecode = True
            served, warned = load(request)
            names = request.get("methods") or served.methods
            self._close = served.close or close_of(served.model, names)
            methods = methods_of(served.model, names)
            default = default_of(methods, request.get("default_method") or served.default)
            functions = {name: method.function for name, method in methods.items()}
            signatures = signatures_of(functions, default, request.get("signatures") or {}, served.signatures)
            described = {name: {**method.describe(), **signatures.get(name, {})} for name, method in methods.items()}
            page = _page_of(request.get("page_fd"), methods)
            answer = {
                "methods": described,
                "default_method": default,
                "loader": request["loader"],
                "warnings": warned,
                "lane": self._open_lanes(request.get("lane"), methods, page),
                "has_close": self._close is not None,
            }
            loaded = msg.pack_map(msg.LOADED, 0, answer)
        except ENDS_A_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - the border with the model's code, which may raise anything
            if self._close is not None:  # the loader has returned, and what it made will not serve
                close(self._close)
            self._send(msg.pack_error(0, load_error(error)))
            return
        self.runtime = Runtime(methods, self._send, page, request.get("max_message_bytes", DEFAULT_LIMITS.blob_bytes))
        self.is_async = any(method.is_async for method in methods.values())
        if request.get("is_learning"):  # before it is loaded: it may be unloaded in the next moment
            self._send(msg.pack_map(msg.IMPORTED, 0, {"modules": imported_since(before)}))
        self._send(loaded)


def _page_of(fd: int | None, methods: dict[str, Method]) -> Writer:
    """Return the page in which calls are counted; without one of the host's nobody reads it."""
    names = sorted(methods)
    if fd is not None:
        try:
            return Writer(fd, names)
        except OSError as error:
            print(f"calls of this model are not counted: {error}", file=sys.stderr)  # noqa: T201
        finally:
            os.close(fd)  # it is mapped, and was inheritable
    return Writer(None, names)
