"""What a forked child does to be a worker like any other: of its own session, log, environment and randomness.

It does first what it can do before it is wanted (a spare), then takes an order, and does what that says.

It is a grandchild of the template, and its parent in between ends at once. So the supervisor, which is a subreaper,
adopts it, gets its exit, and takes it along when it dies. (The signal for the death of a parent would come with the
template's, were that its parent: prctl(2).) Each step waits until the supervisor has taken note of the one before.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from hostd_workers.main import prepare
from hostd_workers.process.forked import is_the_worker
from hostd_workers.template.importing import changes_of
from hostd_workers.wire import template as wire
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from hostd_workers.main import Prepared
    from hostd_workers.template.threads import Pools

ADOPTED_WITHIN_S = 10.0
_LOOK_S = 0.0001


class Order(NamedTuple):
    """A worker that is wanted: what is different in its environment, and descriptors; there may be no page."""

    changes: bytes
    log: int
    answers: int
    page: int | None

    @classmethod
    def read(cls, fds: list[int]) -> Order:
        """Read what the supervisor has sent: a memfd, the log, a socket for answers, the page."""
        order, log, answers, *page = fds
        changes = os.pread(order, os.fstat(order).st_size, 0)
        os.close(order)
        return cls(changes, log, answers, page[0] if page else None)


class Files(NamedTuple):
    """The files that tell that a library was installed anew, and when they were changed last (`importing`)."""

    names: bytes
    changes: bytes

    @property
    def are_others(self) -> bool:
        """Say whether one of them was changed since."""
        return changes_of(self.names) != self.changes


class Heritage(NamedTuple):
    """What a template has for each child.

    Its libraries' pools and generators, the names in `os.environ` that imports have changed, and the files that these
    came from.
    """

    pools: Pools
    reseed: list[Callable[[], object]]
    changed: frozenset[str]
    files: Files


def become_worker(
    supervisor: int, heritage: Heritage, control: socket.socket, says: int, begin: Callable[[int], object]
) -> Prepared:
    """Turn this process into a fresh worker; returns when it is one, and ends it if nobody wants it any more.

    `control` is the template's own socket, `says` the pipe to it, `begin` the first steps of every worker.
    """
    prepared = _spare(supervisor, heritage)
    os.write(says, b"%*d" % (wire.PID_BYTES, os.getpid()))
    fds = receive_order(control)
    control.close()
    os.write(says, b"\0")
    os.close(says)
    order = Order.read(fds)
    os.dup2(order.log, 1)
    os.dup2(order.log, 2)
    os.close(order.log)
    with socket.socket(fileno=order.answers) as answers:
        if heritage.files.are_others:
            answers.send(wire.packed({"stale": "a library was installed anew"}))
            os._exit(0)
        answers.send(wire.packed({"pid": os.getpid()}))
        if answers.recv(1) != wire.GO:
            os._exit(0)
        os.setsid()
        answers.send(wire.packed({"leads": True}))
    if order.page is not None:
        os.dup2(order.page, wire.PAGE_FD)
        if order.page != wire.PAGE_FD:
            os.close(order.page)
    _take_environment(order.changes, heritage.changed)
    begin(supervisor)
    heritage.pools.set(os.environ)
    return prepared


def receive_order(control: socket.socket) -> list[int]:
    """Wait for an order, and return its descriptors; end with the supervisor's end of the socket."""
    received, fds, _, _ = socket.recv_fds(control, len(wire.ORDER), wire.MAX_FDS)
    if not received:
        os._exit(0)
    return fds


def _spare(supervisor: int, heritage: Heritage) -> Prepared:
    """Be the supervisor's child, of one's own randomness, and as much of a worker as can be without a model."""
    _wait_for_parent(supervisor)
    for reseed in heritage.reseed:
        with contextlib.suppress(Exception):  # a kind of generator that takes no new seed
            reseed()
    is_the_worker()
    return prepare()


def _wait_for_parent(supervisor: int) -> None:
    until_s = time.monotonic() + ADOPTED_WITHIN_S
    while os.getppid() != supervisor:
        if time.monotonic() > until_s:
            os._exit(1)
        time.sleep(_LOOK_S)


def _take_environment(changes: bytes, changed: Container[str]) -> None:
    """Have an environment that is different from the template's; what imports have changed is as they would have it."""
    for name, value in wire.unpacked_changes(changes):
        if name in changed:
            continue
        if value is not None:
            os.environ[name] = value
        elif name in os.environ:
            del os.environ[name]
