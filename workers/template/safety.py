"""Whether this process may be forked after what it has imported.

A fork copies one thread. What others hold then stays locked for ever, descriptors are shared with the parent, and a
device knows but one process. So a library that did more than define things when it was imported is left out of a
template, with the reason, and those that need it start afresh. Whatever is asked here takes some microseconds: it is
asked after every import, so that the culprit is known.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

from hostd_workers.wire.light import NamedTuple

_HARMLESS = frozenset(("/dev/null", "/dev/urandom", "/dev/random"))
"""What a library may open: descriptors of these have no position and no peer."""

_CUDA_ERROR_NOT_INITIALIZED = 3


class State(NamedTuple):
    """What a fork would copy or share, of this process."""

    threads: int
    open: frozenset[tuple[int, str]]
    children: str
    handled: str
    directory: str
    shared: frozenset[str]

    @classmethod
    def now(cls, shared: frozenset[str] | None = None) -> State:
        """Look; `shared` are the shared mappings if they are not to be looked at, which takes a millisecond."""
        return cls(
            threads=len(os.listdir("/proc/self/task")),  # noqa: PTH208 - a third of the time
            open=_open_files(),
            children=_read(f"/proc/self/task/{os.getpid()}/children"),
            handled=_handled(),
            directory=os.getcwd(),  # noqa: PTH109 - as above
            shared=_shared_mappings() if shared is None else shared,
        )

    def why_unsafe(self, before: State) -> str:
        """Say what was done since `before` that a fork does not survive; "" for nothing."""
        done = {
            "it starts a thread": self.threads > 1,
            "it starts a process": self.children != before.children,
            "it handles a signal": self.handled != before.handled,
            "it changes the current directory": self.directory != before.directory,
            "it makes memory, or a lock, that its children would share": bool(self.shared - before.shared),
            "it initialises CUDA": _has_cuda(),
        }
        opened = sorted(link for _, link in self.open - before.open)
        return next((what for what, is_so in done.items() if is_so), f"it opens {_named(opened[0])}" if opened else "")


def _shared_mappings() -> frozenset[str]:
    """Return the writable mappings that are shared with forked children: memory and semaphores of multiprocessing."""
    lines = _read("/proc/self/maps").splitlines()
    return frozenset(line for line in lines if line[line.find(" ") + 1 :].startswith("rw-s"))


def _open_files() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - as above
        with contextlib.suppress(OSError):  # the listing's own
            link = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - as above
            if link not in _HARMLESS:
                found.add((int(name), link))
    return frozenset(found)


def _named(link: str) -> str:
    return "a socket" if link.startswith("socket:") else link.removeprefix("anon_inode:")


def _handled() -> str:
    """Return what handles signals: Python's handlers, and the masks that C code may have changed (proc(5))."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    text = _read("/proc/self/status")
    return f"{handlers} {text[text.find('SigIgn:') : text.find('CapInh:')]}"


def _has_cuda() -> bool:
    """Say whether this process has begun to use a device: what it has of it is lost in a child."""
    torch_cuda = sys.modules.get("torch.cuda")
    with contextlib.suppress(Exception):
        if torch_cuda is not None and torch_cuda.is_initialized():
            return True
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD)
        return bool(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != _CUDA_ERROR_NOT_INITIALIZED)
    return False


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - as above
            return file.read()
    except OSError:
        return ""
