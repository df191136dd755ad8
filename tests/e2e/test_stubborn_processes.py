"""Processes that hosts may not end, limits on processes, and the subprocesses of finders: each holds up nobody else."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from control_groups import own_group
from helpers import PATIENCE_S, eventually, state_of
from odd_places import AS_STRANGER, Place
from odd_places import PATIENCE_S as LONG_S

import hostd

pytestmark = pytest.mark.usefixtures("way")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="starts a host as another user"
)


def told_by(place, source, *arguments):
    """Run a program as the user of a place; return what it says in its last line, and all that was printed."""
    command = [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)]
    with place.start(*command) as program:
        assert program.process.wait(LONG_S) == 0, program.words()
        words = program.words()
    return json.loads(next(line for line in words.splitlines() if line.startswith("{"))), words


# Another user's process


ROOT_FOR_EVER = (
    '#include <unistd.h>\nint main(void) { if (setuid(0)) return 1; write(1, "up\\n", 3); for (;;) pause(); }\n'
)

BECOMES_ROOT = """
    import os, subprocess

    def load(path, **options):
        # Without an environment, in which root's next host, of another test, would see what it belonged to, and end it.
        command = [os.path.join(path, "become-root")]
        helper = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, env={})
        assert helper.stdout.readline() == b"up\\n"
        class Model:
            def helper(self):
                return helper.pid
        return Model()
"""

MEETS_ROOT = """
    import json, sys
    import hostd

    stubborn, usual = sys.argv[1:]
    with hostd.Host(workers={"drain_timeout_s": 0.2}) as host:
        client = host.client()
        pid = client.load_model("stubborn", stubborn).helper()
        client.load_model("usual", usual)
        try:
            client.unload_model("stubborn", timeout_s=60)
        except hostd.HostError as error:
            refused = f"{error.status.name}: {error}"
        freed = client.unload_model("usual", timeout_s=60).processes
        explained = client.explain_model("stubborn")
        said = {"pid": pid, "refused": refused, "usual": freed}
        said |= {"state": explained["state"], "reason": explained["reason"]}
    print(json.dumps(said))
"""


ENDS_ROOT = """
    import json, os, signal, sys
    import hostd

    stubborn, how = sys.argv[1:]
    with hostd.Host(workers={"drain_timeout_s": 0.2}) as host:
        client = host.client()
        said = {"pid": client.load_model("stubborn", stubborn).helper()}
        if how == "unloaded":
            said["processes"] = client.unload_model("stubborn", timeout_s=60).processes
        if how == "both":
            os.kill(host.pid, signal.SIGSTOP)
        if how in ("reaper", "both"):
            host._process.kill()
            host._process.wait()
        if how in ("supervisor", "both"):
            os.kill(host.pid, signal.SIGKILL)
    if how == "both":
        with hostd.Host():
            pass
    print(json.dumps(said))
"""

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no compiler for a program of root's")


def become_root(place):
    """Return a model in this place that starts a program which becomes root's."""
    (place.base / "stubborn").mkdir(mode=0o755)
    (place.base / "stubborn" / "model.py").write_text(textwrap.dedent(BECOMES_ROOT))
    program = place.base / "stubborn" / "become-root"
    subprocess.run(["cc", "-x", "c", "-o", program, "-"], input=ROOT_FOR_EVER, text=True, check=True)
    program.chmod(0o4755)
    return place.base / "stubborn"


@needs_root
@needs_compiler
@pytest.mark.parametrize("how", ["unloaded", "supervisor", "reaper", "both"])
def test_what_became_another_users_ends_with_its_control_group(how):
    with own_group() as group, Place({"as": AS_STRANGER, "umask": 0o022, "group": str(group)}) as place:
        place.own(group)
        said, words = told_by(place, ENDS_ROOT, become_root(place), how)
        eventually(lambda: state_of(said["pid"]) in ("", "Z"), "it has ended")
        eventually(lambda: [path.name for path in group.iterdir() if path.is_dir()] == [], "no group is left")
    assert said.get("processes", 2) == 2
    assert "may not end it" not in words


@needs_root
@needs_compiler
def test_what_became_another_users_holds_up_nobody_else_and_is_named():
    with Place({"as": AS_STRANGER, "umask": 0o022}) as place:
        said, words = told_by(place, MEETS_ROOT, become_root(place), place.base / "model")
        pid = said["pid"]
        assert state_of(pid) == "S", "the host may not end it, so it goes on"
        os.kill(pid, 9)
    assert said["refused"].startswith(
        f"FAILED_PRECONDITION: 'stubborn' is not unloaded: process {pid} (become-root) runs as"
    )
    assert (said["usual"], said["state"]) == (1, "UNLOADING")
    assert f"process {pid}" in said["reason"]
    assert f"process {pid} (become-root), which a model started, runs as another user and goes on" in words
    eventually(lambda: state_of(pid) in ("", "Z"), "it is gone")


# No more processes


AT_THE_LIMIT = """
    import json, resource, sys
    import hostd

    (usual,) = sys.argv[1:]
    with hostd.Host(workers={"drain_timeout_s": 0.2, "templates": "off"}, memory={"budget": "1GiB"}) as host:
        client = host.client()
        for name in "abc":
            client.load_model(name, usual)
        resource.prlimit(host.pid, resource.RLIMIT_NPROC, (1, 1))
        freed = [client.unload_model("a", timeout_s=60).processes]
        try:
            client.load_model("d", usual, timeout_s=60)
        except hostd.HostError as error:
            refused = str(error)
        freed += [report.processes for report in client.unload_all_models(timeout_s=60)]
    print(json.dumps({"freed": freed, "refused": refused}))
"""


@needs_root
def test_at_the_limit_of_processes_models_are_unloaded_and_the_host_ends():
    with Place({"as": AS_STRANGER, "umask": 0o022}) as place:
        said, words = told_by(place, AT_THE_LIMIT, place.base / "model")
    assert said["freed"] == [1, 1, 1]
    assert "cannot start the interpreter" in said["refused"]
    assert "Traceback" not in words


# Subprocesses of finders


ASKS_A_PROGRAM = """
    import subprocess
    from hostd.finders import ModelSpec

    class AsksAProgram:
        looks_for = "what a program says"

        def find(self, model_id, path):
            if not model_id.startswith("asked"):
                return None
            command = ["sh", "-c", f"echo $$ > {path}/begun.part; mv {path}/begun.part {path}/begun; read word < {path}/go; echo $word"]
            ran = subprocess.run(command, capture_output=True, text=True, start_new_session=model_id.endswith("far"))
            if ran.stdout != "found\\n":
                raise RuntimeError(f"the program ended with {ran.returncode} and said {ran.stdout!r}")
            return ModelSpec(loader="python")
"""


@pytest.mark.parametrize(("model_id", "end"), [("asked", "unloaded"), ("asked-far", "killed")])
def test_a_program_that_a_finder_asks_is_not_what_a_worker_left(install, model_dir, model_id, end):
    install(finder_that_asks=ASKS_A_PROGRAM)
    finders = {"asking": {"type": "finder_that_asks:AsksAProgram", "config": {}}}
    asked, other = model_dir(), model_dir()
    os.mkfifo(f"{asked}/go")
    with hostd.Host(finders=finders) as host, host.client() as client:
        worker = client.load_model("other", other)
        asked_for = client.load_model(model_id, asked, finder="asking", wait=False)
        eventually(Path(asked, "begun").exists, "the finder's program runs")
        if end == "killed":
            os.kill(worker.info.workers[0].pid, 9)
            eventually(lambda: client.get_model("other").state == "FAILED", "it is noticed")
        client.unload_model("other")
        with open(os.open(f"{asked}/go", os.O_RDWR), "w") as go:  # which does not wait for a reader
            go.write("found\n")
        asked_for.wait(timeout_s=PATIENCE_S)
        assert client.get_model(model_id).state == "READY"
