"""Processes in odd surroundings: whatever our parent has blocked, ignored, closed, forbidden or taken away.

`SURROUNDINGS` lists them by kind; a `Case` is one of each kind. `python tests/surroundings.py` tries their whole product
with every program and takes hours; `python tests/surroundings.py 3` every third case. What a program has to do is
checked here, so that the tests (`e2e/test_surroundings.py`) and the command agree.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass

from odd_places import AS_STRANGER, PATIENCE_S, Place, UnexpectedError

ALL = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
WITHOUT_POWERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Still root, and every file's mode counts."""

SURROUNDINGS = {
    "signals": {
        "usual": {},
        "blocked": {"blocked": ALL},
        "ignored": {"ignored": ALL},
        "in the background": {"ignored": [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT]},
    },
    "descriptors": {
        "open": {},
        "no input": {"closed": [0]},
        "no output": {"closed": [1]},
        "no errors": {"closed": [2]},
        "none": {"closed": [0, 1, 2]},
    },
    "person": {
        "usual": {},
        "without entry and home": {"as": AS_STRANGER, "unset": ["HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"]},
        "at the root": {"as": AS_STRANGER, "unset": ["XDG_RUNTIME_DIR", "XDG_STATE_HOME"], "set": {"HOME": "/"}},
        "with a home that is not there": {
            "as": AS_STRANGER,
            "unset": ["XDG_RUNTIME_DIR", "XDG_STATE_HOME"],
            "set": {"HOME": "/nonexistent"},
        },
        "with another's home": {
            "as": AS_STRANGER,
            "unset": ["XDG_RUNTIME_DIR", "XDG_STATE_HOME"],
            "set": {"HOME": "{base}/theirs"},
            "refused": "HOME",
        },
        "with another's runtime directory": {"as": AS_STRANGER, "unset": ["HOME"], "refused": "XDG_RUNTIME_DIR"},
        "with another's state directory": {
            "as": AS_STRANGER,
            "unset": ["HOME", "XDG_RUNTIME_DIR"],
            "refused": "XDG_STATE_HOME",
        },
    },
    "umask": {"usual": {"umask": 0o022}, "open": {"umask": 0}, "closed": {"umask": 0o777, "refused": "umask"}},
    "directory": {"there": {}, "gone": {"directory": "gone"}, "shut": {"directory": "shut", "as": WITHOUT_POWERS}},
    "limits": {
        "usual": {},
        "some files": {"limits": {"RLIMIT_NOFILE": [256, 1024], "RLIMIT_CORE": [0, 0]}, "nice": 5},
        "few files": {"limits": {"RLIMIT_NOFILE": [24, 24]}, "refused": "open files; a host needs"},
        "small files": {
            "limits": {"RLIMIT_FSIZE": [0, 0], "RLIMIT_CORE": [0, 0]},
            "refused": "write files|temporary directory",
        },
        "few processes": {"limits": {"RLIMIT_NPROC": [4, 4]}, "as": AS_STRANGER, "refused": "threads"},
        "little memory": {"limits": {"RLIMIT_AS": [200 << 20, 200 << 20]}, "refused": "address space"},
    },
    "environment": {
        "usual": {},
        "of another program": {
            "set": {
                "HOSTD_REAPER_PID": "1",
                "HOSTD_MODEL_ID": "outer",
                "HOSTD_OPEN_FILES": "3",
                "HOSTD_SUPERVISOR_LOCK_FD": "8",
                "HOSTD_SUPERVISOR_READY_FD": "7",
                "LD_PRELOAD": "/nonexistent.so",
                "PROMETHEUS_MULTIPROC_DIR": "/nonexistent",
                "PYTHONASYNCIODEBUG": "1",
                "PYTHONDEVMODE": "1",
                "PYTHONINSPECT": "1",
                "PYTHONOPTIMIZE": "2",
                "PYTHONSTARTUP": "/nonexistent",
                "PYTHONWARNINGS": "error",
            }
        },
    },
}


@dataclass(frozen=True)
class Case:
    """One of each kind of surroundings, by name."""

    signals: str = "usual"
    descriptors: str = "open"
    person: str = "usual"
    umask: str = "usual"
    directory: str = "there"
    limits: str = "usual"
    environment: str = "usual"

    def __str__(self):
        unusual = [f"{kind} {name}" for kind, name in vars(self).items() if name != getattr(Case, kind)]
        return ", ".join(unusual) or "usual"

    def told(self):
        """Return what the launcher is told."""
        together = {}
        for kind, name in vars(self).items():
            more = SURROUNDINGS[kind][name]
            together = {**together, **more, "set": {**together.get("set", {}), **more.get("set", {})}}
        return together

    def refusals(self):
        """Return a word for each reason for which a host may refuse to start here."""
        found = [SURROUNDINGS[kind][name].get("refused", "") for kind, name in vars(self).items()]
        return [word for words in found for word in words.split("|") if word]


def has_traceback(words):
    """Say whether an error was shown with one, but for the end of a command that PYTHONINSPECT has Python look into."""
    return "Traceback" in words and "\nSystemExit: " not in words


def check(case, said, words):
    """Say whether a program has worked in these surroundings; if not, it has refused in a sentence, and may do so.

    Raises `UnexpectedError` if it did neither.
    """
    if has_traceback(words):
        raise UnexpectedError(f"{case}: a traceback: {words}")
    if "refused" in said:
        if not any(word in said["refused"] for word in case.refusals()):
            raise UnexpectedError(f"{case}: refused for no good reason: {said['refused']} {words}")
        return False
    seen, told = said["seen"], case.told()
    directory = seen.pop("directory")
    expected = {
        "blocked": [],
        "ignored": [signal.SIGPIPE, signal.SIGXFSZ],  # as every Python has it
        "descriptors": ["/dev/null", "pipe", "pipe"],
        "umask": told["umask"],
        "files": told.get("limits", {}).get("RLIMIT_NOFILE") or list(resource.getrlimit(resource.RLIMIT_NOFILE)),
        "nice": os.nice(0) + told.get("nice", 0),
        "shell": 3,
        "child": 4,
    }
    if seen != expected or (directory == "/") != (case.directory == "gone"):
        raise UnexpectedError(f"{case}: the model sees {seen} in {directory}, expected {expected}")
    return True


def embeds(case):
    """Embed a host in these surroundings; say, as the others below, whether it worked or was refused in a sentence."""
    with Place(case.told()) as place:
        return check(case, *place.tell("embed"))


def shares(case):
    """Start a host for several processes in these surroundings, and leave it."""
    with Place(case.told()) as place:
        worked = check(case, *place.tell("share"))
        if left := [str(file) for file in place.base.glob("*/*/odd*/*.ipc")]:
            raise UnexpectedError(f"{case}: left behind: {left}")
        return worked


def _is_served(place):
    with contextlib.suppress(FileNotFoundError):  # of a directory that goes while it is looked through
        return bool(list(place.base.glob("*/*/*/client.ipc")))
    return False


def serves(case):
    """Serve in these surroundings, have a client in the same find and use the host, and end it as a system would."""
    with Place(case.told()) as place, place.start(sys.executable, "-m", "hostd", "serve") as host:
        deadline_s = time.monotonic() + PATIENCE_S
        while host.process.poll() is None and not _is_served(place):
            time.sleep(0.01)
            if time.monotonic() > deadline_s:
                raise UnexpectedError(f"{case}: the host is not there: {host.words()}")
        if host.process.returncode is None:
            worked = check(case, *place.tell("connect"))
            host.process.terminate()
            if host.process.wait(PATIENCE_S) != 0:
                raise UnexpectedError(f"{case}: it ended with {host.process.returncode}: {host.words()}")
            return worked
        if host.process.returncode != 1:
            raise UnexpectedError(f"{case}: it ended with {host.process.returncode}: {host.words()}")
        is_heard = 2 not in case.told().get("closed", ())
        return check(case, {"refused": host.words()}, host.words()) if is_heard else False


def asks(case, endpoint):
    """Use a host that runs in usual surroundings."""
    with Place(case.told()) as place:
        said, words = place.tell(endpoint)
        return check(case, said, words) if "refused" in said else True


def commands(case):
    """Run commands that need no host."""
    codes = []
    for command in (["doctor"], ["config", "show"]):
        with Place(case.told()) as place, place.start(sys.executable, "-m", "hostd", *command) as program:
            codes.append(program.process.wait(PATIENCE_S))
        if has_traceback(program.words()) or codes[-1] not in (0, 1):
            raise UnexpectedError(f"{case}: hostd {command}: {codes[-1]} {program.words()}")
    return not any(codes)


def product():
    """Yield every case that can be."""
    for names in itertools.product(*SURROUNDINGS.values()):
        case = Case(*names)
        if len({id(SURROUNDINGS[kind][name].get("as")) for kind, name in vars(case).items()} - {id(None)}) <= 1:
            yield case


if __name__ == "__main__":
    step, failures = int(sys.argv[1]) if len(sys.argv) > 1 else 1, 0
    for case in itertools.islice(product(), 0, None, step):
        for trial in (embeds, shares, serves, commands):
            try:
                trial(case)
            except UnexpectedError as error:
                failures += 1
                print(f"{trial.__name__}: {error}", flush=True)  # noqa: T201 - a command's output
    sys.exit(f"{failures} failures" if failures else 0)
