"""C15 and C16: retrieving, and lazy loads. Nested ids and handles that outlive their workers are in `test_c17_handles`."""

import asyncio

import pytest
from deploy_rig import Raw
from helpers import PATIENCE_S, eventually, is_there, line_of, program
from models_rig import FAILS_TWICE, GATED, causes

import hostd

pytestmark = pytest.mark.usefixtures("way")

QUIET_S = 2.0
"""So much longer than the writer's pauses that a slow machine does not stretch one of them over it."""

SETTINGS = {"lazy_load": True, "load_on_start": False, "poll_period_s": None, "write_quiet_period_s": 0}
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
def start(rig):
    """Start a host that loads lazily; keywords are settings of its models, or its finders."""
    hosts = []

    def begin(finders=None, **models):
        settings = {**SETTINGS, "dir": rig.path, **models}
        hosts.append(hostd.Host(models=settings, workers={"retry_backoff_s": 0.01}, finders=finders))
        hosts[-1].start()
        return hosts[-1].client()

    yield begin
    for host in hosts:
        host.stop()


# C15


def test_c15_it_returns_a_handle_to_the_live_model_or_names_what_is_loaded(shared, model_dir):
    with pytest.raises(hostd.NotFoundError, match=r"'nobody'.*no model is loaded"):
        shared.retrieve_model("nobody")
    loaded = shared.load_model("echo", model_dir(), "a-type")
    model = shared.retrieve_model("echo")
    assert (model.id, model.path, model.type, model.loaded) == ("echo", loaded.path, "a-type", True)
    assert model.predict(2) == 2
    assert model.info.workers[0].pid == loaded.info.workers[0].pid
    with pytest.raises(hostd.NotFoundError, match=r"'nobody'.*loaded are: echo"):
        shared.retrieve_model("nobody")


def test_c15_what_is_no_id_is_an_invalid_argument(shared_host, shared):
    async def ask(model_id):
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            await client.retrieve_model(model_id)

    for model_id in (None, "", "  ", "\t\n", 7, True, 1.5, b"echo", ["echo"], {"a": 1}):
        for retrieve in (shared.retrieve_model, lambda model_id: asyncio.run(ask(model_id))):
            with pytest.raises(hostd.InvalidArgumentError, match=r"model_id|cannot be a model id"):
                retrieve(model_id)
    with Raw(shared_host.endpoint) as raw:
        for arguments in ({}, {"model_id": None}, {"id": "echo"}):
            assert isinstance(raw.refusal("retrieve_model", **arguments), hostd.InvalidArgumentError)


# C16


def test_c16_many_that_want_what_is_not_loaded_load_it_once_from_the_directory(lazy, lazy_rig, pool):
    place = lazy_rig.add("m")
    assert lazy.list_models() == []
    models = [one.result(PATIENCE_S) for one in [pool.submit(lazy.retrieve_model, "m") for _ in range(50)]]
    assert (models[0].path, models[0].type, models[0].predict(1)) == (str(place), "standalone-model", 1)
    assert len({model.pid() for model in [*models, lazy.load_model("m", place)]}) == 1
    assert len(lazy_rig.loads("m")) == 1


def test_c16_without_lazy_loading_it_is_not_found(start, rig):
    rig.add("m")
    with pytest.raises(hostd.NotFoundError):
        start(lazy_load=False).retrieve_model("m")
    assert rig.loads("m") == []


def test_c16_a_lazy_load_is_tried_again_and_the_next_use_starts_afresh(start, rig):
    rig.add("m", FAILS_TWICE)
    client = start(lazy_load_retries=1)
    with pytest.raises(hostd.ModelError, match="not yet"):
        client.retrieve_model("m")
    assert (client.list_models(), len(rig.loads("m"))) == ([], 2)
    assert client.retrieve_model("m").predict(1) == 1
    assert len(rig.loads("m")) == 3


def test_c16_files_that_are_still_being_written_are_waited_for(start, rig, pool):
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
    client = start(write_quiet_period_s=QUIET_S, lazy_load_retries=0)
    with program(source, rig.path / "m", rig.records / "done") as writer:
        assert line_of(writer) == "writing"
        wanted = pool.submit(client.retrieve_model, "m")
        eventually(lambda: "BEING_WRITTEN" in causes(client, "m"), "the host says that it waits")
        assert not wanted.done()
        (rig.records / "done").touch()
        assert wanted.result(PATIENCE_S)() == int(line_of(writer))


def test_c16_nothing_there_and_a_finder_that_knows_the_id(start, rig, install, monkeypatch):
    install(knows_ids=KNOWS_IDS)
    rig.add("zoo-inside")
    rig.add("zoo-inside/private")
    monkeypatch.chdir(rig.path / "zoo-inside")  # an id is no path below it
    multi = {"type": "multi", "config": {"finders": ["model_yaml", "ids", "files"]}}
    client = start(finders={"default": multi, "ids": {"type": "knows_ids:KnowsIds"}})
    assert client.retrieve_model("zoo-tiger")() == ["zoo-tiger", "zoo-tiger"]
    assert client.get_model("zoo-tiger").size_source == "measured"
    assert client.retrieve_model("zoo-inside").predict(1) == 1, "what is in the directory comes first"
    for nowhere in ("nobody", "team/nobody", "private"):
        with pytest.raises(hostd.NotFoundError, match=f"'{nowhere}'.*{rig.path}/{nowhere}"):
            client.retrieve_model(nowhere)
        with pytest.raises(hostd.NotFoundError):
            client.explain_model(nowhere)
    assert client.sync_local_models(wait=True).unloaded == (), "an ephemeral model did not come from the directory"


USES = {
    "call": lambda model: model.predict(5),
    "by name": lambda model: model.call("predict", 5),
    "submit": lambda model: model.submit.predict(5).result(PATIENCE_S),
    "map": lambda model: next(model.map.predict([5])),
    "stream": lambda model: list(model.stream.generate(6))[-1],
    "wait": lambda model: model.wait(PATIENCE_S).predict(5),
}


def test_c16_c19_an_old_handle_loads_the_model_again_with_lazy_loading(lazy, lazy_rig):
    lazy_rig.add("m")
    model = lazy.retrieve_model("m")
    for name, use in USES.items():
        before = model.pid()
        lazy.unload_model("m")
        assert not is_there(before)
        assert use(model) == 5, name
        assert model.pid() != before

    async def use_it():
        async with hostd.AsyncClient(lazy.endpoint) as client:
            handle = await client.retrieve_model("m")
            await client.unload_model("m")
            assert await asyncio.gather(*(handle.predict(i) for i in range(100))) == list(range(100))
            await client.unload_model("m")
            assert [item async for item in handle.stream.generate(100)] == list(range(100))
            await client.unload_model("m")
            assert [item async for item in handle.map.predict(range(100))] == list(range(100))

    asyncio.run(use_it())
    assert len(lazy_rig.loads("m")) == 1 + len(USES) + 3


def test_c16_a_deadline_while_it_loads_ends_the_call_and_not_the_load(lazy, lazy_rig):
    lazy_rig.add("m", GATED)
    lazy_rig.let_go("m")
    model = lazy.retrieve_model("m")
    lazy.unload_model("m")
    (lazy_rig.records / "m.go").unlink()
    hurried = model.options(timeout_s=0.2)
    for use in (
        lambda: hurried.predict(1),
        lambda: hurried.submit.predict(1).result(),
        lambda: list(hurried.stream.generate(1)),
        lambda: lazy.retrieve_model("m", timeout_s=0.2),
    ):
        with pytest.raises(hostd.DeadlineExceededError):
            use()
    patient = model.submit.predict(7)
    lazy_rig.let_go("m")
    assert patient.result(PATIENCE_S) == 7
    assert len(lazy_rig.loads("m")) == 2
