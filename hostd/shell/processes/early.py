"""What a supervisor does before it imports the rest: it starts the template that its first worker is forked from.

That takes as long as these imports, and is done by another core meanwhile. Only for a host that another program has
made for itself: that loads something at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os

from hostd.shell.linux.marks import mark_of_host
from hostd.shell.processes.environment import oom_score_adj_of_workers, template_environment
from hostd.shell.processes.spawning import TemplateProcess, new_template
from hostd.shell.reaper.names import CONFIG_VARIABLE, GROUPS_FD_VARIABLE

KIND_VARIABLE = "HOSTD_SUPERVISOR_KIND"
READY_FD_VARIABLE = "HOSTD_SUPERVISOR_READY_FD"
LOCK_FD_VARIABLE = "HOSTD_SUPERVISOR_LOCK_FD"
_OWN = "HOSTD_SUPERVISOR_", "HOSTD_REAPER_"
"""What the variables begin with that are nobody else's."""

PR_SET_CHILD_SUBREAPER = 36


def begin() -> TemplateProcess | None:
    """Start the template if this host is likely to need it soon. Call it in the thread that ends with the process.

    What the supervisor was given by its starter, nobody else inherits.
    """
    for variable in (READY_FD_VARIABLE, LOCK_FD_VARIABLE, GROUPS_FD_VARIABLE):
        if (fd := int(os.environ.get(variable, "-1"))) > 2:
            os.set_inheritable(fd, False)
    workers = json.loads(os.environ[CONFIG_VARIABLE])["workers"]
    if os.environ.get(KIND_VARIABLE) != "embedded" or workers["templates"] != "auto":
        return None
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # its children are to be ours (prctl(2))
    base = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    environment = template_environment(
        base, spec_env={}, supervisor_pid=os.getpid(), oom_score_adj=oom_score_adj_of_workers(), host=mark_of_host()
    )
    with contextlib.suppress(OSError):  # it is tried again when there is a load, which is told
        return new_template(workers["python"], environment, ())
    return None
