"""Deploys through both clients and the command line, into a real host's models directory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from helpers import REPOSITORY, eventually

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 2**20

MODEL = b"""
import hashlib
from pathlib import Path

class Model:
    def __init__(self, path, text):
        self.path, self.text = Path(path), text

    def predict(self, x):
        return [self.text, x]

    def digests(self):
        files = (file for file in self.path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        return {str(file.relative_to(self.path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

def load(path, text="one"):
    if text == "bad":
        raise ValueError("this model is bad")
    return Model(path, text)
"""


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def host(models_dir: Path) -> Iterator[hostd.Host]:
    with hostd.Host(models={"dir": models_dir, "write_quiet_period_s": 0.1}) as running:
        yield running


@pytest.fixture
def client(host: hostd.Host, models_dir: Path) -> Iterator[hostd.Client]:
    with hostd.connect(host.endpoint) as made:
        yield made
        for name in there(models_dir):
            made.undeploy_model(name)
        made.unload_all_models()
        eventually(lambda: not residue(models_dir), "what was removed is gone from the staging directory, too")


def there(models_dir: Path) -> list[str]:
    """Return what is deployed."""
    return sorted(entry.name for entry in models_dir.iterdir() if not entry.name.startswith("."))


def residue(models_dir: Path) -> list[str]:
    """Return the files of hidden directories: what a deploy has left behind."""
    return [str(file) for file in models_dir.glob(".*/**/*") if file.is_file()]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c29_a_deploy_arrives_byte_for_byte_and_serves(
    host: hostd.Host, client: hostd.Client, models_dir: Path, tmp_path: Path, kind: str
) -> None:
    files = {"model.py": MODEL, "data/weights.bin": os.urandom(5 * MIB + 17), ".hidden": b"h", "empty": b""}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    told: list[tuple[int, int]] = []

    async def asynchronously() -> None:
        async with hostd.AsyncClient(host.endpoint) as theirs:
            await theirs.deploy_model("m", tmp_path, progress=lambda *counts: told.append(counts))

    if kind == "async":
        asyncio.run(asyncio.wait_for(asynchronously(), 60))
    else:
        client.deploy_model("m", tmp_path, progress=lambda *counts: told.append(counts))
    total = sum(map(len, files.values()))
    assert told[-1] == (total, total)
    model = client.retrieve_model("m")
    assert model.path == str(models_dir / "m")
    assert model.digests() == {name: sha256(data) for name, data in files.items()}


def test_c29_c32_a_second_deploy_is_refused_unless_it_replaces(client: hostd.Client) -> None:
    model = client.deploy_model("m", {"model.py": MODEL})
    with pytest.raises(hostd.AlreadyExistsError):
        client.deploy_model("m", {"model.py": MODEL})
    client.deploy_model("m", {"model.py": MODEL}, replace=True, options={"text": "two"})
    assert model.predict(1) == ["two", 1]
    with pytest.raises(hostd.ModelError, match="this model is bad"):
        client.deploy_model("m", {"model.py": MODEL}, replace=True, options={"text": "bad"})
    assert model.predict(2) == ["two", 2]


@pytest.mark.parametrize("name", ["", " ", "/etc/passwd", "../x", "a/../x", "a\0b", "a\nb", "a/"], ids=ascii)
def test_c29_a_bad_name_is_refused_and_nothing_is_written(client: hostd.Client, models_dir: Path, name: str) -> None:
    with pytest.raises(hostd.InvalidArgumentError):
        client.deploy_model("m", {"model.py": MODEL, name: b"x"})
    with pytest.raises(hostd.InvalidArgumentError):
        client.deploy_model("m", {"model.py": MODEL, "a/b": b"", "a": b""})
    assert there(models_dir) == []


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_c30_what_fails_at_the_client_leaves_no_files(
    host: hostd.Host, client: hostd.Client, models_dir: Path, kind: str
) -> None:
    files = {"model.py": MODEL, "weights.bin": bytes(20 * MIB)}

    def progress(sent_bytes: int, total_bytes: int) -> None:
        if sent_bytes > 3 * MIB:
            raise OSError("the window was closed")

    async def asynchronously() -> None:
        async with hostd.AsyncClient(host.endpoint) as theirs:
            await theirs.deploy_model("m", files, progress=progress)

    with pytest.raises(OSError, match="the window was closed"):
        if kind == "async":
            asyncio.run(asyncio.wait_for(asynchronously(), 60))
        else:
            client.deploy_model("m", files, progress=progress)
    assert there(models_dir) == []
    assert residue(models_dir) == [], "the abort is answered when nothing is left"
    assert client.deploy_model("m", {"model.py": MODEL}).predict(1) == ["one", 1]


def test_c30_a_task_that_is_cancelled_leaves_no_files(host: hostd.Host, client: hostd.Client, models_dir: Path) -> None:
    async def body() -> None:
        begun = asyncio.Event()
        async with hostd.AsyncClient(host.endpoint) as theirs:
            deploying = asyncio.ensure_future(
                theirs.deploy_model("m", {"weights.bin": bytes(50 * MIB)}, progress=lambda *_: begun.set())
            )
            await begun.wait()
            deploying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await deploying

    asyncio.run(asyncio.wait_for(body(), 60))
    assert there(models_dir) == []
    assert residue(models_dir) == []


def test_c30_a_client_that_goes_away_leaves_no_files(host: hostd.Host, client: hostd.Client, models_dir: Path) -> None:
    gone = hostd.connect(host.endpoint)

    def progress(sent_bytes: int, total_bytes: int) -> None:
        gone.close()

    with pytest.raises(hostd.HostError):
        gone.deploy_model("m", {"weights.bin": bytes(20 * MIB)}, progress=progress)
    eventually(lambda: not residue(models_dir), "the upload of the client that is gone is removed")
    assert there(models_dir) == []


def test_c30_a_failed_load_leaves_files_only_if_they_are_to_be_kept(client: hostd.Client, models_dir: Path) -> None:
    for keep in (False, True):
        with pytest.raises(hostd.ModelError, match="this model is bad"):
            client.deploy_model("m", {"model.py": MODEL}, options={"text": "bad"}, keep=keep)
        assert there(models_dir) == (["m"] if keep else [])


def test_c31_an_undeploy_removes_model_and_files(client: hostd.Client, models_dir: Path) -> None:
    client.deploy_model("m", {"model.py": MODEL})
    assert client.undeploy_model("m").processes == 1
    assert there(models_dir) == []
    with pytest.raises(hostd.NotFoundError):
        client.undeploy_model("m")


def test_c13_the_size_of_what_was_loaded_is_remembered(client: hostd.Client, models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_bytes(MODEL)
    (tmp_path / "weights.bin").write_bytes(os.urandom(MIB))
    before = client.estimate_model_size("m", tmp_path)
    assert (before.source, int(before) >= MIB) == ("estimated", True)
    client.deploy_model("m", tmp_path)
    eventually(
        lambda: client.estimate_model_size("m", models_dir / "m").source == "remembered", "the measurement is kept"
    )
    with pytest.raises(hostd.NotFoundError):
        client.estimate_model_size("m", tmp_path / "nope")


def test_c24_a_sync_loads_what_was_put_there_and_unloads_what_is_gone(client: hostd.Client, models_dir: Path) -> None:
    (models_dir / "put").mkdir()
    (models_dir / "put" / "model.py").write_bytes(MODEL)

    # What was written just now waits for the quiet period.
    eventually(lambda: "put" in client.sync_local_models(wait=True).loaded, "it is loaded")
    assert client.retrieve_model("put").predict(1) == ["one", 1]
    shutil.rmtree(models_dir / "put")
    assert "put" in client.sync_local_models(wait=True).unloaded
    assert client.list_models() == []


# The command line


@pytest.fixture
def command(host: hostd.Host) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*args: str) -> Any:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HOSTD_")}
        return subprocess.run(
            [sys.executable, "-m", "hostd", *args, "-e", host.endpoint],
            env={**clean, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_model_is_deployed_replaced_and_undeployed_from_the_shell(
    client: hostd.Client, command: Callable[..., Any], models_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.py").write_bytes(MODEL)
    assert json.loads(command("deploy", "m", str(tmp_path), "--json").stdout)["state"] == "READY"
    refused = command("deploy", "m", str(tmp_path))
    assert refused.returncode == 1
    assert "hint: --replace deploys over it" in refused.stderr
    replaced = command("deploy", "m", str(tmp_path / "model.py"), "--replace", "-o", "text=two")
    assert replaced.returncode == 0, replaced.stderr
    assert client.retrieve_model("m").predict(1) == ["two", 1]
    done = command("undeploy", "m", "nobody")
    assert done.returncode == 1
    assert "the files of 1 model are removed: m" in done.stdout
    assert "[NOT_FOUND]" in done.stderr
    assert there(models_dir) == []
    assert command("sync").stdout == "nothing has changed\n"
    found = json.loads(command("size", "--estimate", "m", str(tmp_path), "--json").stdout)
    assert found["m"]["bytes"] > 0


def test_a_host_without_a_models_directory_says_how_to_get_one(tmp_path: Path) -> None:
    with hostd.Host() as bare, pytest.raises(hostd.FailedPreconditionError, match="models directory"):
        bare.client().deploy_model("m", {"model.py": MODEL})
