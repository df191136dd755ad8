"""`deploy`: a model of 2 GB on its way through a client and the host, against a copy of the same bytes with fsync.

Source and target are on the disk of the temporary directory (TMPDIR), and the source is in the page cache. What the
supervisor's memory grows by is its peak during a deploy, as the kernel counts it (VmHWM), less what it was before.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.models import ECHO, model_directory
from benchmarks.runner import HOST, Round, Side, alternate
from benchmarks.verdicts import By, alone, compare

if TYPE_CHECKING:
    from collections.abc import Iterator

    import hostd
    from benchmarks.runner import Effort
    from benchmarks.verdicts import Comparison

FULL_BYTES = 2_000_000_000
QUICK_BYTES = 256_000_000
ROUNDS = 3
CHUNK_BYTES = 1 << 20
GROWTH_LIMIT_BYTES = 64_000_000
FLOOR = "read, write, fsync"
PROC = Path("/proc")


def deploy(effort: Effort, *, with_host: bool) -> Iterator[Comparison]:
    """Compare deploys with copies; then say what the supervisor grew by."""
    size_bytes = QUICK_BYTES if effort.is_quick else FULL_BYTES
    with model_directory() as directory:
        source, models = directory / "source", directory / "models"
        models.mkdir()
        _write_model(source, size_bytes)
        title = f"a model of {size_bytes / 1e9:g} GB"
        floor = Side(FLOOR, lambda: _copy(source, directory / "copy"))
        rounds = min(ROUNDS, effort.slow_rounds)
        if not with_host:
            yield compare("deploy", title, By.LATENCY, [floor], alternate([floor], rounds, effort.patience_s))
            return
        import hostd  # noqa: PLC0415 - the floors can be measured without the host

        with hostd.Host(models_dir=models) as host, host.client() as client:
            deploys = _Deploys(client, host.pid, source)
            sides = [floor, Side(HOST, deploys.one, is_ours=True)]
            taken = alternate(sides, rounds, effort.patience_s)
        yield compare("deploy", title, By.LATENCY, sides, taken)
        rates = {name: size_bytes / 1e6 / min(round_.elapsed_s for round_ in of) for name, of in taken.of.items()}
        observed = [(f"MB by {name}", By.RATE, rate, None) for name, rate in rates.items()]
        growth = ("growth of the supervisor", By.BYTES, float(deploys.growth_bytes), GROWTH_LIMIT_BYTES)
        yield alone("deploy", title, [*observed, growth])


def _write_model(source: Path, size_bytes: int) -> None:
    source.mkdir()
    (source / "model.py").write_text(ECHO)
    block = os.urandom(CHUNK_BYTES)
    with (source / "weights.bin").open("wb") as file:
        for offset in range(0, size_bytes, CHUNK_BYTES):
            file.write(block[: size_bytes - offset])


def _copy(source: Path, target: Path) -> Round:
    """Copy all files through this process, and make them last."""
    target.mkdir()
    os.sync()  # what others wrote is not to be waited for
    start_s = time.perf_counter()
    for path in source.iterdir():
        with path.open("rb") as reading, (target / path.name).open("wb", 0) as writing:
            while chunk := reading.read(CHUNK_BYTES):
                writing.write(chunk)
            os.fsync(writing.fileno())
    elapsed_s = time.perf_counter() - start_s
    shutil.rmtree(target)
    return Round([elapsed_s], elapsed_s)


class _Deploys:
    """Deploys one model again and again, and notes the most that the supervisor grew by."""

    def __init__(self, client: hostd.Client, pid: int, source: Path) -> None:
        self._client = client
        self._pid = pid
        self._source = source
        self.growth_bytes = 0

    def one(self) -> Round:
        """Deploy, which includes the load of a small model, and undeploy."""
        os.sync()
        (PROC / str(self._pid) / "clear_refs").write_text("5")  # forgets the peak (proc(5))
        before_bytes = self._peak_bytes()
        start_s = time.perf_counter()
        self._client.deploy_model("model", self._source)
        elapsed_s = time.perf_counter() - start_s
        self.growth_bytes = max(self.growth_bytes, self._peak_bytes() - before_bytes)
        self._client.undeploy_model("model")
        return Round([elapsed_s], elapsed_s)

    def _peak_bytes(self) -> int:
        lines = (PROC / str(self._pid) / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
