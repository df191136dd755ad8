"""`zmq.proxy`, libzmq's forwarder in C, with the host's hops: client DEALER -> ROUTER | DEALER -> worker DEALER."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from benchmarks.floors.zmq_lane import DealerLane, forwarder_sockets, through

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from benchmarks.floors.lane import Shape

NAME = "C zmq.proxy"


def open_lane(shape: Shape) -> AbstractContextManager[DealerLane]:
    """Open client -> proxy -> worker."""
    return through(__name__, shape)


if __name__ == "__main__":
    front, back, _ = forwarder_sockets(zmq.DEALER)
    zmq.proxy(front, back)
