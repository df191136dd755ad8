"""Seeing what models do, with real processes: the stacks of one that hangs, calls that nobody waits for, one list of all."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from helpers import eventually, is_there

import hostd
from hostd.client.arguments import program_name

BUSY = """
    import os, re, time, warnings
    from collections import deque
    from itertools import repeat
    from pathlib import Path

    class Busy:
        def echo(self, x: str, times: int = 1) -> str:
            '''Return the text again.

            And again.'''
            return x * times

        def spin(self, marker):
            Path(marker).touch()
            while True:
                pass

        def hang_in_c(self, marker):
            Path(marker).touch()
            deque(repeat(1), maxlen=0)

        def until(self, marker, release):
            Path(marker).touch()
            while not Path(release).exists():
                time.sleep(0.01)
            return os.getpid()

    def load(path, greeting="Hello"):
        warnings.warn("this library is older than the model", UserWarning)
        return Busy()
"""


@pytest.fixture
def busy(shared, model_dir):
    settings = "memory_limit: 2GiB\noptions: {greeting: Hi}\nenv: {COLOUR: blue}\n"
    return shared.load_model("busy", model_dir(BUSY, settings=settings))


def begun(call, marker, *args):
    """Begin a call, and return it when the model is at it."""
    pending = call(str(marker), *args)
    eventually(marker.exists, "the model is at it")
    return pending


@pytest.mark.parametrize("method", ["spin", "hang_in_c"])
def test_the_stacks_of_a_model_that_hangs_are_read_and_an_unload_at_once_ends_it(shared, busy, tmp_path, method):
    (worker,) = busy.info.workers
    pending = begun(getattr(busy.submit, method), tmp_path / "marker")
    stacks = eventually(
        lambda: {pid: text for pid, text in shared.model_stacks("busy").items() if f"in {method}" in text},
        "the stack shows the method",
    )
    assert list(stacks) == [worker.pid]

    async def read():
        async with await hostd.AsyncClient.connect(shared.endpoint) as client:
            assert [model.id for model in await client.list_models(all=True)] == ["busy"]
            return await client.model_stacks("busy")

    assert f"in {method}" in asyncio.run(read())[worker.pid]
    assert is_there(worker.pid or 0)
    report = shared.unload_model("busy", now=True)
    assert report.processes == 1
    with pytest.raises(hostd.AbortedError):
        pending.result()
    with pytest.raises(hostd.NotFoundError):
        shared.model_stacks("busy")


def test_calls_that_nobody_waits_for_are_told_until_the_model_has_ended_them(shared, busy, tmp_path):
    release = tmp_path / "release"
    with hostd.connect(shared.endpoint) as other:
        begun(other.retrieve_model("busy").submit.until, tmp_path / "marker", str(release))
        for _ in range(10):  # which does not disturb it
            assert "in until" in next(iter(shared.model_stacks("busy").values()))
        busy.submit.echo("a").cancel()
        waiting = busy.submit.echo("b")

        def calls():
            return [(call["method"], call["state"]) for call in shared.explain_model("busy")["calls"]]

        eventually(lambda: calls() == [("until", "sent"), ("echo", "left"), ("echo", "sent")], "all are told")
    eventually(lambda: ("until", "left") in calls(), "the other client has gone")
    oldest = shared.explain_model("busy")["calls"][0]
    assert (oldest["why"], oldest["client"]["pid"]) == ("its caller has gone", os.getpid())
    assert oldest["client"]["program"] == program_name()
    release.touch()
    assert waiting.result() == "b"
    eventually(lambda: calls() == [], "the model has ended all of them")


def test_a_model_is_described_with_its_settings_their_origins_and_the_warnings_of_its_load(shared, busy):
    known = shared.explain_model("busy")
    file = str(Path(busy.info.path or "", "model.yaml"))
    settings = {setting["name"]: (setting["value"], setting["origin"]) for setting in known["settings"]}
    assert settings["memory_limit"] == (2 << 30, file)
    assert settings["options.greeting"] == ("Hi", file)
    assert settings["env.COLOUR"] == ("blue", file)
    assert settings["python"] == (sys.executable, "the host's own")
    assert known["model"]["warnings"] == ("UserWarning: this library is older than the model",)
    path = busy.info.path
    shared.unload_model("busy")
    shared.load_model("busy", path, options={"greeting": "Yo"})
    settings = {setting["name"]: setting for setting in shared.explain_model("busy")["settings"]}
    assert settings["options.greeting"] == {"name": "options.greeting", "value": "Yo", "origin": "the load"}
