"""A client sends nothing to a host of another user, whoever has made the place where it looks for its own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from fake_host import FakeHost
from helpers import line_of
from strangers import needs_root, new_user, program_of

import hostd
from hostd import paths, trust
from hostd.client.connection import Connection
from hostd.hosts import listing as hosts
from hostd_workers.wire import messages as msg
from hostd_workers.wire.frames import pack

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

IMPOSTOR = """
    import os, sys, zmq
    place = sys.argv[1]
    os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(f"ipc://{place}")
    os.chmod(place, 0o777)
    print("up", flush=True)
    while True:
        print(socket.recv_multipart()[1:], flush=True)
"""
"""Listens where a victim looks for its host, and says what it gets."""


@pytest.fixture
def tmp(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary directory, which anybody may write, for a user without a runtime directory."""
    (place / "tmp").mkdir()
    (place / "tmp").chmod(0o1777)
    place.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(place / "tmp"))
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    return place / "tmp"


MARK = "[b'from the test']"


def _first_message(endpoint: str, impostor: subprocess.Popen[str]) -> str:
    """Send a message, as the last of all, and return the first that the impostor got."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        socket.send(b"from the test")
        return line_of(impostor)


@contextlib.contextmanager
def _impostor(place: Path) -> Iterator[Callable[[], str]]:
    with program_of(new_user(), IMPOSTOR, place) as impostor:
        assert line_of(impostor) == "up"
        yield lambda: _first_message(f"ipc://{place}", impostor)


@needs_root
def test_whoever_makes_the_fallback_directory_first_gets_nothing(tmp: Path, connect: Callable[..., Any]) -> None:
    with _impostor(paths.runtime_dir() / "client.ipc") as first:
        assert paths.runtime_dir().is_relative_to(tmp)
        with pytest.raises(hostd.FailedPreconditionError, match=r"belongs to user \d+.*XDG_RUNTIME_DIR"):
            connect("default")
        with pytest.raises(hostd.FailedPreconditionError, match="is not trusted"):
            connect(paths.client_endpoint(paths.runtime_dir()))
        assert hosts.find_hosts() == [], "the other's directory was read"
        assert first() == MARK


@needs_root
def test_whoever_listens_in_a_directory_that_anybody_may_write_gets_nothing(
    tmp: Path, connect: Callable[..., Any]
) -> None:
    with _impostor(tmp / "client.ipc") as first:
        with pytest.raises(hostd.FailedPreconditionError, match=r"process \d+, which listens there, is of user \d+"):
            connect(f"ipc://{tmp}/client.ipc")
        assert first() == MARK


@needs_root
def test_the_process_counts_although_the_directory_is_as_it_should_be(place: Path, connect: Callable[..., Any]) -> None:
    place.chmod(0o777)
    with _impostor(place / "client.ipc") as first:
        place.chmod(0o700)
        with pytest.raises(hostd.FailedPreconditionError, match="is of user"):
            connect(f"ipc://{place}/client.ipc")
        assert first() == MARK


def test_a_directory_in_which_others_may_put_a_socket_is_not_trusted(place: Path, connect: Callable[..., Any]) -> None:
    with FakeHost(f"ipc://{place}/client.ipc") as host:
        for mode in (0o777, 0o730):
            place.chmod(mode)
            with pytest.raises(hostd.FailedPreconditionError, match=f"mode 0{mode:o}.*chmod 0700 {place}"):
                connect(host.endpoint)
        assert host.received == []
        place.chmod(0o755)
        with hostd.connect(host.endpoint):
            host.await_kind(msg.HELLO)


@needs_root
def test_another_users_link_to_a_host_of_ours_is_not_followed(
    tmp: Path, place: Path, connect: Callable[..., Any]
) -> None:
    (place / "mine" / "default").mkdir(mode=0o700, parents=True)
    with FakeHost(f"ipc://{place}/mine/default/client.ipc") as host:
        link = paths.hosts_dir()
        link.symlink_to(place / "mine")
        with hostd.connect("default"):
            host.await_kind(msg.HELLO)
        os.lchown(link, user := new_user(), user)
        with pytest.raises(hostd.FailedPreconditionError, match=f"{link}, a link of user {user}"):
            connect("default")
        assert "is found through" in (trust.why_not_private(link / "default") or ""), "a host would start there"
        assert len(host.of_kind(msg.HELLO)) == 1


@needs_root
def test_a_host_of_roots_is_trusted(place: Path) -> None:
    place.chmod(0o755)
    with FakeHost(f"ipc://{place}/client.ipc") as host:
        (place / "client.ipc").chmod(0o777)
        source = "import sys, hostd; hostd.connect(sys.argv[1]).close(); print('connected')"
        with program_of(new_user(), source, host.endpoint) as client:
            assert line_of(client) == "connected"


def test_nothing_leaves_before_it_is_known_who_listens(place: Path) -> None:
    with FakeHost(f"ipc://{place}/client.ipc") as host:
        connection = Connection(host.endpoint)
        assert not connection.send(pack(msg.BYE, 0))
        while not connection.is_known:
            connection.monitor.poll(60_000)
            assert not connection.is_broken()
        assert connection.send(pack(msg.CANCEL, 1))
        host.await_kind(msg.CANCEL)
        assert host.of_kind(msg.BYE) == []
        connection.close()


def test_a_connection_that_has_ended_meanwhile_is_neither_trusted_nor_an_error(place: Path) -> None:
    read, write = os.pipe()
    try:
        assert not trust.check_peer(read, f"ipc://{place}/client.ipc"), "its number is a pipe's now"
    finally:
        os.close(write)
        os.close(read)
    assert not trust.check_peer(read, f"ipc://{place}/client.ipc"), "its number is nobody's now"
