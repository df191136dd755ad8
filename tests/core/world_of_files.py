"""The half of the world that has to do with files: deploys, undeploys, syncs, and a disk that does what it likes.

Also what every move of `World` is made with: `n` picks one of those to which something could happen.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, TypeVar

from driver import Driver

from hostd.core import effects as fx
from hostd.core import events as ev
from hostd.core.lifecycle import ModelState
from hostd_workers.wire.errors import ResourceExhaustedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostd.core.config import CoreConfig

T = TypeVar("T")

MODELS = tuple(map(ev.ModelId, ("a", "b", "c/d")))
NESTED = (*MODELS, ev.ModelId("c"))
CLIENTS = tuple(map(ev.ClientId, (b"alice", b"bob", b"carol")))
TIMEOUTS_S = (None, None, 0.0, 2.0, 20.0, 700.0)
RETRIES = (None, 0, 1, 2)
N = tuple(range(6))
BOOL = (False, True)

DECLARED = {MODELS[1]: ev.Declared("/models/b"), MODELS[0]: ev.Declared("/x"), MODELS[2]: ev.Declared("", "wrong")}

MOVES_OF_FILES: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "deploy": {
        "model_id": NESTED,
        "retries": RETRIES,
        "replace": BOOL,
        "keep": BOOL,
        "wait": (True, True, False),
        "client": CLIENTS,
    },
    "write": {"n": N},
    "commit": {"n": N, "is_own": (True, True, True, False), "timeout_s": TIMEOUTS_S},
    "abort": {"n": N, "is_own": (True, True, False)},
    "undeploy": {"model_id": NESTED, "timeout_s": TIMEOUTS_S, "client": CLIENTS},
    "use_disk": {"n": N, "is_good": (True, True, True, True, False)},
    "sync": {
        "wait": BOOL,
        "load": (True, True, False),
        "retry_all": BOOL,
        "timeout_s": TIMEOUTS_S,
        "client": CLIENTS,
        "declared": (None, None, 0, 1, 2),
    },
    "keep_pin": {"is_good": (True, True, True, False)},
    "note_files": {"n": N, "digest": ("one", "two", None)},
    "compare_files": {"n": N, "digest": ("one", "two", "", None)},
    "scan": {"found": (0, 1, 2, 3), "gone": (0, 0, 1, 2), "is_readable": (True, True, True, False)},
}


class WorldOfFiles(Driver):
    """A core, its disk, and clients that want something of it."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        self.sync_of: dict[ev.Caller, ev.SyncId] = {}

    # Clients

    def write(self, n: int) -> None:
        """Send a piece of a file for an upload that waits for it, or sometimes for one that does not."""
        self.feed(ev.FilesWritten(self._pick_upload(n, is_own=True)[1]))
        assert self.effects == []

    def commit(self, n: int, is_own: bool, timeout_s: float | None) -> None:
        """Commit an upload that waits for it, or sometimes anything else."""
        client, files_id = self._pick_upload(n, is_own)
        super().commit(files_id, timeout_s=timeout_s, client=client)
        self._assert_own(client, files_id)

    def abort(self, n: int, is_own: bool) -> None:
        client, files_id = self._pick_upload(n, is_own)
        super().abort(files_id, client=client)
        self._assert_own(client, files_id)

    def sync(self, declared: int | None, **options: Any) -> None:
        wanted = None if declared is None else dict(list(DECLARED.items())[:declared])
        caller = super().sync(declared=wanted, **options)
        self.sync_of[caller] = ev.SyncId(self.core._syncing._count)

    # The disk

    def keep_pin(self, is_good: bool) -> None:
        if self.pins:
            error = None if is_good else ResourceExhaustedError("no space left on device")
            self.feed(ev.PinKept(self.pins.popleft().files_id, error))

    def note_files(self, n: int, digest: str | None) -> None:
        """Let the digest of what is being loaded, or is loaded, be known."""
        model = self._pick(n, self.registry.models.values())
        if model is not None:
            self.feed(ev.FilesNoted(model.id, model.generation, digest))

    def compare_files(self, n: int, digest: str | None) -> None:
        """Let somebody look at the files of a model; mostly the caller that waits for it is answered then."""
        wanted = self._pick(n, self.comparisons)
        model = self._pick(n, self.registry.models.values())
        if wanted is not None:
            self.comparisons.remove(wanted)
            self.feed(ev.FilesCompared(wanted.model_id, wanted.generation, digest))
        elif model is not None:
            self.feed(ev.FilesCompared(model.id, model.generation, digest))

    def use_disk(self, n: int, is_good: bool) -> None:
        """Do the next step of an operation, well or badly."""
        operation = self._pick(n, [operation for operation in self.files.in_work() if operation.pending])
        if operation is not None:
            error = None if is_good else ResourceExhaustedError("no space left on device")
            self.feed(self.files.next_event(operation, error))

    def scan(self, found: int, gone: int, is_readable: bool) -> None:
        """End the scan in hand: so many entries were found, and so many of the models below the directory are gone."""
        scan, self.files.scan = self.files.scan, None
        if scan is None:
            return
        if not is_readable:
            self.feed(ev.DirectoryUnavailable(scan.sync_id, "stale file handle"))
            return
        below = [model_id for model_id, path in scan.loaded if path.startswith("/models/")]
        self._note_gone(scan.sync_id, below[:gone])
        entries = [(model_id, f"/models/{model_id}") for model_id in MODELS[:found] if model_id not in below[:gone]]
        self.feed(ev.DirectoryScanned(scan.sync_id, tuple(entries), tuple(below[:gone])))

    def _note_gone(self, sync_id: ev.SyncId, gone: list[ev.ModelId]) -> None:
        """Note which models that a scan finds gone are being unloaded already: its sync waits for them too."""
        for model_id in gone:
            model = self.registry.generation_of(model_id, self.seen[sync_id][model_id])
            is_busy = self.core._loading.is_busy(model_id)
            if model is not None and model.state is ModelState.UNLOADING and not is_busy:
                self.unloaded_by[sync_id].add(model.generation)

    def _assert_own(self, client: ev.ClientId, files_id: ev.FilesId) -> None:
        operation = self.files.operations.get(files_id)
        requested = None if operation is None else operation.requested
        if requested is None or requested.caller.client != client:
            assert [type(effect) for effect in self.effects] == [fx.AnswerError], f"{client} has to do with {operation}"

    # How a move is made

    def _pick(self, n: int, candidates: Iterable[T]) -> T | None:
        found = list(itertools.islice(candidates, 100))
        return found[n % len(found)] if found else None

    def _pick_upload(self, n: int, is_own: bool) -> tuple[ev.ClientId, ev.FilesId]:
        """Return an upload that waits for its client, or sometimes another operation, and its client or another."""
        deploys = [op for op in reversed(self.files.operations.values()) if op.requested is not None]
        waiting = [op for op in deploys if op.ordered == [fx.StageFiles] and op.is_staged]
        operation = self._pick(n, waiting if n < 4 and waiting else deploys)
        if operation is None or operation.requested is None:
            return CLIENTS[0], ev.FilesId(n)
        own = operation.requested.caller.client
        return (own if is_own else CLIENTS[(CLIENTS.index(own) + 1) % len(CLIENTS)]), operation.id
