"""C06 to C09: loads, and loads that meet. What fails and is tried again, and what finds a model: `test_c10_retries`."""

import asyncio
import math

import pytest
from deploy_rig import Raw
from helpers import PATIENCE_S, eventually, of_models
from models_rig import FAILS, FAILS_TWICE, GATED

import hostd

CROWD = 1000
FIRST = "../workshop/0"
"""What a rig calls the first model that it makes outside of its directory."""


# C06


def test_c06_a_load_takes_every_option_and_returns_a_handle_with_everything_there_is_to_know(shared, shared_host, rig):
    path = str(rig.make(FAILS_TWICE))
    model = shared.load_model(
        "team/m", path, "a-type", wait=True, retries=2, finder="files", initializer="default", options={"a": 1}
    )
    assert (model.id, model.path, model.type) == ("team/m", path, "a-type")
    assert (model.loading, model.loaded, len(rig.loads(FIRST))) == (False, True, 3)
    eventually(lambda: model.size == shared.get_model_size("team/m") > 0, "the size is that of the record")
    assert model.wait() is model
    assert model.predict(1) == 1

    async def use():
        async with hostd.AsyncClient(shared_host.endpoint) as client:
            theirs = await client.load_model("echo", rig.make(), wait=False)
            assert (theirs.id, theirs.type) == ("echo", "standalone-model")
            await theirs.wait()
            assert (await theirs.loading(), await theirs.loaded()) == (False, True)
            assert await theirs.size() > 0

    asyncio.run(use())


# C07


def test_c07_loading_what_is_loaded_starts_no_process_and_another_source_is_refused(shared, shared_host, rig):
    path = rig.make()
    options = {"deep": [1, (2, b"3")], "nan": math.nan, "n": 1}
    model = shared.load_model("m", path, options=options)
    first, processes = model.info, of_models(shared_host.pid)
    for _ in range(5):
        again = shared.load_model("m", path, retries=3, options=options).info
        assert (again.workers[0].pid, again.generation) == (first.workers[0].pid, first.generation)
    others = [
        {"local_model_path": rig.make()},
        {"model_type": "another"},
        {"options": {**options, "n": True}},
        {"finder": "files"},
        {"initializer": "default"},
    ]
    for other in others:
        for wait in (True, False):
            with pytest.raises(hostd.AlreadyExistsError, match="unload it first, or use another id"):
                shared.load_model("m", **{"local_model_path": path, "options": options, **other}, wait=wait)
    assert of_models(shared_host.pid) == processes
    assert model.predict(1) == 1


# C08


async def load_by_many(endpoint, path, release):
    """Begin a load of one id a thousand times, from two connections; let the model go on when all have asked."""
    async with hostd.AsyncClient(endpoint) as one, hostd.AsyncClient(endpoint) as other:
        loads = [asyncio.ensure_future((one, other)[i % 2].load_model("m", path)) for i in range(CROWD)]
        await one.load_model("m", path, wait=False)  # behind its own thousand on one connection
        await other.load_model("m", path, wait=False)
        assert not any(load.done() for load in loads)
        await asyncio.to_thread(release)
        return await asyncio.wait_for(asyncio.gather(*loads, return_exceptions=True), 2 * PATIENCE_S)


@pytest.mark.parametrize("fails", [False, True], ids=["succeed", "fail"])
def test_c08_a_thousand_concurrent_loads_start_one_process_and_get_the_same(shared, shared_host, rig, fails):
    path = str(rig.make(f"{GATED}\n    {FAILS}" if fails else GATED))
    got = asyncio.run(load_by_many(shared_host.endpoint, path, lambda: rig.let_go(FIRST)))
    if fails:
        assert {type(error) for error in got} == {hostd.ModelError}
        assert len({(error.message, error.traceback) for error in got}) == 1
    else:
        assert {(type(model).__name__, model.id) for model in got} == {("AsyncModel", "m")}
        with Raw(shared_host.endpoint) as raw:
            record = raw.ask("load_model", model_id="m", path=path)
        assert record["generation"] == shared.get_model("m").generation
    assert len(rig.loads(FIRST)) == 1
    assert len(of_models(shared_host.pid)) == (0 if fails else 1)


# C09


def test_c09_without_waiting_it_returns_while_it_loads_and_all_wait_for_the_same_load(shared, rig, pool):
    path = rig.make(GATED)
    model = shared.load_model("m", path, wait=False)
    assert (model.loading, model.loaded) == (True, False)
    waiting = [
        pool.submit(model.wait),
        pool.submit(shared.retrieve_model, "m"),
        pool.submit(shared.load_model, "m", path),
    ]
    for verb in (model.wait, lambda timeout_s: shared.retrieve_model("m", timeout_s=timeout_s)):
        with pytest.raises(hostd.DeadlineExceededError):
            verb(timeout_s=0.1)
    for call in (lambda: model.call("predict", 1), lambda: model.predict(1)):
        with pytest.raises(hostd.FailedPreconditionError, match=r"LOADING.*retrieve_model"):
            call()
    with pytest.raises(hostd.AlreadyExistsError, match="path"):
        shared.load_model("m", rig.make())
    assert not any(one.done() for one in waiting)
    rig.let_go(FIRST)
    assert len({one.result(PATIENCE_S).pid() for one in waiting}) == 1
    assert (model.loading, model.loaded, len(rig.loads(FIRST))) == (False, True, 1)
