"""A process that holds memory as it is told, and what is measured of it."""

import psutil
from helpers import Told, stop

from hostd.shell.memory import tree as memory

MIB = 1 << 20

SOURCE = """
    import ctypes, mmap, os, signal, sys, tempfile, threading
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = libc.mmap.restype = ctypes.c_void_p
    libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    MIB, SIZE, CHUNK = 1 << 20, 64 << 20, b"x" * (1 << 20)
    FILE, SHM = os.environ.get("FILES", ":").split(":")
    READ, WRITE, PRIVATE, SHARED = mmap.PROT_READ, mmap.PROT_WRITE, mmap.MAP_PRIVATE, mmap.MAP_SHARED
    ALONE = PRIVATE | mmap.MAP_ANONYMOUS
    held = []

    def grow(mib):
        held.append(bytearray(b"x") * (mib << 20))

    def mapped(fd, flags=SHARED, access=READ | WRITE, size=SIZE):
        held.append(mmap.mmap(fd, size, flags, access))
        return held[-1]

    def filled(fd, size=SIZE):
        for _ in range(size // len(CHUNK)):
            os.write(fd, CHUNK)
        return fd

    def write(pages):
        for at in range(0, len(pages), len(CHUNK)):
            pages[at : at + len(CHUNK)] = CHUNK[: len(pages) - at]

    def read(pages):
        pages[::4096]

    def memfd():
        return os.memfd_create("held")

    def unlinked():
        fd = named(os.O_EXCL)
        os.unlink(SHM)
        return fd

    def named(more=0):
        return os.open(SHM, os.O_RDWR | os.O_CREAT | more)

    def sized(fd):
        os.ftruncate(fd, SIZE)
        return fd

    def behind(fd, access=READ | WRITE):
        return libc.mmap(None, SIZE, access, SHARED, fd, 0)

    def file(mib):
        opened = tempfile.TemporaryFile()
        held.append(opened)
        return filled(opened.fileno(), mib << 20)

    def segment(is_destroyed=False, is_attached=True):
        number = libc.shmget(0, SIZE, 0o1600)
        address = libc.shmat(number, None, 0)
        ctypes.memset(address, 1, SIZE)
        if is_destroyed:
            libc.shmctl(number, 0, None)
        if not is_attached:
            libc.shmdt(ctypes.c_void_p(address))

    def sparse():  # a page of tables for each page that is read, and none of memory
        far = mmap.mmap(-1, 32 << 30, ALONE | 0x4000, READ)  # MAP_NORESERVE
        held.append(far)
        far[:: 2 << 20]

    def fork(work):
        ready, done = os.pipe()
        if os.fork() == 0:
            work()
            os.write(done, b"1")
            signal.pause()
        os.read(ready, 1)

    def by_another_thread():
        def work():
            write(mapped(-1, ALONE))
            for thread in os.listdir("/proc/self/task"):
                while thread == str(os.getpid()) and "zombie" not in open(f"/proc/self/task/{thread}/status").read():
                    pass
            print("done", flush=True)
            threading.Event().wait()

        threading.Thread(target=work).start()
        libc.syscall(60, 0)  # exit(2), of this thread alone

    print("up", flush=True)
    for line in sys.stdin:
        exec(line, globals())
        print("done", flush=True)
"""


class Holder(Told):
    """A process that holds memory of the kind that it is told, by a line of Python each."""

    def __init__(self):
        super().__init__(SOURCE)
        self.before = self.sample()

    def grow(self, mib):
        self.tell(f"grow({mib})")

    def seen(self, last=None):
        sample = memory.sample_tree(self.pid, last)
        assert sample is not None
        return sample

    def sample(self, last=None):
        return self.seen(last).memory

    def charged_bytes(self):
        return self.sample().charge_bytes - self.before.charge_bytes

    def end(self):
        if psutil.pid_exists(self.pid):
            super().end()
        else:
            stop(self._process)
