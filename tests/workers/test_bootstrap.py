"""A worker process as it really starts, with the test as its supervisor."""

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY, eventually, is_there, state_of
from supervisor_rig import PATIENCE_S, RUN, TOKEN

from hostd_workers.process.ending import EXIT_FATAL
from hostd_workers.wire import frames as wire
from hostd_workers.wire import messages as msg
from hostd_workers.wire.codec import decode

SELF_AWARE = """
    import ctypes, os, resource, sys

    class Model:
        def look(self):
            import faulthandler, hostd_workers
            flag = ctypes.c_int()
            ctypes.CDLL(None).prctl(37, ctypes.byref(flag), 0, 0, 0)
            signal = ctypes.c_int()
            ctypes.CDLL(None).prctl(2, ctypes.byref(signal), 0, 0, 0)
            return {
                "path": sys.path,
                "workers": hostd_workers.__path__[0],
                "variables": sorted(name for name in os.environ if name.startswith("HOSTD_")),
                "name": open("/proc/self/comm").read().strip(),
                "adopts orphans": flag.value,
                "signal at death of parent": signal.value,
                "parent": os.getppid(),
                "oom score": int(open("/proc/self/oom_score_adj").read()),
                "data limit": resource.getrlimit(resource.RLIMIT_DATA)[0],
                "tells of crashes": faulthandler.is_enabled(),
            }

        def take(self, size_bytes):
            return len(bytearray(size_bytes))

        def count(self, n):
            for item in range(n):
                yield item

    class Later(Model):
        async def later(self, x):
            return x

    def load(path):
        return Model()
"""


def test_a_worker_says_hello_and_is_tied_to_its_supervisor_and_sees_only_its_own_package_of_ours(supervisor):
    hello = supervisor.serve(SELF_AWARE)
    assert hello.kind == msg.WORKER_HELLO
    body = msg.unpack_map(hello)
    assert (body["token"], body["versions"], body["pid"]) == (TOKEN.hex(), [wire.VERSION], supervisor.started[0].pid)
    seen = supervisor.result("look")
    assert seen["workers"] == str(REPOSITORY / "workers")
    assert not {str(RUN.parent), str(REPOSITORY), str(REPOSITORY / "workers")} & set(seen["path"])
    assert seen["variables"] == ["HOSTD_MODEL_ID"], "what ties it to the supervisor is nobody else's business"
    assert seen["name"] == "hostd:a-model-o"
    assert (seen["adopts orphans"], seen["signal at death of parent"]) == (1, signal.SIGKILL)
    assert seen["parent"] == os.getpid()
    assert seen["tells of crashes"] is True
    # The loop around the session
    supervisor.call("count", 3, kind=msg.STREAM, id=7)
    assert [supervisor.receive().kind for _ in range(2)] == [msg.ITEM, msg.ITEM]
    supervisor.send(msg.pack_credit(7, 5))
    assert [supervisor.receive().kind for _ in range(2)] == [msg.ITEM, msg.END]


def test_a_worker_makes_itself_the_first_to_be_killed_and_bounds_what_it_can_have(supervisor):
    own = int(Path("/proc/self/oom_score_adj").read_text())
    supervisor.serve(SELF_AWARE, HOSTD_OOM_SCORE_ADJ=str(own + 7), HOSTD_DATA_LIMIT_BYTES=str(1 << 30))
    seen = supervisor.result("look")
    assert (seen["oom score"], seen["data limit"]) == (own + 7, 1 << 30)
    assert seen["variables"] == ["HOSTD_MODEL_ID"]
    supervisor.call("take", 2 << 30)
    answer = supervisor.receive()
    assert answer.kind == msg.ERROR
    assert "MemoryError" in msg.unpack_error(answer).message
    assert supervisor.result("take", 1000) == 1000


@pytest.mark.parametrize("value", ["", "much", str(1 << 80), "-5"])
def test_bounds_that_cannot_be_are_gone_without(supervisor, value):
    supervisor.serve(SELF_AWARE, HOSTD_OOM_SCORE_ADJ=value, HOSTD_DATA_LIMIT_BYTES=value)
    assert supervisor.result("look")["variables"] == ["HOSTD_MODEL_ID"]


def test_a_worker_whose_supervisor_is_gone_already_ends_without_a_word(supervisor):
    supervisor.start(HOSTD_SUPERVISOR_PID="1")
    assert supervisor.ended() == (1, "")


PARENT = """
import os, subprocess, sys
os.environ['HOSTD_SUPERVISOR_PID'] = str(os.getpid())
subprocess.Popen([sys.executable, sys.argv[1]]).wait()
"""


def test_a_worker_dies_with_its_supervisor(supervisor):
    link = supervisor.directory / "elsewhere"
    link.symlink_to(RUN.parent)  # through which the code may be reached
    command = [sys.executable, "-c", PARENT, str(link / "run.py")]
    parent = subprocess.Popen(command, env=supervisor.environment(), stderr=subprocess.PIPE)
    supervisor.started.append(parent)
    worker = msg.unpack_map(supervisor.receive())["pid"]
    watched = os.pidfd_open(worker)
    try:
        parent.kill()
        assert select.select([watched], [], [], PATIENCE_S)[0], "the worker lives on"
    finally:
        os.close(watched)
    eventually(lambda: not is_there(worker) or state_of(worker) == "Z", "the worker is dead")


def test_code_that_is_not_where_it_should_be_is_named(supervisor):
    lonely = supervisor.directory / "lonely" / "_bootstrap"
    lonely.mkdir(parents=True)
    shutil.copy(RUN, lonely)
    supervisor.start(lonely / "run.py")
    code, said = supervisor.ended()
    assert code == 1
    assert f"the worker's code is not at {lonely.parent}: reinstall hostd" in said


def test_a_model_with_coroutines_serves_on_a_loop_plain_methods_too(supervisor):
    supervisor.serve(SELF_AWARE.replace("return Model()", "return Later()"))
    big = bytes(3 << 20)
    assert supervisor.result("later", big) == big
    assert supervisor.result("look")["tells of crashes"] is True
    for id in range(100):
        supervisor.call("later", id, id=id)
    answers = [supervisor.receive() for _ in range(100)]
    assert {(answer.id, decode(answer.body)) for answer in answers} == {(id, id) for id in range(100)}


def test_a_message_that_is_none_ends_the_worker_with_last_words(supervisor):
    supervisor.start()
    supervisor.receive()
    supervisor.send([b"no message"])
    assert supervisor.receive().kind == msg.LAST_WORDS
    assert supervisor.ended()[0] == EXIT_FATAL
