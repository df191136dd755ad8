"""What the log of a model says of its workers: each start and each end, with pid and cause, between what they print."""

import asyncio
import os
import re

import pytest
from helpers import PATIENCE_S, eventually

import hostd

TALKER = """
    import os, sys

    class Talker:
        def say(self, words):
            print(words)

        def shout(self):
            print("an error", file=sys.stderr)
            os.system("echo from a shell")

        def die(self, code):
            sys.stdout.write("half a line")
            sys.stdout.flush()
            os._exit(code)

    def load(path, fails=False):
        print("loading")
        if fails:
            raise ValueError("no such thing")
        return Talker()
"""


def told(client, model_id):
    """Return the log as a person reads it, the numbers of workers and processes as letters."""
    lines = [f"-- {line.text}" if line.is_note else line.text for line in client.log_lines(model_id)]
    return [
        re.sub(r"worker \d+(, pid \d+)?", lambda m: "worker N" + (", pid P" if m[1] else ""), line) for line in lines
    ]


def test_every_start_and_end_of_a_worker_is_noted_with_its_cause(shared, model_dir):
    path = model_dir(TALKER)
    model = shared.load_model("m", path)
    (worker,) = model.info.workers
    model.say("2 words\n  and\nmore")
    model.shout()
    shared.unload_model("m")
    with pytest.raises(hostd.ModelError):
        shared.load_model("m", path, options={"fails": True}, retries=1)
    with pytest.raises(hostd.UnavailableError):
        shared.load_model("m", path).die(7)
    starts = f"-- worker N, pid P, started: load of {path} requested"
    failed = "-- worker N, pid P, ended: loading failed: ValueError: no such thing"
    wanted = [
        starts,
        "loading",
        "2 words",
        "  and",
        "more",
        "an error",
        "from a shell",
        "-- worker N, pid P, ended: unload requested",
        starts,
        "loading",
        failed,
        f"{starts}, try 2",
        "loading",
        failed,
        starts,
        "loading",
        "half a line",
        "-- worker N, pid P, ended: exit code 7",
    ]
    eventually(lambda: len(told(shared, "m")) >= len(wanted), "the last end is noted")
    seen = [line for line in told(shared, "m") if not line.startswith(("Traceback", "  File", "    "))]
    assert seen == wanted
    first = next(iter(shared.log_lines("m")))
    assert f"pid {worker.pid}" in first.text
    assert first.time_s == pytest.approx(worker.started_s, abs=PATIENCE_S)
    assert shared.model_logs("m").startswith("loading\n2 words\n  and\nmore\n")


def test_a_model_that_printed_nothing_is_known_and_one_that_never_was_is_not(shared, model_dir, tmp_path):
    shared.load_model("silent", model_dir())
    assert shared.model_logs("silent") == ""
    settings = f"python: {tmp_path}/python\n"
    (tmp_path / "python").write_text("no program")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(hostd.HostError):
        shared.load_model("no-worker", model_dir(settings=settings))
    eventually(lambda: re.search("did not start|ended", str(told(shared, "no-worker"))), "it is noted")
    (tmp_path / "odd").mkdir()
    with pytest.raises(hostd.InvalidArgumentError):
        shared.load_model("never-started", tmp_path / "odd")
    assert list(shared.log_lines("never-started")) == []
    for ask in (shared.model_logs, lambda model_id: list(shared.log_lines(model_id))):
        with pytest.raises(hostd.NotFoundError, match=r"'nobody'.*ever loaded"):
            ask("nobody")


def test_an_asyncio_client_follows_a_log(shared_host, model_dir):
    async def follow():
        async with await hostd.AsyncClient.connect(shared_host.endpoint) as client:
            model = await client.load_model("followed", model_dir(TALKER))
            while await client.model_logs("followed") != "loading\n":  # noqa: ASYNC110 - it is asked for
                await asyncio.sleep(0.01)
            seen = []
            async for line in client.log_lines("followed", tail=1, follow=True):
                seen.append(line.text)
                if len(seen) < 4:
                    await model.say(f"said {len(seen)}")
                else:
                    break
            await client.unload_model("followed")
            return seen

    assert asyncio.run(asyncio.wait_for(follow(), PATIENCE_S)) == ["loading", "said 1", "said 2", "said 3"]


def test_the_log_goes_on_in_the_next_host(serve, model_dir):
    path = model_dir(TALKER)
    for words in ("first", "second"):
        service = serve()
        with hostd.connect(service.endpoint) as client:
            client.load_model("m", path).say(words)
            eventually(lambda words=words, client=client: words in client.model_logs("m"), "it is in the log")
            os.kill(service.reaper.pid, 15)
        service.ended()
    with hostd.connect(serve().endpoint) as client:
        seen = told(client, "m")
    assert [line for line in seen if not line.startswith("-- worker N, pid P, started")] == [
        "loading",
        "first",
        "-- worker N, pid P, ended: the host is shutting down",
        "loading",
        "second",
        "-- worker N, pid P, ended: the host is shutting down",
    ]
