"""The supervisor's side of the conversation with clients.

Rules
1. A client says HELLO first, over every new connection; the host's answer names this start of the host (`epoch`). A
   message of a connection that did not is refused, so a request that was sent to an earlier host never runs here.
2. A client is known by its connection. When that ends, so does everything that the client waits for.
3. Only prefix and header of a call are decoded. Headers repeat, so what was decoded is remembered by its bytes.
"""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.bookkeeping.recent import Recent
from hostd.shell.transport.listener import LINGER_S, Side
from hostd.shell.work.component import Component
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    HostError,
    MessageTooLargeError,
    ProtocolError,
    UnavailableError,
    VersionMismatchError,
)
from hostd_workers.wire.feeds import FEED_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd.core.events import Caller, ClientId, Event
    from hostd.shell.transport.listener import Listener
    from hostd.shell.work.component import Handlers

_log = logging.getLogger(__name__)

_TARGETS_REMEMBERED = 4096
_REMEMBERED_BYTES = 1024
"""A header that is longer is a strange one; 4096 of the longest would hold 128 MB for as long as the host runs."""


_PROGRAMS_KEPT = 4096
"""Clients that are known by their program, also a while after they have gone: their calls may run on."""

_PROGRAM_CHARS = 100


class Programs:
    """Which program each client is, by its connection."""

    def __init__(self) -> None:
        self._programs: Recent[bytes, dict[str, object]] = Recent(_PROGRAMS_KEPT)

    def of(self, client: ClientId) -> dict[str, object]:
        """Return `pid` and `program` of a client, also of one that is gone; None: unknown."""
        return self._programs.get(client, {"pid": None, "program": None})

    def note(self, client: bytes, pid: int | None, program: object) -> None:
        """Take note of what a client says that it is."""
        self._programs[client] = {
            "pid": pid or None,  # 0: it is in a namespace that this host cannot see
            "program": program[:_PROGRAM_CHARS] if isinstance(program, str) else None,
        }


class Frontend(Component):
    """Messages from and to clients. `emit` takes events, `verb` takes requests of the control plane."""

    def __init__(
        self,
        listen: Callable[[Side], Listener],
        emit: Callable[[Event], None],
        verb: Callable[[Caller, str, wire.Envelope, float | None], None],
        clock: Callable[[], float],
        *,
        on_withdrawn: Callable[[ClientId, int | None], None],
        programs: Programs,
        welcome: dict[str, object],
        max_message_bytes: int,
    ) -> None:
        """Listen. Takes the callbacks, `welcome`, the body of the answer to HELLO, and what is the longest message.

        `on_withdrawn` is called when a client withdraws a request, or with None all of them.
        """
        self._emit = emit
        self._verb = verb
        self._clock = clock
        self._on_withdrawn = on_withdrawn
        self._welcome = welcome
        self._max_message_bytes = max_message_bytes
        self._numbers = count(1)
        self._clients: set[bytes] = set()
        self._targets: dict[bytes, msg.Target] = {}
        self._programs = programs
        self.socket = listen(
            Side(
                admit=self._admit,
                message=self.on_message,
                too_long=self._on_too_long,
                unsent=lambda *_: None,  # its end is told, and ends what it waits for
                gone=self._lose,
            )
        )

    def __len__(self) -> int:
        return len(self._clients)

    def handlers(self) -> Handlers:
        """Return what carries out which effect."""
        return {fx.RelayAnswer: self.relay}

    def close(self) -> None:
        """Close all connections; answers that were just given, the one to `shutdown` among them, may leave before."""
        self.socket.close(linger_s=LINGER_S)

    def _admit(self, _: bytes, pid: int) -> bytes:
        number = next(self._numbers)
        # A process in a namespace that this host cannot see has the number 0, as all others there.
        return b"%d.%d" % (pid, number) if pid else b"?%d.%d" % (number, number)

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
                size_bytes = len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
                if target.feed is not None:
                    size_bytes += FEED_BYTES
                client, model_id = ev.ClientId(identity), ev.ModelId(target.model_id)
                self._emit(ev.CallReceived(client, request_id, model_id, target.method, deadline_s, size_bytes, frames))
            elif kind in (msg.ITEM, msg.END, msg.ERROR):
                self._emit(ev.FeedReceived(ev.Caller(ev.ClientId(identity), request_id), frames))
            else:
                self._on_control(kind, identity, frames, deadline_s)
        except ProtocolError as error:
            _log.debug("a client sent what is not of this protocol: %s", error)
            # Without an id to answer under, what sent this is no client of ours.
            if len(frames[0]) >= wire.PREFIX_BYTES and (request_id := wire.id_of(frames[0])):
                self.send(identity, msg.pack_error(request_id, error))
        except VersionMismatchError as error:
            # The id lies at the same place in every version, so that its sender learns of this.
            self.send(identity, msg.pack_error(wire.id_of(frames[0]), error))
        except HostError as error:
            self.send(identity, msg.pack_error(request_id, error))

    def _on_too_long(self, identity: bytes, first: wire.Buffer) -> None:
        if len(first) >= wire.PREFIX_BYTES and (request_id := wire.id_of(first)):
            if first[0] == msg.ITEM:  # its call would wait for it, and has an answer of its own to come
                self._emit(ev.CallCancelled(ev.Caller(ev.ClientId(identity), request_id)))
                return
            error = MessageTooLargeError(
                f"the request is longer than the {self._max_message_bytes} bytes (limits.max_message_bytes) or "
                f"{wire.MAX_FRAMES} frames that the host accepts: send less at a time, or raise the limit"
            )
            self.send(identity, msg.pack_error(request_id, error))

    def _on_control(self, kind: int, identity: bytes, frames: list[wire.Buffer], deadline_s: float | None) -> None:
        envelope = wire.unpack(frames)
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
            self.socket.dismiss(identity, "it said goodbye")
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
        self._clients.add(identity)
        self._programs.note(identity, self.socket.pid_of(identity), hello.get("program"))
        self.socket.vouch(identity, is_batching=hello.get("batches") is True)
        self.send(identity, msg.pack_map(msg.WELCOME, envelope.id, self._welcome))

    def _remember(self, header: bytes) -> msg.Target:
        target = msg.unpack_target(header)
        if len(self._targets) >= _TARGETS_REMEMBERED:
            self._targets.clear()
        if target.trace is None and len(header) <= _REMEMBERED_BYTES:  # traces differ from call to call
            self._targets[header] = target
        return target

    # Answers

    def relay(self, effect: fx.RelayAnswer) -> None:
        """Pass a worker's answer on, under the client's own id."""
        client, request_id, frames = effect
        self.socket.send(client, [wire.readdress(frames[0], request_id, wire.MAX_DEADLINE_MS), *frames[1:]])

    def refuse(self, caller: Caller, error: HostError) -> None:
        """Answer a request with an error."""
        self.send(caller.client, msg.pack_error(caller.request_id, error))

    def send(self, client: bytes, frames: list[wire.Buffer]) -> None:
        """Send a message to a client; nothing if it is gone."""
        self.socket.send(client, frames)

    def _lose(self, client: bytes) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._on_withdrawn(ev.ClientId(client), None)
            self._emit(ev.ClientVanished(ev.ClientId(client)))
