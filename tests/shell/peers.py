"""A process of its own that makes raw connections to a listener; it does what it is told by a letter a line.

Usage: `peers.py PATH`. Each command is answered with a line: `connect N` makes N connections that say nothing, `greet N`
connections that also say READY, `hello N` such that also send a message, `settle N` such that wait for
an answer to it, one after another; `flood N` sends N messages over each of them;
`alive` answers how many have not been closed.
"""

import contextlib
import socket
import sys

from transport_rig import GREETING, message, ready


def is_alive(peer):
    try:
        while peer.recv(1 << 16):
            pass
    except BlockingIOError:
        return True
    except ConnectionResetError:
        pass
    return False


def settle(peer):
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while not received.endswith(message(b"hello")) and (chunk := peer.recv(1 << 16)):
            received += chunk


def main(path):
    peers = []
    hello = GREETING + ready() + message(b"hello")
    firsts = {"connect": b"", "greet": GREETING + ready(), "hello": hello, "settle": hello}
    tell = sys.stdout.write
    tell("up\n")
    sys.stdout.flush()
    for line in sys.stdin:
        what, _, number = line.strip().partition(" ")
        answer = "done"
        if what in firsts:
            for _ in range(int(number)):
                peer = socket.socket(socket.AF_UNIX)
                peer.connect(path)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    peer.sendall(firsts[what])
                if what == "settle":
                    settle(peer)
                peer.setblocking(False)
                peers.append(peer)
        elif what == "flood":
            for peer in peers:
                peer.send(message(b"flood") * int(number))
        else:
            answer = str(sum(map(is_alive, peers)))
        tell(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
