"""`AsyncClient.deploy_model` against a host that a test controls: what differs from the synchronous client."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest
from deploy_host import Uploads
from fake_host import FakeHost
from helpers import descriptors

from hostd.client import files as files_module
from hostd.client._async.client import AsyncClient
from hostd.client.deploying import WINDOW
from hostd_workers.wire.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from pathlib import Path

Fake = Callable[..., FakeHost]
MIB = 2**20


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


async def until(check: Callable[[], Any]) -> None:
    """Wait until something is so, while the loop goes on."""
    deadline_s = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline_s, "it never happened"
        await asyncio.sleep(0.001)


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


@pytest.fixture
def host(fake: Fake, uploads: Uploads) -> FakeHost:
    return fake(uploads)


def test_files_arrive_as_they_are_and_progress_counts_them(
    endpoint: str, host: FakeHost, uploads: Uploads, tmp_path: Path
) -> None:
    files = {"weights.bin": os.urandom(2 * MIB + 5), "a/empty": b"", "model.yaml": b"loader: python\n"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    told: list[tuple[int, int]] = []

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            model = await client.deploy_model("m", tmp_path, progress=lambda *counts: told.append(counts))
            assert model.path == "/models/m"
            assert uploads.written == files
            await client.deploy_model("m", {"b": bytearray(b"12")}, replace=True, keep=True, retries=1, wait=False)
            assert uploads.written == {"b": b"12"}

    run(body)
    total = 2 * MIB + 20
    assert told == [(15, total), (MIB + 15, total), (2 * MIB + 15, total), (total, total)]
    begun = uploads.named("deploy_begin")[1]
    assert [begun[name] for name in ("replace", "keep", "retries", "wait")] == [True, True, 1, False]
    assert uploads.order[-3:] == ["deploy_begin", "deploy_write", "deploy_commit"]


def test_no_more_than_the_window_is_ever_unanswered(endpoint: str, host: FakeHost, uploads: Uploads) -> None:
    uploads.holds_back = True

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            deploying = asyncio.ensure_future(client.deploy_model("m", {"a": bytes(10 * MIB)}))
            for answered in range(10):
                waiting = min(WINDOW, 10 - answered)
                await until(lambda waiting=waiting: len(uploads.held) == waiting)
                uploads.let_go(host)
            await deploying

    run(body)
    assert uploads.most_unanswered == WINDOW


@pytest.mark.parametrize("where", ["writing", "reading", "committing"])
def test_a_task_that_is_cancelled_aborts(
    endpoint: str, host: FakeHost, uploads: Uploads, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(bytes(20 * MIB))
    may_read = threading.Event()
    read = files_module.Reader.next

    def slow_disk(reader: files_module.Reader) -> Any:
        chunk = read(reader)
        if where == "reading" and chunk is not None and chunk.offset == 2 * MIB:
            with reader._reading:
                may_read.wait(20)
        return chunk

    monkeypatch.setattr(files_module.Reader, "next", slow_disk)

    def is_there() -> bool:
        if where == "committing":
            return uploads.order[-1:] == ["deploy_commit"]
        return len(uploads.named("deploy_write")) == (WINDOW if where == "writing" else 2)

    uploads.holds_back = where == "writing"
    uploads.silent = {"deploy_commit"}

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            deploying = asyncio.ensure_future(client.deploy_model("m", tmp_path))
            await until(is_there)
            deploying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await deploying
            assert uploads.order[-1] == "deploy_abort"
            assert "waiting=0" in repr(client)
            may_read.set()

    run(body)
    assert not [to for to in descriptors().values() if to.startswith(f"{tmp_path}/")]


def test_slow_files_do_not_hold_the_loop(
    endpoint: str, host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"1")
    loop_thread = threading.get_ident()
    readers: set[int] = set()

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            readers.add(threading.get_ident())
            return function(*args)

        return wrapped

    for name in ("_stat", "_open", "_check_unchanged"):
        monkeypatch.setattr(files_module, name, noting(getattr(files_module, name)))

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            await client.deploy_model("m", tmp_path)

    run(body)
    assert readers
    assert loop_thread not in readers


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        ("deploy_begin", AlreadyExistsError("m is deployed")),
        ("deploy_write", ResourceExhaustedError("disk full")),
        ("deploy_commit", FailedPreconditionError("its load failed")),
    ],
)
def test_a_failure_after_begin_aborts_and_is_the_one_that_is_raised(
    endpoint: str, host: FakeHost, uploads: Uploads, verb: str, error: Any
) -> None:
    uploads.fails = {verb: error, "deploy_abort": NotFoundError("there is no upload 17")}

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            with pytest.raises(type(error), match=error.message):
                await client.deploy_model("m", {"a": bytes(20 * MIB)})
            assert "waiting=0" in repr(client)

    run(body)
    assert uploads.order[-1] == ("deploy_begin" if verb == "deploy_begin" else "deploy_abort")


def test_what_fails_here_aborts_too(endpoint: str, host: FakeHost, uploads: Uploads, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(6 * MIB))

    def progress(sent_bytes: int, total_bytes: int) -> None:
        raise OSError("the window was closed")

    def change(count: int) -> None:
        os.truncate(tmp_path / "a", MIB)

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            with pytest.raises(InvalidArgumentError, match="no files"):
                await client.deploy_model("m", {})
            assert uploads.verbs == []
            with pytest.raises(OSError, match="the window was closed") as caught:
                await client.deploy_model("m", tmp_path, progress=progress)
            assert uploads.order[-1] == "deploy_abort"
            opened = [to for to in descriptors().values() if to.startswith(f"{tmp_path}/")]
            assert not opened, f"with {caught} still there"
            uploads.on_write = change
            with pytest.raises(FailedPreconditionError, match="changed while it was deployed"):
                await client.deploy_model("m", tmp_path)
            assert uploads.order[-1] == "deploy_abort"

    run(body)


def test_the_next_host_hears_nothing_of_an_upload_that_broke(
    endpoint: str, host: FakeHost, uploads: Uploads, fake: Fake
) -> None:
    uploads.holds_back = True
    after = Uploads()

    async def body() -> None:
        async with AsyncClient(endpoint) as client:
            deploying = asyncio.ensure_future(client.deploy_model("m", {"a": bytes(20 * MIB)}))
            await until(lambda: len(uploads.held) == WINDOW)
            await asyncio.to_thread(host.stop)
            fake(after)
            with pytest.raises(UnavailableError):
                await deploying
            assert after.verbs == []

    run(body)
