"""A worker process: its ZeroMQ socket and the loop around its session.

The loop is a plain blocking one, which has the shortest way from a message to the model. A model with coroutine methods
gets the one in `tasks`.
"""

from __future__ import annotations

import faulthandler
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

import zmq

from hostd_workers import stacks
from hostd_workers.ending import EXIT_FATAL, end
from hostd_workers.forked import leave, leave_if_child
from hostd_workers.session import Session
from hostd_workers.wire.frames import BATCHED_BELOW_BYTES, pack_batch
from hostd_workers.wire.transport import DONTWAIT, MessageSocket, buffers_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd_workers.runtime import Runtime
    from hostd_workers.wire.frames import Buffer

LINGER_MS = 1000
"""How long last words may take to leave a process that is ending."""

LOOK_PERIOD_S = 0.0005
"""How often a busy worker looks for new messages, such as a cancel; to look costs as much as half a small call."""

QUICK_S = 0.0001
QUICK_CALLS = 200
HOLD_S = 0.0002
"""Against a round trip of 0.2 ms: an answer that waits for company loses less than another one of those."""


class Transport:
    """The worker's one socket, a DEALER that connects to the supervisor under its token as identity."""

    def __init__(self, endpoint: str, token: str) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, bytes.fromhex(token))
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.connect(endpoint)
        self._messages: Any = MessageSocket(self._socket)
        self._held: list[Buffer] = []
        self.is_holding = False
        """Whether small messages are held back for company; `release` sends them."""
        self.on_sent: Callable[[], None] | None = None
        """Called after every send, which may swallow the descriptor's news of a message that came meanwhile."""

    def close(self) -> None:
        """Let what was sent leave, for `LINGER_MS` at most, and close the socket."""
        self._socket.close()
        self._context.term()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when `receive` may have something (edge triggered)."""
        return int(self._socket.getsockopt(zmq.FD))

    def receive(self, *, block: bool) -> list[Buffer] | None:
        """Return the frames of the next message, or None if there is none and `block` is false."""
        try:
            return buffers_of(self._messages.receive(0 if block else DONTWAIT))
        except zmq.Again:
            return None

    def send(self, frames: list[Buffer]) -> None:
        """Send the frames of a message; big ones are not copied, and `settle` waits for them."""
        if self.is_holding and len(frames) == 1 and len(frames[0]) < BATCHED_BELOW_BYTES:
            self._held.append(frames[0])
            return
        self.release()
        self._messages.send(frames, 0, track=True)
        if self.on_sent is not None:
            self.on_sent()

    def release(self) -> None:
        """Send what was held back, in one frame."""
        held = self._held
        if held:
            self._messages.send(held if len(held) == 1 else [pack_batch(held)], 0)
            held.clear()

    def abandon(self) -> None:
        """Be of no use: in a child that the model forked, whatever goes to or comes from the socket ends the child."""
        self._messages = _Abandoned()

    def settle(self) -> None:
        """Wait until ZeroMQ needs no memory of ours any more: the next call may write into an array it returned."""
        unsent = self._messages.unsent
        while unsent:
            unsent.pop().wait()


class _Abandoned:
    """The messages of a forked child, which are its parent's."""

    def __getattr__(self, name: str) -> object:
        leave()


class Pace:
    """Whether answers may wait for the next one's company: only as long as all of the last calls were quick.

    Then many leave as one frame, which is worth a quarter of the throughput of small calls. One answer waits for at
    most `HOLD_S` and one call; after a call that was not quick none waits until many were.
    """

    def __init__(self) -> None:
        self._quick_calls = 0
        self._held_s = 0.0

    @property
    def is_quick(self) -> bool:
        """Say whether the last calls were all quick."""
        return self._quick_calls >= QUICK_CALLS

    def may_hold(self, took_s: float) -> bool:
        """Take note of how long a call took, and say whether what is held back may wait for another one."""
        if took_s > QUICK_S:
            self._quick_calls = 0
            self._held_s = 0.0
            return False
        self._quick_calls += 1
        self._held_s += took_s
        if self._held_s > HOLD_S:
            self._held_s = 0.0
            return False
        return True


def serve(transport: Transport, session: Session) -> NoReturn:
    """Serve until killed; goes over to an asyncio loop when the loaded model has coroutine methods."""
    looked_s = 0.0
    pace = Pace()
    while not session.is_async:
        runtime = session.runtime
        is_idle = runtime is None or not runtime.has_work
        now_s = time.monotonic()
        if is_idle or now_s - looked_s > LOOK_PERIOD_S:
            looked_s = now_s
            frames = transport.receive(block=is_idle)
            while frames is not None:
                session.accept(frames)
                frames = transport.receive(block=False)
        # Not once the model has turned out to need a loop, even if its first call is here already.
        if session.runtime is not None and not session.is_async:
            transport.settle()
            transport.is_holding = pace.is_quick
            began_s = time.monotonic()
            session.runtime.step()
            if not pace.may_hold(time.monotonic() - began_s) or not session.runtime.has_work:
                transport.release()
    transport.is_holding = False
    from hostd_workers.tasks import serve_coroutines  # noqa: PLC0415 - see there

    serve_coroutines(transport, session, cast("Runtime", session.runtime))


def main() -> NoReturn:
    """Run the worker that the environment describes, until it is killed or ends itself."""
    endpoint, token = os.environ.pop("HOSTD_WORKER_ENDPOINT"), os.environ.pop("HOSTD_WORKER_TOKEN")
    faulthandler.enable()  # a crash in a library then leaves its Python traceback in the model's log
    transport = Transport(endpoint, token)
    os.register_at_fork(after_in_child=transport.abandon)
    session = Session(token, transport.send, stacks.offer())
    try:
        session.greet()
        serve(transport, session)
    except BaseException as error:  # noqa: BLE001 - not only Exception: a model may call sys.exit
        leave_if_child()
        transport.is_holding = False  # what waits for company leaves with the last words
        end(error, say=partial(session.say_last_words, error), close=transport.close, code=EXIT_FATAL)
