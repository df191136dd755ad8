"""Raw DEALER-ROUTER: ZeroMQ's own cost, one hop, no forwarder."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.floors.lane import Shape, child, socket_directory
from benchmarks.floors.zmq_lane import DealerLane, dealer

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "DEALER-ROUTER, direct"


@contextmanager
def open_lane(shape: Shape) -> Iterator[DealerLane]:
    """Open client -> worker."""
    with socket_directory() as directory:
        endpoint = f"ipc://{directory}/d"
        server = child("benchmarks.floors.zmq_lane", "bind", endpoint, int(shape.is_echo), int(shape.is_big))
        with server, dealer(endpoint, shape) as lane:
            yield lane
