"""C15 and C16: retrieving, and lazy loads. Nested ids and handles that outlive their workers are in `test_c17_handles`."""

from __future__ import annotations

import asyncio
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from helpers import PATIENCE_S, eventually, is_there, line_of, lines_of, program

import hostd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ModelDir: TypeAlias = "Callable[..., str]"
Lazy: TypeAlias = "Callable[..., hostd.Client]"

MODEL = """
import os
import time

class Model:
    def __init__(self, options):
        self.options = options

    def predict(self, x):
        return x

    def pid(self):
        return os.getpid()

    def told(self):
        return self.options

    def generate(self, n):
        yield from range(n)

    def die(self):
        os.kill(os.getpid(), 9)

def load(path, **options):
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "..", "tries"), "a") as file:
        file.write("x\\n")
    with open(os.path.join(here, "..", "tries")) as file:
        number = len(file.readlines())
    while os.path.exists(os.path.join(here, "..", "hold")):
        time.sleep(0.005)
    if number <= options.pop("fail", 0):
        raise ValueError(f"try {number} is spoilt")
    return Model(options)
"""
QUIET_S = 2.0
"""So much longer than the writer's pauses that a slow machine does not stretch one of them over it."""

SETTINGS = {"lazy_load": True, "load_on_start": False, "poll_period_s": 0, "write_quiet_period_s": 0}
KNOWS_IDS = """
    from hostd.finders import ModelSpec

    class KnowsIds:
        looks_for = "ids that begin with zoo-"

        def find(self, model_id, path):
            return ModelSpec("knows_ids:load", {"seen": path}) if path and path.startswith("zoo-") else None

    def load(path, seen):
        return lambda: [path, seen]
"""


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    return directory


@pytest.fixture
def lazy(models_dir: Path) -> Iterator[Lazy]:
    """Start a host with lazy loading and return a client of it; keywords are settings of its models."""
    hosts: list[hostd.Host] = []

    def start(finders: dict[str, Any] | None = None, **models: Any) -> hostd.Client:
        workers = {"retry_backoff_s": 0.01, "drain_timeout_s": 5}
        hosts.append(hostd.Host(models_dir=models_dir, models={**SETTINGS, **models}, workers=workers, finders=finders))
        hosts[-1].start()
        return hosts[-1].client()

    yield start
    for host in hosts:
        host.stop()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    threads = ThreadPoolExecutor(8)
    yield threads
    # After a failure somebody may still wait for a load; the end of the host, which comes next, ends that.
    threads.shutdown(wait=False, cancel_futures=True)


def put(directory: Path, name: str, settings: str = "") -> Path:
    place = directory / name
    place.mkdir(parents=True)
    (place / "model.py").write_text(MODEL)
    if settings:
        (place / "model.yaml").write_text(settings)
    return place


def tries(directory: Path) -> int:
    return len(lines_of(directory / "tries"))


# C15


def test_c15_it_returns_a_handle_to_the_live_model(shared: hostd.Client, model_dir: ModelDir) -> None:
    loaded = shared.load_model("echo", model_dir(), "a-type")
    model = shared.retrieve_model("echo")
    assert (model.id, model.path, model.type, model.loaded) == ("echo", loaded.path, "a-type", True)
    assert model.predict(2) == 2
    assert model.info.workers[0].pid == loaded.info.workers[0].pid


@pytest.mark.parametrize("model_id", [None, "", "  ", "\t\n", 7, 0, True, 1.5, b"echo", ["echo"], {"a": 1}], ids=repr)
def test_c15_what_is_no_id_is_an_invalid_argument(shared_host: hostd.Host, shared: hostd.Client, model_id: Any) -> None:
    async def ask() -> None:
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            await client.retrieve_model(model_id)

    for retrieve in (lambda: shared.retrieve_model(model_id), lambda: asyncio.run(ask())):
        with pytest.raises(hostd.InvalidArgumentError) as caught:
            retrieve()
        assert "model_id" in caught.value.message or "cannot be a model id" in caught.value.message


@pytest.mark.parametrize(
    "arguments", [{}, {"model_id": None}, {"model_id": 3}, {"id": "echo"}, {"model_id": ""}], ids=repr
)
def test_c15_a_request_without_an_id_is_an_invalid_argument(shared: hostd.Client, arguments: dict[str, Any]) -> None:
    with pytest.raises(hostd.InvalidArgumentError, match=r"model_id|model id|'id'"):
        shared._verb("retrieve_model", PATIENCE_S, **arguments)


def test_c15_what_is_not_loaded_is_not_found(shared: hostd.Client, model_dir: ModelDir) -> None:
    with pytest.raises(hostd.NotFoundError, match=r"'nobody'.*no model is loaded"):
        shared.retrieve_model("nobody")
    shared.load_model("echo", model_dir())
    with pytest.raises(hostd.NotFoundError, match=r"'nobody'.*loaded are: echo"):
        shared.retrieve_model("nobody")


# C16


def test_c16_what_is_not_loaded_is_loaded_from_the_directory(lazy: Lazy, models_dir: Path) -> None:
    place = put(models_dir, "m")
    client = lazy()
    assert client.list_models() == []
    model = client.retrieve_model("m")
    assert (model.path, model.type, model.predict(1)) == (str(place), "standalone-model", 1)
    assert client.retrieve_model("m").pid() == client.load_model("m", place).pid() == model.pid()
    assert tries(models_dir) == 1


def test_c16_without_lazy_loading_it_is_not_found(lazy: Lazy, models_dir: Path) -> None:
    put(models_dir, "m")
    client = lazy(lazy_load=False)
    with pytest.raises(hostd.NotFoundError):
        client.retrieve_model("m")
    assert tries(models_dir) == 0


def test_c16_a_lazy_load_is_tried_again(lazy: Lazy, models_dir: Path) -> None:
    put(models_dir, "m", "options: {fail: 2}\n")
    assert lazy(lazy_load_retries=2).retrieve_model("m").predict(1) == 1
    assert tries(models_dir) == 3


def test_c16_after_the_last_try_its_error_is_raised_and_the_next_use_starts_afresh(
    lazy: Lazy, models_dir: Path
) -> None:
    put(models_dir, "m", "options: {fail: 3}\n")
    client = lazy(lazy_load_retries=1)
    with pytest.raises(hostd.ModelError, match="try 2 is spoilt"):
        client.retrieve_model("m")
    assert client.list_models() == []
    assert client.retrieve_model("m").predict(1) == 1
    assert tries(models_dir) == 4


def test_c16_many_who_want_one_model_start_one_load(lazy: Lazy, models_dir: Path, pool: ThreadPoolExecutor) -> None:
    put(models_dir, "m")
    client = lazy()
    pids = [one.result(PATIENCE_S).pid() for one in [pool.submit(client.retrieve_model, "m") for _ in range(50)]]
    assert len(set(pids)) == 1
    assert tries(models_dir) == 1


def test_c16_files_that_are_still_being_written_are_waited_for(
    lazy: Lazy, models_dir: Path, pool: ThreadPoolExecutor
) -> None:
    source = """
        import pathlib, sys, time
        place, done = map(pathlib.Path, sys.argv[1:])
        place.mkdir()
        (place / "model.py").write_text(
            "def load(path):\\n    words = open(path + '/words.txt').read().split()\\n"
            "    assert words[-1] == 'END', 'loaded in the middle'\\n    return lambda: len(words)\\n"
        )
        (place / "words.txt").write_text("word ")
        print("writing", flush=True)
        while not done.exists():
            with (place / "words.txt").open("a") as file:
                file.write("word ")
            time.sleep(0.02)
        with (place / "words.txt").open("a") as file:
            file.write("END")
        print(len((place / "words.txt").read_text().split()), flush=True)
    """
    client = lazy(write_quiet_period_s=QUIET_S, lazy_load_retries=0)
    with program(source, models_dir / "m", models_dir.parent / "done") as writer:
        assert line_of(writer) == "writing"
        wanted = pool.submit(client.retrieve_model, "m")
        eventually(lambda: "BEING_WRITTEN" in causes(client, "m"), "the host says that it waits")
        assert not wanted.done()
        (models_dir.parent / "done").touch()
        assert wanted.result(PATIENCE_S)() == int(line_of(writer))


def causes(client: hostd.Client, model_id: str) -> list[str]:
    try:
        return [event["cause"] for event in client.explain_model(model_id)["story"]]
    except hostd.NotFoundError:
        return []


def test_c16_a_completion_marker_is_waited_for(lazy: Lazy, models_dir: Path, pool: ThreadPoolExecutor) -> None:
    place = put(models_dir, "m")
    client = lazy(completion_marker="COMPLETE", write_quiet_period_s=0.05)
    wanted = pool.submit(client.retrieve_model, "m")
    eventually(lambda: "BEING_WRITTEN" in causes(client, "m"), "the host says that it waits")
    assert tries(models_dir) == 0
    (place / "COMPLETE").touch()
    assert wanted.result(PATIENCE_S).predict(1) == 1


def test_c16_nothing_there_and_a_finder_that_knows_the_id(
    lazy: Lazy, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "knows_ids.py").write_text(textwrap.dedent(KNOWS_IDS))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    put(models_dir, "zoo-inside")
    multi = {"type": "multi", "config": {"finders": ["model_yaml", "ids", "files"]}}
    client = lazy(finders={"default": multi, "ids": {"type": "knows_ids:KnowsIds"}})
    assert client.retrieve_model("zoo-tiger")() == ["zoo-tiger", "zoo-tiger"]
    assert client.get_model("zoo-tiger").size_source == "measured"
    assert client.retrieve_model("zoo-inside").predict(1) == 1, "what is in the directory comes first"
    with pytest.raises(hostd.NotFoundError, match=f"'nobody'.*{models_dir}/nobody"):
        client.retrieve_model("nobody")
    report = client.sync_local_models(wait=True)
    assert report.unloaded == (), "an ephemeral model did not come from the directory"


def test_c16_what_is_nowhere_is_not_found_and_leaves_nothing(lazy: Lazy, models_dir: Path) -> None:
    client = lazy()
    for model_id in ("nobody", "team/nobody"):
        with pytest.raises(hostd.NotFoundError, match=f"{models_dir}/{model_id}"):
            client.retrieve_model(model_id)
    assert client.list_models() == []
    with pytest.raises(hostd.NotFoundError):
        client.explain_model("nobody")


def test_c16_an_id_is_no_path_below_the_supervisors_working_directory(
    lazy: Lazy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "somewhere", "private")
    monkeypatch.chdir(tmp_path / "somewhere")
    with pytest.raises(hostd.NotFoundError):
        lazy().retrieve_model("private")


@pytest.mark.parametrize("model_id", ["../outside", "..", ".hidden", "/etc", "a/../../outside", ".hostd-staging/x"])
def test_c16_no_id_leads_out_of_the_directory(lazy: Lazy, models_dir: Path, model_id: str) -> None:
    put(models_dir.parent, "outside")
    put(models_dir, ".hidden")
    with pytest.raises(hostd.InvalidArgumentError, match="cannot be a model id"):
        lazy().retrieve_model(model_id)
    assert tries(models_dir) == tries(models_dir.parent) == 0


USES = {
    "call": lambda model: model.predict(5),
    "by name": lambda model: model.call("predict", 5),
    "submit": lambda model: model.submit.predict(5).result(PATIENCE_S),
    "map": lambda model: next(model.map.predict([5])),
    "stream": lambda model: list(model.stream.generate(6))[-1],
    "wait": lambda model: model.wait(PATIENCE_S).predict(5),
}


@pytest.mark.parametrize("use", USES)
def test_c16_c19_an_old_handle_loads_the_model_again_with_lazy_loading(lazy: Lazy, models_dir: Path, use: str) -> None:
    put(models_dir, "m")
    client = lazy()
    model = client.retrieve_model("m")
    first = model.pid()
    client.unload_model("m")
    assert not is_there(first)
    assert USES[use](model) == 5
    assert model.pid() != first
    assert tries(models_dir) == 2


def test_c16_c19_an_old_handle_loads_the_model_again_for_asyncio_too(lazy: Lazy, models_dir: Path) -> None:
    put(models_dir, "m")
    endpoint = lazy().endpoint

    async def use() -> None:
        async with hostd.AsyncClient(endpoint) as client:
            model = await client.retrieve_model("m")
            await client.unload_model("m")
            assert await asyncio.gather(*(model.predict(i) for i in range(100))) == list(range(100))
            await client.unload_model("m")
            assert [item async for item in model.stream.generate(100)] == list(range(100))
            await client.unload_model("m")
            assert [item async for item in model.map.predict(range(100))] == list(range(100))

    asyncio.run(use())
    assert tries(models_dir) == 4


def test_c16_a_deadline_while_it_loads_ends_the_call_and_not_the_load(lazy: Lazy, models_dir: Path) -> None:
    put(models_dir, "m")
    client = lazy()
    model = client.retrieve_model("m")
    client.unload_model("m")
    (models_dir / "hold").touch()
    hurried = model.options(timeout_s=0.2)
    for use in (
        lambda: hurried.predict(1),
        lambda: hurried.submit.predict(1).result(),
        lambda: list(hurried.stream.generate(1)),
        lambda: client.retrieve_model("m", timeout_s=0.2),
    ):
        with pytest.raises(hostd.DeadlineExceededError):
            use()
    patient = model.submit.predict(7)
    (models_dir / "hold").unlink()
    assert patient.result(PATIENCE_S) == 7
    assert tries(models_dir) == 2
