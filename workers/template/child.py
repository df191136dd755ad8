"""What a forked child does to be a worker like any other: of its own session, log, environment and randomness.

It is a grandchild of the template, and its parent in between ends at once. So the supervisor, which is a subreaper,
adopts it, gets its exit, and takes it along when it dies. (The signal for the death of a parent would come with the
template's, were that its parent: prctl(2).) Each step waits until the supervisor has taken note of the one before.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from hostd_workers.process.forked import is_the_worker
from hostd_workers.wire import template as wire
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hostd_workers.template.threads import Pools

ADOPTED_WITHIN_S = 10.0
_LOOK_S = 0.0001


class Order(NamedTuple):
    """A worker that is wanted: its environment, and descriptors, of which `page` may be missing."""

    environment: dict[str, str]
    log: int
    answers: int
    page: int | None

    @classmethod
    def read(cls, fds: list[int]) -> Order:
        """Read what the supervisor has sent: a memfd with the environment, the log, a socket for answers, the page."""
        order, log, answers, *page = fds
        environment = json.loads(os.pread(order, os.fstat(order).st_size, 0))
        os.close(order)
        return cls(environment, log, answers, page[0] if page else None)


class Heritage(NamedTuple):
    """What a template has for each child: its libraries' pools and generators, and what imports did to `os.environ`."""

    pools: Pools
    reseed: list[Callable[[], object]]
    changed: Mapping[str, str | None]


def become_worker(order: Order, heritage: Heritage, control: int, begin: Callable[[int], object]) -> None:
    """Turn this process into a fresh worker; returns when it is one, and ends it if nobody wants it any more.

    `control` is the template's own descriptor, `begin` the first steps of every worker.
    """
    os.close(control)
    os.dup2(order.log, 1)
    os.dup2(order.log, 2)
    os.close(order.log)
    supervisor = int(order.environment.pop("HOSTD_SUPERVISOR_PID"))
    with socket.socket(fileno=order.answers) as answers:
        _wait_for_parent(supervisor)
        _say(answers, pid=os.getpid())
        os.setsid()
        _say(answers, leads=True)
    if order.page is not None:
        os.dup2(order.page, wire.PAGE_FD)
        if order.page != wire.PAGE_FD:
            os.close(order.page)
    _take_environment(order.environment, heritage.changed)
    for reseed in heritage.reseed:
        with contextlib.suppress(Exception):  # a kind of generator that takes no new seed
            reseed()
    is_the_worker()
    begin(supervisor)
    heritage.pools.set(order.environment)


def _say(answers: socket.socket, **what: Any) -> None:
    answers.send(wire.packed(what))
    if answers.recv(1) != wire.GO:
        os._exit(0)


def _wait_for_parent(supervisor: int) -> None:
    until_s = time.monotonic() + ADOPTED_WITHIN_S
    while os.getppid() != supervisor:
        if time.monotonic() > until_s:
            os._exit(1)
        time.sleep(_LOOK_S)


def _take_environment(environment: Mapping[str, str], changed: Mapping[str, str | None]) -> None:
    """Have this environment, with what imports have changed in the template's own, as they would have in this one."""
    wanted: dict[str, Any] = {**environment, **{name: value for name, value in changed.items() if value is not None}}
    for name in [name for name in os.environ if name not in wanted or name in changed]:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
