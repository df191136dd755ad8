"""Models that have something to finish before their process is killed: when they may, and when they may not."""

import os
import signal
from pathlib import Path

import pytest
from helpers import PATIENCE_S, eventually, is_there, lines_of

import hostd

CLOSER = """
    import asyncio, os, pathlib, time

    class Model:
        def __init__(self, record, how):
            self.record, self.how = record, how

        def pid(self):
            return os.getpid()

        def work(self, marker, release):
            pathlib.Path(marker).touch()
            while not pathlib.Path(release).exists():
                time.sleep(0.002)
            self.note("worked")
            return "finished"

        def note(self, word):
            with open(self.record, "a") as file:
                file.write(f"{word}\\n")

        def close(self):
            print("closing")
            self.note("close")
            if self.how == "raises":
                raise ValueError("the disk is full")
            if self.how == "hangs":
                time.sleep(3600)
            if self.how == "exits":
                os._exit(3)
            if self.how == "raises SystemExit":
                raise SystemExit(4)
            if self.how == "forks" and os.fork() == 0:
                return
            self.note("closed")

    class Waiting(Model):
        async def close(self):
            await asyncio.sleep(0)
            super().close()

    class Async(Waiting):
        # Closing needs the loop in which the model runs its calls.
        async def begin(self, marker):
            self.loop = asyncio.get_running_loop()
            pathlib.Path(marker).touch()
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.01)
                self.note("cleaned up")

        async def close(self):
            assert self.loop is asyncio.get_running_loop()
            await super().close()

    def load(path, record, how="", kind="Model"):
        return globals()[kind](record, how)
"""

DRAIN_S = 1.0


@pytest.fixture(scope="module")
def closing_host():
    with hostd.Host(workers={"drain_timeout_s": PATIENCE_S}) as host:
        yield host


@pytest.fixture
def client(closing_host):
    with hostd.connect(closing_host.endpoint) as client:
        yield client
        client.unload_all_models(now=True)


@pytest.fixture(scope="module")
def hasty():
    """A client of a host that does not wait for long."""
    with hostd.Host(workers={"drain_timeout_s": DRAIN_S}) as host, host.client() as client:
        yield client


@pytest.fixture
def record(tmp_path):
    return tmp_path / "record"


@pytest.fixture
def closer(model_dir, record):
    """Load a model that notes what becomes of it."""
    path = model_dir(CLOSER)

    def load(client, model_id="m", **options):
        return client.load_model(model_id, path, options={"record": str(record), **options})

    load.path = path
    return load


def story(client, model_id="m"):
    return [event["reason"] for event in client.explain_model(model_id)["story"] if event["cause"] == "CLOSE_FAILED"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["Model", "Waiting", "Async"])
def test_a_model_closes_once_after_its_last_call_and_no_caller_can_do_it(client, closer, record, tmp_path, pool, kind):
    model = closer(client, kind=kind)
    assert "close" not in model.info.methods
    with pytest.raises(hostd.UnimplementedError):
        client.call("m", "close", (), {}, None)
    if kind == "Async":
        begun = model.submit.begin(str(tmp_path / "begun"))
        eventually((tmp_path / "begun").exists, "the call has begun")
        begun.cancel()
        words = ["cleaned up", "close", "closed"]
    else:
        call = model.submit.work(str(tmp_path / "begun"), str(tmp_path / "release"))
        eventually((tmp_path / "begun").exists, "the call has begun")
        words = ["worked", "close", "closed"]
    unload = pool.submit(client.unload_model, "m")
    if kind != "Async":
        eventually(lambda: client.get_model("m").state == "UNLOADING", "the unload has begun")
        assert lines_of(record) == []
        (tmp_path / "release").touch()
        assert call.result(PATIENCE_S) == "finished"
    assert unload.result(PATIENCE_S).processes == 1
    assert lines_of(record) == words
    assert "closing" in client.model_logs("m")
    assert story(client) == []


def test_a_reload_an_eviction_and_a_shutdown_close_a_kill_and_a_crash_do_not(closer, record, model_dir):
    other = model_dir("class M:\n    def predict(self):\n        return 1\ndef load(path):\n    return M()\n")
    (Path(other) / "model.yaml").write_text("size: 449MB\n")
    with hostd.Host(memory={"budget": "450MB", "min_residence_s": 0}) as host:
        client = host.client()
        closer(client)
        client.load_model("m", closer.path, options={"record": str(record)}, reload=True)
        assert lines_of(record) == ["close", "closed"]
        client.load_model("other", other)
        assert client.explain_model("m")["state"] == "EVICTED"
        assert lines_of(record) == ["close", "closed"] * 2
        client.unload_model("other")
        closer(client)
        client.unload_model("m", now=True)
        os.kill(closer(client).pid(), signal.SIGKILL)
        eventually(lambda: client.get_model("m").state == "FAILED", "the death is noticed")
        closer(client)
        assert lines_of(record) == ["close", "closed"] * 2
    assert lines_of(record) == ["close", "closed"] * 3


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", "its close() failed: ValueError: the disk is full"),
        ("raises SystemExit", "its close() failed: SystemExit: 4"),
        ("hangs", "close() did not end within 1 s (workers.drain_timeout_s)"),
        ("exits", "its worker ended in close(): exit code 3"),
    ],
)
@pytest.mark.parametrize("kind", ["Model", "Waiting"])
def test_a_close_that_fails_keeps_nothing_from_being_unloaded_and_is_told(hasty, closer, record, how, said, kind):
    model = closer(hasty, how=how, kind=kind)
    pid = model.pid()
    assert hasty.unload_model("m").processes == 1
    assert not is_there(pid)
    assert lines_of(record) == ["close"]
    assert story(hasty)[-1] == said
    if how.startswith("raises"):
        assert "Traceback" in hasty.model_logs("m")
    elif how == "hangs":
        assert list(hasty.log_lines("m"))[-1].text.endswith(f"ended: {said}")


def test_a_child_that_a_close_forks_ends_and_answers_nobody(client, closer, record):
    closer(client, how="forks")
    assert client.unload_model("m", timeout_s=PATIENCE_S).model_id == "m"
    assert lines_of(record) == ["close", "closed"]
    assert story(client) == []


def test_an_unload_at_once_does_not_wait_for_a_close_that_has_begun(client, closer, record, pool):
    closer(client, how="hangs")
    unload = pool.submit(client.unload_model, "m")
    eventually(lambda: lines_of(record) == ["close"], "it closes")
    assert client.get_model("m").workers[0].state == "CLOSING"
    client.unload_model("m", now=True)
    assert unload.result(PATIENCE_S).processes == 1


def test_a_model_that_is_not_served_after_all_closes(client, closer, record):
    (Path(closer.path) / "model.yaml").write_text("methods: [predict]\n")
    with pytest.raises(hostd.InvalidArgumentError, match="no method 'predict'"):
        closer(client)
    assert lines_of(record) == ["close", "closed"]


def test_a_close_that_is_a_method_by_name_is_only_that(client, closer, record):
    (Path(closer.path) / "model.yaml").write_text("methods: [close, pid]\n")
    model = closer(client)
    model.close()
    client.unload_model("m")
    assert lines_of(record) == ["close", "closed"]


def test_a_worker_that_was_forked_closes_as_a_fresh_one(lib, tmp_path, record):
    source = f"import lib\n{CLOSER.replace(chr(10) + '    ', chr(10))}"
    path = lib.model(tmp_path / "forked", source)
    with hostd.Host(workers={"drain_timeout_s": PATIENCE_S}) as host:
        client = host.client()
        client.load_model("m", path, options={"record": str(record)})
        client.unload_model("m")
        worker = client.load_model("m", path, options={"record": str(record)}).info.workers[0]
        assert worker.template is not None
        client.unload_model("m")
    assert lines_of(record) == ["close", "closed"] * 2
