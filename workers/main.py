"""A worker process: the loop around its session.

The loop is a plain blocking one, which has the shortest way from a message to the model. A model with coroutine methods
gets the one in `async_loop`.
"""

from __future__ import annotations

import faulthandler
import os
import time
from functools import partial
from typing import TYPE_CHECKING, NoReturn, cast

from hostd_workers.process import stacks
from hostd_workers.process.ending import EXIT_FATAL, end
from hostd_workers.process.forked import leave_if_child
from hostd_workers.session import Session
from hostd_workers.transport import Transport
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from hostd_workers.calls.runtime import Runtime
    from hostd_workers.lane.lanes import Lanes
    from hostd_workers.wire.frames import Buffer

LOOK_PERIOD_S = 0.0005
"""How often a busy worker looks for new messages, such as a cancel; to look costs as much as half a small call."""

QUICK_S = 0.0001
QUICK_CALLS = 200
HOLD_S = 0.0002
"""Against a round trip of 0.2 ms: an answer that waits for others loses less than that."""


class Pace:
    """Whether answers may wait for the next ones, to leave with them: only as long as all of the last calls were quick.

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
    while session.runtime is None:
        session.accept(cast("list[Buffer]", transport.receive(block=True)))
    if not session.is_async:
        _serve_calls(transport, session, session.runtime, session.lanes)
    transport.is_holding = False
    from hostd_workers.async_loop import serve_coroutines  # noqa: PLC0415 - see there

    serve_coroutines(transport, session, session.runtime)


def _serve_calls(transport: Transport, session: Session, runtime: Runtime, lanes: Lanes | None) -> NoReturn:
    looked_s = 0.0
    pace = Pace()
    if lanes is not None:
        lanes.also(transport.fileno())
    while True:
        is_idle = not runtime.has_work and not (lanes is not None and lanes.has_work)
        now_s = time.monotonic()
        if is_idle or now_s - looked_s > LOOK_PERIOD_S:
            looked_s = now_s
            _look(transport, session, lanes, block=is_idle)
        began_s = time.monotonic()
        if runtime.has_work:
            transport.is_holding = pace.is_quick
            runtime.step()
        if lanes is not None and lanes.has_work:
            lanes.step()
        may_hold = pace.may_hold(time.monotonic() - began_s)
        if not may_hold or not runtime.has_work:
            transport.release()
        if lanes is not None and not may_hold:
            lanes.flush()


def _look(transport: Transport, session: Session, lanes: Lanes | None, *, block: bool) -> None:
    """Take in what has come by the host and by lanes, and wait for it if there is nothing to do."""
    if lanes is None:
        frames = transport.receive(block=block)
    else:
        # The descriptor tells of changes, and a send may have swallowed one: then the socket is asked first.
        frames = transport.receive(block=False) if transport.has_sent else None
        if frames is None:
            is_news = lanes.poll(-1 if block else 0)
            frames = transport.receive(block=False) if is_news else None
    while frames is not None:
        session.accept(frames)
        frames = transport.receive(block=False)


class Prepared(NamedTuple):
    """What a worker has before it knows its model: its socket, and what makes it write its stacks."""

    transport: Transport
    stacks: tuple[int, int] | None


def prepare() -> Prepared:
    """Do what a worker does first, whatever it is to load."""
    faulthandler.enable()  # a crash in a library then leaves its Python traceback in the model's log
    transport = Transport()
    os.register_at_fork(after_in_child=transport.abandon)
    return Prepared(transport, stacks.offer())


def main(prepared: Prepared | None = None) -> NoReturn:
    """Run the worker that the environment describes, until it is killed or ends itself."""
    endpoint, token = os.environ.pop("HOSTD_WORKER_ENDPOINT"), os.environ.pop("HOSTD_WORKER_TOKEN")
    transport, offer = prepared or prepare()
    transport.connect(endpoint, token)
    session = Session(token, transport.send, offer)
    try:
        session.greet()
        serve(transport, session)
    except BaseException as error:  # noqa: BLE001 - not only Exception: a model may call sys.exit
        leave_if_child()
        transport.is_holding = False  # what is held back leaves with the last words
        end(error, say=partial(session.say_last_words, error), close=transport.close, code=EXIT_FATAL)
