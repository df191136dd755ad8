"""The supervisor's side of the conversation with workers.

A worker is known by a random token that only it was given; what comes under another identity is dropped. What a worker
sends is checked here and becomes an event; what the core wants of a worker becomes a message here.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.shell.linux.stacks import StacksOffer
from hostd.shell.own_log import about
from hostd.shell.transport.described import method_of
from hostd.shell.transport.listener import LINGER_S, Side, Unsent
from hostd.shell.work.component import Component
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import HostError, MessageTooLargeError, ProtocolError, VersionMismatchError, from_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hostd.core.events import Event, WorkerId
    from hostd.shell.transport.lanes import LanePlaces
    from hostd.shell.transport.listener import Listener
    from hostd.shell.work.component import Handlers

_log = logging.getLogger(__name__)

_ERROR = bytes([msg.ERROR])


class Backend(Component):
    """Messages from and to workers. `emit` takes events."""

    def __init__(
        self,
        listen: Callable[[Side], Listener],
        emit: Callable[[Event], None],
        max_message_bytes: int,
        lanes: LanePlaces,
    ) -> None:
        """Listen. Takes where events go, what a worker's answer may have at most, and where clients find workers."""
        self._emit = emit
        self.lanes = lanes
        self._max_message_bytes = max_message_bytes
        self._by_token: dict[bytes, WorkerId] = {}
        self._tokens: dict[WorkerId, bytes] = {}
        self._suspects: set[WorkerId] = set()
        self._silent: set[WorkerId] = set()
        self._connected: set[bytes] = set()
        """The tokens that were used; each is good for one connection, or what a worker says could be another's."""
        self._stacks: dict[WorkerId, StacksOffer] = {}
        self.socket = listen(
            Side(
                admit=self._recognise,
                message=self.on_message,
                too_long=self._on_too_long,
                unsent=self.on_unsent,
                gone=self._on_gone,
                is_trusted=True,
            )
        )

    def handlers(self) -> Handlers:
        """Return what carries out which effect; `SendLoad` waits for a look at the worker first (`Workforce`)."""
        return {
            fx.ForwardCall: self.call,
            fx.ForwardCancel: self.cancel,
            fx.ForwardCredit: self.credit,
            fx.ForwardFeed: self.feed,
            fx.CloseLanes: lambda effect: self._send(effect.worker_id, wire.pack(msg.CLOSE_LANES, 0)),
            fx.OpenLanes: lambda effect: self._send(effect.worker_id, wire.pack(msg.OPEN_LANES, 0)),
            fx.CloseModel: lambda effect: self._send(effect.worker_id, wire.pack(msg.CLOSE_MODEL, 0)),
        }

    def close(self) -> None:
        """Close all connections."""
        self.socket.close(linger_s=LINGER_S)

    def admit(self, worker_id: WorkerId) -> str:
        """Return the token (hexadecimal) under which a worker that is about to be spawned will speak."""
        # Not beginning with NUL, which ZeroMQ does not take for an identity.
        token = b"\1" + os.urandom(15)
        self._by_token[token] = worker_id
        self._tokens[worker_id] = token
        self._silent.add(worker_id)
        return token.hex()

    def forget(self, worker_id: WorkerId) -> None:
        """Drop whatever still comes from a worker."""
        self._suspects.discard(worker_id)
        self._silent.discard(worker_id)
        self._stacks.pop(worker_id, None)
        self.lanes.forget(worker_id)
        token = self._tokens.pop(worker_id, None)
        if token is not None:
            del self._by_token[token]
            self._connected.discard(token)
            self.socket.dismiss(token, "its worker has ended")

    def read_dry(self, worker_id: WorkerId) -> None:
        """Hear all that a worker has said before its process ended: its last words say more than its exit status."""
        token = self._tokens.get(worker_id)
        if token is not None:
            self.socket.read_dry(token)

    def is_silent(self, worker_id: WorkerId) -> bool:
        """Say whether a worker has not said hello yet, so that only its output can tell why it ends."""
        return worker_id in self._silent

    def stacks_of(self, worker_id: WorkerId) -> StacksOffer | None:
        """Return how a worker said that its stacks can be read; None if it did not."""
        return self._stacks.get(worker_id)

    def _recognise(self, token: bytes, _: int) -> bytes | None:
        if token not in self._by_token or token in self._connected:
            return None
        self._connected.add(token)
        return token

    def _on_gone(self, token: bytes) -> None:
        worker_id = self._by_token.get(token)
        if worker_id is not None:
            self._emit(ev.WorkerDisconnected(worker_id, "it was closed at the worker's end"))

    def on_message(self, identity: bytes, frames: list[wire.Buffer]) -> None:
        """Turn one message of a worker into an event."""
        worker_id = self._by_token[identity]
        try:
            kind, _, _, call_id = wire.unpack_prefix(frames)
            if kind == msg.RESULT or kind == msg.ITEM or kind == msg.END or (kind == msg.ERROR and call_id):  # noqa: PLR1714 - the hot path: no tuple, no hash
                final, failed = kind != msg.ITEM, kind == msg.ERROR
                self._emit(ev.WorkerAnswered(worker_id, ev.CallId(call_id), final, failed, frames))
            elif kind == msg.CREDIT:
                msg.unpack_credit(wire.unpack(frames).header)  # its caller takes the host at its word
                self._emit(ev.WorkerAnswered(worker_id, ev.CallId(call_id), False, False, frames))
            else:
                self._emit(self._control(worker_id, wire.unpack(frames)))
        except HostError as error:
            self._suspect(worker_id, error)

    def _suspect(self, worker_id: WorkerId, error: HostError) -> None:
        # Once a worker: one that sends nothing else must not fill the disk that the host's log is on.
        level = logging.DEBUG if worker_id in self._suspects else logging.WARNING
        self._suspects.add(worker_id)
        _log.log(level, "it sent what is not of this protocol: %s", error, extra=about(worker=worker_id))

    def _on_too_long(self, identity: bytes, first: wire.Buffer) -> None:
        worker_id = self._by_token[identity]
        error = MessageTooLargeError(
            f"the model's answer is longer than the {self._max_message_bytes} bytes (limits.max_message_bytes) or "
            f"{wire.MAX_FRAMES} frames that the host accepts: return less at a time, or raise the limit"
        )
        call_id = ev.CallId(wire.id_of(first) if len(first) >= wire.PREFIX_BYTES else 0)
        if call_id and first[0] in (msg.RESULT, msg.ITEM, msg.END, msg.ERROR):
            self._emit(ev.WorkerAnswered(worker_id, call_id, True, True, msg.pack_error(call_id, error)))
            self._send(worker_id, wire.pack(msg.CANCEL, call_id))  # a stream would wait for credit
        elif first[:1] == _ERROR:
            self._emit(ev.WorkerRefusedLoad(worker_id, error))
        else:
            self._suspect(worker_id, error)

    def call(self, effect: fx.ForwardCall) -> None:
        """Send a call, under our id, with what is left of its deadline."""
        frames = effect.payload
        remaining_s = effect.remaining_s
        deadline_ms = wire.MAX_DEADLINE_MS if remaining_s is None else max(1, int(remaining_s * 1000))
        message = [wire.readdress(frames[0], effect.call_id, deadline_ms), *frames[1:]]
        self._send(effect.worker_id, message, effect.call_id)

    def on_unsent(self, identity: bytes, frames: Sequence[wire.Buffer], why: Unsent) -> None:
        """Tell the core of a call or an item that did not reach its worker; of anything else its death will tell."""
        worker_id = self._by_token.get(identity)
        kind, _, _, call_id = wire.unpack_prefix(frames)
        is_call, is_full = kind in (msg.CALL, msg.STREAM), why is Unsent.FULL
        if worker_id is not None and (is_call or (is_full and kind in (msg.ITEM, msg.END, msg.ERROR))):
            self._emit(ev.WorkerUnreachable(worker_id, ev.CallId(call_id), is_full, has_begun=not is_call))

    def cancel(self, effect: fx.ForwardCancel) -> None:
        """Tell a worker that nobody waits for a call, or take the call back if it has not left yet."""
        token = self._tokens.get(effect.worker_id)
        if token is not None and self.socket.withdraw(token, effect.call_id):
            self._emit(ev.WorkerAnswered(effect.worker_id, effect.call_id, True, True, []))
        else:
            self._send(effect.worker_id, wire.pack(msg.CANCEL, effect.call_id))

    def credit(self, effect: fx.ForwardCredit) -> None:
        """Grant a stream more items."""
        self._send(effect.worker_id, msg.pack_credit(effect.call_id, effect.items))

    def feed(self, effect: fx.ForwardFeed) -> None:
        """Send what has come for the feed of a call."""
        frames = effect.payload
        self._send(effect.worker_id, [wire.readdress(frames[0], effect.call_id, wire.MAX_DEADLINE_MS), *frames[1:]])

    def load(self, effect: fx.SendLoad) -> None:
        """Tell a worker what to load."""
        spec = effect.spec
        request: dict[str, Any] = {
            "model_id": effect.model_id,
            "path": effect.path,
            "loader": spec.loader,
            "options": spec.options,
            "methods": None if spec.methods is None else list(spec.methods),
            "default_method": spec.default_method,
            "initializer": None if spec.initializer is None else list(spec.initializer),
            "max_message_bytes": self._max_message_bytes,
            "lane": self.lanes.told(effect.worker_id, effect.model_id),
            "page_fd": self.lanes.page_of(effect.worker_id),
            "signatures": dict(spec.signatures),
            "is_forked": effect.is_forked,
            "is_learning": effect.is_learning,
        }
        self._send(effect.worker_id, msg.pack_map(msg.LOAD, 0, request))

    def _send(self, worker_id: WorkerId, frames: list[wire.Buffer], tag: int | None = None) -> None:
        token = self._tokens.get(worker_id)
        if token is not None:
            self.socket.send(token, frames, tag)

    def _control(self, worker_id: WorkerId, envelope: wire.Envelope) -> Event:
        kind = envelope.kind
        if kind == msg.WORKER_HELLO:
            hello = msg.unpack_map(envelope, msg.HEADER_LIMITS)
            versions = hello.get("versions")
            if not isinstance(versions, list) or wire.VERSION not in versions:
                raise VersionMismatchError(
                    f"the worker speaks versions {versions}, this host {wire.SUPPORTED_VERSIONS}"
                )
            self._silent.discard(worker_id)
            match hello.get("stacks"):
                case [int(fd), int(number)]:
                    self._stacks[worker_id] = StacksOffer(fd, number)
            return ev.WorkerSaidHello(worker_id)
        if kind == msg.LOADED:
            return self._loaded(worker_id, msg.unpack_map(envelope, msg.LOADED_LIMITS))
        if kind == msg.IMPORTED:
            modules = msg.unpack_map(envelope, msg.IMPORTED_LIMITS).get("modules")
            return ev.WorkerImported(worker_id, tuple(map(sys.intern, _texts(modules))))
        if kind in (msg.LANES_CLOSED, msg.MODEL_CLOSED):
            return _closed(worker_id, envelope)
        if kind == msg.ERROR:
            return ev.WorkerRefusedLoad(worker_id, msg.unpack_error_metered(envelope))
        if kind == msg.LAST_WORDS:
            words = msg.unpack_map(envelope, msg.ERROR_LIMITS)
            error = from_wire([words.get(name) for name in ("status", "kind", "message", "details")])
            return ev.WorkerSpokeLastWords(worker_id, error)
        raise ProtocolError(f"a worker may not send messages of kind {kind}")

    def _loaded(self, worker_id: WorkerId, body: dict[str, Any]) -> Event:
        match body:
            case {"methods": dict(methods), "loader": str(loader), "default_method": None | str() as default}:
                if len(methods) > msg.MAX_METHODS or not all(isinstance(name, str) for name in methods):
                    raise ProtocolError("a malformed list of methods")
                described = {name: method_of(method) for name, method in methods.items()}
                lane = self.lanes.opened(worker_id, described, listens=body.get("lane") is True)
                warnings, has_close = _texts(body.get("warnings")), body.get("has_close") is True
                return ev.WorkerLoaded(worker_id, loader, described, default, warnings, lane, has_close)
            case _:
                raise ProtocolError("a malformed LOADED message")


def _closed(worker_id: WorkerId, envelope: wire.Envelope) -> Event:
    if envelope.kind == msg.LANES_CLOSED:
        return ev.LanesClosed(worker_id)
    problem = msg.unpack_map(envelope, msg.HEADER_LIMITS).get("problem")
    return ev.ModelClosed(worker_id, problem if isinstance(problem, str) else "")


def _texts(said: object) -> tuple[str, ...]:
    return tuple(text for text in said if isinstance(text, str)) if isinstance(said, list) else ()
