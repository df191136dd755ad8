"""The event loop of a worker with a model that has coroutine methods, around its session.

A module of its own because it needs asyncio: its import costs a third of the start of a worker.

The loop is the model's too, so what it may do to a loop is survived: it may stop it, cancel every task that it finds,
and set a factory of tasks. Nothing of ours is a task but the calls themselves (`tasks`) and the model's `close`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from hostd_workers.process.ending import ENDS_A_PROCESS
from hostd_workers.process.forked import leave

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from hostd_workers.calls.runtime import Runtime
    from hostd_workers.lane.lanes import Lanes
    from hostd_workers.session import Session
    from hostd_workers.transport import Transport


def serve_coroutines(transport: Transport, session: Session, runtime: Runtime) -> NoReturn:
    """Serve until killed; raises what ends the worker."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    _end_children_of(loop)
    pump = _Pump(loop, transport, session, runtime)
    pump.soon()
    while True:
        loop.run_forever()
        failure = pump.failure or runtime.failure
        if failure is not None:
            raise failure
        pump.note_stop()


class _Pump:
    """Takes messages in and runs what is queued, from the raw socket on the loop's reader.

    `zmq.asyncio` costs half of the throughput. The socket's descriptor only tells of changes, and a send may swallow
    one, so there is a look after each.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: Transport, session: Session, runtime: Runtime
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._session = session
        self._runtime = runtime
        self._is_due = False
        self._is_working = False
        self._has_noted = False
        self.failure: BaseException | None = None
        """What ends the worker; the loop is stopped for it."""
        self._lanes = session.lanes
        self._own: set[asyncio.Task[None]] = set()
        session.run = self._run
        loop.add_reader(transport.fileno(), self._work)
        transport.on_sent = self.soon
        if self._lanes is not None:
            loop.add_reader(self._lanes.fileno(), self._work)
            self._lanes.tell(self.soon, loop.call_later)

    def soon(self) -> None:
        """Look at the socket and the queue at the loop's next turn."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._work)

    def note_stop(self) -> None:
        """Say in the model's log that the loop was stopped, and goes on."""
        if not self._has_noted:
            self._has_noted = True
            print("the model stopped the event loop that serves it; the loop goes on", file=sys.stderr)  # noqa: T201

    def _run(self, ours: Coroutine[Any, Any, None]) -> None:
        self._own.add(asyncio.Task(ours, loop=self._loop))  # not by the loop's own factory, which may be the model's

    def _work(self) -> None:
        self._is_due = False
        if self._is_working:  # a plain method runs the loop inside of itself (nest_asyncio)
            return
        self._is_working = True
        try:
            while (frames := self._transport.receive(block=False)) is not None:
                self._session.accept(frames)
            if self._runtime.has_work:
                self._runtime.step()
                self.soon()
            if self._lanes is not None:
                self._serve(self._lanes)
        except ENDS_A_PROCESS:
            raise
        except BaseException as error:  # noqa: BLE001 - the loop would swallow it
            self.failure = error
            self._loop.stop()
        finally:
            self._is_working = False

    def _serve(self, lanes: Lanes) -> None:
        lanes.poll(0)
        if lanes.has_work:
            lanes.step()
        lanes.flush()
        lanes.rest()
        if lanes.has_work:
            self.soon()


def _end_children_of(loop: asyncio.AbstractEventLoop) -> None:
    """End a child that the model forks when it comes back to the loop, which is its parent's, selector included."""
    thread = threading.get_ident()

    def end() -> None:
        if threading.get_ident() == thread:
            loop.call_soon(_leave_after, asyncio.current_task(loop))
        else:  # a thread of an executor, which calls this when it has done its work
            loop.call_soon_threadsafe = leave  # type: ignore[assignment, method-assign]

    os.register_at_fork(after_in_child=end)


def _leave_after(task: asyncio.Task[Any] | None) -> None:
    """End a child, with what the task raised that forked it."""
    if task is not None and task.done():
        try:
            task.result()
        except BaseException:  # noqa: BLE001 - whatever it is, it is told
            leave()
    leave()
