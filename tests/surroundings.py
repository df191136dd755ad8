"""Processes in odd surroundings: whatever whoever starts us has blocked, ignored, closed, forbidden or taken away.

`SURROUNDINGS` lists them by kind; a `Case` is one of each kind. `python tests/surroundings.py` tries their whole product
with every program and takes hours; `python tests/surroundings.py 3` every third case. What a program has to do is
checked here, so that the tests (`e2e/test_surroundings.py`) and the command agree.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[1]
PATIENCE_S = 90.0
"""Of a program that starts a host, which starts a worker, on a busy machine."""

ALL = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
STRANGER = 54_321
"""A user id that no password database knows."""
AS_STRANGER = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
AS_STRANGER += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
"""May read all, because tests may be run from a directory of root's, and write only what is his."""
WITHOUT_POWERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Still root, and every file's mode counts."""

SURROUNDINGS: dict[str, dict[str, dict[str, Any]]] = {
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
        "few files": {"limits": {"RLIMIT_NOFILE": [24, 24]}, "refused": "open files"},
        "small files": {"limits": {"RLIMIT_FSIZE": [0, 0], "RLIMIT_CORE": [0, 0]}, "refused": "write files"},
        "few processes": {"limits": {"RLIMIT_NPROC": [4, 4]}, "as": AS_STRANGER, "refused": "threads"},
        "little memory": {"limits": {"RLIMIT_AS": [300 << 20, 300 << 20]}, "refused": "address space"},
    },
}

ENTER = """
import json, os, resource, signal, sys
told, command = json.loads(sys.argv[1]), sys.argv[2:]
for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
    signal.signal(number, signal.SIG_DFL)
for number in told.get("ignored", ()):
    signal.signal(number, signal.SIG_IGN)
os.umask(told["umask"])
os.chdir(told["place"])
if told.get("directory") == "gone":
    os.rmdir(told["place"])
elif told.get("directory") == "shut":
    os.chmod(told["place"], 0)
os.nice(told.get("nice", 0))
for name, limits in told.get("limits", {}).items():
    resource.setrlimit(getattr(resource, name), limits)
for fd in told.get("closed", ()):
    os.close(fd)
signal.pthread_sigmask(signal.SIG_SETMASK, told.get("blocked", ()))
os.execvp(command[0], command)
"""
"""Enters the surroundings of its first argument and becomes the command of the others."""

LOOK = """
    import os, resource, signal, subprocess

    def signals(name):
        with open("/proc/self/status") as file:
            bits = int(next(line for line in file if line.startswith(name)).split()[1], 16)
        return [int(number) for number in signal.valid_signals() if bits >> number - 1 & 1]  # the others are the C library's

    class Look:
        def look(self):
            umask = os.umask(0)
            os.umask(umask)
            return {
                "blocked": signals("SigBlk"),
                "ignored": signals("SigIgn"),
                "descriptors": [os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in range(3)],
                "umask": umask,
                "files": list(resource.getrlimit(resource.RLIMIT_NOFILE)),
                "nice": os.nice(0),
                "directory": os.getcwd(),
                "shell": os.waitstatus_to_exitcode(os.system("exit 3")),
                "child": subprocess.run(["sh", "-c", "exit 4"]).returncode,
            }

    def load(path):
        return Look()
"""

TELLS = """
    import json, os, sys
    import hostd

    path, out, where = sys.argv[1:]

    def use(client):
        with client:
            seen = client.load_model("look", path).look()
            freed = client.unload_model("look")
            return {"seen": seen, "processes": freed.processes}

    def run():
        if where in ("embed", "share"):
            with hostd.Host("odd", shared=where == "share") as host:
                return use(host.client())
        return use(hostd.connect(None if where == "connect" else where, connect_timeout_s=60))

    try:
        said = run()
    except hostd.HostError as error:
        said = {"refused": str(error)}
    os.write(int(out), json.dumps(said).encode())
"""
"""Uses a host of its own or another, and says on a descriptor what it saw, or why it was refused."""


class UnexpectedError(AssertionError):
    """A program in odd surroundings neither worked nor refused in a sentence."""


@dataclass(frozen=True)
class Case:
    """One of each kind of surroundings, by name."""

    signals: str = "usual"
    descriptors: str = "open"
    person: str = "usual"
    umask: str = "usual"
    directory: str = "there"
    limits: str = "usual"

    def __str__(self) -> str:
        unusual = [f"{kind} {name}" for kind, name in vars(self).items() if name != getattr(Case, kind)]
        return ", ".join(unusual) or "usual"

    def told(self) -> dict[str, Any]:
        """Return what the launcher is told."""
        together: dict[str, Any] = {}
        for kind, name in vars(self).items():
            together = {**together, **SURROUNDINGS[kind][name]}
        return together

    def refusals(self) -> list[str]:
        """Return a word for each reason for which a host may refuse to start here."""
        found = [SURROUNDINGS[kind][name].get("refused") for kind, name in vars(self).items()]
        return [word for word in found if word]


class Place:
    """Where a case is tried: a directory that others may enter, with a model and private directories of this user."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.base = Path(tempfile.mkdtemp(prefix="hostd-s-"))
        self.base.chmod(0o755)
        for name, mode in (("run", 0o700), ("state", 0o700), ("theirs", 0o755), ("tmp", 0o1777), ("model", 0o755)):
            (self.base / name).mkdir()
            (self.base / name).chmod(mode)
        if self.case.person == "usual" and case.told().get("as") is AS_STRANGER:
            for name in ("run", "state"):
                os.chown(self.base / name, STRANGER, STRANGER)
        (self.base / "model" / "model.py").write_text(textwrap.dedent(LOOK))
        self._count = itertools.count()
        self._told = case.told()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.base, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Return the environment of a program here."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("HOSTD_", "PROMETHEUS"))}
        changes = {
            "XDG_RUNTIME_DIR": f"{self.base}/run",
            "XDG_STATE_HOME": f"{self.base}/state",
            "TMPDIR": f"{self.base}/tmp",
        }
        given = {name: value.format(base=self.base) for name, value in self._told.get("set", {}).items()}
        together = {**keep, **changes, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **given}
        together.pop("COVERAGE_PROCESS_CONFIG", None)
        return {name: value for name, value in together.items() if name not in self._told.get("unset", ())}

    def start(self, *command: str, keep: tuple[int, ...] = ()) -> Program:
        """Start a program here; it gets the descriptors in `keep`."""
        where = self.base / f"place-{next(self._count)}"
        where.mkdir(mode=0o755)
        told = {**self._told, "place": str(where)}
        enter = [sys.executable, "-S", "-I", "-c", ENTER, json.dumps(told), *self._told.get("as", ())]
        return Program(
            subprocess.Popen(
                [*enter, *command],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=keep,
                start_new_session=True,
            )
        )

    def tell(self, where: str) -> tuple[dict[str, Any], str]:
        """Run the program that uses a host: its own (embed, share), the user's (connect), or the one at an endpoint.

        Return what it says of it, and what it printed.
        """
        read, write = os.pipe()
        model = str(self.base / "model")
        with self.start(sys.executable, "-c", textwrap.dedent(TELLS), model, str(write), where, keep=(write,)) as told:
            os.close(write)
            with open(read, "rb") as pipe:
                said = pipe.read() if select.select([pipe], [], [], PATIENCE_S)[0] else b""
            told.process.wait(PATIENCE_S)
        if not said:
            raise UnexpectedError(
                f"{self.case}: nothing was said; it ended with {told.process.returncode}: {told.words()}"
            )
        return dict(json.loads(said)), told.words()


class Program:
    """A program and what it prints; it is killed with its session if it has not ended when the block does."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None
        self._output = process.stdout
        self._printed = b""
        os.set_blocking(self._output.fileno(), False)

    def words(self) -> str:
        """Return what it has printed so far."""
        if not self._output.closed:
            self._printed += self._output.read() or b""
        return self._printed.decode("utf-8", "replace")

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.words()
        self._output.close()


def check(case: Case, said: dict[str, Any], words: str) -> bool:
    """Say whether a program has worked in these surroundings; if not, it has refused in a sentence, and may do so.

    Raises `UnexpectedError` if it did neither.
    """
    if "Traceback" in words:
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


def embeds(case: Case) -> bool:
    """Embed a host in these surroundings; say, as the others below, whether it worked or was refused in a sentence."""
    with Place(case) as place:
        return check(case, *place.tell("embed"))


def shares(case: Case) -> bool:
    """Start a host for several processes in these surroundings, and leave it."""
    with Place(case) as place:
        worked = check(case, *place.tell("share"))
        if left := [str(file) for file in place.base.glob("*/*/odd*/*.ipc")]:
            raise UnexpectedError(f"{case}: left behind: {left}")
        return worked


def serves(case: Case) -> bool:
    """Serve in these surroundings, have a client in the same find and use the host, and end it as a system would."""
    with Place(case) as place, place.start(sys.executable, "-m", "hostd", "serve") as host:
        deadline_s = time.monotonic() + PATIENCE_S
        while host.process.poll() is None and not list(place.base.glob("*/*/*/client.ipc")):
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


def asks(case: Case, endpoint: str) -> bool:
    """Use a host that runs in usual surroundings."""
    with Place(case) as place:
        said, words = place.tell(endpoint)
        return check(case, said, words) if "refused" in said else True


def commands(case: Case) -> bool:
    """Run commands that need no host."""
    codes = []
    for command in (["doctor"], ["config", "show"]):
        with Place(case) as place, place.start(sys.executable, "-m", "hostd", *command) as program:
            codes.append(program.process.wait(PATIENCE_S))
        if "Traceback" in program.words() or codes[-1] not in (0, 1):
            raise UnexpectedError(f"{case}: hostd {command}: {codes[-1]} {program.words()}")
    return not any(codes)


def product() -> Iterator[Case]:
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
