"""Connections that are only there: to the clients' socket without a handshake, to the metrics port without a request."""

import contextlib
import resource
import select
import socket
import struct

from attacks.attack import Report

HALF = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
_CONNECT_S = 2.0
_LOOK_S = 0.2


def hold_connections(target, cue, *, count):
    """Make connections that say nothing, and make new ones for those that the host closes."""

    def connect():
        connection = socket.socket(socket.AF_UNIX)
        # Not `settimeout`, with which a full queue of those that wait to be accepted is an error at once.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_CONNECT_S), 0))
        connection.connect(target.path)
        return connection

    return _hold(connect, cue, count)


def hold_scrapes(target, cue, *, count):
    """Make connections to the metrics port of which every other one begins a request."""
    begun = 0

    def connect():
        nonlocal begun
        connection = socket.create_connection(("127.0.0.1", target.metrics_port), _CONNECT_S)
        begun += 1
        if begun % 2:
            connection.sendall(HALF)
        return connection

    return _hold(connect, cue, count)


def _hold(connect, cue, count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = {}
    poll = select.poll()
    made = refused = closed = most = 0
    try:
        while not cue.is_over():
            while len(held) < min(count, hard - 64) and not cue.is_over():
                try:
                    connection = connect()
                except OSError:  # the queue of those that wait to be accepted is full, too
                    refused += 1
                    break
                made += 1
                held[connection.fileno()] = connection
                poll.register(connection, select.POLLIN)
            most = max(most, len(held))
            cue.under_way()
            for fd, _ in poll.poll(0):
                if _has_ended(held[fd]):
                    poll.unregister(fd)
                    held.pop(fd).close()
                    closed += 1
            cue.hold(_LOOK_S)
    finally:
        for connection in held.values():
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    told = "connections were closed or refused" if closed or refused else ""
    return Report({"made": made, "held at most": most, "closed by the host": closed, "refused": refused}, told)


def _has_ended(connection):
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        try:
            return not connection.recv(4096)  # a greeting of the host, or its end
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise
            return True
    return False
