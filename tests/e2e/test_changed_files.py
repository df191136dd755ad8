"""Files that change under a loaded model: a load, a sync and a look tell, and a reload serves them."""

import asyncio
import os
import threading

import pytest
from deploy_rig import PLACES, refusal
from helpers import eventually

import hostd

CODE = """
import os, time

class Model:
    def __init__(self, word):
        self.word = word

    def say(self):
        return self.word

    def pid(self):
        return os.getpid()

    def wait(self, marker, gate):
        open(marker, "w").close()
        while not os.path.exists(gate):
            time.sleep(0.002)
        return self.word

def load(path, extra=""):
    return Model(open(os.path.join(path, "word")).read() + extra)
"""


@pytest.fixture(scope="module", params=["auto", "none"])
def budgeted(lazy_rig, request):
    """A host with and one without a memory budget: their loads take other ways."""
    settings = {**PLACES, "dir": lazy_rig.path, "load_on_start": False}
    with hostd.Host(models=settings, memory={"budget": request.param}) as host:
        yield host


@pytest.fixture
def client(budgeted, lazy_rig):
    with hostd.connect(budgeted.endpoint) as client:
        yield client
        client.unload_all_models()
    lazy_rig.clear()


def put(place, word):
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.py").write_text(CODE)
    (place / "word").write_text(word)
    return place


def loaded(client, place):
    """Load a model, and wait until the host knows what was loaded."""
    client.load_model("m", place)

    def is_known():
        model = client.load_model("m", place)
        return model if model.info.files == "as loaded" else None

    return eventually(is_known, "the host knows what was loaded", within_s=60)


def test_a_load_of_what_is_loaded_says_so_and_whether_its_files_have_changed(client, tmp_path):
    place = put(tmp_path / "m", "old")
    assert not client.load_model("m", place).already_loaded
    model = loaded(client, place)
    pid = model.pid()
    assert (model.already_loaded, model.files_changed) == (True, False)
    (place / "word").write_text("old")  # written anew, with the same content
    os.utime(place / "model.py")
    assert not client.load_model("m", place).files_changed
    (place / "word").write_text("new")
    model = client.load_model("m", place)
    assert (model.already_loaded, model.files_changed) == (True, True)
    assert (model.say(), model.pid()) == ("old", pid)
    assert "files have changed" in client.explain_model("m")["reason"]
    assert client.get_model("m").files == "changed"
    (listed,) = [model for model in client.list_models(all=True) if model.id == "m"]
    assert listed.files_changed

    async def load():
        async with hostd.AsyncClient(client.endpoint) as other:
            found = await other.load_model("m", place)
            return found.already_loaded, found.files_changed

    assert asyncio.run(load()) == (True, True)
    (place / "word").unlink()
    (place / "model.py").unlink()
    place.rmdir()
    assert client.load_model("m", place).info.files == "gone"
    put(place, "old")
    assert client.load_model("m", place).info.files == "as loaded"


def test_a_reload_serves_the_files_of_now(client, tmp_path):
    place = put(tmp_path / "m", "old")
    model = client.load_model("m", place, options={"extra": "!"})
    client.pin_model("m")
    for named in (False, True):
        old = model.pid()
        (place / "word").write_text("new")
        again = client.load_model("m", place if named else None, reload=True)
        assert again.say() == ("new" if named else "new!")  # without a path it is what it was
        assert model.pid() != old
        assert (again.already_loaded, again.files_changed, again.info.pinned) == (False, False, True)
    changed = client.load_model("m", place, "other", options={"extra": "?"}, reload=True)
    assert (changed.say(), changed.info.type) == ("new?", "other")
    changed = client.load_model("m", reload=True, options={"extra": "~"})
    assert (changed.say(), changed.info.type) == ("new~", "other"), "what is not given is as it was"
    assert "is not loaded" in str(refusal(lambda: client.load_model("gone", reload=True)))
    assert client.load_model("n", place, reload=True).say() == "new"  # what is not loaded is loaded


def test_a_reload_that_fails_says_why_and_an_unload_overtakes_one(client, tmp_path):
    place = put(tmp_path / "m", "old")
    client.load_model("m", place)
    (place / "word").unlink()
    assert "word" in str(refusal(lambda: client.load_model("m", place, reload=True)))
    assert client.list_models() == []
    put(place, "new")
    model = client.load_model("m", place)
    pending = model.submit.wait(str(tmp_path / "marker"), str(tmp_path / "gate"))
    eventually((tmp_path / "marker").exists, "the call runs")
    reload = threading.Thread(target=lambda: client.load_model("m", place, reload=True))
    reload.start()
    eventually(lambda: client.get_model("m").state == "UNLOADING", "the reload has begun")
    late = model.submit.say()
    (tmp_path / "gate").touch()
    reload.join(60)
    assert (pending.result(60), late.result(60)) == ("new", "new"), "calls wait for a reload"
    (tmp_path / "gate").unlink()
    (tmp_path / "marker").unlink()
    pending = model.submit.wait(str(tmp_path / "marker"), str(tmp_path / "gate"))
    eventually((tmp_path / "marker").exists, "the call runs")
    handle = client.load_model("m", place, reload=True, wait=False)
    unload = threading.Thread(target=lambda: client.unload_model("m"))
    unload.start()
    (tmp_path / "gate").touch()
    unload.join(60)
    assert pending.result() == "new"
    assert client.list_models() == []
    assert isinstance(refusal(handle.wait), hostd.NotFoundError)


def test_a_sync_tells_what_has_changed_and_leaves_it_alone(client, lazy_rig):
    put(lazy_rig.path / "a", "old")
    put(lazy_rig.path / "b", "old")
    assert client.sync_local_models(wait=True).changed == ()

    def are_known():
        client.sync_local_models()
        return {model.files for model in client.list_models()} == {"as loaded"}

    eventually(are_known, "the host knows what was loaded", within_s=60)
    (lazy_rig.path / "a" / "word").write_text("new")
    report = client.sync_local_models(wait=True)
    assert (report.changed, report.loaded) == (("a",), ())
    assert client.retrieve_model("a").say() == "old"
    assert client.load_model("a", None, reload=True).say() == "new"
    assert client.sync_local_models(wait=True).changed == ()
