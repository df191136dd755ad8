"""The life of a template: it imports what it was told, says what became of it, and forks a spare after each order.

A spare is a worker that has no model yet. It is there before it is wanted: a fork, with what has to be set right after
it, takes longer than most loads. It takes the next order from the template's own socket, and the template hears of that
by a pipe. The template has one thread, no socket of ZeroMQ's, no model, and nothing that a model may change: its
children do. It ends with the supervisor's end of its socket.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from hostd_workers.plugins import builtin_loaders
from hostd_workers.template.child import Files, Heritage, become_worker, receive_order
from hostd_workers.template.importing import changes_of, files_of, import_all
from hostd_workers.template.randomness import generators
from hostd_workers.template.threads import Pools
from hostd_workers.wire import template as wire
from hostd_workers.wire.light import finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostd_workers.main import Prepared

_OWN = ("hostd_workers.main", "hostd_workers.lane.lanes", "hostd_workers.process.installed")
"""What every worker needs."""

_PAUSE_MS: Final = 20
_MOST_LOST: Final = 3
"""Spares that end one after the other before they are prepared."""

_AGAIN_MS: Final = 1000
"""How long to wait for processes that the system does not make."""

_LOST: Final = {"unsafe": ["", "what it forks ends at once"]}


def serve(supervisor: int, begin: Callable[[int], object]) -> Prepared:
    """Be a template; return only in a child, as a worker that has an order and has taken its first steps (`begin`)."""
    control = socket.socket(fileno=wire.CONTROL_FD)
    heritage, ready = _prepared(control)
    lost = 0
    while True:
        hears, says = os.pipe()
        try:
            is_spare = _is_child()
        except OSError as error:
            os.close(hears)
            os.close(says)
            _refuse(control, error, ready)
            ready = {}
            continue
        if is_spare:
            os.close(hears)
            return become_worker(supervisor, heritage, control, says, begin)
        os.close(says)
        spare = os.read(hears, wire.PID_BYTES)
        lost = 0 if spare else lost + 1
        if lost >= _MOST_LOST:  # the next one would fare no better, and nobody hears of it
            if ready:
                control.send(wire.packed(_LOST))
            os._exit(0)
        if spare:
            control.send(wire.packed({**ready, "spare": int(spare)}))
            ready = {}
            os.read(hears, 1)  # when it has taken an order, or has ended
        os.close(hears)
        _wait(control)


def _prepared(control: socket.socket) -> tuple[Heritage, dict[str, Any]]:
    """Import what is wanted, and return what to say of that; end the process if it is not safe to be forked."""
    for fd in (wire.CONTROL_FD, wire.NOTE_FD):
        os.set_inheritable(fd, False)
    began_s, environment = time.monotonic(), dict(os.environ)
    wanted = json.loads(os.pread(wire.NOTE_FD, os.fstat(wire.NOTE_FD).st_size, 0))
    unsafe = import_all([*_OWN, *wanted], lambda name: os.pwrite(wire.NOTE_FD, wire.noted(name), 0))
    os.pwrite(wire.NOTE_FD, wire.noted(""), 0)
    os.close(wire.NOTE_FD)
    if unsafe is not None:
        control.send(wire.packed({"unsafe": list(unsafe)}))
        os._exit(0)
    names = environment.keys() | os.environ.keys()
    changed = frozenset(name for name in names if os.environ.get(name) != environment.get(name))
    files = files_of(list(sys.modules))
    pools = Pools()
    _finish_own_code()
    heritage = Heritage(pools, generators(), changed, Files(files, changes_of(files)))
    ctypes.CDLL(None).fflush(None)  # what is buffered would be printed by each child
    # What is collected from now on is what a child makes: a collection of all would copy every page of the template.
    gc.collect()
    gc.freeze()
    import_s = time.monotonic() - began_s
    return heritage, {"ready": len(sys.modules), "import_s": import_s, "keeps_one_thread": pools.fixed}


def _finish_own_code() -> None:
    """Do now what each worker does when it first uses what is ours."""
    builtin_loaders()
    for name, module in list(sys.modules.items()):
        if name.startswith("hostd_workers."):
            finish(vars(module))


def _is_child() -> bool:
    """Fork twice; say whether this is the grandchild. Raises OSError if the system makes no process."""
    between = os.fork()
    if between:
        if os.waitpid(between, 0)[1]:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return False
    try:
        child = os.fork()
    except OSError:
        os._exit(1)
    if child:
        os._exit(0)
    return True


def _refuse(control: socket.socket, error: OSError, ready: dict[str, Any]) -> None:
    """Answer an order in the place of a spare that cannot be made; returns after a while, to try again."""
    if ready:
        control.send(wire.packed(ready))
    events = select.poll()
    events.register(control, select.POLLIN)
    if not events.poll(_AGAIN_MS):
        return
    fds = receive_order(control)
    os.write(fds[wire.ANSWERS], wire.packed({"refused": str(error)}))
    for fd in fds:
        os.close(fd)


def _wait(control: socket.socket) -> None:
    """Leave the cores to the worker that has just begun, unless another one is wanted; end with the supervisor."""
    events = select.poll()
    events.register(control, select.POLLIN)
    if any(what & select.POLLHUP for _, what in events.poll(_PAUSE_MS)):
        os._exit(0)
