"""The first code of a worker process, started by path under any interpreter.

It is alone in its folder, so that the interpreter puts nothing else on `sys.path`. Before anything of the model can run
it ties the process to the supervisor's life and bounds its memory; then it makes the package `hostd_workers` importable
from where this file lies, and only that one: the model's interpreter may have other versions of everything else.

What it prints is part of the error of a load when its worker never said hello. It can be read by older versions of
Python (3.6 on), so that it can refuse them.
"""

import contextlib
import ctypes
import importlib.util
import os
import resource
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

OLDEST = (3, 10)
NEEDS = {"zmq": "pyzmq", "msgpack": "msgpack"}
"""Modules, and the packages that have them."""


_LIBC = ctypes.CDLL(None, use_errno=True)


def _tie_to_supervisor(supervisor_pid: int) -> None:
    """Die with the supervisor (prctl(2))."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The supervisor may have died before the line above took effect; then nobody would ever send the signal.
    if os.getppid() != supervisor_pid:
        os._exit(1)
    _LIBC.prctl(PR_SET_NAME, ("hostd:" + os.environ.get("HOSTD_MODEL_ID", "template")).encode()[:15], 0, 0, 0)


def _keep_descendants() -> None:
    """Stay the parent of every descendant: a kill of the tree finds daemonised ones (hostd/shell/processes/spawner)."""
    _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _bound_memory() -> None:
    """Be killed before the supervisor when memory runs out, and get no single allocation that is absurd for our limit.

    Neither is needed to serve, so where the system refuses it the worker goes on without.
    """
    with contextlib.suppress(KeyError, OSError):
        score = os.environ.pop("HOSTD_OOM_SCORE_ADJ").encode()
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, score)
        finally:
            os.close(fd)
    with contextlib.suppress(KeyError, OSError, ValueError, OverflowError):
        limit_bytes = int(os.environ.pop("HOSTD_DATA_LIMIT_BYTES"))
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        allowed = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def _stand_as_the_user_does() -> None:
    """Have the user's own limit on open files, which the host raised for itself, and a directory to be in."""
    with contextlib.suppress(KeyError, OSError, ValueError):
        files = int(os.environ.pop("HOSTD_OPEN_FILES"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        os.getcwd()  # noqa: PTH109 - as everywhere else that trips over a directory that was removed
    except FileNotFoundError:
        os.chdir("/")


def _make_workers_importable() -> None:
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    package = here.parent
    code = package / "__init__.py"
    spec = importlib.util.spec_from_file_location("hostd_workers", code, submodule_search_locations=[str(package)])
    if spec is None or spec.loader is None or not code.is_file():
        raise ImportError(f"the worker's code is not at {package}: reinstall hostd")
    module = importlib.util.module_from_spec(spec)
    sys.modules["hostd_workers"] = module
    spec.loader.exec_module(module)


def _work(prepared: object = None) -> None:
    """Be a worker, and end with it; say what to do if this interpreter lacks what that needs.

    One that was forked has `prepared` some of it.
    """
    from hostd_workers.process.ending import end  # noqa: PLC0415 - it cannot be imported before

    try:
        from hostd_workers.main import main  # noqa: PLC0415 - as above

        main(prepared)  # type: ignore[arg-type] # it can say no more of it: this file is read before `main` is
    except ModuleNotFoundError as error:
        if error.name not in NEEDS:
            end(error)
        lacking = f"{sys.executable} has no module {error.name}, which workers need. Install it: "
        end(SystemExit(f"{lacking}{sys.executable} -m pip install {' '.join(NEEDS.values())}"))
    except BaseException as error:  # noqa: BLE001 - as `main` does, which takes over once it is imported
        end(error)


def _begin(supervisor_pid: int) -> None:
    """Take the first steps of every worker, started by the system or forked by a template."""
    _tie_to_supervisor(supervisor_pid)
    _keep_descendants()
    _bound_memory()
    _stand_as_the_user_does()


def _be_template(supervisor_pid: int) -> object:
    """Import libraries and fork workers; returns only in one of these, when it has taken its first steps."""
    from hostd_workers.template.main import serve  # noqa: PLC0415 - as in `_work`

    _tie_to_supervisor(supervisor_pid)
    _bound_memory()
    _stand_as_the_user_does()
    return serve(supervisor_pid, _begin)


def _refuse_old_python() -> None:
    if sys.version_info < OLDEST:
        sys.exit(
            f"Workers need Python {'.'.join(map(str, OLDEST))} or newer, and {sys.executable} is "
            f"{'.'.join(map(str, sys.version_info[:3]))}. Set another one: python in model.yaml, or workers.python"
        )


if __name__ == "__main__":
    supervisor = int(os.environ.pop("HOSTD_SUPERVISOR_PID"))
    if os.environ.pop("HOSTD_TEMPLATE", ""):
        _refuse_old_python()
        _make_workers_importable()
        _work(_be_template(supervisor))
    else:
        _begin(supervisor)
        _refuse_old_python()
        _make_workers_importable()
        _work()
