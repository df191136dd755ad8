"""The one ZeroMQ context that all clients of a process share, for as long as the process lives.

A context waits in its destructor until its last socket is closed. In garbage that the cycle collector finds, those
sockets are closed later or never, and any allocation in any thread may be the one that collects: so no client has a
context of its own, and this one is never collected and never terminated. It costs two threads, which block in the
kernel, and ten descriptors. A forked child has one of its own and leaves its parent's alone.
"""

from __future__ import annotations

import itertools
import os

import zmq

MAX_SOCKETS = 1 << 14
"""Three for each client. ZeroMQ's own limit of 1023 would be 341 clients in a process; each more costs 12 bytes."""

_count = itertools.count()


class _Socket(zmq.Socket[bytes]):
    """A socket that only its connection closes, because the order in which the collector would do it is not defined."""

    def __del__(self) -> None: ...


class _Context(zmq.Context[_Socket]):
    _socket_class = _Socket

    def __del__(self) -> None: ...


_made: list[_Context] = []


def of_this_process() -> _Context:
    """Return the context, and make it if this is the first client of the process."""
    if not _made:
        # No lock: a signal handler or a finalizer may be the second to come here in one thread.
        made = _Context()
        made.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        _made.append(made)
        if made is not _made[0]:
            made.term()
    return _made[0]


def new_address() -> str:
    """Return an address for a monitor; not one that pyzmq makes of a descriptor: its number may be used again."""
    return f"inproc://monitor-{next(_count)}"


os.register_at_fork(after_in_child=_made.clear)
