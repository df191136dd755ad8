"""Kernels to test file operations on: this one, and one without the newer calls. And calls that are counted."""

import errno
import os

from hostd.shell.linux.syscalls import SystemCalls


class OldKernel(SystemCalls):
    """A kernel without openat2(2), and a file system without the flags of renameat2(2)."""

    def openat2(self, at, path, flags, mode, resolve):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)

    def renameat2(self, name, at, new_name, new_at, flags):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), new_name)


KERNELS = {"new": SystemCalls, "old": OldKernel}


class Watched:
    """System calls of which a test hears before each: `before(name, arguments)`."""

    def __init__(self, calls, before):
        self._calls = calls
        self._before = before

    def __getattr__(self, name):
        call = getattr(self._calls, name)

        def watched(*arguments, **options):
            self._before(name, arguments)
            return call(*arguments, **options)

        return watched
