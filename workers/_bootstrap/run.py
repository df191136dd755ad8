"""The first code of a worker process, started by path under any interpreter.

It is alone in its folder, so that the interpreter puts nothing else on `sys.path`. Before anything of the model can run
it ties the process to the supervisor's life; then it makes the package `workers` importable from where this file lies,
and only that one, because the model's interpreter may have other versions of everything else.
"""

import ctypes
import importlib.util
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


def _tie_to_supervisor(supervisor_pid: int) -> None:
    """Die with the supervisor, and stay the parent of every descendant (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The supervisor may have died before the line above took effect; then nobody would ever send the signal.
    if os.getppid() != supervisor_pid:
        os._exit(1)
    # A daemonised grandchild stays in this tree, so that a kill of the tree finds it (see hostd/shell/processes).
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_NAME, ("hostd:" + os.environ.get("HOSTD_MODEL_ID", "")).encode()[:15], 0, 0, 0)


def _make_workers_importable() -> None:
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    package = here.parent
    code = package / "__init__.py"
    spec = importlib.util.spec_from_file_location("workers", code, submodule_search_locations=[str(package)])
    if spec is None or spec.loader is None or not code.is_file():
        raise ImportError(f"the worker's code is not at {package}: reinstall hostd")
    module = importlib.util.module_from_spec(spec)
    sys.modules["workers"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _tie_to_supervisor(int(os.environ.pop("HOSTD_SUPERVISOR_PID")))
    _make_workers_importable()
    from workers.main import main

    sys.exit(main())
