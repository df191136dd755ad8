"""C17 to C19: nested ids, unloads between load and use, and handles that outlive their workers."""

import asyncio
import os
import shutil
import threading
from collections import Counter

import pytest
from helpers import PATIENCE_S, eventually, is_there, of_models
from models_rig import GATED, Work

import hostd

pytestmark = pytest.mark.usefixtures("way")

ROUNDS = 25
USERS = 4


# C17


def test_c17_nested_ids_are_loaded_lazily_and_explicitly(lazy, lazy_rig):
    inside = lazy_rig.add("team/a/model")
    assert lazy.retrieve_model("team/a/model").path == str(inside)
    assert lazy.load_model("team/b", lazy_rig.make()).predict(2) == 2
    assert [model.id for model in lazy.list_models()] == ["team/a/model", "team/b"]
    assert lazy.get_model_size("team/b") > 0
    assert lazy.unload_model("team/a/model").processes == 1
    with pytest.raises((hostd.InvalidArgumentError, hostd.NotFoundError), match="team"):
        lazy.retrieve_model("team")  # a folder of models is none


def test_c17_a_sync_neither_finds_nor_unloads_a_nested_model_while_it_exists(lazy, lazy_rig):
    for name in ("flat", "team", "team/another"):
        lazy_rig.add(name)
    place = lazy_rig.add("team/model")
    report = lazy.sync_local_models(wait=True)
    assert (sorted(report.loaded), report.unloaded, report.failed) == (["flat", "team"], (), {})
    inner = lazy.retrieve_model("team/model")
    pid = inner.pid()
    for _ in range(2):
        assert lazy.sync_local_models(wait=True).unloaded == ()
    lazy.unload_model("team")
    assert inner.pid() == pid, "a model and one below it are two models"
    shutil.rmtree(place)
    assert "team/model" in lazy.sync_local_models(wait=True).unloaded
    assert not is_there(pid)


# C18


class Storm:
    """Threads that use a model while another unloads it, and what each of them got."""

    def __init__(self):
        self.got = Counter()
        self.strange = []
        self.over = threading.Event()

    def use(self, ask):
        number = 0
        while not self.over.is_set():
            number += 1
            try:
                self.got["right" if ask(number) == number else "wrong"] += 1
            except hostd.HostError as error:
                # LOADING and UNLOADING refuse with FAILED_PRECONDITION (DESIGN's table), and then there is nothing (C19).
                usual = (hostd.AbortedError, hostd.FailedPreconditionError, hostd.NotFoundError)
                self.got[error.status.name] += 1
                if not isinstance(error, usual) or (isinstance(error, usual[1]) and "LOADING" not in error.message):
                    self.strange.append(error)
            except Exception as error:  # noqa: BLE001 - a strange one is what is looked for
                self.strange.append(error)

    def rage(self, uses, unload):
        users = [threading.Thread(target=self.use, args=(use,)) for use in uses]
        for user in users:
            user.start()
        try:
            for _ in range(ROUNDS):
                before = self.got["right"]
                eventually(lambda before=before: self.got["right"] > before or self.strange, "somebody is answered")
                unload()
        finally:
            self.over.set()
            for user in users:
                user.join(PATIENCE_S)
        assert (self.strange, self.got["wrong"]) == ([], 0)


def test_c18_unloads_between_load_and_first_use_raise_no_strange_error(shared, shared_host, model_dir):
    path = model_dir()
    uses = [
        lambda number: shared.load_model("m", path).predict(number),
        lambda number: shared.load_model("m", path, wait=False).wait().predict(number),
        lambda number: list(shared.load_model("m", path).stream.generate(number + 1))[-1],
        lambda number: shared.retrieve_model("m").submit.predict(number).result(),
    ]
    Storm().rage(uses, lambda: shared.unload_model("m"))
    shared.unload_model("m")
    assert of_models(shared_host.pid) == []


def test_c18_c19_with_lazy_loading_an_old_handle_gets_an_answer_or_hears_of_the_unload(lazy, lazy_host, lazy_rig):
    lazy_rig.add("m")
    model, storm = lazy.retrieve_model("m"), Storm()
    uses = [model.predict, lambda number: list(model.stream.generate(number + 1))[-1]]
    storm.rage(uses * (USERS // 2), lambda: lazy.unload_model("m"))
    assert storm.got["NOT_FOUND"] == 0, storm.got
    lazy.unload_model("m")
    assert of_models(lazy_host.pid) == []


def test_c18_retrieving_while_loading_waits_and_an_unload_aborts_that(lazy, lazy_rig, pool):
    lazy_rig.add("m", GATED)
    for overtaken in (False, True):
        waiting = [pool.submit(lazy.retrieve_model, "m") for _ in range(5)]
        eventually(lambda begun=overtaken + 1: len(lazy_rig.loads("m")) == begun, "the load has begun")
        with pytest.raises(hostd.DeadlineExceededError):
            lazy.retrieve_model("m", timeout_s=0.1)  # the others have asked before
        assert not any(one.done() for one in waiting)
        if overtaken:
            lazy.unload_model("m")
            assert {type(one.exception(PATIENCE_S)) for one in waiting} == {hostd.AbortedError}
        else:
            lazy_rig.let_go("m")
            assert len({one.result(PATIENCE_S).pid() for one in waiting}) == 1
            lazy.unload_model("m")
            (lazy_rig.records / "m.go").unlink()


def test_c18_c22_with_lazy_loading_what_is_asked_during_an_unload_gets_the_next_load(lazy, lazy_rig, tmp_path, pool):
    lazy_rig.add("m")
    model = lazy.retrieve_model("m")
    old, work = model.pid(), Work(model, tmp_path)
    unload = pool.submit(lazy.unload_model, "m")
    eventually(lambda: lazy.get_model("m").state == "UNLOADING", "the unload has begun")
    calls = [model.submit.predict(number) for number in range(5)]
    retrieved = pool.submit(lazy.retrieve_model, "m")
    with pytest.raises(hostd.DeadlineExceededError):
        model.options(timeout_s=0.2).predict(1)  # the others have asked before
    assert not any(waiting.done() for waiting in (*calls, retrieved, unload))
    work.finish()
    assert unload.result(PATIENCE_S).processes == 1
    assert not is_there(old)
    assert [call.result(PATIENCE_S) for call in calls] == list(range(5))
    assert retrieved.result(PATIENCE_S).pid() != old
    assert len(lazy_rig.loads("m")) == 2


# C19


def test_c19_after_a_reload_or_a_crash_the_same_handle_reaches_the_new_worker(shared, rig):
    path = rig.make()
    model = shared.load_model("m", path)
    first = model.pid()
    shared.unload_model("m")
    reloaded = shared.load_model("m", path, options={"anew": True})
    assert model.pid() == reloaded.pid() != first
    assert model.predict(2) == model.submit.predict(2).result(PATIENCE_S) == next(model.map.predict([2])) == 2
    assert list(model.stream.generate(3)) == [0, 1, 2]
    assert reloaded.info.generation > 1
    with pytest.raises(hostd.UnavailableError, match="SIGKILL"):
        model.die()
    with pytest.raises(hostd.FailedPreconditionError, match=r"FAILED.*load it again"):
        model.predict(1)
    shared.load_model("m", path)
    assert model.predict(1) == 1


USES = [
    lambda model: model.predict(1),
    lambda model: model.call("predict", 1),
    lambda model: model.submit.predict(1).result(PATIENCE_S),
    lambda model: list(model.map.predict([1])),
    lambda model: list(model.stream.generate(1)),
    lambda model: model.size,
    lambda model: model.info,
    lambda model: model.wait(PATIENCE_S),
]


def test_c19_after_an_unload_it_says_not_found(shared, shared_host, model_dir):
    async def use():
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            model = await client.load_model("n", model_dir())
            await client.unload_model("n")
            with pytest.raises(hostd.NotFoundError):
                await model.predict(1)
            with pytest.raises(hostd.NotFoundError):
                [item async for item in model.stream.generate(1)]

    model = shared.load_model("m", model_dir())
    shared.unload_model("m")
    for ask in USES:
        with pytest.raises(hostd.NotFoundError, match="'m'"):
            ask(model)
    assert (model.loaded, model.loading) == (False, False)
    asyncio.run(use())


def test_c19_with_lazy_loading_a_crashed_model_comes_back_as_it_was(lazy, lazy_rig):
    for path in (lazy_rig.add("m"), lazy_rig.make()):
        model = lazy.load_model("m", path, "a-type", options={"factor": 10})
        for _ in range(2):
            first = model.pid()
            with pytest.raises(hostd.UnavailableError):
                model.die()
            assert model.pid() != first
        assert (model.info.type, model.info.path) == ("a-type", os.fspath(path))
        settings = {one["name"]: one["value"] for one in lazy.explain_model("m")["settings"]}
        assert settings["options.factor"] == 10
        lazy.unload_model("m")
