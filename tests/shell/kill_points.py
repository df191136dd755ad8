"""Kills deploys, replacements, undeploys and their recovery at every system call, and looks at what a restart finds.

A program of its own, because it forks for every kill and so must have one thread:

    python kill_points.py SCENARIO KERNEL DIRECTORY [--recovery [EVERY]]

A child does the scenario and is killed at its n-th call; one that is about to write is killed half way through, too.
Then: a recovery, after which the models directory is exactly as it was before, or exactly as it was to become if the
scenario had been answered; then the same again, which must succeed. With `--recovery` the recovery after each kill is
itself killed at each of its calls, or at one of so many (each kill of the scenario at others), and another one must do;
there only calls that change something count, because a kill before another one is the kill before the next that does.
Prints how many kill points there were.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from kernels import KERNELS, Watched
from path_corpus import canary

from hostd.core.standing import Standing
from hostd.shell.deploys.staging import Staging
from hostd.shell.repository.directory import ModelsDirectory

ID = "team/group/model"
FILES = {"model.yaml": b"loader: python\n", "weights/part/0.bin": b"x" * 5000, "weights/empty": b""}
OLD = {"model.yaml": b"loader: old\n", "only/in/the/old": b"old"}
ENDLESS = 10_000

NOTHING_TO_HALVE = 77
"""How a child ends that was to be killed half way through a call that writes nothing: that is the kill before it."""

ONLY_LOOKING = {"fstat", "lstat", "names", "may", "free_bytes", "pread", "try_lock"}


def put(models, files):
    for name, content in files.items():
        (models / ID / name).parent.mkdir(parents=True, exist_ok=True)
        (models / ID / name).write_bytes(content)


def put_nothing(models):
    """Only a neighbour, which must never be touched."""
    (models / "team").mkdir()
    (models / "team" / "neighbour").write_text("untouched")


def put_old(models):
    put_nothing(models)
    put(models, OLD)


def put_closed(models):
    """A model with directories that even their owner may not write."""
    put_old(models)
    (models / ID / "only").chmod(0o500)
    (models / ID).chmod(0o555)


def put_file(models):
    put_nothing(models)
    (models / ID).parent.mkdir()
    (models / ID).write_bytes(b"a model in one file")


def put_empty(models):
    put_nothing(models)
    (models / ID).mkdir(parents=True)


def upload(staging, *, replace):
    files = [(name, len(content)) for name, content in FILES.items()]
    begun = staging.begin(ID, files, replace=replace, folders=["none/inside"], executables=["weights/empty"])
    for index, content in enumerate(FILES.values()):
        for offset in range(0, len(content), 4096):
            begun.write(index, offset, content[offset : offset + 4096])
    begun.install(Standing(options={"greeting": "Yo"}))
    return begun


def forth(begin):
    """Do an operation, answer, and clean."""

    def act(staging, answer):
        operation = begin(staging)
        operation.confirm()
        answer()
        operation.clean()

    return act


def back(begin):
    """Undo an operation before it is confirmed."""

    def act(staging, answer):
        begin(staging).roll_back()
        answer()

    return act


def deploy(staging):
    return upload(staging, replace=False)


def replace(staging):
    return upload(staging, replace=True)


def undeploy(staging):
    return staging.remove(ID)


def abandon(staging, answer):
    staging.begin(ID, [(name, len(content)) for name, content in FILES.items()], replace=False).discard()
    answer()


SCENARIOS = {
    "deploy": (put_nothing, forth(deploy)),
    "deploy, rolled back": (put_nothing, back(deploy)),
    "deploy, given up": (put_nothing, abandon),
    "replace": (put_old, forth(replace)),
    "replace nothing": (put_nothing, forth(replace)),
    "replace, rolled back": (put_old, back(replace)),
    "replace a closed model": (put_closed, forth(replace)),
    "replace a closed model, rolled back": (put_closed, back(replace)),
    "replace a file": (put_file, forth(replace)),
    "replace a file, rolled back": (put_file, back(replace)),
    "undeploy": (put_old, forth(undeploy)),
    "undeploy, rolled back": (put_old, back(undeploy)),
    "undeploy a closed model": (put_closed, forth(undeploy)),
    "undeploy a file": (put_file, forth(undeploy)),
    "undeploy a file, rolled back": (put_file, back(undeploy)),
    "undeploy an empty directory, rolled back": (put_empty, back(undeploy)),
}


class Killer:
    """Kills this process at a call: before it, or for an odd point half way through what it writes."""

    def __init__(self, point, *, only_changes=False):
        self.left, self.is_half = divmod(point, 2)
        self.only_changes = only_changes

    def __call__(self, name, arguments):
        if self.only_changes and is_only_looking(name, arguments):
            return
        self.left -= 1
        if self.left >= 0:
            return
        if self.is_half:
            if name != "pwrite":
                os._exit(NOTHING_TO_HALVE)
            fd, data, offset = arguments
            os.pwrite(fd, data[: len(data) // 2], offset)
        os.kill(os.getpid(), signal.SIGKILL)


def is_only_looking(name, arguments):
    if name in {"open", "openat2"}:
        flags = arguments[1] if name == "open" else arguments[2]
        return not flags & os.O_CREAT
    return name in ONLY_LOOKING


class Run:
    """A scenario in a directory of its own, begun anew for each kill."""

    def __init__(self, scenario, kernel, directory):
        self.put, self.act = SCENARIOS[scenario]
        self.kernel = KERNELS[kernel]
        self.directory = directory
        self.models = directory / "models"
        self.begin()
        self.before = canary(self.models)
        self.act(self.staging(), lambda: None)
        self.after = canary(self.models)
        if "back" not in scenario and "given up" not in scenario:
            assert self.after != self.before, "the scenario does nothing"

    def begin(self):
        for path in self.directory.rglob("*"):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.models.mkdir(parents=True)
        self.put(self.models)

    def staging(self, killer=None):
        calls = self.kernel()
        if killer is not None:
            calls = Watched(calls, killer)
        return Staging(ModelsDirectory(self.models, calls=calls))

    def killed(self, point, act, *, only_changes=False):
        """Do it in a child; return how that ended, and whether it had answered."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                act(self.staging(Killer(point, only_changes=only_changes)), lambda: os.write(write, b"!") and None)
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        with open(read, "rb") as pipe:
            was_answered = pipe.read() == b"!"
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in {0, -signal.SIGKILL, NOTHING_TO_HALVE}, f"the child failed at point {point}: {status}"
        return status, was_answered

    def check(self, where, *, was_answered):
        """Look at what a restart finds, and do the same again."""
        said = self.staging().recover()
        state = canary(self.models)
        files = sorted(str(path.relative_to(self.models)) for path in self.models.rglob("*"))
        expected = self.after if was_answered else self.before
        assert state == expected, f"{where}: answered {was_answered}; recovery said {said}; found {files}"
        assert self.staging().recover() == [], f"{where}: a second recovery found something to do"
        if not was_answered:
            self.act(self.staging(), lambda: None)
            assert canary(self.models) == self.after, f"{where}: the same again made something else"


def recover(staging, answer):
    staging.recover()


def kill_everywhere(run):
    count = 0
    for point in range(ENDLESS):
        run.begin()
        status, was_answered = run.killed(point, run.act)
        if status == 0:
            return count
        if status != NOTHING_TO_HALVE:
            count += 1
            run.check(f"killed at {point}", was_answered=was_answered)
    raise AssertionError("the scenario never ended")


def kill_recoveries(run, every):
    count = 0
    for point in range(ENDLESS):
        for call in range(point % every, ENDLESS, every):
            run.begin()
            status, was_answered = run.killed(point, run.act, only_changes=True)
            if status == 0:
                return count
            if status == NOTHING_TO_HALVE:
                break
            status, _ = run.killed(2 * call, recover, only_changes=True)
            run.check(f"killed at {point}, its recovery at {call}", was_answered=was_answered)
            if status == 0:
                break
            count += 1
    raise AssertionError("the scenario never ended")


if __name__ == "__main__":
    scenario, kernel, directory, *options = sys.argv[1:]
    run = Run(scenario, kernel, Path(directory, "kills"))
    count = kill_recoveries(run, int(options[1]) if options[1:] else 1) if options else kill_everywhere(run)
    sys.stdout.write(f"{count}\n")
