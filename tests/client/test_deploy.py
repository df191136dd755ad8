"""`deploy_model` of both clients against a host that a test controls: what is sent when, and what becomes of a failure."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from both import run, until
from calls import Waiting
from deploy_host import Uploads
from fake_host import FakeHost
from helpers import descriptors, eventually, line_of, program, stop

import hostd
from hostd.client import files as files_module
from hostd.client.deploying import CHUNK_BYTES, WINDOW

if TYPE_CHECKING:
    from pathlib import Path

Fake = Callable[..., FakeHost]
MIB = 2**20


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


@pytest.fixture
def host(fake: Fake, uploads: Uploads) -> FakeHost:
    return fake(uploads)


def test_files_arrive_as_they_are_in_pieces_of_a_mebibyte(client: Any, uploads: Uploads, tmp_path: Path) -> None:
    files = {"weights.bin": os.urandom(2 * MIB + 5), "model.yaml": b"loader: python\n", "a/empty": b""}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    told: list[tuple[int, int]] = []
    model = client.deploy_model("m", tmp_path, progress=lambda *counts: told.append(counts))
    assert (model.id, model.path) == ("m", "/models/m")
    assert told == [(n, 2 * MIB + 20) for n in (15, MIB + 15, 2 * MIB + 15, 2 * MIB + 20)]
    assert uploads.written == files
    assert uploads.order == ["deploy_begin", "deploy_write", "deploy_commit"]
    sizes = [len(write["data"]) for write in uploads.named("deploy_write")]
    assert sizes == [15, CHUNK_BYTES, CHUNK_BYTES, 5]
    assert uploads.named("deploy_commit") == [{"upload": 17}]


def test_begin_says_everything_about_the_deploy(client: Any, uploads: Uploads) -> None:
    client.deploy_model("m", {"b": b"12", "a/x": b""})
    how: dict[str, Any] = {"wait": False, "replace": True, "keep": True, "retries": 3}
    how |= {"finder": "files", "initializer": "mine", "options": {"threads": 2}}
    client.deploy_model("t/m", {"a": b"1"}, "mine", **how)
    first, second = uploads.named("deploy_begin")
    assert first == {
        "model_id": "m",
        "files": [["b", 2], ["a/x", 0]],
        "type": "standalone-model",
        "wait": True,
        "replace": False,
        "keep": False,
        "retries": None,
        "finder": None,
        "initializer": None,
        "options": {},
    }
    assert second == {"model_id": "t/m", "files": [["a", 1]], "type": "mine", **how}


def test_a_host_that_takes_small_messages_gets_small_pieces(
    connect: Callable[..., Any], host: FakeHost, uploads: Uploads
) -> None:
    uploads.max_message_bytes = 64 * 1024
    connect().deploy_model("m", {"a": b"x" * MIB})
    assert uploads.written == {"a": b"x" * MIB}
    assert len(uploads.named("deploy_write")) == 17


def test_no_more_than_the_window_is_ever_unanswered(client: Any, host: FakeHost, uploads: Uploads) -> None:
    uploads.holds_back = True
    told: list[int] = []
    deploying = Waiting(
        lambda: client.deploy_model("m", {"a": bytes(10 * MIB)}, progress=lambda sent, _: told.append(sent))
    )
    for answered in range(10):
        waiting = min(WINDOW, 10 - answered)
        eventually(lambda waiting=waiting: len(uploads.held) == waiting, f"{waiting} pieces are unanswered")
        assert told == [n * MIB for n in range(1, answered + 1)]
        uploads.let_go(host)
        eventually(lambda answered=answered: len(told) == answered + 1, "the answer is counted")
    assert deploying.join().id == "m"
    assert uploads.most_unanswered == WINDOW


DEPLOYING = """
    import re, sys
    from pathlib import Path
    from hostd import Client

    def peak_kib():
        return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

    with Client(sys.argv[1]) as client:
        client.deploy_model("m", {"small": bytes(8 << 20)})
        before = peak_kib()
        client.deploy_model("m", sys.argv[2])
        print(peak_kib() - before)
"""


def test_a_huge_file_takes_little_memory(endpoint: str, host: FakeHost, uploads: Uploads, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(200 * MIB)
    sizes: list[int] = []

    def forget(count: int) -> None:
        sizes.append(len(uploads.verbs.pop()[1]["data"]))
        host.received.clear()

    uploads.keeps_data, uploads.on_write = False, forget
    deploying = program(DEPLOYING, endpoint, tmp_path)
    try:
        grown_kib = int(line_of(deploying))
    finally:
        stop(deploying)
    assert sum(sizes) == 208 * MIB
    assert grown_kib < 32 * 1024


# Failures


@pytest.mark.parametrize("files", [{}, {"a": 5}, {"a": "/no/such/file"}, "/no/such/directory"], ids=str)
def test_files_that_cannot_be_sent_are_refused_before_the_host_hears_of_it(
    client: Any, uploads: Uploads, files: Any
) -> None:
    with pytest.raises((hostd.InvalidArgumentError, hostd.NotFoundError)):
        client.deploy_model("m", files)
    assert uploads.verbs == []


@pytest.mark.parametrize("verb", ["deploy_begin", "deploy_write", "deploy_commit"])
@pytest.mark.parametrize("aborts", [True, False])
def test_a_failure_after_begin_aborts_and_is_the_one_that_is_raised(
    client: Any, uploads: Uploads, verb: str, aborts: bool
) -> None:
    uploads.fails[verb] = hostd.ResourceExhaustedError("no space left on device")
    if not aborts:
        uploads.fails["deploy_abort"] = hostd.NotFoundError("there is no upload 17")
    with pytest.raises(hostd.ResourceExhaustedError, match="no space left"):
        client.deploy_model("m", {"a": bytes(20 * MIB)})
    assert uploads.order[-1] == ("deploy_begin" if verb == "deploy_begin" else "deploy_abort")
    assert uploads.named("deploy_abort") == ([] if verb == "deploy_begin" else [{"upload": 17}])
    assert len(uploads.named("deploy_write")) <= (20 if verb == "deploy_commit" else WINDOW)
    assert "waiting=0" in repr(client)


def test_what_fails_in_the_middle_ends_the_sending(client: Any, host: FakeHost, uploads: Uploads) -> None:
    uploads.holds_back = True
    deploying = Waiting(lambda: client.deploy_model("m", {"a": bytes(20 * MIB)}))
    eventually(lambda: len(uploads.held) == WINDOW, "the window is full")
    uploads.let_go(host)
    eventually(lambda: len(uploads.held) == WINDOW, "another piece follows")
    uploads.let_go(host, hostd.ResourceExhaustedError("disk full"))
    assert isinstance(deploying.join(), hostd.ResourceExhaustedError)
    assert len(uploads.named("deploy_write")) == WINDOW + 1
    assert uploads.order[-1] == "deploy_abort"
    assert "waiting=0" in repr(client)


def test_an_exception_of_progress_aborts(client: Any, uploads: Uploads, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(20 * MIB))

    def progress(sent_bytes: int, total_bytes: int) -> None:
        raise OSError("the window was closed")

    with pytest.raises(OSError, match="the window was closed") as caught:
        client.deploy_model("m", tmp_path, progress=progress)
    assert uploads.order[-1] == "deploy_abort"
    assert not [to for to in descriptors().values() if to.startswith(f"{tmp_path}/")], f"with {caught} still there"


@pytest.mark.parametrize("how", ["grows", "shrinks", "is gone"])
def test_a_file_that_changes_aborts(client: Any, uploads: Uploads, tmp_path: Path, how: str) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(bytes(6 * MIB))

    def change(count: int) -> None:
        if count == 2:
            if how == "is gone":
                (tmp_path / "b").unlink()
            else:
                os.truncate(tmp_path / "b", 7 * MIB if how == "grows" else MIB)

    uploads.on_write = change
    with pytest.raises(hostd.FailedPreconditionError, match="/b' changed while it was deployed"):
        client.deploy_model("m", tmp_path)
    assert uploads.order[-2:] == ["deploy_write", "deploy_abort"]


def test_ctrl_c_aborts(endpoint: str, host: FakeHost, uploads: Uploads) -> None:
    uploads.holds_back = True
    uploads.on_write = lambda count: os.kill(os.getpid(), signal.SIGINT) if count == WINDOW else None
    with hostd.connect(endpoint) as client, pytest.raises(KeyboardInterrupt):
        client.deploy_model("m", {"a": bytes(20 * MIB)})
    assert uploads.order[-1] == "deploy_abort"


def test_a_timeout_is_for_the_whole_deploy(client: Any, uploads: Uploads) -> None:
    uploads.holds_back = True
    with pytest.raises(hostd.DeadlineExceededError):
        client.deploy_model("m", {"a": bytes(20 * MIB)}, timeout_s=0.5)
    assert uploads.order[-1] == "deploy_abort"


def test_requests_tell_the_host_how_much_time_is_left(client: Any, host: FakeHost) -> None:
    client.deploy_model("m", {"a": bytes(3 * MIB)}, timeout_s=1000)
    deadlines = [request.deadline_ms for request in host.received[1:]]
    assert deadlines == sorted(deadlines, reverse=True)
    assert 0 < deadlines[-1] <= deadlines[0] <= 1_000_000


def test_the_next_host_hears_nothing_of_an_upload_that_broke(
    endpoint: str, client: Any, host: FakeHost, uploads: Uploads, fake: Fake
) -> None:
    uploads.holds_back = True
    deploying = Waiting(lambda: client.deploy_model("m", {"a": bytes(20 * MIB)}))
    eventually(lambda: len(uploads.held) == WINDOW, "the window is full")
    after = Uploads()
    host.stop()
    fake(after)
    assert isinstance(deploying.join(), hostd.UnavailableError)
    assert after.verbs == []


# Asyncio alone


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
        async with hostd.AsyncClient(endpoint) as client:
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
        async with hostd.AsyncClient(endpoint) as client:
            await client.deploy_model("m", tmp_path)

    run(body)
    assert readers
    assert loop_thread not in readers
