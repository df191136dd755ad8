"""The places of deploys: how many clients have, and which uploads lose theirs because nothing comes for them.

Rules
1. An upload that waits for its client longer than `IDLE_UPLOAD_S` ends.
2. One client leaves places for others (`shares`), and never has more than `MAX_DEPLOYS_PER_CLIENT`.
3. A client that gets no place by that takes the one of the upload that idles longest, for `IDLE_AT_LEAST_S` at least,
   of a client that has more than the newcomer will have then. An upload that goes on is never ended for others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostd.core.bookkeeping.recent import Recent
from hostd.core.bookkeeping.shares import ClientShares
from hostd.core.deadlines import UploadTimer
from hostd.units import format_duration
from hostd_workers.wire.errors import AbortedError, HostError, NotFoundError, ResourceExhaustedError
from hostd_workers.wire.light_dataclass import dataclass

if TYPE_CHECKING:
    from hostd.core.events import ClientId, FilesId
    from hostd.core.registry import Registry

MAX_DEPLOYS = 128
"""At a time. Each has four descriptors open, and a process that has none left can take no new connection."""

MAX_DEPLOYS_PER_CLIENT = 32
"""At a time: more would not be faster on any disk."""

IDLE_UPLOAD_S = 300.0
"""Our clients send without a pause; a share that files are read from may hang for minutes."""

IDLE_AT_LEAST_S = 10.0
"""A client may be slow, or have been stopped for a moment."""

_ENDS_KEPT = 256
"""Why uploads were ended that their clients may still send to: twice as many as there may be."""


@dataclass
class _Place:
    """The place of one deploy; `idle_since_s` is None while it does not wait for its client."""

    client: ClientId
    idle_since_s: float | None = None


class Uploads:
    """The places of the deploys of one host."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._places: dict[FilesId, _Place] = {}
        self._shares = ClientShares()
        self._ends: Recent[FilesId, tuple[ClientId, HostError]] = Recent(_ENDS_KEPT)

    def __len__(self) -> int:
        return len(self._places)

    def to_end_for(self, client: ClientId) -> FilesId | None:
        """Return the upload that is to be ended for a new one of this client; None if there is a place.

        Raises `ResourceExhaustedError` if the client may have no more.
        """
        own = self._shares.of(client)
        if own < MAX_DEPLOYS_PER_CLIENT:
            if self._shares.allows(client, 1, MAX_DEPLOYS):
                return None
            idle = self._idle_longest(own + 1)
            if idle is not None:
                return idle
        raise ResourceExhaustedError(
            f"{len(self._places)} deploys are under way, {own} of them this client's; at most {MAX_DEPLOYS} may be, "
            f"{MAX_DEPLOYS_PER_CLIENT} of one client, and fewer if others deploy too: commit or abort some, or try "
            "again later"
        )

    def _idle_longest(self, more_than: int) -> FilesId | None:
        latest_s = self._registry.now - IDLE_AT_LEAST_S
        idle = [
            (place.idle_since_s, files_id)
            for files_id, place in self._places.items()
            if place.idle_since_s is not None
            and place.idle_since_s <= latest_s
            and self._shares.of(place.client) > more_than
        ]
        return min(idle)[1] if idle else None

    def take(self, files_id: FilesId, client: ClientId) -> None:
        """Give a deploy its place."""
        self._places[files_id] = _Place(client)
        self._shares.take(client)

    def wait(self, files_id: FilesId) -> None:
        """Note that a deploy waits for its client from now on."""
        self._places[files_id].idle_since_s = self._registry.now
        self._registry.timers.set(UploadTimer(files_id), self._registry.now + IDLE_UPLOAD_S)

    def written(self, files_id: FilesId) -> None:
        """Note that something has come for an upload."""
        place = self._places.get(files_id)
        if place is not None and place.idle_since_s is not None:
            place.idle_since_s = self._registry.now

    def go_on(self, files_id: FilesId) -> None:
        """Note that a deploy does not wait for its client any more."""
        if files_id in self._places:
            self._places[files_id].idle_since_s = None
            self._registry.timers.cancel(UploadTimer(files_id))

    def is_too_idle(self, files_id: FilesId) -> bool:
        """Say whether nothing has come for too long; if not, the timer is set again."""
        place = self._places[files_id]
        due_s = (place.idle_since_s or 0.0) + IDLE_UPLOAD_S
        if self._registry.now >= due_s:
            return True
        self._registry.timers.set(UploadTimer(files_id), due_s)
        return False

    def end(self, files_id: FilesId, why: str) -> HostError:
        """Take an idle upload's place away, and return the error that its client gets for whatever it still sends."""
        place = self._places[files_id]
        idle_s = self._registry.now - (place.idle_since_s or 0.0)
        error = AbortedError(
            f"the upload {files_id} was ended: nothing had come for {format_duration(idle_s)}, {why}. Deploy again"
        )
        self.give_back(files_id)
        self._ends[files_id] = place.client, error
        return error

    def give_back(self, files_id: FilesId) -> None:
        """Take a place back, of a deploy that is over or had to give it up before."""
        self.go_on(files_id)
        place = self._places.pop(files_id, None)
        if place is not None:
            self._shares.give_back(place.client)

    def absence_of(self, files_id: FilesId, client: ClientId) -> HostError:
        """Return the error of a request for an upload that there is not, or not any more."""
        owner, error = self._ends.get(files_id, (None, None))
        if error is not None and owner == client:
            return error
        return NotFoundError(f"there is no upload {files_id} of this client that waits for anything")

    def problems(self) -> list[str]:
        """Return what is wrong with these books; a question for `check_invariants`."""
        return [] if self._shares.total == len(self._places) else [f"{len(self._places)} deploys do not add up"]
