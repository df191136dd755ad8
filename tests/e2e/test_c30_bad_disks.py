"""C30: deploys on disks that are full, forbidden or limited: a typed error with the system's words, and no residue.

Each runs a program of its own: as another user, with a file system of its own, or under a limit.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from deploy_rig import STAGING, content, put
from helpers import REPOSITORY, eventually

NOBODY = 65534
UNSHARED = ["unshare", "--mount", "--propagation", "private"]
"""The beginning of a command with mounts that nothing else sees, and that go with its last process, however that ends."""
ANOTHER = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
ANOTHER += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
"""The same as another user, who may not write what is not his. But he may read all, because tests may be run from a
directory of root's."""

PREFACE = """
import errno, json, os, subprocess, sys
from pathlib import Path
from deploy_rig import *

models = Path(sys.argv[1])
said = {}

def note(name, act):
    try:
        act()
        said[name] = "done"
    except hostd.HostError as error:
        said[name] = [type(error).__name__, str(error)]
"""


@pytest.fixture
def base():
    """A directory that other users may enter."""
    made = Path(tempfile.mkdtemp(prefix="hostd-disk-"))
    made.chmod(0o755)
    (made / "models").mkdir(mode=0o755)
    (made / "run").mkdir(mode=0o700)
    yield made
    eventually(
        lambda: is_removed(made), "the directory is removed: hosts of a program that was killed may still end there"
    )


def is_removed(directory):
    with contextlib.suppress(OSError):
        shutil.rmtree(directory)
    return not directory.exists()


def said_by(source, base, *, command):
    """Run a program with a models directory, and return what it has noted."""
    path = [REPOSITORY, REPOSITORY / "tests", REPOSITORY / "tests" / "e2e"]
    done = subprocess.run(
        [*command, sys.executable, "-c", PREFACE + textwrap.dedent(source), str(base / "models")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "XDG_RUNTIME_DIR": str(base / "run")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


# Permissions

FORBIDDEN = """
with hostd.Host(models={**PLACES, "dir": models}) as host:
    client = host.client()
    note("new", lambda: client.deploy_model("new", files_of("new")))
    note("nested", lambda: client.deploy_model("theirs-folder/new", files_of("new")))
    note("replace", lambda: client.deploy_model("theirs", files_of("new"), replace=True))
    said["serves"] = client.retrieve_model("theirs").predict()
    note("undeploy", lambda: client.undeploy_model("theirs"))
    said["loaded"] = [model.id for model in client.list_models()]
    said["entries"] = entries(models)
print(json.dumps(said))
"""


def can(command):
    """Say whether this user may run programs so."""
    return (
        bool(shutil.which(command[0]))
        and not subprocess.run([*command, sys.executable, "-c", ""], check=False, capture_output=True).returncode
    )


MODES = {
    # owner and mode of the directory, then what a host of another user must be told
    "not ours": (0, 0o755, {"new": False, "nested": False}),
    "sticky, as /tmp": (0, 0o1777, {"new": True, "nested": False}),
    "ours, with a staging area of another": (NOBODY, 0o755, {"new": False, "nested": False}),
}


@pytest.mark.skipif(not can(ANOTHER), reason="only root can become somebody who may not write")
@pytest.mark.parametrize("mode", MODES)
def test_c30_without_permission_a_deploy_is_refused_and_nothing_changes(base, mode):
    models = base / "models"
    theirs = put(models, "theirs", "theirs")
    if "sticky" in mode:
        theirs.chmod(0o777)  # all may write in it, and yet only its owner may move it
    (models / "theirs-folder").mkdir()
    os.chown(base / "run", NOBODY, NOBODY)
    owner, bits, allowed = MODES[mode]
    os.chown(models, owner, owner)
    if "staging" in mode:
        (models / STAGING).mkdir()
        (models / STAGING / "theirs").touch()  # an empty one would be removed
    models.chmod(bits)
    before = content(models)
    said = said_by(FORBIDDEN, base, command=ANOTHER)
    for act in ("new", "nested", "replace", "undeploy"):
        if allowed.get(act):
            assert said[act] == "done", act
        else:
            kind, words = said[act]
            assert kind == "FailedPreconditionError", (act, words)
    assert said["serves"] == "theirs"
    assert "theirs" in said["loaded"], "what may not be removed is not unloaded either"
    assert [name for name in said["entries"] if name != STAGING] == (["new"] if allowed["new"] else []) + [
        "theirs",
        "theirs-folder",
    ]
    after = {name: data for name, data in content(models).items() if not name.startswith("new/")}
    assert after == before


# Full disks

FULL = """
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=60", "models", models], check=True)
with hostd.Host(models={**PLACES, "dir": models}) as host, Raw(host.endpoint) as raw:
    client = host.client()
    client.deploy_model("there", files_of("there"))
    await_tidy(models)
    before = content(models)

    def unchanged(name):
        await_tidy(models)
        said[name + ": unchanged"] = content(models) == before and entries(models) == ["there"]

    note("too big", lambda: client.deploy_model("m", {**files_of("m"), "data": bytes(10 * MIB)}))
    unchanged("too big")
    note("too big a replacement", lambda: client.deploy_model("there", {**files_of("m"), "data": bytes(10 * MIB)}, replace=True))
    unchanged("too big a replacement")

    # What was free when they began is not free for both.
    half = {**files_of("m"), "data": bytes(5 * MIB // 2)}
    uploads = [raw.ask("deploy_begin", model_id=f"m{n}", files=[[k, len(v)] for k, v in half.items()])["upload"] for n in range(2)]
    for number, upload in enumerate(uploads):
        note(f"half {number}", lambda: [raw.ask("deploy_write", upload=upload, file=2, offset=o, data=bytes(MIB // 2)) for o in range(0, 5 * MIB // 2, MIB // 2)])
    for upload in uploads:
        raw.ask("deploy_abort", upload=upload)
    unchanged("half")

    note("too many", lambda: client.deploy_model("m", files_of("m", **{f"f{n}": b"" for n in range(100)})))
    unchanged("too many")

    # Somebody else fills the disk to the last byte while the files travel.
    upload = raw.upload("m", files_of("m"))
    filler = models / ".filler"
    with open(filler, "wb", 0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    note("filled", lambda: raw.ask("deploy_commit", upload=upload))
    note("undeploy", lambda: client.undeploy_model("there"))
    filler.unlink()
    await_tidy(models)
    said["entries"] = entries(models)
    said["serves"] = client.deploy_model("m", files_of("works again"), replace=True).predict()
print(json.dumps(said))
"""


@pytest.mark.skipif(not can(UNSHARED), reason="needs the right to mount")
def test_c30_a_full_disk_is_resource_exhausted_and_leaves_no_residue(base):
    said = said_by(FULL, base, command=UNSHARED)
    for act in ("too big", "too big a replacement", "half 1", "too many"):
        kind, words = said[act]
        assert kind == "ResourceExhaustedError", (act, words)
    assert "room for" in said["too big"][1]
    assert "ENOSPC" in said["half 1"][1]
    assert said["half 0"] == "done"
    assert all(said[name] for name in said if name.endswith("unchanged")), said
    # On a disk without a byte left either may happen, but whole or not at all, and with a typed error.
    for act in ("filled", "undeploy"):
        assert said[act] == "done" or said[act][0] == "ResourceExhaustedError", said[act]
    expected = {
        name
        for name, act, was in (("m", "filled", "done"), ("there", "undeploy", "error"))
        if (said[act] == "done") == (was == "done")
    }
    assert set(said["entries"]) == expected
    assert said["serves"] == "works again"
