"""The processes of a host's fronts."""

import os
import signal
from pathlib import Path

from helpers import eventually


def front_of(host):
    """Return the process of the host's front; none if there is none now."""
    children = Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split()
    found = [int(pid) for pid in children if b"hostd.fronts.process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found[0] if found else None


def kill_front(host):
    """Kill the front, and wait until there is another."""
    pid = front_of(host)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: front_of(host) not in (None, pid), "there is another front")
