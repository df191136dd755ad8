"""How a client finds a host, or says what it found instead; nothing stays open when it fails."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_host import FakeHost, echo, polite
from helpers import SOON_S, at_most, descriptors, eventually, never

from hostd.client._sync.channel import Channel
from hostd.hosts.listing import why_unreachable
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.errors import (
    CancelledError,
    FailedPreconditionError,
    HostError,
    InvalidArgumentError,
    ProtocolError,
    UnavailableError,
    VersionMismatchError,
)

Fake = Callable[..., FakeHost]
QUICK_S = 0.15


def refused(endpoint: str, **patience: float) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        Channel(endpoint, QUICK_S, **patience)
    assert endpoint in caught.value.message
    assert "hostd serve" in caught.value.message
    assert caught.value.details == {"endpoint": endpoint, "hosts": []}
    return caught.value


def call(channel: Channel, value: Any, timeout_s: float | None = 20) -> Any:
    pending = channel.begin(lambda tracker: tracker.call("m", "echo", [value], {}, timeout_s))
    return channel.wait(pending, timeout_s)


# Nobody there


def test_no_socket_is_said_so_at_once_or_after_as_long_as_was_asked_for(endpoint: str) -> None:
    with pytest.raises(UnavailableError, match="there is no socket") as caught, at_most(SOON_S, "to give up"):
        Channel(endpoint, 3600)
    assert "with --wait (wait_s=30)" in caught.value.message
    error = refused(endpoint, wait_s=0.2)
    assert "there is no socket at" in error.message
    assert "waited 0.2 s" in error.message
    assert "--wait" not in error.message


def test_a_stale_socket_file_is_told_from_a_living_one(endpoint: str, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place / "c.ipc"))
    assert "is stale: the host that made it is gone" in refused(endpoint).message


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_a_file_or_directory_is_not_touched(endpoint: str, place: Path, make: Callable[[Path], None]) -> None:
    make(place / "c.ipc")
    assert "is not a socket" in refused(endpoint).message
    assert (place / "c.ipc").exists()


def test_a_link_that_leads_nowhere_is_no_socket(endpoint: str, place: Path) -> None:
    (place / "c.ipc").symlink_to(place / "nowhere")
    assert "is not a socket" in refused(endpoint).message


def test_a_path_that_is_too_long_is_said_so() -> None:
    assert why_unreachable("ipc:///" + "x" * 200) is not None


def test_nobody_at_a_port_is_said_so_after_the_timeout() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with at_most(SOON_S, "to give up"):
        refused(f"tcp://127.0.0.1:{port}")


def test_somebody_else_at_a_port_is_no_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        error = refused(f"tcp://127.0.0.1:{server.getsockname()[1]}")
    assert "nothing there answers as a host" in error.message


def test_a_server_that_hangs_up_is_no_host(endpoint: str, place: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(place / "c.ipc"))
    server.listen()

    def hang_up() -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        refused(endpoint)
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()


def test_a_server_too_busy_to_accept_does_not_hold_the_client_for_longer_than_its_timeout(
    endpoint: str, place: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / "c.ipc"))
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(place / "c.ipc"))
            assert why_unreachable(endpoint) is None
            with at_most(SOON_S, "to give up"):
                assert "nothing there answers as a host" in refused(endpoint).message


@pytest.mark.parametrize("endpoint", ["nonsense", "http://x", "tcp://", "ipc://", "tcp://127.0.0.1:notaport", ""])
def test_what_is_no_endpoint_is_refused_at_once(endpoint: str) -> None:
    with pytest.raises((InvalidArgumentError, UnavailableError)):
        Channel(endpoint, QUICK_S)


def test_attempts_that_fail_leave_nothing_open(endpoint: str, fake: Fake) -> None:
    fake(polite_to_nobody)
    before = descriptors()
    for attempt in (endpoint, "nonsense", endpoint + "x"):
        for _ in range(5):
            with pytest.raises(HostError):
                Channel(attempt, 0.01)
    eventually(lambda: descriptors() == before, "ZeroMQ has closed everything")


def polite_to_nobody(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
    """Never say welcome."""
    return ()


def test_a_host_that_does_not_say_welcome_is_none(endpoint: str, fake: Fake) -> None:
    host = fake(polite_to_nobody)
    with at_most(SOON_S, "to give up"):
        assert "nothing there answers as a host" in refused(endpoint).message
    host.await_kind(msg.HELLO)
    assert [request.kind for request in host.received] == [msg.HELLO]


# Somebody there


def test_a_host_that_is_waited_for_is_found(endpoint: str, fake: Fake) -> None:
    timer = threading.Timer(0.2, fake)
    timer.start()
    channel = Channel(endpoint, 20, wait_s=60)
    timer.join()
    assert call(channel, "x") == "x"
    channel.close()


def test_the_first_message_is_a_hello_with_the_versions(endpoint: str, fake: Fake) -> None:
    host = fake()
    channel = Channel(endpoint, 20)
    channel.close()
    (hello,) = host.of_kind(msg.HELLO)
    assert msg.unpack_map(hello)["versions"] == [1]
    assert msg.unpack_map(hello)["pid"] == os.getpid()


def test_a_host_that_hangs_up_in_the_handshake_is_tried_again(endpoint: str, fake: Fake) -> None:
    hosts: list[FakeHost] = []

    def hang_up(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
        threading.Thread(target=lambda: (host.stop(), hosts.append(fake()))).start()
        return ()

    fake(hang_up)
    channel = Channel(endpoint, 20)
    assert call(channel, 1) == 1
    channel.close()
    assert [request.kind for request in hosts[0].received] == [msg.HELLO, msg.CALL, msg.BYE] or len(hosts) == 1


def other_version(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
    """Answer as a host of the future does."""
    (first, *rest) = msg.pack_map(msg.WELCOME, request.id, {})
    yield [bytes([msg.WELCOME, 9]) + bytes(first[2:]), *rest]


def refuses_version(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
    """Answer as a host does that knows no version of ours."""
    yield msg.pack_error(request.id, VersionMismatchError("speak version 9", details={"supported": [9]}))


def talks_nonsense(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
    """Answer with what is no message."""
    yield [b"nonsense"]


def strange_welcome(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
    """Answer with a welcome that holds no map."""
    yield wire.pack(msg.WELCOME, request.id, body=b"\x90")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (other_version, VersionMismatchError),
        (refuses_version, VersionMismatchError),
        (talks_nonsense, ProtocolError),
        (strange_welcome, ProtocolError),
    ],
)
def test_a_host_that_speaks_otherwise_is_a_typed_error_at_once(
    endpoint: str, fake: Fake, answer: Any, error: type[HostError]
) -> None:
    fake(answer)
    with at_most(SOON_S, "to be refused"), pytest.raises(error):
        Channel(endpoint, 60)


# Again


def test_an_idle_client_does_not_notice_that_the_host_was_restarted(endpoint: str, fake: Fake) -> None:
    first = fake()
    channel = Channel(endpoint, 20)
    assert call(channel, 1) == 1
    for number in range(3):
        first.stop()
        first = fake()
        connection = channel._connection
        assert connection is not None
        eventually(lambda connection=connection: connection.monitor.poll(0), "ZeroMQ has noticed")
        channel._looked_s = 0.0  # as after a while
        assert call(channel, number) == number
    channel.close()


def test_a_host_that_is_gone_is_said_to_be_gone_and_found_again_when_it_is_back(endpoint: str, fake: Fake) -> None:
    host = fake()
    channel = Channel(endpoint, 1)
    host.stop()
    for _ in range(2):
        with pytest.raises(UnavailableError):
            call(channel, 1)
    assert "disconnected" in repr(channel)
    fake()
    assert call(channel, 2) == 2
    assert "connected" in repr(channel)
    channel.close()


def test_what_ended_with_the_old_host_is_never_sent_to_the_new_one(endpoint: str, fake: Fake) -> None:
    host = fake(polite)
    channel = Channel(endpoint, 20)
    host.stop()
    pendings = [channel.begin(lambda tracker: tracker.call("m", "echo", ["lost"], {}, None)) for _ in range(10)]
    host = fake()
    never(lambda: host.received, "a message of the old connection at the new host", for_s=0.4)
    for pending in pendings:
        with pytest.raises(UnavailableError):
            channel.wait(pending, 20)
    assert call(channel, "found") == "found"
    channel.close()
    assert len(host.of_kind(msg.CALL)) == 1


def test_threads_that_find_no_host_all_give_up_within_one_timeout(endpoint: str, fake: Fake) -> None:
    host = fake()
    channel = Channel(endpoint, 2)
    host.stop()
    errors: list[Exception] = []

    def try_it() -> None:
        try:
            call(channel, 1)
        except UnavailableError as error:
            errors.append(error)

    with pytest.raises(UnavailableError):
        call(channel, 1)  # now everybody finds it disconnected
    threads = [threading.Thread(target=try_it) for _ in range(20)]
    with at_most(SOON_S, "twenty threads"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(errors) == 20
    channel.close()


def test_who_connects_again_does_not_keep_the_others_out_while_its_call_lasts(endpoint: str, fake: Fake) -> None:
    host = fake()
    channel = Channel(endpoint, 20)
    host.stop()
    with pytest.raises(UnavailableError):
        call(channel, 1, timeout_s=20)
    release = threading.Event()

    def answers_one_late(host: FakeHost, request: wire.Envelope) -> Iterable[list[Any]]:
        if request.kind == msg.CALL and len(host.of_kind(msg.CALL)) == 1:
            return ()
        return echo(host, request)

    host = fake(answers_one_late)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(call(channel, "x", None))) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        host.await_kind(msg.CALL, 8)
    finally:
        (late, *_) = host.await_kind(msg.CALL)
        host.say(next(iter(echo(host, late))))
        for thread in threads:
            thread.join()
        release.set()
    assert results == ["x"] * 8
    channel.close()


# Closed


def test_a_closed_client_says_so(endpoint: str, fake: Fake) -> None:
    fake()
    channel = Channel(endpoint, 20)
    channel.close()
    with pytest.raises(FailedPreconditionError, match="is closed: connect again"):
        call(channel, 1)
    assert "closed" in repr(channel)
    channel.close()


def test_closing_while_it_looks_for_a_host_ends_the_search(endpoint: str, fake: Fake) -> None:
    host = fake()
    channel = Channel(endpoint, 60)
    host.stop()
    errors: list[BaseException] = []
    tries = threading.Event()

    def search() -> None:
        while not errors:
            try:
                tries.set()
                call(channel, 1)
            except UnavailableError:
                continue
            except (FailedPreconditionError, CancelledError) as error:  # before a request was made, or after
                errors.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    tries.wait()
    with at_most(SOON_S, "closing"):
        channel.close()
        thread.join()
    assert errors
