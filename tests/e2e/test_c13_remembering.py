"""C13: what was measured is remembered beyond the end of a host, by all hosts of the user, and whatever becomes of it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import pytest
from helpers import eventually

import hostd
from hostd import paths

if TYPE_CHECKING:
    from pathlib import Path

    from helpers import Service

ModelDir: TypeAlias = Callable[..., str]
Serve: TypeAlias = "Callable[..., Service]"

HOLDER = """
    class Holder:
        data = b"\\1" * (1 << 20)

        def predict(self, x):
            return 0

    def load(path):
        return Holder()
"""


def estimate_of(client: hostd.Client, path: str) -> tuple[int, str]:
    estimate = client.estimate_model_size("any", path)
    return int(estimate), estimate.source


def test_c13_a_restarted_host_still_remembers(serve: Serve, model_dir: ModelDir, tmp_path: Path) -> None:
    path = model_dir(HOLDER)
    service = serve()
    with hostd.connect(service.endpoint) as client:
        size = client.load_model("m", path)._info.size
        client.shutdown()
    service.ended()
    with hostd.connect(serve().endpoint) as client:
        assert estimate_of(client, path) == (size, "remembered")
        client.shutdown()
    alone = serve(state_dir=tmp_path / "other-state", memory={"remember": "host"})
    with hostd.connect(alone.endpoint) as client:
        assert estimate_of(client, path)[1] == "estimated", "remembered, but not in its state directory"


def test_c13_what_one_host_has_measured_all_hosts_of_the_user_remember(serve: Serve, model_dir: ModelDir) -> None:
    """Hosts that run beside it, embedded ones that leave no directory, and after a kill."""
    path = model_dir(HOLDER)
    with hostd.Host() as beside, hostd.Host() as embedded:
        size = embedded.client().load_model("m", path)._info.size
        remembered = (size, "remembered")
        eventually(lambda: estimate_of(beside.client(), path) == remembered, "the other one knows", within_s=60)
        os.kill(embedded.pid, signal.SIGKILL)
    with hostd.connect(serve().endpoint) as client:
        assert estimate_of(client, path) == remembered
    with hostd.Host(memory={"remember": "none"}) as forgetful:
        assert estimate_of(forgetful.client(), path)[1] == "estimated"
    file = paths.shared_state_dir("") / "sizes.sqlite"
    assert [stat.S_IMODE(found.stat().st_mode) for found in (file.parent, file)] == [0o700, 0o600]


def test_c13_a_memory_that_another_host_holds_for_ever_stops_nothing(model_dir: ModelDir) -> None:
    path = model_dir(HOLDER)
    with hostd.Host() as host:
        host.client().load_model("m", path)
    file = paths.shared_state_dir("") / "sizes.sqlite"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with hostd.Host() as host:
            assert host.client().load_model("m", path).predict(1) == 0
            assert estimate_of(host.client(), path)[1] in ("estimated", "remembered")


@pytest.mark.parametrize("damage", ["garbage", "truncated", "directory", "zeros"])
def test_c13_a_damaged_memory_costs_an_estimate_and_nothing_else(
    serve: Serve, model_dir: ModelDir, damage: str
) -> None:
    path, store = model_dir(HOLDER), paths.shared_state_dir("") / "sizes.sqlite"
    service = serve()
    with hostd.connect(service.endpoint) as client:
        client.load_model("m", path)
        client.shutdown()
    service.ended()
    content = store.read_bytes()
    assert len(content) > 1000
    for file in store.parent.glob("sizes.sqlite*"):
        file.unlink()
    if damage == "directory":
        store.mkdir()
    else:
        spoilt = {"garbage": os.urandom(5000), "truncated": content[: len(content) // 2], "zeros": bytes(8192)}
        store.write_bytes(spoilt[damage])
    service = serve()
    with hostd.connect(service.endpoint) as client:
        assert estimate_of(client, path)[1] == "estimated"
        size = client.load_model("m", path)._info.size
        assert estimate_of(client, path) == (size, "remembered")
        client.shutdown()
    service.ended()
    with hostd.connect(serve().endpoint) as client:
        assert estimate_of(client, path) == (size, "remembered"), "the fresh memory must be kept too"


@pytest.mark.parametrize(
    "part",
    ["", "-wal", "-shm", "-journal"],
)
def test_c13_a_memory_that_is_spoilt_while_the_host_runs_stops_nothing(
    serve: Serve, model_dir: ModelDir, part: str
) -> None:
    with hostd.connect(serve().endpoint) as client:
        client.load_model("m", model_dir())
        (paths.shared_state_dir("") / f"sizes.sqlite{part}").write_bytes(os.urandom(5000))
        assert client.load_model("n", path := model_dir(HOLDER)).predict(1) == 0
        assert estimate_of(client, path)[0] > 0


def test_c13_a_small_model_does_not_wait_until_a_big_directory_is_known(
    client: hostd.Client, model_dir: ModelDir
) -> None:
    """Seven gigabytes are read for its digest; before, the small one stood behind all of them."""
    big = model_dir(HOLDER)
    for number in range(120):
        with open(f"{big}/weights-{number}.bin", "wb") as file:
            file.truncate(60 << 20)
    client.load_model("big", big, wait=False)
    small = client.load_model("small", model_dir(HOLDER))
    assert small.predict(1) == 0
    assert client.get_model("big").state == "LOADING"
    assert "is looked up" in client.explain_model("big")["reason"]
    assert client.unload_model("big").processes == 0
