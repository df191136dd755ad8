"""Workers that run a program of the test's in place of an interpreter, and what they print."""

import os
import select
import sys
import textwrap

from helpers import PATIENCE_S, descendants, eventually, is_there

from hostd.core.events import WorkerId

READY_AND_SLEEP = """
    import time
    print("up", flush=True)
    time.sleep(3600)
"""
WITH_A_HELPER = """
    import os, signal
    if os.fork():
        print("up", flush=True)
    signal.pause()
"""


class Workers:
    """Starts workers that run a source instead; what was not ended is ended afterwards."""

    def __init__(self, ours, directory):
        self._ours, self._directory = ours, directory
        self._started = []

    def __call__(self, source=READY_AND_SLEEP, until=b"up\n"):
        """Start one, and wait until it has printed this."""
        number = WorkerId(len(self._started))
        python = self._directory / f"python-{number}"
        python.write_text(f"#!{sys.executable} -S\n" + textwrap.dedent(source))
        python.chmod(0o755)
        process = self._ours.spawn(number, str(python), dict(os.environ))
        self._started.append(process)
        if until:
            output_of(process, until)
        return process

    def end(self):
        for process in self._started:
            if is_there(process.pid) and process.pid in descendants():
                self._ours.end(process)
            os.close(process.log_fd)


def output_of(process, until):
    """Return what a worker has printed when it has printed `until`."""
    data = b""
    while until not in data:
        assert select.select([process.log_fd], [], [], PATIENCE_S)[0], f"only {data!r} was printed"
        read = os.read(process.log_fd, 65536)
        assert read, f"the output ended after {data!r}"
        data += read
    return data


FAMILY = """
    import ctypes, os, signal, sys, time

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # as the bootstrap does

    def be():
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(3600)

    def fork(run):
        if os.fork() == 0:
            run()
            os._exit(0)

    def daemonise():
        os.setsid()
        fork(be)

    fork(be)
    fork(daemonise)
    fork(lambda: (fork(be), be()))
    time.sleep(3600)
"""


def members_of_family(process):
    """Return the helpers of one that runs `FAMILY`, when all are its descendants."""
    said = b""
    while said.count(b"\n") < 4:
        said += output_of(process, b"\n")
    members = {int(line) for line in said.split()}
    eventually(lambda: members <= set(descendants(process.pid)), "the daemon has become a child of the worker")
    return members
