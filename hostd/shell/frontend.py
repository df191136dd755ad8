"""The supervisor's side of the conversation with clients.

Rules
1. A client says HELLO first, over every new connection; the host's answer names this start of the host (`epoch`). A
   message of a connection that did not is refused, so a request that was sent to an earlier host never runs here.
2. A client that reads more slowly than its models answer gets a bounded buffer, then it is dropped, loudly.
3. Only prefix and header of a call are decoded. Headers repeat, so what was decoded is remembered by its bytes.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from hostd.core import events as ev
from hostd.shell.sockets import Unsent
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import encode
from hostd_workers.wire.errors import (
    HostError,
    InternalError,
    MessageTooLargeError,
    ProtocolError,
    UnavailableError,
    VersionMismatchError,
)
from hostd_workers.wire.transport import buffers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hostd.core.events import Caller, ClientId, Event
    from hostd.shell.sockets import RouterSocket

_log = logging.getLogger(__name__)

_TARGETS_REMEMBERED = 4096
_REMEMBERED_BYTES = 1024
"""A header that is longer is a strange one; 4096 of the longest would hold 128 MB for as long as the host runs."""


_PROGRAMS_KEPT = 4096
"""Clients that are known by their program, also a while after they have gone: their calls may run on."""

_PROGRAM_CHARS = 100


class Frontend:
    """Messages from and to clients. `emit` takes events, `verb` takes requests of the control plane."""

    def __init__(
        self,
        emit: Callable[[Event], None],
        verb: Callable[[Caller, str, wire.Envelope, float | None], None],
        clock: Callable[[], float],
        *,
        on_backlog: Callable[[], None],
        on_withdrawn: Callable[[ClientId, int | None], None],
        welcome: dict[str, object],
        buffer_messages: int,
        max_message_bytes: int,
    ) -> None:
        """Take the callbacks and limits.

        `welcome` is the body of the answer to HELLO, `buffer_messages` may wait for one slow client, and a call has at
        most `max_message_bytes`. `on_backlog` is called when messages wait, `on_withdrawn` when a client withdraws a
        request, or with None all of them.
        """
        self._emit = emit
        self._verb = verb
        self._clock = clock
        self._on_backlog = on_backlog
        self._on_withdrawn = on_withdrawn
        self._welcome = welcome
        self._buffer_messages = buffer_messages
        self._max_message_bytes = max_message_bytes
        self._clients: dict[bytes, deque[list[wire.Buffer]] | None] = {}
        self._waiting: set[bytes] = set()
        self._targets: dict[bytes, msg.Target] = {}
        self._programs: OrderedDict[bytes, dict[str, object]] = OrderedDict()
        self.socket: RouterSocket
        self.dropped = 0
        """Messages that were no messages of this protocol."""
        self.dropped_clients = 0

    def __len__(self) -> int:
        return len(self._clients)

    def on_message(self, identity: bytes, frames: list[wire.Buffer]) -> None:
        """Turn one message of a client into an event, or answer what is wrong with it."""
        request_id = 0
        try:
            kind, header_length, deadline_ms, request_id = wire.unpack_prefix(frames)
            if identity not in self._clients and kind != msg.HELLO:
                raise UnavailableError("this host does not know this connection: say HELLO first (it has restarted?)")
            deadline_s = None if deadline_ms == wire.MAX_DEADLINE_MS else self._clock() + deadline_ms / 1000
            if kind in (msg.CALL, msg.STREAM):
                header = bytes(frames[0][wire.PREFIX_BYTES : wire.PREFIX_BYTES + header_length])
                target = self._targets.get(header) or self._remember(header)
                size_bytes = len(frames[0]) if len(frames) == 1 else self._size_of(frames)
                client, model_id = ev.ClientId(identity), ev.ModelId(target.model_id)
                self._emit(ev.CallReceived(client, request_id, model_id, target.method, deadline_s, size_bytes, frames))
            else:
                self._on_control(kind, identity, frames, deadline_s)
        except ProtocolError as error:
            # Not even an id to answer under: whoever sent this is no client of ours.
            self.dropped += 1
            _log.debug("a client sent what is not of this protocol: %s", error)
            if request_id:
                self.send(identity, msg.pack_error(request_id, error))
        except VersionMismatchError as error:
            # The id lies at the same place in every version, so that its sender learns of this.
            self.send(identity, msg.pack_error(wire.id_of(frames[0]), error))
        except HostError as error:
            self.send(identity, msg.pack_error(request_id, error))

    def _size_of(self, frames: list[wire.Buffer]) -> int:
        # The socket has limited each frame; only here is it seen how many there are.
        size_bytes = sum(map(len, frames))
        if size_bytes > self._max_message_bytes:
            raise MessageTooLargeError(
                f"the request has {size_bytes} bytes, the host accepts {self._max_message_bytes} "
                f"(limits.max_message_bytes): send less at a time, or raise the limit"
            )
        return size_bytes

    def _on_control(self, kind: int, identity: bytes, frames: list[wire.Buffer], deadline_s: float | None) -> None:
        envelope = wire.unpack(buffers_of(frames))
        caller = ev.Caller(ev.ClientId(identity), envelope.id)
        if kind == msg.VERB:
            self._verb(caller, msg.unpack_verb(envelope.header), envelope, deadline_s)
        elif kind == msg.CANCEL:
            self._on_withdrawn(caller.client, caller.request_id)
            self._emit(ev.CallCancelled(caller))
        elif kind == msg.CREDIT:
            self._emit(ev.CreditGranted(caller, msg.unpack_credit(envelope.header)))
        elif kind == msg.HELLO:
            self._on_hello(identity, envelope)
        elif kind == msg.BYE:
            self._lose(identity)
        else:
            raise ProtocolError(f"a client may not send messages of kind {kind}")

    def _on_hello(self, identity: bytes, envelope: wire.Envelope) -> None:
        hello = msg.unpack_map(envelope, msg.HEADER_LIMITS)
        versions = hello.get("versions")
        if not isinstance(versions, list) or wire.VERSION not in versions:
            raise VersionMismatchError(
                f"the client speaks versions {versions}, this host {list(wire.SUPPORTED_VERSIONS)}: "
                f"install the same version of hostd on both sides",
                details={"supported": list(wire.SUPPORTED_VERSIONS)},
            )
        self._clients.setdefault(identity, None)
        self._note_program(identity, hello)
        if hello.get("batches") is True:
            self.socket.batching.add(identity)
        self.send(identity, msg.pack_map(msg.WELCOME, envelope.id, self._welcome))

    def program_of(self, client: ClientId) -> dict[str, object]:
        """Return `pid` and `program` of a client as it named them, also of one that is gone; None: it did not."""
        return self._programs.get(client, {"pid": None, "program": None})

    def _note_program(self, identity: bytes, hello: dict[str, Any]) -> None:
        pid, program = hello.get("pid"), hello.get("program")
        self._programs[identity] = {
            "pid": pid if isinstance(pid, int) else None,
            "program": program[:_PROGRAM_CHARS] if isinstance(program, str) else None,
        }
        while len(self._programs) > _PROGRAMS_KEPT:
            self._programs.popitem(last=False)

    def _remember(self, header: bytes) -> msg.Target:
        target = msg.unpack_target(header)
        if len(self._targets) >= _TARGETS_REMEMBERED:
            self._targets.clear()
        if target.trace is None and len(header) <= _REMEMBERED_BYTES:  # traces differ from call to call
            self._targets[header] = target
        return target

    # Answers

    def relay(self, client: ClientId, request_id: int, frames: list[wire.Buffer]) -> None:
        """Pass a worker's answer on, under the client's own id."""
        self.send(client, [wire.readdress(frames[0], request_id, wire.MAX_DEADLINE_MS), *frames[1:]])

    def answer(self, caller: Caller, value: object, kind: int = msg.RESULT) -> None:
        """Answer a request with plain values."""
        try:
            body, buffers = encode(value)
        except HostError as error:
            self.refuse(caller, InternalError(f"the answer cannot be sent: {error}"))
            return
        self.send(caller.client, wire.pack(kind, caller.request_id, body=body, buffers=buffers))

    def refuse(self, caller: Caller, error: HostError) -> None:
        """Answer a request with an error."""
        self.send(caller.client, msg.pack_error(caller.request_id, error))

    def send(self, client: bytes, frames: list[wire.Buffer]) -> None:
        """Send a message now, or after what already waits for a slow client."""
        backlog = self._clients.get(client)
        if backlog:
            self._keep(client, backlog, frames)
        else:
            self.socket.send(client, frames)

    def on_unsent(self, client: bytes, frames: Sequence[wire.Buffer], why: Unsent) -> None:
        """Keep what a slow client did not take; forget a client that is gone."""
        if why is Unsent.GONE or client not in self._clients:
            self._lose(client)
            return
        backlog = self._clients[client]
        if backlog is None:
            backlog = self._clients[client] = deque()
        self._keep(client, backlog, list(frames))

    def _keep(self, client: bytes, backlog: deque[list[wire.Buffer]], frames: list[wire.Buffer]) -> None:
        backlog.append(frames)
        self._waiting.add(client)
        self._on_backlog()
        if len(backlog) > self._buffer_messages:
            _log.warning("a client did not read %s answers (limits.client_buffer_messages): dropped", len(backlog))
            self.dropped_clients += 1
            self._lose(client)

    def flush(self) -> bool:
        """Try again to send what waits for slow clients; say whether something still waits."""
        for client in list(self._waiting):
            backlog = self._clients.get(client)
            why = None
            while backlog and why is None:
                why = self.socket.try_send(client, backlog[0])
                if why is None:
                    backlog.popleft()
            if why is Unsent.GONE:
                self._lose(client)
            elif not backlog:
                self._waiting.discard(client)
        return bool(self._waiting)

    def probe(self) -> None:
        """Find out which clients went without a word: a message to one that is gone cannot be sent."""
        for client, buffered in list(self._clients.items()):
            if not buffered:
                self.send(client, wire.pack(msg.PING, 0))

    def _lose(self, client: bytes) -> None:
        if client in self._clients:
            del self._clients[client]
            self.socket.batching.discard(client)
            self._waiting.discard(client)
            self._on_withdrawn(ev.ClientId(client), None)
            self._emit(ev.ClientVanished(ev.ClientId(client)))
