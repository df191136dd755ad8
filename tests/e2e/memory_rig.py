"""Models that hold, grow and leak memory, for end-to-end tests of the budget."""

import uuid

ALL_FRESH = {"templates": "off"}
"""Settings of workers that hold nothing but their models: what a template holds is in other tests."""

MIB = 1 << 20

HOLDER = """
    import mmap, os, time

    def memfd(path):
        return os.memfd_create("held")

    def named(path):
        return os.open(path, os.O_RDWR | os.O_CREAT)

    def unlinked(path):
        fd = named(path)
        os.unlink(path)
        return fd

    class Holder:
        def __init__(self, mib):
            self.held = [bytearray(b"x") * (mib << 20)]

        def pid(self):
            return os.getpid()

        def grow(self, mib):
            self.held.append(bytearray(b"x") * (mib << 20))
            return sum(map(len, self.held))

        def grow_for_good(self, mib):
            self.grow(mib)
            while True:
                time.sleep(60)

        def share(self, kind, path, mib):
            kind, _, how = kind.partition(" ")
            fd, chunk = globals()[kind](path), b"x" * (1 << 20)
            os.ftruncate(fd, mib << 20)
            pages = mmap.mmap(fd, mib << 20) if how == "mapped" else None
            for at in range(mib):
                os.write(fd, chunk) if pages is None else pages.write(chunk)
            self.held.append(pages or fd)

        def share_for_good(self, kind, path, mib):
            self.share(kind, path, mib)
            while True:
                time.sleep(60)

        def read(self, path):
            fd = os.open(path, os.O_RDONLY)
            pages = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
            os.close(fd)
            self.held.append(pages)
            return len(pages[::4096])

        def shrink(self):
            del self.held[1:]

        def work(self, marker, release):
            open(marker, "w").close()
            while not os.path.exists(release):
                time.sleep(0.002)
            return "finished"

        def environment(self, *names):
            return [os.environ.get(name) for name in names]

        def oom_score_adj(self):
            return int(open("/proc/self/oom_score_adj").read())

    def load(path, mib={mib}):
        return Holder(mib)
"""


def new(source):
    """Return a model's source as that of no other test, so that no host remembers what it holds."""
    return f"{source}    # {uuid.uuid4()}\n"


class Holders:
    """Writes models that hold so many MiB; each says in its model.yaml what to expect of it."""

    def __init__(self, model_dir):
        self._model_dir = model_dir
        self._source = new(HOLDER)

    def __call__(self, mib=30, *, declared_mib=None, settings="", load_s=0):
        size = f"size: {declared_mib if declared_mib is not None else mib + 20}MiB\n"
        source = self._source.replace("{mib}", str(mib))
        if load_s:
            source = source.replace("        return Holder(", f"        time.sleep({load_s})\n        return Holder(")
        return self._model_dir(source, settings=size + settings)
