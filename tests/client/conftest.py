"""Endpoints to meet at, and the proof that a client leaves nothing open."""

from __future__ import annotations

import gc
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from both import Blocking
from fake_host import Answer, FakeHost, echo
from helpers import descriptors, eventually, threads

import hostd
from hostd.client._sync.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before, threads_before = descriptors(), threads()
    yield
    gc.collect()  # what a failed call's traceback holds

    def left() -> dict[int, str]:
        return {fd: to for fd, to in descriptors().items() if before.get(fd) != to}

    try:
        eventually(lambda: not left() and threads() <= threads_before, "everything is closed")
    except AssertionError:
        pytest.fail(f"left open: {left()}, threads {threads() - threads_before}", pytrace=False)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a path that is short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="hostd-c-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def endpoint(place: Path) -> str:
    return f"ipc://{place}/c.ipc"


@pytest.fixture
def fake(endpoint: str) -> Iterator[Callable[..., FakeHost]]:
    """Start fake hosts at the endpoint; they end with the test."""
    started: list[FakeHost] = []

    def start(answer: Answer = echo) -> FakeHost:
        started.append(FakeHost(endpoint, answer))
        return started[-1]

    yield start
    for host in started:
        host.stop()


@pytest.fixture
def host(fake: Callable[..., FakeHost]) -> FakeHost:
    return fake()


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest, endpoint: str) -> Iterator[Callable[..., Any]]:
    """Connect clients of either kind; they are used alike, and end with the test."""
    made: list[Any] = []

    def connect(to: str = endpoint, **options: Any) -> Any:
        made.append(hostd.Client(to, **options) if request.param == "sync" else Blocking(to, **options))
        return made[-1]

    yield connect
    for client in made:
        client.close() if request.param == "sync" else client.end()


@pytest.fixture
def client(host: FakeHost, connect: Callable[..., Any]) -> Any:
    """A client of either kind that is connected to `host`."""
    return connect()


@pytest.fixture
def channel(endpoint: str) -> Iterator[Callable[[], Channel]]:
    """Connect channels to the endpoint; they are closed with the test."""
    made: list[Channel] = []

    def connect(connect_timeout_s: float = 20) -> Channel:
        made.append(Channel(endpoint, connect_timeout_s))
        return made[-1]

    yield connect
    for one in made:
        one.close()
