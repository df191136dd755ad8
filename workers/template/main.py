"""The life of a template: it imports what it was told, says what became of it, and forks a worker for each order.

It has one thread, no socket of ZeroMQ's, no model, and nothing that a model may change: its children do. It ends with
the supervisor's end of its socket.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from hostd_workers.template.child import Heritage, Order, become_worker
from hostd_workers.template.importing import changes_of, files_of, import_all
from hostd_workers.template.randomness import generators
from hostd_workers.template.threads import Pools
from hostd_workers.wire import template as wire
from hostd_workers.wire.light import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_OWN = ("hostd_workers.main", "hostd_workers.lane.lanes", "hostd_workers.process.installed")
"""What every worker needs."""


def serve(begin: Callable[[int], object]) -> None:
    """Be a template, and return only in a child, as a worker that has taken its first steps (`begin`)."""
    control = socket.socket(fileno=wire.CONTROL_FD)
    heritage, files = _prepared(control)
    while True:
        received, fds, _, _ = socket.recv_fds(control, len(wire.ORDER), wire.MAX_FDS)
        if not received:
            os._exit(0)
        if changes_of(files.names) != files.changed_ns:
            os.write(fds[wire.ANSWERS], wire.packed({"stale": "a library was installed anew"}))
        elif _is_child(fds[wire.ANSWERS]):
            become_worker(Order.read(fds), heritage, control.detach(), begin)
            return
        for fd in fds:
            os.close(fd)


class Files(NamedTuple):
    """The files that tell that a library was installed anew, and when each was changed last.

    In few places of memory: what a template touches for an order it has to copy, and its children keep the rest.
    """

    names: tuple[str, ...]
    changed_ns: list[int]


def _prepared(control: socket.socket) -> tuple[Heritage, Files]:
    """Import what is wanted and say so; end the process if that is not safe to be forked."""
    for fd in (wire.CONTROL_FD, wire.NOTE_FD):
        os.set_inheritable(fd, False)
    began_s, environment = time.monotonic(), dict(os.environ)
    wanted = json.loads(os.pread(wire.NOTE_FD, os.fstat(wire.NOTE_FD).st_size, 0))
    unsafe = import_all([*_OWN, *wanted], lambda name: os.pwrite(wire.NOTE_FD, wire.noted(name), 0))
    os.close(wire.NOTE_FD)
    if unsafe is not None:
        control.send(wire.packed({"unsafe": list(unsafe)}))
        os._exit(0)
    changed = {
        name: os.environ.get(name)
        for name in environment.keys() | os.environ.keys()
        if os.environ.get(name) != environment.get(name)
    }
    names = files_of(list(sys.modules))
    files = Files(names, changes_of(names))
    pools = Pools()
    heritage = Heritage(pools, generators(), changed)
    ctypes.CDLL(None).fflush(None)  # what is buffered would be printed by each child
    # What is collected from now on is what a child makes: a collection of all would copy every page of the template.
    gc.collect()
    gc.freeze()
    import_s = time.monotonic() - began_s
    control.send(wire.packed({"ready": len(sys.modules), "import_s": import_s, "keeps_one_thread": pools.fixed}))
    return heritage, files


def _is_child(answers: int) -> bool:
    """Fork twice; say whether this is the grandchild. What cannot be forked is told to who has ordered it."""
    try:
        between = os.fork()
    except OSError as error:
        os.write(answers, wire.packed({"refused": str(error)}))
        return False
    if between:
        os.waitpid(between, 0)
        return False
    try:
        child = os.fork()
    except OSError as error:
        os.write(answers, wire.packed({"refused": str(error)}))
        os._exit(1)
    if child:
        os._exit(0)
    return True
