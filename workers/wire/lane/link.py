"""One end of a lane: a UNIX socket between a client and a worker, with memory that both share for what is long.

Rules
1. It blocks nowhere. What the other end does not take waits here, and `waiting_bytes` says how much that is.
2. Memory of the caller is read in `send` and `flush` alone: what cannot leave then is copied.
3. A long buffer is written into shared memory, which the other end reads in place; what waits for memory or descriptors
   goes through the socket. Bodies never do: they are decoded, and must not change meanwhile.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import ProtocolError
from hostd_workers.wire.lane.regions import SHARED_FROM_BYTES, OtherRegions, OwnRegions
from hostd_workers.wire.lane.stream import Reader, drop, pack, packed

if TYPE_CHECKING:
    from hostd_workers.wire.frames import Buffer
    from hostd_workers.wire.lane.regions import Placement
    from hostd_workers.wire.lane.spare import Spare

_PARTS: Final = 512
"""What one `sendmsg` takes; the system's limit is 1024."""

_MOST_FDS: Final = 4
"""A region is announced in one piece, so there is one; the system closes what is over this."""

_FD_BYTES: Final = array.array("i").itemsize
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_MOST_FDS * _FD_BYTES)
_REGION: Final = struct.Struct(">IQ")
_NUMBER: Final = struct.Struct(">I")


class Link:
    """A connection. `buffer` is `stream.new_buffer`, which all links of a thread share, as they share `spare`."""

    __slots__ = ("_fds", "_other", "_out", "_own", "_reader", "_socket", "fd", "has_sent", "is_broken", "waiting_bytes")

    def __init__(self, connection: socket.socket, buffer: memoryview, max_message_bytes: int, spare: Spare) -> None:
        connection.setblocking(False)
        self._socket = connection
        self.fd = connection.fileno()
        self._own = OwnRegions(spare)
        self._other = OtherRegions()
        self._reader = Reader(buffer, max_message_bytes, self._other)
        self._fds: list[int] = []
        """Descriptors that have come, and whose message has not."""
        self._out: list[Buffer] = []
        self.waiting_bytes = 0
        self.has_sent = False
        """Whether anything has left since somebody set this back."""
        self.is_broken = False
        """Whether nothing leaves any more."""

    @property
    def wants_to_send(self) -> bool:
        """Whether something waits for the other end to take other things."""
        return bool(self._out)

    @property
    def unfinished_bytes(self) -> int:
        """How many bytes of a long message have come that is not whole."""
        return self._reader.unfinished_bytes

    def __del__(self) -> None:
        self._socket.close()  # of a client that was dropped, and not closed

    def receive(self) -> list[wire.Envelope]:
        """Return what has come. Raises `EOFError` at the end, `ProtocolError` and its kind for what no peer sends."""
        try:
            count, ancillary, _, _ = self._socket.recvmsg_into(
                [self._reader.space()], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return []
        except OSError:
            raise EOFError from None
        if ancillary:
            self._take(ancillary)
        if not count:
            raise EOFError
        envelopes = self._reader.received(count)
        return [envelope for envelope in envelopes if envelope.kind < msg.REGION or not self._is_ours(envelope)]

    def send(self, frames: list[Buffer]) -> None:
        """Have a message sent with the next `flush`."""
        if len(frames) == 1:
            self._out.append(packed(frames[0]))
        else:
            self._send_long(frames)

    @property
    def has_used(self) -> bool:
        """Whether `flush` may have something to say of memory that the other end shares."""
        return self._other.has_used

    def flush(self) -> None:
        """Send what waits, as far as the other end takes it."""
        if self._other.has_used:
            self._give_back()
        out = self._out
        try:
            while out:
                count = self._socket.send(out[0]) if len(out) == 1 else self._socket.sendmsg(out[:_PARTS])
                self.has_sent = True
                drop(out, count)
            self.waiting_bytes = 0
        except BlockingIOError:
            self._out = [b"".join(out)]
            self.waiting_bytes = len(self._out[0])
        except OSError:
            out.clear()  # `receive` tells of the end, after what came before it
            self.is_broken = True
            self.waiting_bytes = 0

    def close(self) -> None:
        """End the connection, also where a forked child has the descriptor, and give the memory back."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._out.clear()
        self._own.close()
        self._other.close()
        while self._fds:
            os.close(self._fds.pop())

    # Shared memory

    def _send_long(self, frames: list[Buffer]) -> None:
        first_buffer = 1 if wire.has_inline_body(frames[0]) else 2
        shared = [i for i in range(first_buffer, len(frames)) if len(frames[i]) >= SHARED_FROM_BYTES]
        places: dict[int, tuple[int, int]] = {}
        if shared:
            placed = self._own.place([frames[index] for index in shared])
            for number in placed.given_up if placed else ():
                self._out += pack(wire.pack(msg.GIVEN_UP, 0, _NUMBER.pack(number)))
            if placed is not None and (placed.fd is None or self._announce(placed, placed.fd)):
                places = {index: (placed.region, offset) for index, offset in zip(shared, placed.offsets, strict=True)}
        self._out += pack(frames, places)

    def _announce(self, placed: Placement, fd: int) -> bool:
        """Send the other end a region; False if that cannot be done now, and then nobody knows of it."""
        self.flush()
        [message] = pack(wire.pack(msg.REGION, 0, _REGION.pack(placed.region, placed.size_bytes)))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            if not self._out and self._socket.sendmsg([message], rights) == len(message):
                self.has_sent = True
                return True
        except OSError:
            pass
        self._own.forget(placed.region)
        return False

    def _give_back(self) -> None:
        """Tell the other end which of its regions nothing here refers to any more."""
        for number in self._other.unused():
            self._out += pack(wire.pack(msg.UNUSED, 0, _NUMBER.pack(number)))

    def _take(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
                self._fds += fds
        if len(self._fds) > _MOST_FDS:
            raise ProtocolError(f"{len(self._fds)} descriptors came without the messages that they belong to")

    def _is_ours(self, envelope: wire.Envelope) -> bool:
        """Take in a message about shared memory; False: it is another one."""
        kind, header = envelope.kind, envelope.header
        try:
            if kind == msg.REGION:
                number, size_bytes = _REGION.unpack(header)
                if not self._fds:
                    raise ProtocolError("a region comes with its descriptor")
                self._other.add(number, self._fds.pop(0), size_bytes)
            elif kind == msg.UNUSED:
                self._own.unused(*_NUMBER.unpack(header))
            elif kind == msg.GIVEN_UP:
                self._other.drop(*_NUMBER.unpack(header))
            else:
                return False
        except struct.error as error:
            raise ProtocolError(f"a malformed message about shared memory: {error}") from None
        return True
