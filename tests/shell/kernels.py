"""Kernels to test file operations on: this one, and one without the newer calls. And calls that are counted."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from hostd.shell.linux.syscalls import SystemCalls

if TYPE_CHECKING:
    from collections.abc import Callable


class OldKernel(SystemCalls):
    """A kernel without openat2(2), and a file system without the flags of renameat2(2)."""

    def openat2(self, at: int, path: str, flags: int, mode: int, resolve: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)

    def renameat2(self, name: str, at: int, new_name: str, new_at: int, flags: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), new_name)


KERNELS: dict[str, type[SystemCalls]] = {"new": SystemCalls, "old": OldKernel}


class Watched:
    """System calls of which a test hears before each: `before(name, arguments)`."""

    def __init__(self, calls: SystemCalls, before: Callable[[str, tuple[Any, ...]], None]) -> None:
        self._calls = calls
        self._before = before

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._calls, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            self._before(name, arguments)
            return call(*arguments, **options)

        return watched
