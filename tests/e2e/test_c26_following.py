"""How a real host follows its models directory: when it looks (C26), and what it takes for whole (C27).

Without a completion marker the promise is that nothing is loaded within the quiet period: a writer that pauses for longer
than that is beyond it.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time

import pytest
from helpers import PATIENCE_S, eventually, line_of, never, program, stop
from models_rig import AT_ONCE, FOLLOWED, causes, states

import hostd

READY = "READY"
NEVER_S = 3600.0
POLL_PERIOD_S = 0.05


@pytest.fixture
def following(rig):
    """Start a host that follows the directory and return a client of it; keywords are settings of `models`."""
    hosts = []

    def start(**settings):
        hosts.append(hostd.Host(models={**FOLLOWED, "dir": rig.path, **settings}, workers={"drain_timeout_s": 0.4}))
        hosts[-1].start()
        return hosts[-1].client()

    yield start
    for host in hosts:
        host.stop()


# C26


def test_c26_changes_are_notified_whatever_the_period(following, rig):
    client = following(poll_period_s=NEVER_S)
    for name in ("a", "b"):
        rig.add(name)
        eventually(lambda name=name: states(client).get(name) == READY, "what comes is loaded")
    (rig.path / "one.py").write_text("def load(path):\n    return lambda: 7\n")
    eventually(lambda: states(client).get("one.py") == READY, "a file that comes is loaded")
    (rig.path / "a").rename(rig.path / "c")
    eventually(lambda: states(client).get("c") == READY, "a new name is loaded")
    eventually(lambda: "a" not in states(client), "an old name is unloaded")
    rig.remove("b")
    (rig.path / "one.py").unlink()
    eventually(lambda: states(client) == {"c": READY}, "what goes is unloaded")


WITHOUT_NOTIFICATIONS = """
    import json, signal, sys
    from pathlib import Path
    import hostd

    # A namespace of our own (user_namespaces(7)) in which nobody may watch anything (inotify(7)).
    Path("/proc/sys/user/max_inotify_instances").write_text("0")
    with hostd.Host(models=json.loads(sys.argv[1])) as host:
        print(host.endpoint, flush=True)
        signal.pause()
"""


def test_c26_where_there_are_no_notifications_the_period_does_it(rig, tmp_path):
    own = ["unshare", "--user", "--map-root-user"]
    limit = "test -w /proc/sys/user/max_inotify_instances && echo 0 > /proc/sys/user/max_inotify_instances"
    if (
        not shutil.which("unshare")
        or subprocess.run([*own, "sh", "-c", limit], check=False, capture_output=True).returncode
    ):
        pytest.skip("needs the right to make a user namespace")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {" ".join(own)} {sys.executable} "$@"\n')
    python.chmod(0o755)
    settings = {**FOLLOWED, "dir": str(rig.path), "poll_period_s": POLL_PERIOD_S}
    embedder = program(WITHOUT_NOTIFICATIONS, json.dumps(settings), python=str(python))
    with hostd.connect(line_of(embedder)) as client:
        runtime_dir = client.host_info().runtime_dir
        assert "inotify" not in " ".join(descriptors_of(client.host_info().pid)), "this test shows nothing here"
        for name in ("a", "b"):
            rig.add(name)
            eventually(lambda name=name: states(client).get(name) == READY, "what comes is loaded")
        rig.remove("a")
        eventually(lambda: states(client) == {"b": READY}, "what goes is unloaded")
    stop(embedder)
    eventually(lambda: not os.path.exists(runtime_dir), "the host is gone")


def descriptors_of(pid):
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # one of a look at the directory, which is over
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


FAILS_ONCE = "if (top / 'deep' / 'weights').read_text() != 'good': raise ValueError('bad weights')"


def test_c26_what_is_not_notified_is_seen_by_the_period(following, rig):
    client = following(poll_period_s=POLL_PERIOD_S)
    rig.add("m", FAILS_ONCE, {"deep/weights": "bad"})
    eventually(lambda: rig.loads("m"), "it is tried")
    eventually(lambda: states(client) == {}, "it has failed")
    (rig.path / "m" / "deep" / "weights").write_text("good")
    eventually(lambda: states(client) == {"m": READY}, "its repair is seen, which no notification tells")


# C27: with something that says when it is whole

PARTS = ["model.py", "config.json", "weights/one", "weights/two"]
MARKER = "COMPLETE"


def write_part(rig, name, part):
    place = rig.path / name / part
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(rig.source() if part == "model.py" else f"what is in {part}")


@pytest.mark.heavy
def test_c27_with_a_marker_nothing_is_loaded_before_it_in_200_tries(following, rig):
    """Writers that pause for six polls after every file; 30 of them end, the others give up before the marker."""
    client = following(completion_marker=MARKER, poll_period_s=POLL_PERIOD_S)
    names = [f"m{number:03}" for number in range(200)]
    whole = names[::7]
    rig.add("probe", files={MARKER: ""})
    for part in PARTS:
        for name in names:
            write_part(rig, name, part)
        never(lambda: rig.loaded_names() - {"probe"}, "a model was loaded that is not whole", for_s=6 * POLL_PERIOD_S)
    eventually(lambda: states(client).get("probe") == READY, "the directory is followed meanwhile")
    for name in set(names) - set(whole):
        rig.remove(name)
    for name in whole:
        (rig.path / name / MARKER).touch()
    wanted = dict.fromkeys([*whole, "probe"], READY)
    eventually(lambda: states(client) == wanted, "what is whole is loaded, and nothing else", within_s=3 * PATIENCE_S)
    assert rig.loaded_names() == {*whole, "probe"}
    for name in whole:
        assert [set(seen) for seen in rig.loads(name)] == [{*PARTS, MARKER}]


# C27: by the quiet period

QUIET_S = 1.0


class Writer:
    """Writes an entry in several steps with pauses that are longer than the poll and shorter than the quiet period."""

    def __init__(self, rig, name, seed):
        self._rig, self.name = rig, name
        self._chance = random.Random(seed)
        self.longest_pause_s = 0.0

    def write(self):
        place = self._rig.path / self.name
        style = self._chance.choice(["grow", "rename", "old-times"])
        last_s = time.monotonic()
        for part in ["model.py", "a", "b", "deep/c", "a"]:
            file = place / part
            file.parent.mkdir(parents=True, exist_ok=True)
            if style == "rename":  # as rsync(1) does it
                file.with_name(f".{file.name}.XyZ").write_text("x" * 10)
                self._pause()
                file.with_name(f".{file.name}.XyZ").write_text(self._text_of(part))
                file.with_name(f".{file.name}.XyZ").rename(file)
            else:
                with file.open("a") as stream:
                    stream.write(self._text_of(part))
            if style == "old-times":  # as cp -p does it
                os.utime(file, (1_000_000_000, 1_000_000_000))
            now_s = time.monotonic()
            self.longest_pause_s = max(self.longest_pause_s, now_s - last_s)
            last_s = now_s
            if part != "a" or not (place / "deep").exists():
                self._pause()

    def _text_of(self, part):
        return self._rig.source() if part == "model.py" else part * 50

    def _pause(self):
        threading.Event().wait(self._chance.uniform(2 * POLL_PERIOD_S, QUIET_S / 4))


def test_c27_without_a_marker_nothing_is_loaded_within_the_quiet_period(following, rig, pool):
    client = following(poll_period_s=POLL_PERIOD_S, write_quiet_period_s=QUIET_S)
    writers = [Writer(rig, f"m{seed}", seed) for seed in range(16)]
    for written in [pool.submit(writer.write) for writer in writers]:
        written.result(PATIENCE_S)
    wanted = dict.fromkeys([writer.name for writer in writers], READY)
    eventually(lambda: states(client) == wanted, "all are loaded when they are whole")
    # A busy machine may have held a writer up for longer than it meant to pause.
    in_time = [writer.name for writer in writers if writer.longest_pause_s < 0.8 * QUIET_S]
    if not in_time:
        pytest.skip("the machine stood still for so long that it shows nothing")
    for name in in_time:
        final = {part: (rig.path / name / part).stat().st_size for part in ("model.py", "a", "b", "deep/c")}
        assert rig.loads(name) == [final], f"{name} was loaded before it was whole"


def test_c27_a_lazy_load_of_what_is_being_written_waits_and_keeps_nothing_else(rig, pool):
    models = {**AT_ONCE, "dir": rig.path, "lazy_load": True, "poll_period_s": None, "completion_marker": MARKER}
    with hostd.Host(models={**models, "load_on_start": False}) as host:
        client = host.client()
        other = client.load_model("other", rig.make())
        for name in ("team/m", "goes", "half"):
            rig.add(name)
        asks = [
            lambda: client.retrieve_model("team/m").predict(5),
            lambda: client.call("team/m", "predict", (5,), {}, None),
            lambda: client.submit("team/m", "predict", (5,), {}, None).result(PATIENCE_S),
        ]
        waiting, in_vain = [pool.submit(ask) for ask in asks], pool.submit(client.retrieve_model, "goes")
        eventually(lambda: {"team/m", "goes"} <= {*states(client)}, "something waits for it")
        with pytest.raises(hostd.DeadlineExceededError):
            client.retrieve_model("team/m", timeout_s=0.1)
        for number in range(20):
            assert other.predict(number) == number
            assert states(client)["team/m"] == "LOADING"
        rig.add("whole", files={MARKER: ""})
        report = client.sync_local_models(wait=True)
        assert (report.loaded, report.failed) == (("whole",), {})
        assert "half" in report.writing
        assert "BEING_WRITTEN" in causes(client, "half")
        assert not any(answer.done() for answer in (*waiting, in_vain))
        assert rig.loads("team/m") == []
        (rig.path / "team/m" / MARKER).touch()
        assert [answer.result(PATIENCE_S) for answer in waiting] == [5] * 3
        assert len(rig.loads("team/m")) == 1
        rig.remove("goes")
        assert isinstance(in_vain.exception(PATIENCE_S), hostd.NotFoundError)


def test_c27_hundreds_that_are_being_written_keep_nobody(following, rig):
    client = following(poll_period_s=POLL_PERIOD_S, completion_marker=MARKER)
    other = client.load_model("other", rig.make())
    for number in range(300):
        write_part(rig, f"m{number}", "model.py")
    eventually(lambda: len(states(client)) == 301, "all are seen")
    for number in range(100):
        assert other.predict(number) == number
    rig.add("whole", files={MARKER: ""})
    eventually(lambda: states(client).get("whole") == READY, "what is whole is loaded meanwhile")
    assert rig.loaded_names() - {"../workshop/0"} == {"whole"}
    # Unloading all of them would start as many looks again.
    assert len(client.unload_all_models(timeout_s=PATIENCE_S)) == 302
