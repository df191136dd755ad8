"""What a client has not read yet of what it was sent: a slow one that goes on is kept, one that rests is not."""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

_SIOCOUTQ: Final = termios.TIOCOUTQ
"""Linux has one number for both: what the other side has not acknowledged (man 7 tcp)."""


def unread_bytes_of(transport: asyncio.Transport) -> int:
    """Return what waits for a client, in this process and in the kernel, which has up to some megabytes."""
    size_bytes = transport.get_write_buffer_size()
    if transport.is_closing():  # its socket may be closed, and the number another one's
        return size_bytes
    found = fcntl.ioctl(transport.get_extra_info("socket").fileno(), _SIOCOUTQ, bytes(4))
    return size_bytes + int(struct.unpack("=i", found)[0])
