"""How both clients find a host, or say what they found instead; nothing stays open when they fail."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from both import Blocking
from calls import Waiting, outcome_of
from fake_host import FakeHost, Frames, echo, polite
from helpers import SOON_S, at_most, descriptors, eventually, never

import hostd
from hostd.client._sync import channel as channel_module
from hostd.hosts.listing import why_unreachable
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg

Fake = Callable[..., FakeHost]
Connect = Callable[..., Any]
QUICK_S = 0.15


def refused(connect: Connect, endpoint: str, **patience: float) -> str:
    with at_most(SOON_S, "to give up"), pytest.raises(hostd.UnavailableError) as caught:
        connect(endpoint, **{"connect_timeout_s": QUICK_S, **patience})
    assert endpoint in caught.value.message
    assert "hostd serve" in caught.value.message
    assert caught.value.details == {"endpoint": endpoint, "hosts": []}
    return caught.value.message


def call(client: Any, value: Any = "x", timeout_s: float | None = 20) -> Any:
    return client.call("m", "echo", (value,), {}, timeout_s)


# Nobody there


def test_no_socket_is_said_so_at_once_or_after_as_long_as_was_asked_for(connect: Connect, endpoint: str) -> None:
    assert "with --wait (wait_s=30)" in refused(connect, endpoint, connect_timeout_s=3600)
    message = refused(connect, endpoint, wait_s=0.2)
    assert "there is no socket at" in message
    assert "waited 0.2 s" in message
    assert "--wait" not in message


def stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (stale, "is stale: the host that made it is gone"),
        (Path.touch, "is not a socket"),
        (Path.mkdir, "is not a socket"),
        (lambda path: path.symlink_to("nowhere"), "is not a socket"),
    ],
    ids=["stale", "file", "directory", "link"],
)
def test_what_lies_there_in_place_of_a_socket_is_said_so_and_not_touched(
    connect: Connect, endpoint: str, place: Path, make: Callable[[Path], None], words: str
) -> None:
    make(place / "c.ipc")
    assert words in refused(connect, endpoint)
    assert [path.name for path in place.iterdir()] == ["c.ipc"]


def test_a_path_that_is_too_long_is_said_so() -> None:
    assert why_unreachable("ipc:///" + "x" * 200) is not None


def test_a_port_without_a_host_is_said_so_after_the_timeout(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "nothing there answers as a host" in refused(connect, f"tcp://127.0.0.1:{port}")
    refused(connect, f"tcp://127.0.0.1:{port}")


def test_a_server_that_hangs_up_is_no_host(connect: Connect, endpoint: str, place: Path) -> None:
    def hang_up() -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / "c.ipc"))
        server.listen()
        thread = Waiting(hang_up)
        try:
            refused(connect, endpoint)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_server_too_busy_to_accept_does_not_hold_the_client_for_longer_than_its_timeout(
    connect: Connect, endpoint: str, place: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(place / "c.ipc"))
        server.listen(0)
        first.connect(str(place / "c.ipc"))
        assert why_unreachable(endpoint) is None
        assert "nothing there answers as a host" in refused(connect, endpoint)


@pytest.mark.parametrize("wrong", ["no/sense", "http://x", "tcp://", "ipc://", "tcp://127.0.0.1:notaport"])
def test_what_is_no_endpoint_is_refused_at_once(connect: Connect, wrong: str) -> None:
    with pytest.raises((hostd.InvalidArgumentError, hostd.UnavailableError)):
        connect(wrong, connect_timeout_s=QUICK_S)


def silent(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
    """Never say welcome."""
    return ()


def test_a_host_that_does_not_say_welcome_is_none(connect: Connect, endpoint: str, fake: Fake) -> None:
    host = fake(silent)
    assert "nothing there answers as a host" in refused(connect, endpoint)
    host.await_kind(msg.HELLO)
    assert {request.kind for request in host.received} <= {msg.HELLO}


def test_attempts_that_fail_leave_nothing_open(connect: Connect, endpoint: str, fake: Fake) -> None:
    fake(silent)
    before = descriptors()
    for attempt in (endpoint, "no/sense", endpoint + "x"):
        for _ in range(5):
            with pytest.raises(hostd.HostError):
                connect(attempt, connect_timeout_s=0.01)
    eventually(lambda: descriptors() == before, "ZeroMQ has closed everything")


# Somebody there


def test_a_host_that_is_waited_for_is_found(connect: Connect, fake: Fake) -> None:
    timer = threading.Timer(0.2, fake)
    timer.start()
    assert call(connect(wait_s=60)) == "x"
    timer.join()


def test_the_first_message_is_a_hello_with_the_versions(client: Any, host: FakeHost) -> None:
    (hello,) = host.of_kind(msg.HELLO)
    assert msg.unpack_map(hello)["versions"] == [1]
    assert msg.unpack_map(hello)["pid"] == os.getpid()


def test_a_host_that_hangs_up_in_the_handshake_is_tried_again(connect: Connect, fake: Fake) -> None:
    restarts = []

    def hang_up(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
        restarts.append(Waiting(lambda: (host.stop(), fake())))
        return ()

    fake(hang_up)
    assert call(connect(connect_timeout_s=20)) == "x"
    restarts[0].join()


def other_version(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
    """Answer as a host of the future does."""
    (first, *rest) = msg.pack_map(msg.WELCOME, request.id, {})
    yield [bytes([msg.WELCOME, 9]) + bytes(first[2:]), *rest]


def refuses_version(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
    """Answer as a host does that knows no version of ours."""
    yield msg.pack_error(request.id, hostd.VersionMismatchError("speak version 9", details={"supported": [9]}))


def talks_nonsense(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
    """Answer with what is no message."""
    yield [b"nonsense"]


def strange_welcome(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
    """Answer with a welcome that holds no map."""
    yield wire.pack(msg.WELCOME, request.id, body=b"\x90")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (other_version, hostd.VersionMismatchError),
        (refuses_version, hostd.VersionMismatchError),
        (talks_nonsense, hostd.ProtocolError),
        (strange_welcome, hostd.ProtocolError),
    ],
)
def test_a_host_that_speaks_otherwise_is_a_typed_error_at_once(
    connect: Connect, fake: Fake, answer: Any, error: type[hostd.HostError]
) -> None:
    fake(answer)
    with at_most(SOON_S, "to be refused"), pytest.raises(error):
        connect(connect_timeout_s=60)


# Again


def has_noticed(client: Any) -> bool:
    """Say whether ZeroMQ has told a client that its host is gone; a synchronous one looks when it is used next."""
    if isinstance(client, Blocking):
        return "disconnected" in repr(client)
    client._channel._pump.looked_s = 0.0  # as after a while
    return bool(client._channel._pump.connection.monitor.poll(0))


def test_an_idle_client_does_not_notice_that_the_host_was_restarted(connect: Connect, fake: Fake) -> None:
    host = fake()
    client = connect()
    assert call(client, 1) == 1
    for number in range(3):
        host.stop()
        host = fake()
        eventually(lambda: has_noticed(client), "ZeroMQ has noticed")
        assert call(client, number) == number


def test_a_host_that_is_gone_is_said_to_be_gone_and_found_again_when_it_is_back(
    client: Any, host: FakeHost, fake: Fake
) -> None:
    host.stop()
    for _ in range(2):
        with pytest.raises(hostd.UnavailableError):
            call(client, 1)
    assert "disconnected" in repr(client)
    fake()
    assert call(client, 2) == 2
    assert "connected" in repr(client)


def test_what_ended_with_the_old_host_is_never_sent_to_the_new_one(
    endpoint: str, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "_TRUSTED_S", float("inf"))  # however long the host takes to stop
    host = fake(polite)
    with hostd.connect(endpoint) as client:
        host.stop()
        lost = [client.submit("m", "echo", ("lost",), {}, None) for _ in range(10)]
        host = fake()
        never(lambda: host.received, "a message of the old connection at the new host", for_s=0.4)
        for one in lost:
            with pytest.raises(hostd.UnavailableError):
                one.result(20)
        assert call(client, "found") == "found"
    assert len(host.of_kind(msg.CALL)) == 1


def test_threads_that_find_no_host_all_give_up_within_one_timeout(connect: Connect, fake: Fake) -> None:
    host = fake()
    client = connect(connect_timeout_s=2)
    host.stop()
    with pytest.raises(hostd.UnavailableError):
        call(client)  # now everybody finds it disconnected
    with at_most(SOON_S, "twenty threads"):
        threads = [Waiting(lambda: call(client)) for _ in range(20)]
        assert {type(thread.join()) for thread in threads} == {hostd.UnavailableError}


def test_the_thread_that_connects_again_does_not_keep_the_others_out_while_its_call_lasts(
    connect: Connect, fake: Fake
) -> None:
    host = fake()
    client = connect(connect_timeout_s=20)
    host.stop()
    with pytest.raises(hostd.UnavailableError):
        call(client)

    def answers_one_late(host: FakeHost, request: wire.Envelope) -> Iterable[Frames]:
        is_first = request.kind == msg.CALL and len(host.of_kind(msg.CALL)) == 1
        return () if is_first else echo(host, request)

    host = fake(answers_one_late)
    threads = [Waiting(lambda: call(client, "x", None)) for _ in range(8)]
    host.await_kind(msg.CALL, 8)
    for frames in echo(host, host.of_kind(msg.CALL)[0]):
        host.say(frames)
    assert [thread.join() for thread in threads] == ["x"] * 8


def test_closing_while_it_looks_for_a_host_ends_the_search(connect: Connect, fake: Fake) -> None:
    host = fake()
    client = connect(connect_timeout_s=60)
    host.stop()
    tries = threading.Event()

    def search() -> Any:
        while True:
            tries.set()
            outcome = outcome_of(lambda: call(client))
            if outcome is not hostd.UnavailableError:
                return outcome

    thread = Waiting(search)
    assert tries.wait(60)
    with at_most(SOON_S, "closing"):
        client.close()
        assert thread.join() in (hostd.FailedPreconditionError, hostd.CancelledError)  # before a request, or after
