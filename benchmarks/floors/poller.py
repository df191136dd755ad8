"""A bare Python forwarder, as anybody would write it: `zmq.Poller`, one message per ready socket and turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from benchmarks.floors.zmq_lane import DealerLane, forwarder_sockets, through

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from benchmarks.floors.lane import Shape

NAME = "Python poller"


def open_lane(shape: Shape) -> AbstractContextManager[DealerLane]:
    """Open client -> forwarder -> worker."""
    return through(__name__, shape)


def main() -> None:
    """Forward both ways; a ROUTER in front, a DEALER behind."""
    front, back, copy = forwarder_sockets(zmq.DEALER)
    back.recv_multipart()
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if front in ready:
            back.send_multipart(front.recv_multipart(0, copy), copy=copy)
        if back in ready:
            front.send_multipart(back.recv_multipart(0, copy), copy=copy)


if __name__ == "__main__":
    main()
