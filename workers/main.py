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

if TYPE_CHECKING:
    from hostd_workers.calls.runtime import Runtime

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
    from hostd_workers.async_loop import serve_coroutines  # noqa: PLC0415 - see there

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
        transport.is_holding = False  # what is held back leaves with the last words
        end(error, say=partial(session.say_last_words, error), close=transport.close, code=EXIT_FATAL)
