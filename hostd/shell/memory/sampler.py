"""Reads the memory of workers when they are due, off the loop and off the way of calls.

What is due at the same moment is read in one go in one thread; without workers nothing at all is done. What is due when
is decided in `schedule`; what is read of a tree is in `tree`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hostd.core import events as ev
from hostd.shell.linux.proc import descendants_of
from hostd.shell.linux.scheduling import give_way
from hostd.shell.memory.schedule import Seen
from hostd.shell.memory.shared import system_bytes
from hostd.shell.memory.tree import most_bytes_of, sample_tree
from hostd.shell.own_log import about
from hostd.shell.work.slices import SLICE_S
from hostd.shell.work.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hostd.core.values import Memory, WorkerId
    from hostd.records import Event
    from hostd.shell.memory.gpu import GpuReader
    from hostd.shell.memory.schedule import Look, Schedule, Watched
    from hostd.shell.memory.tree import Sample

_log = logging.getLogger(__name__)

THREAD_NAME = "hostd-sample"
_AFTER_FAILURE_S = 1.0
_LOADAVG = Path("/proc/loadavg")


class Sampler:
    """Reads the memory of workers when they are due, and emits what it found; `run` is for a task of its own."""

    def __init__(
        self,
        schedule: Schedule,
        watched: Callable[[], Sequence[Watched]],
        emit: Callable[[ev.WorkerMeasured], object],
        gpu: GpuReader | None = None,
        complete: Callable[[WorkerId, Memory], Memory] = lambda _, memory: memory,
    ) -> None:
        """Take what tells all workers there are now, and where events go; both are called on the loop.

        `complete` adds to a sample what is known of the worker otherwise; it is called in the thread.
        """
        self._schedule = schedule
        self._watched = watched
        self._emit = emit
        self._gpu = gpu
        self._complete = complete
        self._woken = asyncio.Event()
        self._trees = _Trees()

    def wake(self) -> None:
        """Look again at what there is: a worker has come, or is to be watched from now on. Call it on the loop."""
        self._woken.set()

    def on_event(self, event: Event) -> None:
        """Look again when a worker begins to load."""
        if event.subject == "worker" and event.new == "LOADING":
            self.wake()

    async def run(self) -> None:
        """Sample until cancelled."""
        loop = asyncio.get_running_loop()
        with Threads(1, THREAD_NAME, give_way) as executor:
            while True:
                self._woken.clear()
                try:
                    await self._pass(loop, executor)
                except Exception:  # noqa: BLE001 - without samples there are no limits and no budget
                    _log.exception("memory could not be measured; trying again")
                    await asyncio.sleep(_AFTER_FAILURE_S)
                await self._wait(loop)

    async def _pass(self, loop: asyncio.AbstractEventLoop, executor: Threads) -> None:
        workers = self._watched()
        asked_s = loop.time()
        looks = self._schedule.looks(workers, asked_s)
        if looks:
            found = await loop.run_in_executor(executor, self._work, looks, workers)
            until_s = loop.time() + SLICE_S
            for seen in found:
                self._schedule.taken(seen, loop.time())
                if seen.sample is not None:
                    self._emit(ev.WorkerMeasured(seen.look.worker.worker_id, seen.sample.memory, asked_s))
                if loop.time() >= until_s:  # 200 workers that have grown would hold all else up for 40 ms
                    await asyncio.sleep(0)
                    until_s = loop.time() + SLICE_S

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        next_s = self._schedule.next_s()
        timer = None if next_s is None else loop.call_at(next_s, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _work(self, looks: Sequence[Look], workers: Sequence[Watched]) -> list[Seen]:
        """Do everything of one pass; runs in the thread."""
        self._trees.begin_pass({worker.worker_id for worker in workers if worker.is_watched})
        gpu: Mapping[int, int | None] | None = None
        is_gpu_read = False
        found = []
        for look in looks:
            most_bytes = self._trees.most_bytes_of(look.worker) if look.worker.is_watched else None
            if not (look.is_due or (most_bytes is not None and look.wants_sample(most_bytes))):
                found.append(Seen(look, None, 0.0, most_bytes, self._trees.around_bytes))
            else:
                if not is_gpu_read and self._gpu is not None:
                    gpu, is_gpu_read = self._gpu.bytes_by_pid(), True
                began_s = time.thread_time()
                sample = _sample(look, gpu)
                if sample is not None:
                    memory = self._complete(look.worker.worker_id, sample.memory)
                    sample = sample._replace(memory=memory)
                cpu_s = time.thread_time() - began_s
                found.append(Seen(look, sample, cpu_s, most_bytes, self._trees.around_bytes))
        return found


class _Trees:
    """The processes of watched workers, which are looked for again only if the system has made a process since.

    To find a worker's descendants takes a read for each of its threads, three times as long as to read its memory. The
    last field of /proc/loadavg is the number that was last given to a process or thread (proc(5)): as long as it stays,
    no tree has grown. (A process has its number a moment before anybody can see it: so there is one more look.)
    """

    def __init__(self) -> None:
        self._last_pid: bytes | None = None
        self._is_settled = False
        self._trees: dict[WorkerId, list[int]] = {}
        self.around_bytes = 0

    def begin_pass(self, watched: set[WorkerId]) -> None:
        """Find out whether what is known still holds, and forget what is not watched any more."""
        last_pid = _last_pid()
        is_same = last_pid is not None and last_pid == self._last_pid
        if not is_same or not self._is_settled:
            self._trees.clear()
        self._last_pid, self._is_settled = last_pid, is_same
        self.around_bytes = system_bytes()
        for worker_id in self._trees.keys() - watched:
            del self._trees[worker_id]

    def most_bytes_of(self, worker: Watched) -> int:
        tree = self._trees.get(worker.worker_id)
        if tree is None:
            try:
                tree = self._trees[worker.worker_id] = [worker.pid, *descendants_of(worker.pid)]
            except OSError:  # no descriptor left, perhaps; the next look is soon
                return 0
        return most_bytes_of(tree) + self.around_bytes


def _last_pid() -> bytes | None:
    """Return the process id that the system gave last, None where it does not say so (as in a sandbox like gVisor)."""
    try:
        fields = _LOADAVG.read_bytes().split()
    except OSError:
        return None
    return fields[4] if len(fields) > 4 and fields[4] != b"0" else None


def _sample(look: Look, gpu: Mapping[int, int | None] | None) -> Sample | None:
    pid, sharers = look.worker.pid, look.worker.sharers
    try:
        sample = sample_tree(pid, look.believed, gpu, sharers)
        return sample if sample is None or look.is_beyond_doubt(sample) else sample_tree(pid, None, gpu, sharers)
    except OSError:
        return None
    except Exception:  # noqa: BLE001 - the next line says why
        # One process that tells something strange must not end the measuring of all.
        _log.exception("its memory cannot be measured", extra=about(pid=pid))
        return None
