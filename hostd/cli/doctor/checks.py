"""The checks of `hostd doctor` that need no host: interpreter, libraries, kernel, limits, directories.

Each returns what it found and, where that is not good, what to do. None changes anything: the runtime directory is
looked at, not made.
"""

from __future__ import annotations

import ctypes
import enum
import importlib
import importlib.metadata
import importlib.util
import os
import re
import resource
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hostd_workers
from hostd import paths, trust
from hostd.units import counted, format_size
from hostd_workers.wire.errors import HostError
from hostd_workers.wire.installing import install_extras, pip_install

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST_FILES = 4096  # a host needs some five descriptors per worker and two per client
_LEAST_PYZMQ = (26,)
_LEAST_MSGPACK = (1, 2, 3)  # before it, every rejected map key leaked memory
_LEAST_PYTHON = (3, 10)
_LEAST_LIBZMQ = (4, 3)
_PR_GET_PDEATHSIG = 2  # prctl(2)
_PR_GET_CHILD_SUBREAPER = 37
_NVIDIA_DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/dxg"))
"""Either is there where the driver is: the latter in WSL 2."""

_CODE = (Path(paths.__file__).parent, Path(hostd_workers.__file__).parent)

# What makes a loader complete: extra -> libraries it imports.
EXTRAS: dict[str, tuple[str, ...]] = {
    "sklearn": ("numpy", "sklearn", "joblib", "skops"),
    "onnx": ("numpy", "onnxruntime"),
    "torch": ("numpy", "torch"),
    "transformers": ("numpy", "torch", "transformers"),
    "xgboost": ("numpy", "xgboost"),
    "lightgbm": ("numpy", "lightgbm"),
    "mlflow": ("numpy", "pandas", "mlflow"),
}


class Verdict(enum.Enum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One check: what was found and, unless all is well, what to do."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain values, ready for JSON."""
        return {"name": self.name, "verdict": self.verdict.value, "found": self.found, "advice": self.advice}


def local_checks() -> list[Check]:
    """Make all checks that need no host, in the order in which a person would fix them."""
    return [
        _python(),
        _byte_code(),
        _platform(),
        _zmq(),
        _msgpack(),
        _pidfds(),
        _process_control(),
        _memory_accounting(),
        _descendants(),
        _cgroup(),
        _devices(),
        _open_files(),
        *_directories(),
        _extras(),
    ]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _python() -> Check:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info < _LEAST_PYTHON:
        return Check("python", Verdict.FAIL, found, "use Python 3.10 or newer")
    return Check("python", Verdict.OK, found)


def _byte_code(directories: Sequence[Path] = _CODE) -> Check:
    """Say whether the modules of host and workers are compiled once, or by every process that imports them."""
    modules = [file for directory in directories for file in directory.rglob("*.py")]
    lacking = [file for file in modules if not Path(importlib.util.cache_from_source(str(file))).exists()]
    is_kept = not sys.dont_write_bytecode and all(os.access(directory, os.W_OK) for directory in directories)
    if not lacking or is_kept:
        return Check("byte code", Verdict.OK, "modules are compiled once")
    why = "PYTHONDONTWRITEBYTECODE is set" if sys.dont_write_bytecode else "their directory cannot be written"
    found = f"{len(lacking)} of {counted(len(modules), 'module')} have none, and {why}: every process compiles them"
    advice = shlex.join([sys.executable, "-m", "compileall", "-q", *map(str, directories)])
    return Check("byte code", Verdict.WARN, found, f"compile them once, as whoever may write there: {advice}")


def _platform() -> Check:
    system = os.uname()
    found = f"{system.sysname} {system.release} ({system.machine})"
    if system.sysname != "Linux":
        return Check("system", Verdict.FAIL, found, "run it on Linux: pidfds and /proc exist nowhere else")
    return Check("system", Verdict.OK, found)


def _zmq() -> Check:
    try:
        import zmq  # noqa: PLC0415 - a broken pyzmq is what this check is for
    except ImportError as error:
        return Check("zeromq", Verdict.FAIL, str(error), pip_install("--force-reinstall", "pyzmq"))
    found = f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}"
    if _version(zmq.__version__) < _LEAST_PYZMQ or _version(zmq.zmq_version()) < _LEAST_LIBZMQ:
        return Check("zeromq", Verdict.FAIL, found, pip_install("--upgrade", "pyzmq>=26"))
    if not zmq.has("ipc"):
        return Check("zeromq", Verdict.FAIL, f"{found}, built without ipc", pip_install("--force-reinstall", "pyzmq"))
    return Check("zeromq", Verdict.OK, found)


def _msgpack() -> Check:
    try:
        found = importlib.metadata.version("msgpack")
    except importlib.metadata.PackageNotFoundError:
        return Check("msgpack", Verdict.FAIL, "not installed", pip_install("msgpack>=1.2.3"))
    if _version(found) < _LEAST_MSGPACK:
        return Check(
            "msgpack", Verdict.FAIL, f"{found} leaks memory on bad input", pip_install("--upgrade", "msgpack>=1.2.3")
        )
    return Check("msgpack", Verdict.OK, found)


def _pidfds() -> Check:
    try:
        fd = os.pidfd_open(os.getpid())
    except (AttributeError, OSError) as error:
        advice = "use Linux 5.4 or newer; in a container, let the seccomp profile allow pidfd_open"
        return Check("pidfd", Verdict.FAIL, f"pidfd_open: {error}", advice)
    try:
        signal.pidfd_send_signal(fd, 0)
    except (AttributeError, OSError) as error:
        advice = "let the container's seccomp profile allow pidfd_send_signal"
        return Check("pidfd", Verdict.FAIL, f"pidfd_send_signal: {error}", advice)
    finally:
        os.close(fd)
    return Check("pidfd", Verdict.OK, "processes can be watched and signalled without races")


def _process_control() -> Check:
    libc = ctypes.CDLL(None, use_errno=True)
    value = ctypes.c_int()
    for name, option in (("PDEATHSIG", _PR_GET_PDEATHSIG), ("CHILD_SUBREAPER", _PR_GET_CHILD_SUBREAPER)):
        if libc.prctl(option, ctypes.byref(value), 0, 0, 0) != 0:
            why = os.strerror(ctypes.get_errno())
            advice = "let the container's seccomp profile allow prctl"
            return Check("prctl", Verdict.FAIL, f"PR_GET_{name}: {why}", advice)
    return Check("prctl", Verdict.OK, "workers end with their host, and their orphans are adopted")


def _memory_accounting() -> Check:
    try:
        text = Path("/proc/self/smaps_rollup").read_text("ascii")
    except OSError as error:
        advice = "mount /proc and use Linux 4.14 or newer; until then USS and PSS are slow to read or unknown"
        return Check("memory", Verdict.WARN, f"/proc/self/smaps_rollup: {error.strerror}", advice)
    if "Private_Dirty:" not in text:
        return Check(
            "memory", Verdict.WARN, "smaps_rollup has no private sizes", "use a kernel with CONFIG_PROC_PAGE_MONITOR"
        )
    with Path("/proc/meminfo").open("rb") as file:
        available = next((int(line.split()[1]) * 1024 for line in file if line.startswith(b"MemAvailable:")), None)
    return Check("memory", Verdict.OK, f"RSS, USS and PSS can be measured; {format_size(available)} available")


def _descendants() -> Check:
    try:
        Path(f"/proc/self/task/{os.getpid()}/children").read_bytes()
    except OSError as error:
        advice = (
            "use a kernel with CONFIG_PROC_CHILDREN; until then the processes that models start are found more slowly"
        )
        return Check("children", Verdict.WARN, f"/proc/self/task/*/children: {error.strerror}", advice)
    return Check("children", Verdict.OK, "processes that a model starts can be found")


def _cgroup() -> Check:
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError as error:
        return Check("cgroup", Verdict.OK, f"none ({error.strerror}); memory is bounded by the machine alone")
    unified = next((line[3:] for line in lines if line.startswith("0::")), None)
    folder = Path("/sys/fs/cgroup") / (unified or "").lstrip("/")
    if unified is None or not (folder / "cgroup.procs").exists():
        return Check("cgroup", Verdict.OK, "no version 2 hierarchy here; its limits, if any, are not known")
    limit = _first_line(folder / "memory.max")
    used = _first_line(folder / "memory.current")
    if limit is None or limit == "max":
        return Check("cgroup", Verdict.OK, f"version 2 at {unified}, no memory limit")
    found = f"version 2 at {unified}, memory limit {format_size(int(limit))}, used {format_size(int(used or 0))}"
    return Check("cgroup", Verdict.OK, found)


def _devices() -> Check:
    has_driver = any(path.exists() for path in _NVIDIA_DRIVER)
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        if not has_driver:
            return Check("devices", Verdict.OK, "no NVIDIA driver here: nothing to be measured")
        advice = f"{install_extras('gpu')} (where the host runs)"
        return Check("devices", Verdict.WARN, "an NVIDIA driver, and what models hold on devices is not known", advice)
    try:
        pynvml.nvmlInit()
        count, driver = pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetDriverVersion()
        for index in range(count):
            pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(index))
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        if not has_driver:
            return Check("devices", Verdict.OK, f"none by NVIDIA that could be measured ({error})")
        advice = "see whether nvidia-smi works; in a container, let the runtime mount the driver's utilities"
        return Check("devices", Verdict.WARN, f"NVML cannot be asked: {error}", advice)
    measured = "what models hold there is measured" if count else "nothing to be measured"
    return Check("devices", Verdict.OK, f"{count} by NVIDIA, driver {driver}: {measured}")


def _first_line(file: Path) -> str | None:
    try:
        return file.read_text("ascii").strip()
    except OSError:
        return None


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    found = f"{soft} open files, at most {shown}; a host takes all it may"
    if hard != resource.RLIM_INFINITY and hard < _LEAST_FILES:
        advice = f"raise the hard limit to {_LEAST_FILES} or more (ulimit -Hn, LimitNOFILE=, --ulimit nofile=)"
        return Check("limits", Verdict.WARN, found, advice)
    return Check("limits", Verdict.OK, found)


def _directories() -> list[Check]:
    from hostd.config.loading import load_config  # noqa: PLC0415 - what is wrong with it is part of the answer

    try:
        config = load_config()
    except HostError as error:
        return [Check("settings", Verdict.FAIL, error.message, "correct it; hostd config show prints what holds")]
    socket = os.fsencode(config.runtime_dir / paths.WORKER_SOCKET)
    room = f"sockets have paths of {len(socket)} bytes, {paths.SOCKET_PATH_MAX_BYTES} may be"
    return [_runtime_dir(config.runtime_dir, room), _state_dir(config.state_dir)]


def _runtime_dir(directory: Path, room: str) -> Check:
    name = "runtime dir"
    try:
        problem = trust.why_not_private(directory)
    except FileNotFoundError:
        return _makable(name, directory, f"; {room}", "--runtime-dir")
    except OSError as error:
        return Check(name, Verdict.FAIL, f"{directory}: {error.strerror}", "choose another with --runtime-dir")
    if problem:
        found, _, advice = problem.partition("; ")
        return Check(name, Verdict.FAIL, found, advice)
    return Check(name, Verdict.OK, f"{directory} is yours alone; {room}")


def _state_dir(directory: Path) -> Check:
    if not directory.exists():
        return _makable("state dir", directory, "", "--state-dir")
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        return Check("state dir", Verdict.FAIL, f"{directory} cannot be written", "choose another with --state-dir")
    if problem := trust.why_not_ours(directory):
        found, _, advice = problem.partition("; ")
        return Check("state dir", Verdict.FAIL, found, f"{advice} (--state-dir)")
    return Check("state dir", Verdict.OK, f"{directory} can be written, by you alone")


def _makable(name: str, directory: Path, more: str, option: str) -> Check:
    above = next(parent for parent in directory.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        advice = f"make {above} writable or choose another directory with {option}"
        return Check(name, Verdict.FAIL, f"{directory} cannot be made in {above}", advice)
    return Check(name, Verdict.OK, f"{directory} is made when a host starts{more}")


def _extras() -> Check:
    missing = {
        extra: lacking
        for extra, libraries in EXTRAS.items()
        if (lacking := [library for library in libraries if importlib.util.find_spec(library) is None])
    }
    present = [extra for extra in EXTRAS if extra not in missing]
    found = "installed: " + (", ".join(present) or "none")
    if not missing:
        return Check("extras", Verdict.OK, found)
    advice = f"for models of these kinds: {install_extras(*missing)} (or in the interpreter that 'python' names)"
    return Check("extras", Verdict.OK, f"{found}; not installed: {', '.join(missing)}", advice)
