"""Programs in odd surroundings, which a launcher enters before it becomes the program; `surroundings` says what is odd."""

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PATIENCE_S = 90.0
"""Of a program that starts a host, which starts a worker, on a busy machine."""

AS_STRANGER = ["setpriv", "--reuid={user}", "--regid={user}", "--clear-groups"]
AS_STRANGER += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
"""As a user that no password database knows, and no other test (processes are counted by user). He may read all, because
tests may be run from a directory of root's, and write only what is his."""
ENTER = """
import json, os, resource, signal, sys
told, command = json.loads(sys.argv[1]), sys.argv[2:]
for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
    signal.signal(number, signal.SIG_DFL)
for number in told.get("ignored", ()):
    signal.signal(number, signal.SIG_IGN)
os.umask(told["umask"])
os.chdir(told["place"])
if "group" in told:
    with open(os.path.join(told["group"], "cgroup.procs"), "w") as procs:
        procs.write("0")
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


_PLACES = itertools.count()


class Place:
    """Where a case is tried: a directory that others may enter, with a model and private directories of this user."""

    def __init__(self, told):
        self._told = told
        self._user = 100_000 + (os.getpid() * 64 + next(_PLACES)) % 1_000_000
        self.base = Path(tempfile.mkdtemp(prefix="hostd-s-"))
        self.base.chmod(0o755)
        for name, mode in (("run", 0o700), ("state", 0o700), ("theirs", 0o755), ("tmp", 0o1777), ("model", 0o755)):
            (self.base / name).mkdir()
            (self.base / name).chmod(mode)
        if told.get("as") is AS_STRANGER and "unset" not in told:
            for name in ("run", "state"):
                os.chown(self.base / name, self._user, self._user)
        (self.base / "model" / "model.py").write_text(textwrap.dedent(LOOK))
        self._count = itertools.count()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.base, ignore_errors=True)

    def own(self, path):
        """Make the user of this place the owner of a directory and what is in it."""
        for each in (path, *path.rglob("*")):
            os.chown(each, self._user, self._user)

    def environment(self):
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

    def start(self, *command, keep=()):
        """Start a program here; it gets the descriptors in `keep`."""
        where = self.base / f"place-{next(self._count)}"
        where.mkdir(mode=0o755)
        told = {**self._told, "place": str(where)}
        enter = [sys.executable, "-S", "-I", "-c", ENTER, json.dumps(told)]
        enter += [word.format(user=self._user) for word in self._told.get("as", ())]
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

    def tell(self, where):
        """Run the program that uses a host, its own (embed), the user's (connect), or the one at an endpoint.

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
            raise UnexpectedError(f"nothing was said; it ended with {told.process.returncode}: {told.words()}")
        return dict(json.loads(said)), told.words()


class Program:
    """A program and what it prints; it is killed with its session if it has not ended when the block does."""

    def __init__(self, process):
        self.process = process
        assert process.stdout is not None
        self._output = process.stdout
        self._printed = b""
        os.set_blocking(self._output.fileno(), False)

    def words(self):
        """Return what it has printed so far."""
        if not self._output.closed:
            self._printed += self._output.read() or b""
        return self._printed.decode("utf-8", "replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.words()
        self._output.close()
