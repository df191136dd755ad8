"""A bare Python forwarder between two ROUTERs without copies: the host's own topology, deciding nothing.

The worker is known from its hello; a request gets its identity in front, an answer loses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from benchmarks.floors.zmq_lane import DealerLane, forwarder_sockets, through

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from benchmarks.floors.lane import Shape

NAME = "ROUTER-ROUTER"


def open_lane(shape: Shape) -> AbstractContextManager[DealerLane]:
    """Open client -> forwarder -> worker."""
    return through(__name__, shape)


def main() -> None:
    """Forward both ways."""
    front, back, copy = forwarder_sockets(zmq.ROUTER)
    worker = back.recv_multipart()[0]
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if front in ready:
            back.send_multipart([worker, *front.recv_multipart(0, copy)], copy=copy)
        if back in ready:
            front.send_multipart(back.recv_multipart(0, copy)[1:], copy=copy)


if __name__ == "__main__":
    main()
